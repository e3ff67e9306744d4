# Two commands: `make demo` and `make test`. Both make the environment first, from pinned versions.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread for BLAS: more threads fight each other on shared machines and change nothing in the answer.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint soak clean

$(VENV)/.done: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(VENV)/.done
	$(BIN)/calib demo

test: lint
	$(BIN)/python -m pytest -n 2 -m "not soak"

lint: $(VENV)/.done
	$(BIN)/ruff check calib graphs tests benchmarks
	$(BIN)/mypy

soak: $(VENV)/.done
	$(BIN)/python -m pytest -m soak

clean:
	rm -rf $(VENV)
