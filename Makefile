# The front door of littlelb. `make demo` shows it, `make test` tests it, `make help` lists the rest.

SHELL := /bin/bash
PY    := .venv/bin/python
PATHS := src tests tools $(wildcard bench/*.py) $(wildcard deploy/*.py)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-ci demo check test unit contract golden lab e2e bench docs ci clean \
        check-style check-types check-imports check-tree check-unit

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## make .venv with .venv/bin/loadbalancer, and install what the system lacks
	@tools/setup.sh runtime

setup-dev:
	@tools/setup.sh dev

setup-ci:
	@tools/setup.sh ci

demo: setup ## see it work in 30 seconds; KEEP=1 keeps it running to play with
	@$(PY) -m tools.demo $(if $(KEEP),--keep)

check: setup-dev ## style, types, import rule, sizes, mirror, unit tests: under 30 s
	@$(MAKE) -k -j2 -Otarget --no-print-directory check-types check-unit check-imports check-style check-tree

check-style:
	@.venv/bin/ruff check --quiet $(PATHS) && .venv/bin/ruff format --check --quiet $(PATHS) && echo "style     ruff is content"

check-types:
	@.venv/bin/mypy --no-error-summary $(PATHS) && echo "types     mypy --strict is content"

check-imports:
	@out=$$(.venv/bin/lint-imports 2>&1) && echo "imports   every contract is kept" || { echo "$$out"; exit 1; }

check-tree:
	@$(PY) -m tools.check_sizes && $(PY) -m tools.check_mirror && $(PY) -m tools.gen_reference --check

check-unit:
	@$(PY) -m pytest -q -ra --no-header tests/unit

test: setup-dev ## all tiers: unit contract golden lab e2e; one that cannot run says why
	@$(PY) -m tools.run_tiers

unit contract golden lab e2e: setup-dev ## one tier by itself
	@$(PY) -m tools.run_tiers $@

bench: setup-dev ## measure what is promised, 70 minutes; SHORT=1 on a small scale, ONLY="decide sync" some of it
	@$(PY) -m bench $(if $(SHORT),--short) $(ONLY)

docs: setup-dev ## write the generated pages of docs/reference anew
	@$(PY) -m tools.gen_reference

ci: setup-ci check test ## what CI runs: everything, and no tier may be skipped

clean: ## remove caches and build results; .venv stays
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
	@find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
