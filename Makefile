# `make demo` and `make test` are all a newcomer types; both set everything up first.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TASKS := reach push button-press-topdown drawer-open press-named-button window-open

.PHONY: demo test test-slow test-libero test-robot-side test-all lint types setup docs site clean

demo: setup  ## the shipped policy on a simulated robot: the classic way, then streaming
	$(BIN)/streamvla run --tasks $(TASKS) --out runs/demo

test: setup  ## the fast test suite
	$(BIN)/python -m pytest

test-slow: setup  ## the slow tests alone
	$(BIN)/python -m pytest -m "slow and not gpu and not libero" --durations=20

test-libero:  ## LIBERO's tasks against LIBERO itself, in an environment of its own; 1 GB
	sh scripts/test_libero.sh

test-robot-side:  ## with NumPy alone, with every supported Python found here
	sh scripts/test_robot_side.sh

test-all: test test-slow test-robot-side test-libero

lint: setup
	$(BIN)/ruff check src tests examples
	$(BIN)/ruff format --check src tests examples
	$(BIN)/pyright

types: setup  ## what the built package says of its types
	sh scripts/check_types.sh $(VENV)

docs: setup  ## rewrite the figures in the documents from docs/results
	$(BIN)/streamvla results

site: setup  ## the documents as a web site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	sh scripts/setup.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist site src/*.egg-info
