# Everything that is needed is installed into .venv by the first target that wants it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help setup demo test test-slow test-firmware firmware-tools lint clean

help:
	@echo "make demo       train, compress and infer on synthetic scenes, and print one table"
	@echo "make test       lint, type check and tests (test-slow: the long ones too)"
	@echo "make test-firmware   tests on every emulated core (firmware-tools: installs qemu and cross compilers by apt)"
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

# Every emulated core. What is not installed is skipped and named; with PYTEST_OPTIONS=--no-skips it is a failure.
test-firmware: $(INSTALLED)
	$(PYTEST) -m firmware $(PYTEST_OPTIONS) tests/firmware_sim tests/cli/test_compress_board.py

# qemu-system-misc has the RISC-V machines. Images are linked without a C library, so none is installed.
FIRMWARE_PACKAGES := qemu-system-arm qemu-system-misc gcc-arm-none-eabi gcc-riscv64-unknown-elf
FIRMWARE_TOOLS := qemu-system-arm qemu-system-riscv32 arm-none-eabi-gcc riscv64-unknown-elf-gcc
APT := DEBIAN_FRONTEND=noninteractive timeout --foreground 300 apt-get -qq -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=60
MISSING = $$(for tool in $(FIRMWARE_TOOLS); do command -v $$tool >/dev/null || printf ' %s' $$tool; done)

# Asks the system alone: no compiler or emulator comes from elsewhere. Fails, and says why, where a tool stays missing.
firmware-tools:
	@if [ -n "$(MISSING)" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(APT) update; $(APT) install --yes --no-install-recommends $(FIRMWARE_PACKAGES); \
	fi; \
	if [ -n "$(MISSING)" ]; then \
		echo "missing:$(MISSING); as root: apt-get install --no-install-recommends $(FIRMWARE_PACKAGES)" >&2; \
		exit 1; \
	fi

clean:
	rm -rf demo
