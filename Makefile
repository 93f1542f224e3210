# `make demo` and `make test` are all a newcomer needs; each creates .venv when it is not there.
PYTHON ?= python3
BIN := .venv/bin
# `make demo` installs what the package itself needs; everything else adds what the tests need to the same environment.
STAMP := .venv/.installed
TEST_STAMP := .venv/.installed.test
# Two processes of one thread each: the tests' models are too small for more threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# Without it every one of the hundreds of processes that tests begin would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: gpu demo test test-setup test-versions release-check check bench torture mutants docs format clean

demo: $(STAMP)
	$(BIN)/trainwright demo

test: $(TEST_STAMP) test-setup
	$(PYTEST)

# PostgreSQL and Chromium from Debian's packages, where root may install them; without them their tests are skipped.
test-setup:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  wanted=""; \
	  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || wanted="$$wanted postgresql"; \
	  command -v chromium >/dev/null || wanted="$$wanted chromium"; \
	  if [ -n "$$wanted" ]; then \
	    echo "Installing$$wanted"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$wanted; } >/dev/null 2>&1 \
	      || echo "They could not be installed; their tests will be skipped."; \
	  fi; \
	fi

# Floor, pinned, newest and newest Python, an environment each in .versions; prints the table of docs/versions.md.
# SETS=floor runs one of them.
test-versions: $(TEST_STAMP)
	$(BIN)/python -m tests.versions $(SETS)

# Builds the packages, and tries the wheel in an empty environment: some minutes, and the network of the package index.
release-check:
	$(PYTHON) -m tests.release

check: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/zensical build --strict
	$(PYTEST) -m "not slow and not ranks" --durations=5

bench: $(TEST_STAMP)
	$(BIN)/python -m benchmarks

# On a card, with the machine's own torch: ten minutes, and docs/gpu.md. DEVICE=cpu TINY=1 sees that every stage runs.
gpu:
	$(PYTHON) -m benchmarks.gpu $(if $(DEVICE),--device $(DEVICE)) $(if $(TINY),--tiny) $(if $(PAGE),--page $(PAGE)) $(STAGES)

torture: $(TEST_STAMP)
	$(BIN)/python -m tests.reliability.torture

# Hours for the first run; it may be ended and goes on where it was. KIND=quick leaves the slow tests out.
mutants: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(KIND)

docs: $(TEST_STAMP)
	$(BIN)/zensical build --strict

format: $(TEST_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $(STAMP)

$(TEST_STAMP): $(STAMP)
	$(PIP) -e ".[dev]"
	touch $(TEST_STAMP)

clean:
	rm -rf .venv .versions .mutants .cache build dist site
