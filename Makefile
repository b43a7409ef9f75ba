VENV = .venv
LOWEST = .venv-lowest
PYTHON ?= python3.11
WORKERS ?= 2
BIN = $(VENV)/bin
# Gradio asks for a Pillow below 13, and runs with it, as the tests of the app say: it comes without
# what it needs, which stands here.
GRADIO = gradio gradio_client brotli fastapi groovy hf-gradio httpcore httpx opentelemetry-api orjson \
	pydub python-multipart pytz safehttpx semantic-version starlette tomlkit uvicorn
READY = $(VENV)/.ready
# Each worker computes with one thread: together they fill the cores, and sums have one order.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test check lint types slow audit lowest site format clean

# One environment for everything, with the versions of constraints.txt.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	# For CLIP's vocabulary, which lies in its wheel; without what it needs to run.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps open_clip_torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps $(GRADIO)
	# For axe-core, which looks at pages; its script lies in this wheel, the browser is another's.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps axe-playwright-python
	touch $@

demo: $(READY)
	$(BIN)/t2i-xattn inspect "a red circle left of a blue square" --out demo
	@echo "open $(CURDIR)/demo/report.html"

test: $(READY)
	$(PYTEST) -m "not slow"

# The one gate: what pre-commit looks at, types, every test, and the versions of constraints.txt.
check: lint types test slow audit

lint: $(READY)
	$(BIN)/pre-commit run --all-files

types: $(READY)
	$(BIN)/mypy

# What trains, or measures how good a model is.
slow: $(READY)
	$(PYTEST) -m slow

# The versions of constraints.txt against the known vulnerabilities; without a network it says so.
audit: $(READY)
	$(BIN)/python scripts/audit.py

# The pages of docs/ as a site, in site/; a warning is an error.
site: $(READY)
	$(BIN)/mkdocs build

# The tests of all but the lab with the lowest versions that pyproject.toml allows. On Linux this
# torch comes with CUDA: three gigabytes to fetch, six to keep.
lowest: $(LOWEST)/.ready
	$(PYTEST) -m "not slow" tests/integration $$(grep -L "^from lab" tests/test_*.py)
lowest: BIN = $(LOWEST)/bin

$(LOWEST)/.ready: pyproject.toml scripts/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) scripts/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet -c $(LOWEST)/constraints.txt -e '.[dev]'
	touch $@

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) demo out site .pytest_cache .mypy_cache .ruff_cache
