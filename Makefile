# The commands of this project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help

.PHONY: help setup setup-tests demo demo-azure check types agent-types lint test test-fast soak bench lock openapi docs appliance clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup:  ## install what this machine lacks: system packages, the Python environment, the capture program
	@scripts/setup

setup-tests:  ## and what only tests and benchmarks need: an S3 server, a database, more file systems
	@scripts/setup tests

demo: setup  ## the main job: protect a real Debian guest, lose its whole site, bring it up
	@$(PYTHON) -m farshore.lab.demo

demo-azure: setup-tests  ## the same with a vault in Azurite and a double of Azure as the place to come up
	@$(PYTHON) -m tests.azure.demo

# What runs on the protected machine's own Python, 3.9 or later.
AGENT := $(addprefix src/farshore/,__init__.py backoff.py clock.py) $(addprefix src/farshore/,api_types client formats mobility model telemetry)

check: setup  ## lint, types, import contracts
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target types agent-types lint  # none of them uses two processors

types:
	@$(PYTHON) -m mypy

agent-types:
	@$(PYTHON) -m mypy --python-version 3.10 $(AGENT)  # the oldest that mypy knows

lint:
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@.venv/bin/vermin --quiet --no-tips --violations --eval-annotations --target=3.9- $(AGENT)
	@.venv/bin/lint-imports

# Programs of the tests start some hundred times; compiling their sources each time would cost minutes.
test test-fast soak bench: export PYTHONDONTWRITEBYTECODE =

# Deep tests wait for something a third of their time, so three times as many workers as processors keep those busy.
WORKERS ?= $(shell echo $$(( 2 * $$(nproc) )))
DEEP_WORKERS ?= $(shell echo $$(( 3 * $$(nproc) )))
FAST := tests/contract tests/unit tests/formats  # the longest module first: one worker takes a whole module
DEEP := tests/crash tests/scenarios
PYTEST := $(PYTHON) -m pytest --numprocesses $(WORKERS) --durations 20

test: setup-tests check  ## the gate, which CI runs: every test (as root; within 25 minutes on 2 cores)
	@$(PYTEST) --numprocesses $(DEEP_WORKERS) -m "not guest" $(DEEP)
	@scripts/beside "$(PYTHON) -m pytest --numprocesses $(WORKERS) --durations 20 $(FAST)" \
	  "$(PYTHON) -m pytest -m guest --durations 20 $(DEEP)"  # the main job's guests want a whole processor

test-fast: setup-tests  ## the fast lane: unit, formats, contract (within 5 minutes)
	@$(PYTEST) $(FAST)

soak: setup-tests  ## the long set: kill, cut, fill and corrupt for MINUTES=30 (or ROUNDS=; SEED=, LAYOUT=), then every kill point (as root)
	@$(PYTHON) -m tests.crash.fire $(if $(ROUNDS),--rounds $(ROUNDS),--minutes $(or $(MINUTES),30)) $(if $(SEED),--seed $(SEED)) $(if $(LAYOUT),--layout $(LAYOUT))
	@FARSHORE_SOAK=1 $(PYTHON) -m pytest tests/crash tests/scenarios

bench: setup-tests  ## every benchmark, with its peers, side by side
	@for name in $$(benchmarks/run --list); do benchmarks/run $$name; done

COMPILE := .venv/bin/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --universal \
  --no-python-downloads --no-emit-package farshore --custom-compile-command "make lock"

AGENT_REQUIREMENTS := src/farshore/protection/push/agent-requirements.txt
# The agent's libraries are those that the tests run with, wherever their Python can be the agent's.
TESTED = sed -nE "s/^(\S+==\S+) ; (.*) \\\\$$/\1 ; python_full_version >= '3.11' and (\2)/p; \
  s/^(\S+==\S+) \\\\$$/\1 ; python_full_version >= '3.11'/p" requirements.txt

lock:  ## make the hashed requirements anew (no download addresses in them)
	@$(COMPILE) --python-version 3.11 --group dev --all-extras -o requirements.txt pyproject.toml
	@$(COMPILE) --python-version 3.9 --extra mobility -o $(AGENT_REQUIREMENTS) --constraints <($(TESTED)) pyproject.toml

openapi:  ## write docs/api/openapi.json anew
	@$(PYTHON) -m farshore.configuration_server.openapi docs/api/openapi.json

docs: setup  ## the pages as a site, in .cache/site
	@.venv/bin/uv pip install --quiet "mkdocs-material>=9.6"
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build  # a warning, such as a link that leads nowhere, is an error

appliance: setup  ## the servers as a machine image, dist/farshore-VERSION.qcow2 and .ova (as root)
	@$(PYTHON) -m deploy.appliance

clean:  ## remove what the build made (the guest image cache stays)
	@rm -rf .venv dist src/farshore/mobility/capture/*.bpf.o
