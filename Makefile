# One verb each. `make train` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
TRAIN_ARGS ?=
# Processes that run tests, each with one thread.
JOBS ?= 2
# CUDA kernels take minutes to compile: only where a GPU can run them, unless CVLIB_CUDA says 1.
export CVLIB_CUDA ?= $(if $(shell nvidia-smi -L 2>/dev/null),,0)
export TORCH_CUDA_ARCH_LIST ?= 8.0;9.0+PTX

SOURCES := setup.py pyproject.toml constraints.txt $(shell find csrc -type f 2>/dev/null)

.PHONY: setup train test lint format bench asan docs clean
.DEFAULT_GOAL := help

help:
	@echo "make setup | train | test | lint | format | bench | asan | docs | clean"
	@echo "  train: DATA=folder trains on your bananas; TRAIN_ARGS='--help' shows every option"

setup: .venv/.built

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch torchvision
	$(BIN)/pip install -q -c constraints.txt setuptools wheel pybind11 ninja numpy
	touch $@

.venv/.built: .venv/.installed $(SOURCES)
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

train: setup
	$(BIN)/python tools/train_ssd.py $(if $(DATA),--data $(DATA)) $(TRAIN_ARGS)

test: setup
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*')
	$(BIN)/mypy && $(BIN)/lint-imports
	$(BIN)/python .ci/check_words.py

format: setup
	$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*')

bench: setup
	$(BIN)/python tools/bench_ops.py

asan: setup
	tools/asan.sh

docs: setup
	$(BIN)/python tools/make_gallery.py

clean:
	rm -rf build *.egg-info cvlib/*.so runs
