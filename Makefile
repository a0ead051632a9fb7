# Each target works first, alone, in any order. The first one you call makes .venv and installs
# requirements.txt into it; after that nothing is installed until requirements.txt or pyproject.toml changes.

# The first of these that is 3.11 or newer makes .venv. Name your own: make test PYTHON=python3.13
PYTHON ?= python3 python3.13 python3.12 python3.11 python
# Handed on to lab, demo and bench, for example: make demo ARGS=--help
ARGS ?=

RUN := .venv/bin/python -m
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
TESTS := -rfEs --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg
SUITS := import sys; sys.version_info >= (3, 11) or sys.exit("older than 3.11"); import ensurepip, venv

.PHONY: help lab test test-all mutants demo bench results lint notebooks book release slides clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

lab: .venv/installed ## JupyterLab on the first notebook; where there is no browser, open the address it prints
	$(RUN) jupyterlab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb --ip=127.0.0.1 \
	  $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

test: .venv/installed ## every test but the deep ones, and every notebook against its committed outputs
	$(RUN) pytest tests $(NOTEBOOKS) -m "not deep" $(TESTS)

test-all: .venv/installed ## all of it, ten times as deep, and on the lowest and newest Python that is here
	$(RUN) pip check
	.venv/bin/python tests/across_versions.py $(TESTS)

# In a copy: what it leaves behind is in no one's way, and nothing is left over from an earlier run. There are mutants
# that would take all memory there is.
mutants: .venv/installed ## some 1,900 small changes to the engines: does a test notice each? ARGS='*7' takes every tenth
	$(RUN) pip install --disable-pip-version-check --quiet -r requirements-mutants.txt
	rm -rf build/mutants && mkdir -p build/mutants
	cp -r flashref tests conftest.py pyproject.toml build/mutants
	cd build/mutants && { ulimit -v 8000000 2>/dev/null || true; } && \
	  OMP_NUM_THREADS=1 $(CURDIR)/$(RUN) mutmut run $(if $(ARGS),'$(ARGS)')
	cd build/mutants && $(CURDIR)/.venv/bin/python tests/survivors.py

demo: .venv/installed ## the trained Hyena writes the same text with every engine, timed
	$(RUN) flashref demo $(ARGS)

bench: .venv/installed ## measure the engines on this machine
	$(RUN) flashref bench $(ARGS)

results: .venv/installed ## write the README's tables of measurements again from the recorded files
	$(RUN) flashref bench --readme README.md

lint: .venv/installed ## ruff, over the code and the notebooks
	$(RUN) ruff check .
	$(RUN) ruff format --check .

notebooks: .venv/installed ## run every notebook again, in place, as on a machine without a GPU; draw the README's picture
	.venv/bin/python -c 'from flashref import figures; figures.three_tilings().savefig("docs/three_tilings.png", dpi=150)'
	CUDA_VISIBLE_DEVICES= FLASHREF_CALIBRATION= $(RUN) nbconvert --to notebook --execute --inplace --coalesce-streams \
	  --ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.record_timing=False \
	  --ExecutePreprocessor.store_widget_state=False --ClearMetadataPreprocessor.enabled=True \
	  --ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags \
	  $(addprefix --ClearMetadataPreprocessor.preserve_nb_metadata_mask=,kernelspec language_info) $(NOTEBOOKS)

book: .venv/installed ## the course as a web site in build/book, from the committed notebooks; it needs no network
	rm -rf build/book build/doctrees build/jupyter_execute
	$(RUN) sphinx -W --keep-going -q -c docs -d build/doctrees . build/book
	@echo "To read it: .venv/bin/python -m http.server --directory build/book, then open http://localhost:8000"

# nbgrader calls alembic by its name alone, which it finds only on the path.
release: .venv/installed ## make what students get of the exercises from their sources, as nbgrader does
	cd notebooks/exercises && rm -rf release && PATH="$(CURDIR)/.venv/bin:$$PATH" \
	  python -m nbgrader generate_assignment '[0-9]*' --no-db --force

slides: .venv/installed ## one lecture as one page that needs no network: build/flash_inference.slides.html
	CUDA_VISIBLE_DEVICES= FLASHREF_CALIBRATION= $(RUN) nbconvert --to slides --execute --output-dir build \
	  --config notebooks/slides/nbconvert_config.py notebooks/slides/flash_inference.ipynb

clean: ## remove .venv and every cache; the next target installs again
	rm -rf .venv .venv-lowest .venv-newest .pytest_cache .ruff_cache .hypothesis *.egg-info build dist
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# The last line but one: JupyterLab would ask every newcomer whether it may fetch news.
.venv/installed: requirements.txt pyproject.toml | .venv/bin/python
	$(RUN) pip install --disable-pip-version-check -r requirements.txt
	$(RUN) pip install --disable-pip-version-check --no-deps --editable .
	$(RUN) jupyterlab.labextensions disable "@jupyterlab/apputils-extension:announcements"
	@touch $@

.venv/bin/python:
	@for python in $(PYTHON); do \
	  if why=$$($$python -c '$(SUITS)' 2>&1); then \
	    echo "Making .venv with $$($$python --version)"; $$python -m venv .venv; exit; \
	  fi; \
	  echo "$$python: $$(echo "$$why" | tail -n 1)" >&2; \
	done; \
	echo "No Python 3.11 or newer that can make a virtual environment was found. Install one" >&2; \
	echo "(Debian, Ubuntu: apt install python3-venv) or name yours: make PYTHON=/path/to/python3" >&2; \
	exit 1
