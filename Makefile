# make demo    cluster the built-in digits and write runs/digits/
# make test    lint, type-check, test
# make test-slow    the tests that take more than a minute
# make faults  kill runs, fail writes, damage files, by the hundred; counts go to benchmarks/results/faults.md
# All of it happens in .venv/, which is made on first use from the pinned sets in requirements/.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow faults lint bench clean
.DELETE_ON_ERROR:

demo: .venv/.run-time-set
	$(BIN)/spiceclust demo --out runs/digits

# A process for each processor, with one thread: twice as fast as one process with all threads.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: .venv/.test-set
	$(BIN)/python -m pytest -m slow --timeout 1800

faults: .venv/.test-set
	$(BIN)/python benchmarks/faults.py --full

lint: .venv/.test-set
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# `make bench` lists the scripts, `make bench RUN=accuracy ARGS="--data DIR"` runs one.
ifdef RUN
bench: .venv/.run-time-set
	$(BIN)/python benchmarks/$(RUN).py $(ARGS)
else
bench:
	@for script in benchmarks/[!_]*.py; do \
	    test -e "$$script" || { echo "benchmarks/ holds no scripts yet"; break; }; \
	    echo "make bench RUN=$$(basename "$$script" .py)"; \
	done
endif

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamp files: a set is installed again only when its pins change.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed, and $(PYTHON) is not: name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.run-time-set: .venv/.made pyproject.toml requirements/lock.txt
	$(PIP) install -c requirements/lock.txt "$$(grep '^torch==' requirements/lock.txt)"
	$(PIP) install -c requirements/lock.txt -e .
	@touch $@

.venv/.test-set: .venv/.run-time-set requirements/test.txt
	$(PIP) install -c requirements/test.txt -e ".[test]"
	@touch $@
