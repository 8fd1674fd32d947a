# Each target works as the first command on a fresh machine, and again, fast, when repeated.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo test slow check bench docs compat clean

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	if command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
export COROLLARY_DATA ?= $(if $(wildcard ../shared/data),$(abspath ../shared/data),)
ifeq ($(COROLLARY_DATA),)
unexport COROLLARY_DATA
endif
TESTS := $(PY) -m pytest -q
THREADS := OMP_NUM_THREADS=1

help:  ## What there is to make.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed; on Debian or Ubuntu run: sudo apt-get install -y python3 python3-venv" >&2; exit 1; fi
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then
		echo "$(PYTHON) lacks venv; on Debian or Ubuntu run: sudo apt-get install -y $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1
	fi
	[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	echo "setting up $(VENV) (once; torch is large)"
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,hf]'
	touch $@

demo: $(STAMP)  ## The main job on embedded data: composes six experts, prints the certificate, writes runs/demo/report.html.
	@$(VENV)/bin/corollary demo --out runs/demo

test: $(STAMP)  ## All tests but the slow ones.
	@$(THREADS) $(TESTS)

slow: $(STAMP)  ## The slow tests.
	@$(THREADS) $(TESTS) -m slow

check: $(STAMP)  ## Style, types, docs, and every example in README, docs and docstrings.
	@$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(THREADS) $(TESTS) --doctest-modules src/corollary -p no:cacheprovider
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet --site-dir site
	$(PY) docs/tables.py --check
	$(PY) docs/figures.py --check

bench: $(STAMP)  ## The default benchmark grid of THEME (make bench THEME=gating).
	@$(VENV)/bin/corollary bench $(or $(THEME),gating)

docs: $(STAMP)  ## The documentation, into site/.
	@$(VENV)/bin/mkdocs build --strict --site-dir site

compat: $(STAMP)  ## The fast tests on the oldest versions that pyproject.toml claims, in an environment of their own.
	@$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[dev,hf]'
	$(THREADS) .venv-oldest/bin/python -m pytest -q -p no:cacheprovider

clean:  ## Remove what was made, runs and environments included.
	@rm -rf $(VENV) .venv-oldest runs site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
