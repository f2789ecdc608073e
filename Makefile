# Everything starts from a clean clone: `make demo` or `make test` sets up .venv by itself.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/ready

.PHONY: demo test fuzz lint docs clean

demo: $(READY)
	$(BIN)/foldless demo --output demo --overwrite

test: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

FUZZ ?= 10000
fuzz: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.fuzz --count $(FUZZ)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/python -m pytest README.md docs

$(READY): pyproject.toml constraints.txt hatch_build.py $(wildcard src/foldless/kernels/*.cpp src/foldless/kernels/*.h)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $(READY)

clean:
	rm -rf .venv demo
