# make demo   install, then draw a long-tailed set, train, evaluate, leave pictures in runs/demo
# make docs   install, then build the documentation site into site/; broken links are errors
# make test   install, then every check: format, types, import contract, tests
# make check  the part of it that takes a minute or two
# make test-isa  the numerical tests under other instruction sets and numbers of threads
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check test-isa lint format docs
install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: install
	$(BIN)/hyperfocal demo --out runs/demo

test: lint
	$(BIN)/python -m pytest

# Between edits: no training, no other processes.
FAST := tests/ops tests/assign tests/losses tests/data tests/evaluation tests/recipes \
	tests/test_config.py tests/test_files.py tests/test_names.py tests/test_cli.py
check: lint
	$(BIN)/python -m pytest -q -m "not slow" $(FAST)

# What computes, under every instruction set that oneDNN chooses by, and with several threads.
NUMERICAL := tests/ops tests/assign tests/losses tests/models tests/engine/test_statistics.py
test-isa: install
	for isa in AVX2 AVX512_CORE AVX512_CORE_BF16 ALL; do \
		echo "ONEDNN_MAX_CPU_ISA=$$isa"; \
		ONEDNN_MAX_CPU_ISA=$$isa $(BIN)/python -m pytest -q -m "not slow" $(NUMERICAL) || exit 1; \
	done
	for threads in 2 4; do \
		echo "$$threads threads"; \
		TEST_THREADS=$$threads $(BIN)/python -m pytest -q -m "not slow" $(NUMERICAL) || exit 1; \
	done

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
