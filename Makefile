# make demo | test | explorer | lab  - each sets itself up, once. See README.md.
SHELL   := /bin/bash
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
RUNS    ?= runs

COMMA := ,

.PHONY: help setup demo demo-pictures explorer lab test test-slow check export docs reproduction tutorials lock system-deps clean bench gpu
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP)  ## .venv with the locked dependencies, and git's hooks (nbdev's, ruff)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Use another: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	mkdir -p $(VENV)/etc/ipython && echo '{"IPKernelApp": {"log_level": 40}}' > $(VENV)/etc/ipython/ipython_kernel_config.json  # no warning at every kernel start that loopback is not encrypted
	if [ -d .git ]; then $(BIN)/nbdev_install_hooks; cp .ci/pre-commit .git/hooks/pre-commit; fi
	touch $@

PAPERMILL = $(BIN)/papermill --no-log-output --progress-bar
# asked once, when first needed: each answer loads torch
ON_GPU    = $(eval ON_GPU := $(shell $(BIN)/python -c 'import torch; print(int(torch.cuda.is_available()))'))$(ON_GPU)

# folder of the runs, parameters of the tokenizer, of the generator, of the evaluation, the poster's options
define DEMO
	@echo '1/5 a tokenizer'
	@$(PAPERMILL) nbs/train.ipynb $(1)/tokenizer/notebook.ipynb -p run $(1)/tokenizer -p resume True $(2)
	@echo '2/5 a generator on its latents'
	@$(PAPERMILL) nbs/train_generator.ipynb $(1)/generator/notebook.ipynb -p run $(1)/generator -p tokenizer_run $(1)/tokenizer -p resume True $(3)
	@echo '3/5 and 4/5 metrics of both'
	@$(PAPERMILL) nbs/evaluate.ipynb $(1)/tokenizer/evaluate.ipynb -p run $(1)/tokenizer $(4)
	@$(PAPERMILL) nbs/evaluate.ipynb $(1)/generator/evaluate.ipynb -p run $(1)/generator -p tokenizer_metrics False $(4)
	@echo '5/5 a map of the latent space'
	@$(PAPERMILL) nbs/latent_map.ipynb $(1)/tokenizer/latent_map.ipynb -p run $(1)/tokenizer
	@$(BIN)/python -c "from softvq_lab.explore.sampling import poster; from softvq_lab.explore.session import load_run; poster(load_run('$(1)/generator')$(5)).save('$(1)/demo.png')"
	@$(BIN)/python -c "from softvq_lab.runs import summary; print(summary('$(1)'))"
	@echo 'Look at it:  $(1)/demo.png   $(BIN)/python apps/explorer.py --runs $(1)   (the app)   make lab   (the notebooks; the executed ones are in $(1)/*/)'
endef

demo: setup  ## trains a tokenizer and a generator on digits, measures both, maps the latents
	@echo 'First a tokenizer of 8 tokens: the tab Token counts compares it with that of 32'
	@$(PAPERMILL) nbs/train.ipynb $(RUNS)/tokenizer-8/notebook.ipynb -p run $(RUNS)/tokenizer-8 -p resume True -p tokens 8
	$(call DEMO,$(RUNS),-p tokens 32)

# a GPU has the time for pictures twice as large
LARGER = $(if $(filter 1,$(ON_GPU)),-p image_size 128 -p patch_size 16 -p preset XS -p batch_size 64)
LARGER_GENERATOR = $(if $(filter 1,$(ON_GPU)),-p size S -p batch_size 128)
FASTER = $(eval FASTER := $(shell $(BIN)/python -c 'from softvq_lab.core import fast_in_bf16; print("-p precision bf16" * fast_in_bf16())'))$(FASTER)
demo-pictures: setup  ## the same on colour emoji of 64 x 64 pixels (128 x 128 on a GPU)
	$(call DEMO,$(RUNS)/pictures,-p recipe pictures $(FASTER) $(LARGER),-p recipe pictures $(FASTER) $(LARGER_GENERATOR),-p recipe pictures $(FASTER:precision=sample_precision) $(EVALUATION),$(COMMA) rows=3$(COMMA) nearest=True)

explorer: setup  ## the app on the runs, http://127.0.0.1:7860
	$(BIN)/python apps/explorer.py --runs $(RUNS)

lab: setup  ## JupyterLab on the notebooks
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) nbs

# both without PNGs of figures: half a second each
NBDEV_TEST = OMP_NUM_THREADS=1 PLOTLY_RENDERER=plotly_mimetype $(BIN)/nbdev_test --n_workers 2
PYTEST = PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 PLOTLY_RENDERER=plotly_mimetype $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: check  ## the quick tests: layout, notebooks and library in step, cells of the notebooks, tests/
	$(PYTEST)

test-slow: setup  ## the others: the tutorials, the app in a browser, kills, a real Slurm, compilation, every command of the README and its pages (an hour)
	$(NBDEV_TEST) --path nbs/tutorials
	$(PYTEST) -m slow

check: setup
	$(BIN)/ruff format --check --quiet . || { echo "Not formatted: $(BIN)/ruff format . && make export"; exit 1; }
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff check --quiet --isolated --select F821,F401 --exclude _modidx.py softvq_lab  # a name that only a notebook imports
	.ci/in-step
	$(NBDEV_TEST) --skip_folder_re '^[_.]|^tutorials$$'

bench: setup  ## speed and memory beside the plain way: benchmarks/README.md (10 minutes)
	$(BIN)/python benchmarks/bench.py

gpu: setup  ## everything of a GPU in one go: tests, timings, a training (8 minutes; DEVICE=cpu: a dry run)
	$(BIN)/python benchmarks/gpu.py --device $(or $(DEVICE),cuda) $(if $(PARTS),--parts $(PARTS))

export: setup  ## notebooks formatted -> library and docs/settings.md, outputs cleaned
	$(BIN)/ruff format --quiet .
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python docs/settings.py
	$(BIN)/python docs/map.py

reproduction: setup  ## docs/reproduction.md: the paper's numbers beside those of the sweeps in runs/
	$(BIN)/python docs/reproduction.py --collect $(RUNS)

docs: setup  ## the documentation site in build/site, from the notebooks, links checked
	@$(BIN)/python -c 'import mkdocs, material, mkdocstrings, mkdocstrings_handlers.python, latex2mathml' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock $$(sed -n '/^docs = \[/,/^]/s/^ *"\(.*\)",*$$/\1/p' pyproject.toml)  # -c: nothing that is installed changes
	$(BIN)/python docs/site.py
	@echo 'Look at it: build/site/index.html'

tutorials: setup  ## the tutorials executed anew, with the outputs that are stored in them (10 minutes; after make demo)
	OMP_NUM_THREADS=2 $(BIN)/python docs/tutorials.py
	$(BIN)/nbdev_clean

lock: setup  ## new requirements.lock from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --extra external --extra lora --extra hf --extra pictures --universal --python-version 3.10 --no-python-downloads --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements.lock
	sed -i -E "s/ and platform_machine == 'x86_64' and sys_platform == 'linux'//; s/ ; platform_machine == 'x86_64' and sys_platform == 'linux'//" requirements.lock

system-deps:  ## Debian packages that only some tests need (root)
	@if [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core slurm-wlm munge; \
	else echo "make system-deps needs root: sudo apt-get install chromium fonts-dejavu-core slurm-wlm munge"; exit 1; fi

clean:  ## everything that can be made again, except runs
	rm -rf $(VENV) build softvq_lab.egg-info
