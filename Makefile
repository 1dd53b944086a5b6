# `make setup`, `make demo` and `make test` each do all their own set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
OUT ?= runs/demo
# Idle OpenMP threads must not spin: image decoding and scoring run beside training in processes of their own.
export OMP_WAIT_POLICY := PASSIVE
# Numba's OpenMP layer kills forked loader workers.
export NUMBA_THREADING_LAYER := workqueue
export HF_HUB_OFFLINE := 1

.PHONY: setup demo test lint clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "irlvla needs Python 3.11 or newer: make PYTHON=python3.11 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,world,scale,dev]'
	touch $(INSTALLED)

demo: setup
	$(BIN)/irlvla demo --out $(OUT) $(ARGS)

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check irlvla tests benchmarks
	$(BIN)/ruff format --check irlvla tests benchmarks
	$(BIN)/mypy

clean:
	rm -rf .venv runs
