# `make train` and `make test` each work alone on a machine that has only Python and pip: they make .venv,
# install into it what they need, and run. Everything stays inside this folder.

PYTHON ?= python3
# What pip installs before anything else, so that another build of torch (CPU, CUDA, a local wheel) can be named
# here. After a change, `make clean` first.
TORCH ?= torch==2.13.0
# Passed on: make train ARGS="algorithm=grpo seed=1", make test ARGS="tests/test_config.py -x".
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_OPTIONS := --disable-pip-version-check --quiet --retries 10 --timeout 60
PIP := $(BIN)/python -m pip $(PIP_OPTIONS)
CODE := $(wildcard sandbox/axpo_sandbox axpo_env axpo_algo benchmarks)
# The extras of pyproject.toml that are other trainers. They exclude each other, so each has an environment of its
# own, which lies on top of .venv and holds only what .venv lacks or has in another version; and TRL, whose copy of
# Qwen3-VL's chat template the tests render with.
ADAPTERS := trl verl verifiers verifiers-legacy
ADAPTER_VENV := .venv-adapters

.PHONY: help train test test-slow test-docker test-adapters $(ADAPTERS:%=test-adapter-%) lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make train      train a small policy with AXPO on the CPU     ARGS=\"algorithm=grpo\""
	@echo "make test       the tests, without the slow ones              ARGS=\"tests/test_config.py\""
	@echo "make test-slow  the slow tests"
	@echo "make test-docker  those that need a Docker engine at DOCKER_HOST"
	@echo "make test-adapters  those that play the environments inside TRL, verl and verifiers, which they install"
	@echo "make lint       ruff check, ruff format --check, mypy"
	@echo "make format     ruff, fixing what it can"
	@echo "make clean      remove .venv, .venv-adapters and caches; runs/ stays"

train: $(VENV)/.installed-train
	$(BIN)/python -m axpo_algo.train $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m "not slow and not docker and not hours" $(ARGS)

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m slow $(ARGS)

test-docker: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m docker $(ARGS)

test-adapters: $(ADAPTERS:%=test-adapter-%)

# A test that is skipped has failed here: its package is installed for it.
$(ADAPTERS:%=test-adapter-%): test-adapter-%: $(ADAPTER_VENV)/%/.installed
	$(<D)/bin/python -m pytest -q -m adapters --no-skips tests/test_adapter_$(subst -,_,$*).py tests/test_wire.py $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(ADAPTER_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Some systems ship Python without ensurepip: there, pip installs itself into the new environment.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV) || (rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(BIN)/python install --quiet pip)

$(VENV)/.installed-torch: | $(BIN)/python
	$(PIP) install "$(TORCH)"
	@touch $@

# One stamp per set of extras (train, test, dev), renewed when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml $(VENV)/.installed-torch
	$(PIP) install --editable ".[$*]"
	@touch $@

# axpo itself is there from below: what is installed is the extras.
$(ADAPTERS:%=$(ADAPTER_VENV)/%/.installed): $(ADAPTER_VENV)/%/.installed: pyproject.toml $(VENV)/.installed-test
	$(BIN)/python -m venv --without-pip --clear $(@D)
	$(@D)/bin/python -c 'from pathlib import Path; from sysconfig import get_path; \
		below = get_path("purelib", vars={"base": "$(abspath $(VENV))"}); \
		Path(get_path("purelib"), "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")'
	$(@D)/bin/python -m pip $(PIP_OPTIONS) install --no-warn-conflicts --no-compile "axpo[$*,trl]"
	@touch $@
