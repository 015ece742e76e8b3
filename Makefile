# make demo   install, then draw a long-tailed set, train, evaluate, leave pictures in runs/demo
# make test   install, then every check: format, types, import contract, tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint format
install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: install
	$(BIN)/hyperfocal demo --out runs/demo

test: lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
