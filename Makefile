# Everything runs in .venv (peers for `bench`: .venv-bench), which each target sets up once.

PYTHON ?= python3
DATA   ?= $(STEELMAN_DATA)

BIN       := .venv/bin
BENCH_BIN := .venv-bench/bin
unexport PYTHONDONTWRITEBYTECODE # tests start many processes, each of which would compile the package
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench bench-measures evaluate soak mutants docs notebooks clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | awk -F '\t' '{printf "make %-14s %s\n", $$1, $$2}'

setup: .venv/.ready  ## install what the other targets need into .venv (they do so themselves)

demo: .venv/.ready  ## train, attack and report on embedded data, about two minutes
	@$(BIN)/steelman demo

test: check  ## check, then every test
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadgroup

check: .venv/.ready  ## format, lint and types, in seconds
	@$(BIN)/ruff format --check --quiet . || { echo "make format puts this right"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright

format: .venv/.ready  ## put format and simple lint right
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

bench: .venv-bench/.ready  ## our attacks beside peers', into docs/benchmarks.md; DATA=folder has mnist/, cifar10/
	@OMP_NUM_THREADS=1 $(BENCH_BIN)/python -m benchmarks.battery $(if $(DATA),--data-dir "$(DATA)") \
		--markdown docs/benchmarks.md $(ARGS)

evaluate: .venv-bench/.ready  ## standard and thorough beside AutoAttack's own code, into docs/results/; ARGS="--runs RUNS"
	@OMP_NUM_THREADS=1 $(BENCH_BIN)/python -m benchmarks.evaluate $(if $(DATA),--data-dir "$(DATA)") $(ARGS)

bench-measures: .venv-bench/.ready  ## our measures beside ART's on MNIST, some minutes, into docs/results/
	@$(BENCH_BIN)/steelman train evaluate_mnist_plain $(if $(DATA),--data-dir "$(DATA)")
	@OMP_NUM_THREADS=1 $(BENCH_BIN)/python -m benchmarks.measures $(if $(DATA),--data-dir "$(DATA)") $(ARGS)

soak: .venv/.ready  ## kills at random moments, 100,000 damaged files (FUZZ=...), verdicts on models of known truth (ZOO=...); no data
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.kills $(ARGS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz $(FUZZ)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.zoo $(ZOO)

mutants: .venv/.ready  ## plant deliberate faults one at a time and see that tests notice; 20 minutes, no data
	@$(BIN)/python -m benchmarks.mutants $(ARGS)

docs: .venv/.docs  ## write the pages of methods anew from docstrings, recipes and examples, and build site/ from docs/
	@$(BIN)/python tools/method_pages.py docs
	@NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html; with search: $(PYTHON) -m http.server -d site"

notebooks: .venv/.docs  ## run docs/notebooks/ anew, some minutes, and keep the outputs in them
	@$(BIN)/python -m tools.notebooks

clean:  ## remove what set-up and the tools made; runs/ and data/ stay
	@rm -rf .venv .venv-bench .pytest_cache .ruff_cache .hypothesis dist build site
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

define python_is_new_enough
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"Steelman needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
endef

.venv/.ready: pyproject.toml constraints.txt
	$(python_is_new_enough)
	@echo "Setting up .venv (once, a few minutes: PyTorch is large)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[full,dev,tensorboard,perceptual,onnx,ode,dask]'
	@touch $@

.venv/.docs: .venv/.ready
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[docs]'
	@touch $@

# Constraints as variables reach the builds of source packages too: a dependency of adv-lib needs an older setuptools.
.venv-bench/.ready: pyproject.toml constraints.txt
	$(python_is_new_enough)
	@echo "Setting up .venv-bench (once, a few minutes: PyTorch and the peers)"
	@test -x $(BENCH_BIN)/python || $(PYTHON) -m venv .venv-bench
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BENCH_BIN)/python -m pip install -qq -e '.[full,bench]'
	@touch $@
