# Everything starts from a clean clone: `make demo` or `make test` sets up .venv by itself, `make test-oldest` another.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/ready
OLDEST = .venv-oldest

# What tests run under: threads that wait do not spin, and what is compiled of Python is kept for the next process.
CALM = OMP_WAIT_POLICY=PASSIVE PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=

.PHONY: demo test test-oldest fuzz lint docs clean

demo: $(READY)
	$(BIN)/foldless demo --output demo --overwrite

test: $(READY)
	$(CALM) $(BIN)/python -m pytest -n 2 --dist loadfile

# With the oldest of everything that pyproject.toml admits; of torch the build that pip finds, gigabytes where that is CUDA's.
test-oldest: $(OLDEST)/ready
	$(CALM) $(OLDEST)/bin/python -m pytest -n 2 --dist loadfile

FUZZ ?= 10000
fuzz: $(READY)
	$(CALM) $(BIN)/python -m tests.fuzz --count $(FUZZ)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/python -m pytest README.md docs

$(READY): constraints.txt
$(OLDEST)/ready: constraints-oldest.txt
$(READY) $(OLDEST)/ready: pyproject.toml hatch_build.py $(wildcard src/foldless/kernels/*.cpp src/foldless/kernels/*.h)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --constraint $(filter constraints%,$^) --editable '.[test]'
	touch $@

clean:
	rm -rf .venv $(OLDEST) demo
