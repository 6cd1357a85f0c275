# `make test` sets everything up and runs what CI runs. Needs GNU make, a POSIX shell and Python 3.11 or later.
PYTHON ?= python3
JOBS ?= 2  # test processes
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
STAMP := .venv/.setup-done

# one thread per process: threads of neighboring processes fight over the cores
export OMP_NUM_THREADS = 1
export PYTHONUTF8 = 1

.PHONY: setup test check demo claims bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -d $(BIN) || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

test: setup
	$(MAKE) check

check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q -n $(JOBS)
	$(BIN)/python -m pytest -q -n $(JOBS) -m slow

demo: setup
	$(BIN)/airloom compare fedavg scaffold fedbuff hfedavg mtgc sequential_fl --scenario phones --target accuracy=0.9 --seeds 3

claims: setup
	$(BIN)/python -m pytest -q -m claims tests/claims

bench: setup
	set -e; for file in $(sort $(wildcard benchmarks/*.py)); do $(BIN)/python $$file; done

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site dist build *.egg-info .pytest_cache .ruff_cache .hypothesis
