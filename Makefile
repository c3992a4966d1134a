# Two commands do all the set-up on a fresh Linux machine with Python 3.11 or newer:
#   make demo   trains a four-phase curriculum on a Kubernetes cluster that it builds itself
#   make test   checks and tests everything
# What they need (uv, the Python environment, Go programs, images) goes to .venv, build/ and the
# user's cache folder.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := $(VENV)/bin/python
CHART := helm/curriculum-operator
CODE := api operator trainer cli tests tools benchmarks
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
unexport PYTHONDONTWRITEBYTECODE  # or every process would compile what it imports

NAME ?= throughput
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
ARGS ?=

.PHONY: help demo test test-fast check lint types layers generated chart generate format bench \
        test-gpu cluster-up cluster-down clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.synced ## train the demo's curriculum on a real Kubernetes (KEEP=1 leaves it up)
	@$(PYTHON) -m tests.demo

test: check ## check, then run every test, on the real Kubernetes too
	@$(PYTHON) -m tests.cluster build  # here, because a test has a time limit and a first build has none
	@$(PYTHON) -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

test-fast: check ## check, then run the tests that need no cluster
	@$(PYTHON) -m pytest -m "not apiserver and not e2e" --numprocesses $(WORKERS)

test-gpu: $(VENV)/.synced ## on a machine with GPUs: whether they train, and how fast
	@$(PYTHON) -m curriculum_trainer.selftest

check: lint types layers generated chart ## formatting, rules, types, layers, generated files, chart

lint: $(VENV)/.synced
	@ruff format --check $(CODE)
	@ruff check $(CODE)
	@test ! -e operator/__init__.py || { echo "operator/__init__.py must not exist: it hides the standard library's module" >&2; exit 1; }

types: $(VENV)/.synced
	@mypy $(CODE)

layers: $(VENV)/.synced
	@lint-imports --verbose | tail -n 3

generated: $(VENV)/.synced
	@$(PYTHON) -m curriculum_api.crd --check crds
	@$(PYTHON) -m curriculum_api.crd --check $(CHART)/files/crds

chart: $(VENV)/.synced
	@$(PYTHON) -m tests.helm.lint

generate: $(VENV)/.synced ## print the CRDs, and the fabric profiles' goldens and tables
	@$(PYTHON) -m curriculum_api.crd crds
	@$(PYTHON) -m curriculum_api.crd $(CHART)/files/crds
	@$(PYTHON) -m tests.operator.core.fabric_goldens

format: $(VENV)/.synced ## format the code, and mend what ruff can mend
	@ruff format $(CODE)
	@ruff check --fix $(CODE)

bench: $(VENV)/.synced ## measure: NAME=throughput, or another script of benchmarks/; ARGS for it
	@$(PYTHON) -m benchmarks.$(NAME) $(ARGS)

cluster-up: $(VENV)/.synced ## start the test cluster and leave it up
	@$(PYTHON) -m tests.cluster up

cluster-down: $(VENV)/.synced ## stop it without a trace
	@$(PYTHON) -m tests.cluster down

clean: ## remove the environment and what was built here; the caches stay
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.synced: uv.lock pyproject.toml tools/environment.py
	@python3 tools/environment.py
