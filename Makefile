# Three things that people do: make demo, make test, make bench. Each starts from nothing but a Python.
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet -c constraints.txt -e

.PHONY: demo test lint labs bench

demo: .venv/.train  ## train a U-Net on brain slices; the report lands in runs/
	$(BIN)/tinyconv train --model unet --data brain

test: lint  ## everything that a change must pass
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

labs: .venv/.test  ## write the student and solution notebooks from lectures/NN_name.py
	$(BIN)/python lectures/make_notebooks.py

bench: .venv/.bench  ## time against PyTorch and the peers; --quick and single parts: python -m benchmarks --help
	$(BIN)/python -m benchmarks

# A stamp in .venv says what is installed, so that a second run does not ask again.
.venv/.train: pyproject.toml constraints.txt
	$(INSTALL) '.[train]'
	touch $@

.venv/.test: pyproject.toml constraints.txt
	$(INSTALL) '.[lab,test]'
	touch $@ .venv/.train

.venv/.bench: pyproject.toml constraints.txt
	$(INSTALL) '.[lab,test,bench]'
	touch $@ .venv/.test .venv/.train
