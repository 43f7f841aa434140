# Two commands for a start: `make train` and `make test`. Both do all set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
RUN_DIR ?= runs/make-train

.PHONY: setup horovod train test test-setup test-long test-fast check check-k8s test-k8s images lock bench chaos fuzz soak clean

setup: $(VENV)/ready

$(VENV)/ready: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@

# Horovod, built from source for the torch in the environment: some minutes the first time, seconds after that.
horovod: setup
	PYTHON=$(BIN)/python launchers/install_horovod.sh

# The PlanesNet CNN on 2 workers: on drawn chips, or on real ones with DATA=planesnet.zip (or a folder, or planesnet.json).
train: setup
ifeq ($(DATA),)
	$(BIN)/disttrain train configs/synthetic_planes.yaml --workers 2 --resume never --run-dir $(RUN_DIR)
else
	$(BIN)/disttrain train configs/planesnet.yaml --workers 2 --resume never --run-dir $(RUN_DIR) data.path='$(DATA)'
endif

# Several at a time, since many tests wait; those that share started ranks or a training run one after the other.
PYTEST := $(BIN)/python -m pytest
# $(1): the tier; $(2): how many at a time; $(3): which. A test that fails beside others is run again alone, and said to be.
run_tier = DISTTRAIN_TEST_TIER=$(1) $(PYTEST) --dist loadscope --no-loadscope-reorder -n $(2) -m $(3) || \
	{ [ $$? -eq 1 ] && [ -s build/failed_$(1).txt ] && cat build/failed_$(1).txt && \
	echo "THESE TESTS FAILED BESIDE OTHERS, and run now alone" && \
	DISTTRAIN_TEST_TIER=$(1)-alone $(PYTEST) @build/failed_$(1).txt; }

# What guards the promises of the README.
test: check test-setup
	$(call run_tier,test,3,'not long')

# Whole trainings on real data, chaos, Horovod's search. DISTTRAIN_DATA names the folder of the real data.
test-long: test-setup
	$(call run_tier,test-long,3,long)

test-fast: setup
	DISTTRAIN_TEST_TIER=test-fast $(PYTEST) --dist loadscope --no-loadscope-reorder -n 2 tests/unit

test-setup: setup
	tests/system_packages.sh
	! tests/system_packages.sh --has-horovods || $(MAKE) --no-print-directory horovod

SHELL_SCRIPTS := .ci/run $(wildcard launchers/*.sh slurm/*.sh slurm/*.sbatch tests/*.sh tests/k8s/*.sh k8s/base/*/*.sh requirements/*.sh)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck $(SHELL_SCRIPTS)

# Every overlay in k8s/, or OVERLAY=your/overlay: schemas, the operators' rules, and what would only show when it runs.
check-k8s: setup
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m disttrain.commands.kubernetes check $(or $(OVERLAY),$(wildcard k8s/overlays/*))

# Our custom resources, and broken ones, before a real API server, which is built the first time (minutes). As root, on Debian.
test-k8s: setup
	PATH="$(abspath $(BIN)):$$PATH" tests/k8s/crd_server.sh $(BIN)/python -m tests.k8s.on_server

# The images of Dockerfile.cuda on a base from Debian's packages, as tests/containers has them. As root, on Debian.
images: test-setup
	$(BIN)/python -m tests.containers.images

# The images' lock files anew, with the versions of this environment: what the tests have run with.
lock: setup
	requirements/lock.sh $(abspath $(BIN))/python

# N trainings that are killed, frozen, cut off and damaged at random: those of the seeds SEED, SEED + 1 ...
# (without SEED: from the clock). A failing one is run again by `make chaos N=1 SEED=<its seed>`.
chaos: setup
	tests/system_packages.sh
	PYTHONPATH="$(abspath tests)" $(BIN)/python -m chaos $(or $(N),20) $(SEED)

# Damaged files of every kind against every reader, for SECONDS (default: 180), from SEED (default: the clock).
fuzz: setup
	$(BIN)/python -m tests.field.fuzz --seconds $(or $(SECONDS),180) $(if $(SEED),--seed $(SEED))

# REQUESTS (default: 100,000) good and bad ones to a server, then servers replaced behind nginx five times.
soak: setup
	tests/system_packages.sh
	PYTHONPATH=tests $(BIN)/python -m soak --requests $(or $(REQUESTS),100000) $(if $(SEED),--seed $(SEED))

bench: setup
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/recovery.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
