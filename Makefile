# One word each: setup, demo, lint, types, test, bench. All work in .venv, made from the pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make demo DATA=folder: Fashion-MNIST's four files from a folder of yours
DATA ?=

.PHONY: setup demo lint types test bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python docs/demo.py $(DATA)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# embedstore.cli lies in cli/: the type checker is shown the package as a wheel lays it out.
types: setup
	rm -rf build/types && mkdir -p build/types/embedstore
	ln -s $(CURDIR)/embedstore/* $(CURDIR)/cli build/types/embedstore/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p embedstore

test: setup
	$(BIN)/python -m pytest -n 2

bench: setup
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/store.py

clean:
	rm -rf $(VENV) fashion.store fashion.png fashion.html
