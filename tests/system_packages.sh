#!/usr/bin/env bash
# The system packages that some tests need. As root (with apt) they are installed; otherwise it is said which are
# missing, and the tests that need them are skipped with that reason.
#
#   tests/system_packages.sh                 installs or names them
#   tests/system_packages.sh --has-horovods  whether all that a build of Horovod needs is there
set -euo pipefail

horovod=(g++ cmake make mpirun mpicxx)
declare -A package_of=(
    [g++]=g++ [cmake]=cmake [make]=make [mpirun]=openmpi-bin [mpicxx]="openmpi-bin libopenmpi-dev" [git]=git
    [ip]=iproute2 [chromium]=chromium [slurmctld]="slurm-wlm slurmctld" [slurmd]=slurmd [sbatch]=slurm-client [munged]=munge
    [podman]=podman [runc]=runc [iptables]=iptables [mmdebstrap]=mmdebstrap
    [/usr/lib/podman/netavark]=netavark [/usr/lib/podman/aardvark-dns]=aardvark-dns
    [nginx]=nginx-light
)
missing_of() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || echo "${package_of[$program]}"
    done
    # The compiler's wrapper is in another package than the headers.
    echo '#include <mpi.h>' | mpicxx -x c++ -fsyntax-only - 2>/dev/null || echo libopenmpi-dev
}

if [ "${1:-}" = --has-horovods ]; then
    [ -z "$(missing_of "${horovod[@]}")" ]
    exit
fi

read -ra missing <<<"$(missing_of "${!package_of[@]}" | tr ' ' '\n' | sort -u | tr '\n' ' ')"
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "MISSING SYSTEM PACKAGES: ${missing[*]}. The tests that need them are SKIPPED. Install them as root, e.g.:" >&2
    echo "    apt-get install ${missing[*]}" >&2
fi
