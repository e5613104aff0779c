# Two commands from a fresh clone: `make demo` and `make test`. Needs Python 3.11-3.13, git and make.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

EMULATORS := .venv-emulators
EMULATORS_STAMP := $(EMULATORS)/.installed

# The newest Airflow of Cloud Composer 3, and the oldest that the DAGs run on.
AIRFLOW := 3.3.1
AIRFLOW_OLDEST := 2.11.1
AIRFLOW_STAMPS := .venv-airflow/.installed .venv-airflow-oldest/.installed

# $(call first-python,CANDIDATES,CONDITION): the first that really runs (a shim of an absent one does not) and whose
# minor version meets the condition.
first-python = $(shell for p in $(1); do \
	$$p -c 'import sys; major, minor = sys.version_info[:2]; sys.exit(not (major == 3 and $(2)))' 2>/dev/null \
		&& echo $$p && break; done)
PYTHON ?= $(call first-python,python3.12 python3.13 python3.11 python3 python,11 <= minor <= 13)
# pyenv keeps versions other than the current one out of the path.
PYTHON_AIRFLOW ?= $(call first-python,python3.11 $(wildcard $(HOME)/.pyenv/versions/3.11*/bin/python) $(BIN)/python \
	python3.12 python3 python,11 <= minor <= 12)
PYTHON_EMULATORS ?= $(call first-python,python3.13 python3.14 python3 python $(BIN)/python \
	$(wildcard $(HOME)/.pyenv/versions/3.1[3-9]*/bin/python),minor >= 13)

# $(call sync,ENVIRONMENT,LOCK): uv installs exactly what the lock says. A mirror that pip is told of is meant for uv
# too; so are the machine's own certificates, where it has any.
define sync
	@UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$PIP_INDEX_URL}"; \
		[ -n "$$UV_DEFAULT_INDEX" ] && export UV_DEFAULT_INDEX || unset UV_DEFAULT_INDEX; \
		sync() { VIRTUAL_ENV=$(1) $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode "$$@" $(2); }; \
		sync --system-certs || sync
endef

# $(call compile,LOCK,PYTHON) and what it is made of: pinned by hash, for every platform, without the registry's name.
compile = $(BIN)/uv pip compile --quiet --universal --python-version $(2) --generate-hashes \
	--custom-compile-command "make lock" --output-file $(1)

# A process a core, each with whole files, so that what a file's tests share is made once. No more than four: a process
# that imports TensorFlow takes 1 GB and more, and each has emulators of its own.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

# The checks import the whole tree; TensorFlow's C++ start-up messages help nobody there.
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Bytecode is compiled once at set-up, and kept for our own code too.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-refresh demo-template deploy test test-emulators test-browser test-templates test-airflow test-refresh lint lock \
	dags-picture googlesql dynalite emulators airflow clean

help: ## these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## the environment in .venv, from requirements.lock

$(STAMP): requirements.lock
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found: install one, or name it by PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) with $$($(BIN)/python --version), about 3.5 GB"
	@# uv itself first, by pip, pinned by the same hashes; it then installs the rest in parallel.
	@awk '/^[a-zA-Z0-9]/ {keep = /^uv==/} keep' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.lock
	$(call sync,$(VENV),requirements.lock)
	@touch $@

demo: setup ## set-up + the whole cycle on the CDNOW orders, ends with a customer's prediction
	@$(BIN)/python -m orchestration.demo

demo-refresh: setup ## the refresh of a recommender's campaign, without an account: four weeks in a quarter of a minute
	@$(BIN)/python -m orchestration.refresh demo

demo-template: setup emulators ## the publish template built and launched by the real gcloud, without a cloud
	@$(BIN)/python -m tests.templates.demo

deploy: setup ## templates, wheel and DAGs to where deployment.toml says: shows its plan first, and asks (DEPLOY="--help")
	@$(BIN)/python -m orchestration.deploy $(DEPLOY)

test: setup googlesql ## set-up + every test that needs nothing but a plain machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

test-emulators: setup emulators googlesql ## the tests against BigQuery, Cloud Storage and Datastore emulators
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m emulators

test-browser: setup ## the lookup service's pages in a real browser (needs Chromium)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser

test-templates: setup emulators ## the Flex Templates, launched by the real gcloud, and what is in the images
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m templates

# Each of the two processes has emulators, a scheduler and jobs of its own: more would not be faster.
test-airflow: setup emulators airflow ## the DAGs, run by the real Airflow against emulators and stand-ins of Google's services
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m airflow

test-refresh: setup dynalite ## the refresh's ledger in a DynamoDB on this machine, and its thousands of random schedules (needs npm)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m refresh

emulators: $(EMULATORS_STAMP) ## the emulators' environment in .venv-emulators (needs Python 3.13 or newer)

$(EMULATORS_STAMP): tests/emulators/requirements.lock tests/emulators/install_extensions.py | $(STAMP)
	@test -n "$(PYTHON_EMULATORS)" || { echo "error: the emulators need Python 3.13 or newer and none was found: install one, or name it by PYTHON_EMULATORS=..."; exit 2; }
	@test -x $(EMULATORS)/bin/python || $(PYTHON_EMULATORS) -m venv --without-pip $(EMULATORS)
	@echo "setting up $(EMULATORS) with $$($(EMULATORS)/bin/python --version), about 1 GB"
	$(call sync,$(EMULATORS),tests/emulators/requirements.lock)
	@mkdir -p $(EMULATORS)/home
	@HOME=$(CURDIR)/$(EMULATORS)/home $(EMULATORS)/bin/python tests/emulators/install_extensions.py
	@touch $@

airflow: $(AIRFLOW_STAMPS) ## Airflow's environments, the newest and the oldest (Python 3.11, Composer's, or 3.12)

$(AIRFLOW_STAMPS): .venv-%/.installed: orchestration/requirements-%.lock | $(STAMP)
	@test -n "$(PYTHON_AIRFLOW)" || { echo "error: Airflow needs Python 3.11 or 3.12 and neither was found: install one, or name it by PYTHON_AIRFLOW=..."; exit 2; }
	@test -x $(@D)/bin/python || $(PYTHON_AIRFLOW) -m venv --without-pip $(@D)
	@echo "setting up $(@D) with $$($(@D)/bin/python --version), about 2 GB"
	$(call sync,$(@D),$<)
	@touch $@

dags-picture: airflow ## docs/dags.svg anew from the DAGs
	.venv-airflow/bin/python -m orchestration.dag_picture --output docs/dags.svg

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Google's own SQL analyser and evaluator, as an npm package; where it cannot be had its tests say so and are skipped
# (.ci/run takes no skipped test). Node does not look at the machine's own certificates unless it is told to.
SYSTEM_CERTIFICATES := $(wildcard /etc/ssl/certs/ca-certificates.crt)
NPM_CI = NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-$(SYSTEM_CERTIFICATES)}" npm ci --ignore-scripts --no-audit --no-fund \
	--fetch-retries=1 --loglevel=error --prefix
googlesql: tests/googlesql/node_modules/.installed
tests/googlesql/node_modules/.installed: tests/googlesql/package-lock.json
	@if command -v npm >/dev/null; then \
		$(NPM_CI) tests/googlesql && touch $@ \
			|| echo "npm could not install GoogleSQL: its tests will be skipped"; \
	else echo "npm is not installed: the GoogleSQL tests will be skipped"; fi

# DynamoDB whose conditional writes are atomic, which moto's are not.
dynalite: tests/dynalite/node_modules/.installed
tests/dynalite/node_modules/.installed: tests/dynalite/package-lock.json
	@command -v npm >/dev/null || { echo "error: npm is not installed, and test-refresh needs it: install Node.js 18 or newer"; exit 2; }
	@$(NPM_CI) tests/dynalite || { echo "error: npm could not install dynalite: see above"; exit 1; }
	@touch $@

lock: setup ## requirements.lock anew from pyproject.toml, and those of the images, Airflow and the emulators
	$(call compile,requirements.lock,3.11) --group dev --extra tune --extra aws pyproject.toml
	$(call compile,templates/requirements.lock,3.11) --constraints requirements.lock --extra tune --extra aws pyproject.toml
	$(call compile,serving/requirements.lock,3.11) --constraints requirements.lock --group service
	$(call compile,tests/emulators/requirements.lock,3.13) --overrides tests/emulators/overrides.txt \
		tests/emulators/requirements.in
	echo "apache-airflow==$(AIRFLOW)" | $(call compile,orchestration/requirements-airflow.lock,3.11) \
		orchestration/requirements-airflow.in -
	echo "apache-airflow==$(AIRFLOW_OLDEST)" | $(call compile,orchestration/requirements-airflow-oldest.lock,3.11) \
		orchestration/requirements-airflow.in -

clean: ## remove what make made, but not the environments
	rm -rf work build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
