# qcluster: two commands, `make serve` and `make test`; the rest is for people who work on it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SERVE  ?=

.PHONY: help serve test test-system lint format bench docs clean

help:
	@echo "make serve        install, then run qcluster on http://127.0.0.1:8000 until Ctrl-C"
	@echo "make test         install, then run the test suite with branch coverage"
	@echo "make test-system  real clusters, kills, fuzz and the page in a browser"
	@echo "make lint         ruff and mypy"
	@echo "make bench        every benchmark in its quick form"
	@echo "make docs         the documentation into site/"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "qcluster needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps make a second run touch no network.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing qcluster into $(VENV) (a few minutes the first time)"
	$(PIP) -e .
	@echo "compiling kernels"
	@$(BIN)/qcluster doctor --warm
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) -e '.[docs]'
	@touch $@

serve: $(VENV)/.core
	@exec $(BIN)/qcluster serve $(SERVE)

test: $(VENV)/.dev
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=xml

test-system: $(VENV)/.dev
	$(BIN)/python -m pytest tests/system --timeout=600

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	@set -e; for script in benchmarks/[a-z]*.py; do \
	  [ "$$script" = benchmarks/harness.py ] || $(BIN)/python $$script --quick; done

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage*
