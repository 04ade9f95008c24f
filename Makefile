# Everything a person or a machine does with this project. `make` alone lists it.
#
# Each target makes .venv if there is none and installs into it what the lock says, again only when
# the lock has changed. Nothing but Python 3.11 or newer with pip is needed beforehand.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Two at a time: the suite starts real servers, and each test its own.
WORKERS ?= 2

.PHONY: help demo test check style types floors format coverage bench bench-quick chaos soak fuzz \
	packages dev lock wheel test-pythons clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- For everyone ---

demo: $(VENV)/.runtime  ## send real messages through the whole gateway, then keep serving (ARGS=--once: do not)
	@$(BIN)/mailonce demo $(ARGS)

test: $(VENV)/.dev packages  ## the whole suite, with real Redis, Postfix and Dovecot (ARGS=… for pytest)
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(ARGS)

# --- Before each commit ---

check: style types floors  ## format, lint, types, floors: no test

style: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.dev
	@$(BIN)/mypy

floors: $(VENV)/.dev
	@$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev  ## put the code into its form
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

coverage: $(VENV)/.dev packages  ## the suite again, counting branches: all of core/, 90 % of the whole
	@$(BIN)/coverage erase
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup --cov --cov-report= $(ARGS)
	@$(BIN)/coverage report --include='gateway/core/*' --fail-under=100
	@$(BIN)/coverage report --fail-under=90

# --- Long runs ---

bench: $(VENV)/.dev packages  ## throughput and latency beside other relays (minutes)
	@$(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/.dev packages  ## the same in one short round
	@$(BIN)/python -m bench --quick $(ARGS)

chaos: $(VENV)/.dev packages  ## 100,000 messages under faults at random (ARGS="--seed N")
	@$(BIN)/python -m tests.chaos $(ARGS)

soak: $(VENV)/.dev packages  ## half an hour at half speed: does anything grow?
	@$(BIN)/python -m tests.chaos.soak $(ARGS)

# atheris has wheels for few systems; without it, hypothesis draws, and the run says so.
fuzz: $(VENV)/.dev  ## hostile octets for every parser (ARGS="--seconds 600 --target smtp")
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3,<4' || true
	@$(BIN)/python -m tests.fuzz $(ARGS)

# --- Housekeeping ---

dev: $(VENV)/.dev  ## only make .venv and install everything into it

packages:  # servers and clients from the system's packages
	@.ci/packages

lock: $(VENV)/.dev  ## choose versions anew for both lock files
	@$(BIN)/pip install --quiet 'uv>=0.9'
	@compile=($(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command 'make lock'); \
	"$${compile[@]}" --output-file requirements.lock pyproject.toml; \
	"$${compile[@]}" --extra test --extra dev --output-file requirements-dev.lock pyproject.toml

wheel: $(VENV)/.runtime  ## build the wheel into dist/
	@$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

test-pythons:  ## wheel, demo and core's tests on each Python that is here (PYTHONS="python3.12 …")
	@.ci/pythons $(PYTHONS)

clean:  ## remove what was made, .venv too
	@rm -rf $(VENV) build dist ./*.egg-info .coverage .coverage.* .pytest_cache .mypy_cache \
		.ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@.ci/venv $(VENV)

# The stamps are rewritten last, so that an installation cut short is begun again. What is
# installed for development includes what runs, so one environment serves both.
#
# --no-deps, because a lock names everything already: before pip 23.3 (Debian 12 has 23.0.1), an extra
# that a dependency asks for is sought at its newest release, whatever the lock says, and there is no
# digest for that one. Seen in practice: the lock broke on the day a release of coverage came out.
$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	@test $(VENV)/.dev -nt requirements-dev.lock || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
