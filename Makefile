.PHONY: check format docs

check:  ## everything that must hold before a commit
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	mkdocs build --strict --quiet --site-dir site
	python -m pytest -q -n auto

format:  ## put the code into shape
	ruff check --fix .
	ruff format .

docs:  ## write the documentation and look at it
	mkdocs serve
