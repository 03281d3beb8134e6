PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
MATRIX := $(addprefix tests/test_, trajectory.py layouts.py contract.py storage.py ratios.py windows.py checkpoint.py additions.py device.py gpu_update.py)
INTERPRETER := OMP_NUM_THREADS=1 THALWEG_TEST_TRITON=1

.PHONY: compare test check bench unit additions claims distributed interpreted started wheel gpu integrations site docs clean

# The main job: tune and compare SGD, RMSprop and AdamW on the embedded digits.
compare: .venv/ready
	$(BIN)/thalweg compare digits $(ARGS)

test: check site unit integrations interpreted wheel

# Two at a time: more would disturb the tests that start processes of their own. Each takes neighbours, so that what
# a file prepares is prepared once.
unit: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/integrations $(ARGS)

# Every addition with every rule, and with parameters in pieces.
additions: .venv/ready
	THALWEG_TEST_ADDITIONS=all $(BIN)/python -m pytest -n 2 tests/test_additions.py tests/test_means.py tests/test_sparse.py $(ARGS)

# Every claim of the lesson in its short form, with its remedies, and rates that are tuned and confirmed.
claims: .venv/ready
	THALWEG_TEST_LESSON=all $(BIN)/python -m pytest tests/lab/test_lesson_quick.py $(ARGS)

# Every rule, storage and measure on every mesh, and 10,000 steps that leave nothing behind.
distributed: .venv/ready
	THALWEG_TEST_DISTRIBUTED=all THALWEG_TEST_LEAK_STEPS=10000 $(BIN)/python -m pytest tests/distributed $(ARGS)

# All tests of the optimizers again, through the GPU's kernels in Triton's interpreter: every rule and every storage, and
# with THALWEG_TEST_ADDITIONS=all every rule with every storage.
interpreted: .venv/ready
	$(INTERPRETER) $(BIN)/python -m pytest -n 2 $(MATRIX) $(ARGS)

# The tests that depend on how they are started, in awkward ways.
started: .venv/ready
	tests/started.sh $(ARGS)

# What is released, in environments that hold what it asks for and no repository.
wheel: .venv/ready
	$(BIN)/python tests/wheel.py

# What a GPU's tests say of its kernels without a GPU. With one: .venv/bin/python -m pytest tests/gpu
gpu: .venv/ready
	$(INTERPRETER) $(BIN)/python -m pytest -n 2 tests/gpu $(ARGS)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Trainers and model libraries, with our optimizers in them.
integrations: .venv/integrations
	$(BIN)/python -m pytest -n 2 tests/integrations $(ARGS)

# The documentation as a site, in build/site, and all examples of its pages.
docs: site
	$(BIN)/python -m pytest -n 2 tests/test_docs.py tests/test_site.py tests/integrations/test_pages.py $(ARGS)

# The site alone: strict, so that a dead link, a page in no menu and an undocumented name end it; without a network.
site: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: .venv/ready
	$(BIN)/thalweg bench $(ARGS)

# The constraints pin every package; torch comes first, alone, so that its pin decides which build is taken.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.venv/integrations: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[integrations]'
	touch $@

.venv/docs: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
