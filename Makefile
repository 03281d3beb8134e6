PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: compare test check bench unit clean

# The main job: tune and compare SGD, RMSprop and AdamW on the embedded digits.
compare: .venv/ready
	$(BIN)/thalweg compare digits $(ARGS)

test: check unit

unit: .venv/ready
	$(BIN)/python -m pytest $(ARGS)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/thalweg bench $(ARGS)

# The constraints pin every package; torch comes first, alone, so that its pin decides which build is taken.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
