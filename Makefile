.PHONY: lint types test test-all docs

lint:
	ruff format --check .
	ruff check .
	lint-imports
	codespell

types:
	mypy

test:
	pytest -m "not slow" -n 2

test-all:
	pytest -n 2

docs:
	python docs/tables.py --check
	mkdocs build --strict --quiet --site-dir site
