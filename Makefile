# Everything that is needed is installed into .venv by the first target that wants it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help setup demo test test-slow lint clean

help:
	@echo "make demo       train, compress and infer on synthetic scenes, and print one table"
	@echo "make test       lint, type check and tests (test-slow: the long ones too)"
	@echo "make lint       ruff and the type checker alone"
	@echo "make clean      remove what the demo made"

setup: $(INSTALLED)

# torch first and pinned: see constraints.txt.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,firmware,dev]'
	touch $@

demo: $(INSTALLED)
	mkdir -p demo
	cd demo && ../$(BIN)/tinyasc train
	cd demo && ../$(BIN)/tinyasc compress --budget 128KB
	cd demo && ../$(BIN)/tinyasc evaluate
	cd demo && ../$(BIN)/tinyasc infer clip.wav

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# Two processes of one thread each, whole files to each: tests of a file share what they train.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: lint
	$(PYTEST)

test-slow: lint
	$(PYTEST) -m "slow or not slow"

clean:
	rm -rf demo
