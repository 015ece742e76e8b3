# make demo   install, then draw a long-tailed set, train, evaluate, leave pictures in runs/demo
# make docs   install, then build the documentation site into site/; broken links are errors
# make test   install, then every check: format, types, import contract, tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint format docs
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

docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
