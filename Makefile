# make ask     install into .venv if needed and ask the bundled clip
#              (your own: make ask VIDEO=talk.mp4 Q="What is shown?" ARGS="--retain 10%")
# make test    the same environment, then formatting, types and tests
# make wheel   dist/seats_cli-*.whl, which installs anywhere with pip, pipx or uv
# make clean   remove the environment and all caches

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Newer than everything that decides what is installed; written last, so that an interrupted
# installation is repeated.
STAMP := $(VENV)/.installed

VIDEO ?= assets/cards_words_beeps_12s.mp4
Q ?= Which word is said while the green card is shown?
ARGS ?=
WORKERS ?= 2

# One thread per test worker: two workers that both use all cores slow each other down. A file's
# tests stay in one worker, with the models and clips that they share, and in order: large files first
# is what xdist would do, and it counts tests, not seconds.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

export VIDEO Q

.PHONY: ask install lint test wheel clean

# Through the environment, so that quotes in a question stay what they are.
ask: $(STAMP)
	@$(BIN)/seats ask "$$VIDEO" "$$Q" $(ARGS)

install: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time this fetches some GB and takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The counts of docs/architecture.md are printed on the way; tests/test_structure.py holds them.
test: lint
	@$(BIN)/python -m tests.structure
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Without what an earlier build left, which setuptools would pack again although it was removed.
wheel: $(STAMP)
	rm -rf build
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
