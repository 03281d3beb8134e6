PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
INTERPRETED ?= $(addprefix tests/test_, trajectory.py layouts.py contract.py storage.py checkpoint.py device.py)

.PHONY: compare test check bench unit interpreted clean

# The main job: tune and compare SGD, RMSprop and AdamW on the embedded digits.
compare: .venv/ready
	$(BIN)/thalweg compare digits $(ARGS)

test: check unit
	OMP_NUM_THREADS=1 THALWEG_TEST_TRITON=1 $(BIN)/python -m pytest tests/test_device.py tests/test_checkpoint.py

# Two at a time: more would disturb the tests that start processes of their own.
unit: .venv/ready
	$(BIN)/python -m pytest -n 2 $(ARGS)

# All tests of the optimizers again, through the GPU's kernels in Triton's interpreter: more than ten minutes.
interpreted: .venv/ready
	OMP_NUM_THREADS=1 THALWEG_TEST_TRITON=1 $(BIN)/python -m pytest -n 2 $(INTERPRETED) $(ARGS)

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
