# The project's verbs. `make help` lists them; `make run` and `make test` need Python 3.11, git and make only.

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
LOCK ?= requirements-dev.lock
# uv installs everything else; where it can't, this pip does.
UV_LOCK := requirements-uv.lock
PIP_LOCK := requirements-pip.lock
PORT ?= 8000
AIRCALL_PORT ?= 8100
RECEIVER_PORT ?= 8200
CONSOLE_PORT ?= 8300
# How long the campaign's load and faults last, and what draws them.
SECONDS ?= 120
SEED ?= 1
# Several test processes, each with a PostgreSQL of its own; a third of their time is waiting.
WORKERS ?= 3
PYTEST = $(BIN)/pytest -q -n $(WORKERS) --dist worksteal
# A database for `make run` and `make demo`: only where make's own command line says so, never one that is exported.
DATABASE := $(if $(filter command,$(origin DATABASE_URL)),--database-url "$$DATABASE_URL")
# Every other variable of make's own command line is a setting for this run; one that is none is refused by name.
OF_MAKE := DATABASE_URL PORT AIRCALL_PORT RECEIVER_PORT CONSOLE_PORT SECONDS SEED WORKERS LOCK UV_LOCK PIP_LOCK VENV SHELL MAKE% MFLAGS
TAKEN := $(foreach name,$(filter-out $(OF_MAKE),$(.VARIABLES)),$(if $(filter command,$(origin $(name))),--take $(name)))
# The four ports, as the sandbox takes them.
CONSOLE := $(if $(filter command,$(origin AIRCALL_OAUTH_CONSOLE_PORT)),$(AIRCALL_OAUTH_CONSOLE_PORT),$(CONSOLE_PORT))
ASKED := "$(PORT)" "$(AIRCALL_PORT)" "$(RECEIVER_PORT)" "$(CONSOLE)"
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Where it is set, each process compiles this project anew.
unexport PYTHONDONTWRITEBYTECODE

PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# What is installed depends on the lock and on what the package says of itself.
STAMP := $(VENV)/.installed-$(LOCK)

.PHONY: help setup ports run demo test test-all campaign bench check format migrate lock clean

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP) ## install everything into .venv

$(STAMP): $(LOCK) $(UV_LOCK) $(PIP_LOCK) pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer (with venv) is needed, and none was found." >&2; exit 1; fi
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once; up to three minutes) …"
	@if [ -x $(BIN)/python ]; then :; else $(PYTHON) -m venv $(VENV) || { echo "Cannot make $(VENV) here; is the folder writable, and python3-venv installed?" >&2; exit 1; }; fi
	@$(BIN)/pip install --quiet --no-deps --require-hashes --only-binary :all: -r $(UV_LOCK) || echo "  uv could not be installed, as told above, so pip installs the packages."
	@sh scripts/install-packages $(BIN)/python $(LOCK) $(PIP_LOCK)
	@printf '  this project … ' && $(BIN)/pip install --quiet --no-deps --no-build-isolation -e . && echo ready
	@touch $@

# Before packages are installed: that takes minutes.
ports:
	@[ -z "$(PYTHON)" ] || PYTHONPATH=src $(PYTHON) -B -m aircall_oauth.sandbox.ports $(ASKED)

run: ports setup ## run everything here, with a pretend Aircall, and walk through it (PORT=8000 AIRCALL_PORT=8100 RECEIVER_PORT=8200 CONSOLE_PORT=8300 RETURN_URLS=… DATABASE_URL=…)
	@$(BIN)/aircall-oauth dev --port $(PORT) --aircall-port $(AIRCALL_PORT) --receiver-port $(RECEIVER_PORT) --console-port $(CONSOLE_PORT) $(DATABASE) $(TAKEN)

demo: setup ## the same walk, then exit 0 or 1
	@$(BIN)/aircall-oauth dev --demo $(DATABASE) $(TAKEN)

test: setup ## run the tests, without the slow ones (some minutes)
	@$(PYTEST) -m "not slow"

test-all: setup ## run all tests
	@$(PYTEST)

campaign: setup ## real processes under load, one fault after another, and an oracle (SECONDS=120 SEED=1)
	@$(BIN)/python -m tests.crash.campaign --seconds $(SECONDS) --seed $(SEED)

bench: setup ## measure against a no-op and a plain handler, in one run (some minutes)
	$(BIN)/python -m bench.receiver --full
	$(BIN)/python -m bench.feed
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.deliveries
	$(BIN)/python -m bench.latency
	$(BIN)/python -m bench.proxy
	$(BIN)/python -m bench.rotation
	$(BIN)/python -m bench.upkeep
	$(BIN)/python -m bench.start

check: setup ## everything CI checks: format, lint, floors, types, tests (migration lint among them)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	@# The types beside the tests, which leave a core to them now and then.
	@{ $(BIN)/mypy && $(BIN)/mypy --python-version 3.10 clients/python/src; } & types=$$!; \
	$(MAKE) --no-print-directory test-all; tests=$$?; \
	wait $$types || { echo "mypy found wrong types, told above." >&2; exit 1; }; exit $$tests

format: setup ## put the code in form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

migrate: setup ## bring the database of AIRCALL_OAUTH_DATABASE_URL up to date
	@$(BIN)/aircall-oauth migrate

lock: setup ## work the locks out anew from pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --all-extras pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --all-extras pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --all-extras pyproject.toml --group dev --group ci -c requirements-dev.lock -o requirements-ci.lock
	echo uv | $(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 - -o $(UV_LOCK)
	echo 'pip>=26' | $(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 - -o $(PIP_LOCK)

clean: ## remove what was installed and the sandbox's data
	rm -rf $(VENV) .dev
