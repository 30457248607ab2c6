# SPDX-License-Identifier: Apache-2.0
# Front door of lutvar. `make help` lists the targets; every target sets up what it needs in $(VENV).
#
#   PYTHON     interpreter for the environment (3.10 or later)
#   VENV       where the environment goes
#   CONFIG     accelerator size: a name from lutvar/configs/accelerator, or a .yaml file
#   CONSTRAINTS  versions to install: the tested ones, or requirements/minimum.txt
#   PIP_EXTRA  more arguments for pip, e.g. the CPU-only builds of PyTorch, which save gigabytes:
#              make demo PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
PIP_EXTRA ?=
BUILD ?= build
CONFIG ?= small-fp4
PYTEST_ARGS ?=
EVIDENCE ?=
# Two workers; tests of one file share its simulator build, so they stay together.
PYTEST_JOBS ?= 2

BIN := $(VENV)/bin
COVERAGE := $(BUILD)/coverage
LUTVAR := $(BIN)/lutvar
INSTALL = $(BIN)/python -m pip install --quiet $(PIP_EXTRA) -c $(CONSTRAINTS)
PINS := pyproject.toml $(CONSTRAINTS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast coverage coverage-hw lint format docs verilog sim fuzz mutation formal study evidence estimate bench train clean tools

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: tools $(VENV)/.core ## draw ten images on the simulated accelerator, compare every bit
	$(LUTVAR) demo --config small-sections-fp4 --recipe fp4-single -o $(BUILD)/demo

test: tools $(VENV)/.test ## every test (Icarus tests are skipped when iverilog is missing)
	$(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadfile $(PYTEST_ARGS)

test-fast: $(VENV)/.test ## the tests without those that simulate, synthesise or take long: 4 minutes
	$(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadfile \
	  -m "not slow and not verilator and not icarus and not yosys" $(PYTEST_ARGS)

coverage: tools $(VENV)/.dev ## share of lines that tests run, and the list of the others (PYTEST_ARGS: which tests)
	@mkdir -p $(COVERAGE)
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadfile \
	  --cov --cov-report= $(PYTEST_ARGS)
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage report > $(COVERAGE)/report.txt
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage json -q -o $(COVERAGE)/report.json
	@grep '^TOTAL' $(COVERAGE)/report.txt; echo "lines that no test ran: $(COVERAGE)/report.txt"

coverage-hw: tools $(VENV)/.core ## share of the Verilog that testbenches and an image move
	$(LUTVAR) coverage -o $(BUILD)/coverage-hw

lint: $(VENV)/.dev ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## rewrite the sources as ruff would have them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## pages about the Python interface, from the docstrings
	$(BIN)/python docs/build_api.py $(BUILD)/docs

verilog: $(VENV)/.core ## Verilog and manifest for Vivado (CONFIG=small-fp4, vck190-fp4, ...)
	$(LUTVAR) verilog $(CONFIG) -o $(BUILD)/verilog

sim: tools $(VENV)/.core ## cocotb testbenches on the exported Verilog of small-fp4, with Verilator
	$(LUTVAR) sim --sim verilator -o $(BUILD)/cocotb

fuzz: tools $(VENV)/.core ## random programs, right and malformed, on the simulated accelerator: 60 seconds
	$(LUTVAR) fuzz --seconds 60 -o $(BUILD)/fuzz

mutation: tools $(VENV)/.core ## share of small changes of the Verilog that checks notice: half an hour, resumable
	$(BIN)/python -m lutvar.bench.mutation --jobs $(PYTEST_JOBS) -o $(BUILD)/mutation

study: tools $(VENV)/.core ## what pipelining, shared weights and slow memory do, simulated
	$(LUTVAR) study --config $(CONFIG) -o $(BUILD)/study.json

formal: $(VENV)/.bench ## unbounded proofs about the exported Verilog (needs abc: apt-get install berkeley-abc)
	$(LUTVAR) formal -o $(BUILD)/formal

evidence: tools $(VENV)/.core ## the shipped accelerators compute, simulated: hours, resumable (EVIDENCE: which)
	$(LUTVAR) evidence -o $(BUILD)/evidence $(EVIDENCE)

estimate: $(VENV)/.core ## speed of the released models on the VCK190, modelled
	$(LUTVAR) estimate --table

bench: tools $(VENV)/.bench ## LUT counts, simulation speed, memory
	$(LUTVAR) bench -o $(BUILD)/bench.json

train: $(VENV)/.train ## train the digits model again (resumable)
	$(LUTVAR) train -o $(BUILD)/train/digits

clean: ## delete everything made here, the environment too
	rm -rf $(BUILD) $(VENV) dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache sim_build
	find lutvar tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What Verilator needs to build a simulation.
tools:
	@command -v perl >/dev/null 2>&1 || { \
	  echo "error: perl was not found; install it: sudo apt-get install perl" >&2; exit 1; }
	@$(CXX) --version >/dev/null 2>&1 || { echo "error: the C++ compiler $(CXX) was not found;" \
	  "install it: sudo apt-get install g++, or name another: make CXX=clang++" >&2; exit 1; }

$(VENV)/.venv:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "error: $(PYTHON) was not found; install it:" \
	  "sudo apt-get install python3 python3-venv, or give another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is" \
	  "$$($(PYTHON) -V 2>&1); 3.10 or later is needed: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make virtual" \
	  "environments; install the package: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The package is installed in place: edited sources take effect without another install.
$(VENV)/.core: $(VENV)/.venv $(PINS)
	@echo "Installing lutvar into $(VENV); the first time this downloads PyTorch."
	$(INSTALL) -e ".[sim]"
	@touch $@

$(VENV)/.bench $(VENV)/.train $(VENV)/.test $(VENV)/.docs $(VENV)/.dev: $(VENV)/.core $(PINS)
	$(INSTALL) -e ".[$(patsubst .%,%,$(notdir $@))]"
	@touch $@
