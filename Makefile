# make demo   run the golang-nuts program under sysmon's timer
# make test   lint, types and tests, in under three minutes
# Both set up what they need in .venv; a stamp keeps them from doing it twice.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint types unit conformance bench generate docs clean

demo: $(STAMP)
	$(BIN)/pushcall run examples/golang_nuts.s -D LOOPS=1500000 --goroutines 30 --procs 2

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/pytest -n 2

# Against toolchains, which are installed by package name into .cache: minutes, not in `make test`.
conformance: $(STAMP)
	$(BIN)/pytest tests/conformance

bench: $(STAMP)
	$(BIN)/python -m tests.bench

# The trampolines of the asyncPreempt families, from their layouts; the hooks' machine code.
generate: $(STAMP)
	$(BIN)/python -m asm.mkpreempt
	$(BIN)/python -m pushcall.check.mkhooks

# The pictures of docs/.
docs: $(STAMP)
	$(BIN)/python -m pushcall.mkdrawings

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
