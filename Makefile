# Every target sets up what it needs by itself; see docs/commands.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help env demo up down airflow test test-slow check bench lock reference

export JAVA_HOME := $(shell scripts/system.sh --java)
MISSING = $(shell scripts/system.sh 2>&1)
BIN := .venv/bin
BENCH ?= fm_inference vm_feed history_growth storage day

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

env: ## make or renew .venv and the cache of Delta's jars
	$(if $(MISSING),$(error $(MISSING)))
	@scripts/setup.sh

demo: export LOOPFM_SPARK_MEMORY ?= 1g
demo test: export LOOPFM_SPARK_JAVA_OPTIONS ?= -XX:TieredStopAtLevel=1
demo test: export OMP_NUM_THREADS ?= 1

demo: env ## run the whole loop on a generated world through Airflow; at a terminal it stays up, make down ends it
	@$(BIN)/python -m pipelines.orchestration demo

up: env ## start Airflow and MLflow's page on this machine
	@$(BIN)/python -m pipelines.orchestration up $(if $(UPGRADE),--upgrade)

down: env ## end what make up started
	@$(BIN)/python -m pipelines.orchestration down

airflow: env ## run Airflow's own command line: make airflow ARGS="dags list"
	@$(BIN)/python -m pipelines.orchestration airflow $(ARGS)

test: env ## run the tests (about 12 minutes on 2 cores)
	@$(BIN)/python -m pytest -n 2

test-slow: env ## run the proofs that take minutes each
	@$(BIN)/python -m pytest -m slow --timeout=1800

check: env ## format, lint, types and layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: env ## run the benchmarks, or some: make bench BENCH="storage day"
	@for name in $(BENCH); do $(BIN)/python -m benchmarks.$$name || exit 1; done

lock: env ## renew requirements.lock after a change of pyproject.toml's dependencies
	@$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	    --no-annotate --custom-compile-command "make lock" --quiet --output-file requirements.lock
	@! grep -nE '://' requirements.lock

reference: env ## renew docs/settings.md after a change of a settings model
	@$(BIN)/python scripts/reference.py
