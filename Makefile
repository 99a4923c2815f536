.PHONY: lint types test docs

lint:
	ruff format --check .
	ruff check .
	lint-imports
	codespell

types:
	mypy

test:
	pytest -n 2

docs:
	python docs/tables.py --check
	mkdocs build --strict --quiet --site-dir site
