# chargekeep: `make help` lists the targets. Each does its own set-up (.venv, pip; apt packages when root).

PY := .venv/bin/python
CONFIG := --config tools/pyproject.toml
PYTEST := $(PY) -m pytest -c tools/pyproject.toml --rootdir=. tests -n 2
SETUP := @tools/setup.sh mosquitto tmux

.DEFAULT_GOAL := help
.PHONY: help setup demo test check flash nightly bench sizes format clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

setup:  ## make .venv and install what the other targets need
	$(SETUP)

demo: setup  ## the whole story on this machine, offline charge to bill (ARGS=--keep leaves it running)
	.venv/bin/chargekeep sim demo $(ARGS)

test: check  ## all checks and all tests (under 10 minutes on 2 cores); what CI runs
	$(PYTEST) $(ARGS)

check: setup  ## format, lint, spelling, types, and every module compiled for every chip
	.venv/bin/ruff format $(CONFIG) --check .
	.venv/bin/ruff check $(CONFIG) .
	.venv/bin/codespell --toml tools/pyproject.toml README.md CHANGELOG.md firmware boards tools tests Makefile
	.venv/bin/pyright -p tools/pyright/rp2.json
	.venv/bin/pyright -p tools/pyright/esp32.json
	.venv/bin/pyright -p tools/pyright/host.json
	$(PY) tools/sizes.py --check

flash: setup  ## make a board a station (BOARD=RPI_PICO_W PORT=/dev/ttyACM0 STATION=CP-1; IMAGE=x.uf2: MicroPython first)
	$(if $(IMAGE),.venv/bin/chargekeep flash $(PORT) $(IMAGE) --board $(BOARD))
	.venv/bin/chargekeep provision $(PORT) $(STATION) --board $(BOARD) $(ARGS)

# The cluster's tests start their own nodes as users of those packages, which takes root.
nightly: SETUP += $(if $(filter 0,$(shell id -u)),postgresql rabbitmq-server)
nightly: setup  ## the tests with their long variants (ARGS="-k ledger" runs a piece)
	$(PYTEST) --nightly --timeout 7200 $(ARGS)

bench: setup  ## benchmarks beside their peers, into build/bench.json (ARGS=ledger runs one)
	$(PY) tools/bench/run.py $(ARGS)

sizes: setup  ## rewrite the README's table of .mpy sizes
	$(PY) tools/sizes.py --write

format: setup  ## format and fix what ruff can
	.venv/bin/ruff format $(CONFIG) .
	.venv/bin/ruff check $(CONFIG) --fix .

clean:  ## remove .venv and build
	rm -rf .venv build
