VENV ?= .venv
PYTHON ?= python3.11
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test check format clean

# One environment for everything, with the versions of constraints.txt.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/t2i-xattn inspect "a red circle left of a blue square" --out demo
	@echo "open $(CURDIR)/demo/words.png"

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo out .pytest_cache .mypy_cache .ruff_cache
