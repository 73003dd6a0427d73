# chargekeep: `make help` lists the targets. Each does its own set-up (.venv, pip; apt packages when root).

PY := .venv/bin/python
PYTEST := $(PY) -m pytest -c tools/pyproject.toml --rootdir=. tests
SETUP := @tools/setup.sh mosquitto

.DEFAULT_GOAL := help
.PHONY: help setup test check demo nightly bench clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup:  ## make .venv and install what the other targets need
	$(SETUP)

check: setup  ## format, lint, spelling
	.venv/bin/ruff format --config tools/pyproject.toml --check .
	.venv/bin/ruff check --config tools/pyproject.toml .
	.venv/bin/codespell --toml tools/pyproject.toml README.md firmware boards tools tests Makefile

test: check  ## all checks and all tests (under 10 minutes on 2 cores); what CI runs
	$(PYTEST) -n 2 $(ARGS)

clean:  ## remove .venv and build
	rm -rf .venv build
