# Everything a person or CI does with a checkout. `make help` lists it.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest -q
# Layers with nothing but processes in them run on both cores; a guest needs a core for itself.
JOBS ?= 2
KILLS ?= 500
SECONDS ?= 600
LAYERS := unit wire device security faults guest interop perf
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run setup setup-test test bench style man clean newcomer test-rig test-long chaos fuzz picture $(LAYERS:%=test-%)

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

run: setup  ## boot Debian's kernel with the documented example command line (RUN="-smp 2 ..." adds options)
	@$(PY) -m tools.run_demo -- $(RUN)

setup:  ## install what is missing and build; a second time it does nothing
	@tools/setup/debian.sh run
	@$(PYTHON) -m tools.setup run

setup-test:  ## the same, with what the tests need
	@tools/setup/debian.sh run test
	@$(PYTHON) -m tools.setup test

test: setup-test  ## every layer that this machine can run, in under 25 minutes
	@$(PY) -m tools.run_tests --jobs $(JOBS)

test-long: setup-test  ## the same in the long form: soak tests too
	@$(PY) -m tools.run_tests --jobs $(JOBS) --long

$(LAYERS:%=test-%): test-%: setup-test
	@$(PY) -m tools.run_tests --jobs $(JOBS) $*

test-rig: setup-test  ## the guest layer on ordinary KVM, inside an emulated machine
	@$(PY) -m tools.rig.guest_layer

chaos: setup-test  ## kill and hang a disk's backend under load, 4 x KILLS=500 times, and verify every block
	@$(PYTEST) -s --timeout 3600 tests/faults/test_chaos.py --kills $(KILLS)

picture: setup-test  ## record docs/kill.svg: what kill -9 does to a disk under load
	@$(PY) -m tools.picture

fuzz: setup-test  ## guests' memory against ring and disk code (ASan, UBSan), sessions of any order, SECONDS=600 each
	@$(PY) -m tools.fuzz --seconds $(SECONDS)

bench: setup-test  ## the table of ratios against QEMU and qemu-storage-daemon
	@$(PY) -m tools.bench

style: setup-test  ## linters and compilers as strict as they go
	@$(PY) -m tools.style

man: setup  ## build/stratovirt.1 and shell completion
	@mkdir -p build
	@$(PY) -m vmm_core.config.manpage >build/stratovirt.1
	@$(PY) -m vmm_core.config.completion bash >build/stratovirt.bash
	@$(PY) -m vmm_core.config.completion zsh >build/_stratovirt
	@echo "build/stratovirt.1, build/stratovirt.bash, build/_stratovirt"

newcomer: setup-test  ## make run in a minimal Debian 12 that has nothing else (needs root)
	@tools/newcomer.sh

clean:  ## remove what was built, not what was downloaded
	@find vmm_core backends ipc tests tools -name __pycache__ -prune -exec rm -rf {} + ; \
	find vmm_core backends -name '*.so' -delete; \
	find build -mindepth 1 -maxdepth 1 ! -name guest ! -name rig ! -name unicorn -exec rm -rf {} + 2>/dev/null; \
	rm -rf build/guest/initramfs.cpio build/guest/root.ext4 .mypy_cache .ruff_cache .pytest_cache
