# Every target does the set-up it needs. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# tests start many processes: what one has compiled the next one reads
unexport PYTHONDONTWRITEBYTECODE

# a file a process, a thread each
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
SHAPES := $(addprefix tests/test_,$(addsuffix .py,bands change_point crosscoder kernels vectors))

.PHONY: help demo test suite soak check lint types floors docs site truth agreement gallery pictures change-points bench bench-gpu interop bench-change-point bench-memory bench-activations clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## pre-train a small LM, study it, write runs/demo/report.html
	$(BIN)/ontogeny demo

test: $(STAMP)  ## lint, types, import floors and docs drift beside the test suite
	$(MAKE) --jobs 2 --output-sync=line check suite

suite: $(STAMP)
	$(PYTEST) $(SHAPES:%=--ignore=%)
	$(PYTEST) --jaxtyping-packages=ontogeny,beartype.beartype $(SHAPES)

soak: $(STAMP)  ## ten random kills in each long stage: results must not change by a bit (about 10 minutes)
	$(BIN)/python tests/soak.py

check: lint types floors docs  ## all static checks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/basedpyright

floors: $(STAMP)
	$(BIN)/lint-imports --no-cache

site: $(STAMP)  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: $(STAMP)
	$(BIN)/python docs/generate.py --check

truth: $(STAMP)  ## train on planted suites, write docs/truth.md (hours; what was measured is not made again)
	$(BIN)/python -m benchmarks.truth

bench: $(STAMP)  ## training and harvest beside plain loops and peers, write docs/performance.md (about two hours)
	$(BIN)/python -m benchmarks.speed

bench-gpu: $(STAMP)  ## kernels beside PyTorch's and whole steps on a GPU (OUT=FILE)
	$(BIN)/python -m benchmarks.gpu $(OUT:%=--out %)

agreement: $(STAMP)  ## series, crosscoder, triplet and aligned SAEs on the reference suite: write docs/agreement.md (hours)
	$(BIN)/python -m benchmarks.agreement

gallery: $(STAMP)  ## case studies of small models (CASE=collapse, kinds, induction, seeds, models or published; hours): write docs/gallery.md
	$(BIN)/python -m benchmarks.gallery $(CASE)

pictures: $(STAMP)  ## pictures of the tutorial and of the README, from the runs they tell of (some minutes; wants Chromium)
	$(BIN)/python docs/pictures.py

interop: $(STAMP)  ## other tools, each in an environment of its own, read our files and we theirs
	$(BIN)/python -m benchmarks.interop

change-points: $(STAMP)  ## planted breaks, and Pythia's evaluation curves (EVALS=FILE): write docs/change-points.md
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.pythia_evals $(EVALS)

bench-change-point: $(STAMP)  ## false positives and power of the test for a turning point
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.change_point

bench-memory: $(STAMP)  ## peak memory of training for 2 to 32 snapshots (about 20 minutes)
	$(BIN)/python -m benchmarks.memory

bench-activations: $(STAMP)  ## every activation function on the reference suite (about an hour)
	$(BIN)/python -m benchmarks.activations

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs
