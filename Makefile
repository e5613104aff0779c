# Two commands from a fresh clone: `make demo` and `make test`. Needs Python 3.11-3.13, git and make.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first interpreter that really runs and has a usable version (a shim of an absent one does not).
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

# The checks import the whole tree; TensorFlow's C++ start-up messages help nobody there.
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Bytecode is compiled once at set-up, and kept for our own code too.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint lock googlesql clean

help: ## these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## the environment in .venv, from requirements.lock

$(STAMP): requirements.lock
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found: install one, or name it by PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) with $$($(BIN)/python --version), about 3.5 GB"
	@# uv itself first, by pip, pinned by the same hashes; it then installs the rest in parallel.
	@awk '/^[a-zA-Z0-9]/ {keep = /^uv==/} keep' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.lock
	@# A mirror that pip is told of is meant for uv too; so are the machine's own certificates, where it has any.
	@UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$PIP_INDEX_URL}"; \
		[ -n "$$UV_DEFAULT_INDEX" ] && export UV_DEFAULT_INDEX || unset UV_DEFAULT_INDEX; \
		sync() { VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode "$$@" requirements.lock; }; \
		sync --system-certs || sync
	@touch $@

demo: setup ## set-up + the whole cycle on the CDNOW orders, ends with a customer's prediction
	@$(BIN)/python -m orchestration.demo

test: setup googlesql ## set-up + every test that needs nothing but a plain machine
	$(BIN)/python -m pytest

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Google's own SQL analyser and evaluator, as an npm package; where it cannot be had its tests say so and are skipped
# (.ci/run takes no skipped test). Node does not look at the machine's own certificates unless it is told to.
SYSTEM_CERTIFICATES := $(wildcard /etc/ssl/certs/ca-certificates.crt)
googlesql: tests/googlesql/node_modules/.installed
tests/googlesql/node_modules/.installed: tests/googlesql/package-lock.json
	@if command -v npm >/dev/null; then \
		NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-$(SYSTEM_CERTIFICATES)}" npm ci --ignore-scripts --no-audit --no-fund \
			--fetch-retries=1 --loglevel=error --prefix tests/googlesql && touch $@ \
			|| echo "npm could not install GoogleSQL: its tests will be skipped"; \
	else echo "npm is not installed: the GoogleSQL tests will be skipped"; fi

lock: setup ## requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --group dev \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

clean: ## remove what make made, but not .venv
	rm -rf work build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
