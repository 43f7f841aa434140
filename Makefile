# Two commands for a start: `make train` and `make test`. Both do all set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
RUN_DIR ?= runs/make-train

.PHONY: setup train test check bench clean

setup: $(VENV)/ready

$(VENV)/ready: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@

# The PlanesNet CNN on 2 workers: on drawn chips, or on real ones with DATA=planesnet.zip (or a folder, or planesnet.json).
train: setup
ifeq ($(DATA),)
	$(BIN)/disttrain train configs/synthetic_planes.yaml --workers 2 --resume never --run-dir $(RUN_DIR)
else
	$(BIN)/disttrain train configs/planesnet.yaml --workers 2 --resume never --run-dir $(RUN_DIR) data.path='$(DATA)'
endif

test: setup check
	tests/system_packages.sh
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/peers.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
