/* Two GPUs as NVML would tell of them, for machines without any: the first is sound, the second is slowed down by heat and
   could not remap rows of its memory. Built as libnvidia-ml.so.1. */

#include <stdio.h>
#include <string.h>

typedef unsigned long long count;
typedef struct {
    count total, free, used;
} memory;

static int gpus[2];

static int number(const int *gpu) { return (int)(gpu - gpus); }

int nvmlInitWithFlags(unsigned flags) { return (void)flags, 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return (void)code, "an error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { return snprintf(text, size, "470.1"), 0; }
int nvmlSystemGetCudaDriverVersion(int *version) { return *version = 11040, 0; }
int nvmlDeviceGetCount_v2(unsigned *number_of) { return *number_of = 2, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, int **gpu) { return *gpu = &gpus[index], 0; }
int nvmlDeviceGetUUID(int *gpu, char *text, unsigned size) { return snprintf(text, size, "GPU-%d", number(gpu)), 0; }
int nvmlDeviceGetName(int *gpu, char *text, unsigned size) { return (void)gpu, snprintf(text, size, "Test GPU"), 0; }

int nvmlDeviceGetMemoryInfo(int *gpu, memory *found) {
    found->total = 16ull << 30;
    found->used = number(gpu) ? 8ull << 30 : 0;
    return 0;
}

int nvmlDeviceGetRemappedRows(int *gpu, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    *corrected = *uncorrected = *pending = 0;
    *failed = (unsigned)number(gpu);
    return 0;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(int *gpu, count *reasons) {
    return *reasons = number(gpu) ? 0x41 : 0x01, 0; /* 0x01: idle, which is no defect */
}

int nvmlDeviceGetTopologyCommonAncestor(int *one, int *other, int *level) {
    return (void)one, (void)other, *level = 50, 0; /* over the link between processors */
}

typedef struct {
    unsigned gpu, memory;
} use;

int nvmlDeviceGetHandleByUUID(const char *uuid, int **gpu) {
    for (int at = 0; at < 2; at++) {
        char name[8];
        snprintf(name, sizeof name, "GPU-%d", at);
        if (!strcmp(uuid, name))
            return *gpu = &gpus[at], 0;
    }
    return 6; /* not found */
}

int nvmlDeviceGetUtilizationRates(int *gpu, use *found) { return found->gpu = 90u + (unsigned)number(gpu), 0; }
int nvmlDeviceGetPowerUsage(int *gpu, unsigned *milliwatts) { return (void)gpu, *milliwatts = 250500, 0; }
int nvmlDeviceGetTotalEnergyConsumption(int *gpu, count *millijoules) {
    static count used[2] = {5000000, 7000000};
    return *millijoules = used[number(gpu)] += 1500, 0; /* 1.5 J more each time */
}
int nvmlDeviceGetTemperature(int *gpu, int sensor, unsigned *celsius) {
    return (void)sensor, number(gpu) ? 3 /* not supported */ : (*celsius = 61, 0);
}

/* nvmlDeviceGetNvLinkState, ...ComputeRunningProcesses and ...TotalEccErrors: a driver that has none of them. */
