# The two commands: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PARALLEL ?= -n 2 --dist loadfile

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE # the tests start hundreds of interpreters: compile once

.PHONY: help install demo test lint types unit integration proto faults network slow bench clean

help:
	@echo "make demo      a whole federation on this machine, on real text"
	@echo "make test      lint, types and tests"
	@echo "make install   only the environment (.venv)"
	@echo "make faults    every kill, torn logs and full disks, with the kill matrix (seven minutes)"
	@echo "make network   cut, slow, lossy and full: what it does to a round (two minutes)"
	@echo "make slow      what \`make test\` leaves out: every kill, every strategy"
	@echo "make bench     seconds a round, and a rule, beside what the machine allows; the log"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Barnraise needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,release]'
	@touch $(STAMP)

demo: install
	$(BIN)/barnraise demo $(ARGS)

test: lint types unit integration

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/pytest tests/unit -m 'not slow' $(PARALLEL)

integration: install
	$(BIN)/pytest tests/integration tests/faults -m 'not slow' $(PARALLEL)

proto: install
	REGENERATE=1 $(BIN)/pytest tests/unit/test_protocols_stubs.py

faults: install
	$(BIN)/pytest tests/faults

network: install
	$(BIN)/pytest tests/faults/test_network.py tests/faults/test_namespaces.py tests/faults/test_hostile.py tests/faults/test_full_disk.py

slow: install
	$(BIN)/pytest tests -m slow

bench: install
	PYTHONHASHSEED=0 $(BIN)/python benchmarks/simulation.py
	$(BIN)/python benchmarks/rounds.py --skip-flower
	$(BIN)/python benchmarks/reduce.py --rules quick
	$(BIN)/python benchmarks/log.py

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info barnraise-demo
