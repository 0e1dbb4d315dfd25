# Every target first makes what it needs; the only requirements are Python >= 3.11 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STUDY ?= study_specs/quick.yaml
# processes that run tests side by side; a file's tests stay together, they share what they start
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup study test check bench chaos clean

help:
	@echo 'make study   run $(STUDY): train, evaluate, print verdicts, write report.html'
	@echo 'make test    run all tests'
	@echo 'make check   formatting, lints, types, import directions'
	@echo 'make bench   measure the overhead of the platform'
	@echo 'make chaos   kill, fill and cut off a small cluster for ten minutes; compare the results'
	@echo 'make setup   only install into $(VENV)'
	@echo 'make clean   remove $(VENV) and caches; results stay'

setup: $(READY)

# pip's own check would come after minutes of downloads
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'needs Python >= 3.11; say which one: make PYTHON=python3.11 setup'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

study: $(READY)
	$(BIN)/ldru-study submit $(STUDY)
	$(BIN)/ldru-study report $(STUDY) --output report.html

test: $(READY)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python tests/benchmarks/overhead.py
	$(BIN)/python -m tests.benchmarks.job

# faults are drawn anew every time; CHAOS='--seed 7' draws those again
chaos: $(READY)
	$(BIN)/python -m tests.chaos $(CHAOS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
