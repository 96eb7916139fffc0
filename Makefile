# Everything is set up in .venv on first use; `make help` lists the targets.

SHELL := bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
# What pip is asked for. On a CUDA machine: make setup TORCH=torch==2.13.0; TORCH=torch keeps the one that is there.
TORCH ?= torch==2.13.0 --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu
EXTRAS ?= train
ARGS ?=

# Two workers fill two cores and stay under 4 GB; `make test ARGS="-n 0 -k name"` runs in this process.
TEST_ARGS := -n 2 --dist loadscope

BIN := $(VENV)/bin
IN_VENV = PATH="$$(cd $(BIN) && pwd):$$PATH"
STAMPS := $(VENV)/.stamps
# Another TORCH is another installation, so its checksum is part of the stamp's name.
TORCH_STAMP := $(STAMPS)/torch-$(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  ARGS="..." reaches the program behind a target; variables on the command line reach the scripts:'
	@echo '  make eval-gqa CKPT=./checkpoints/llava-v1.5-7b-ccra'

.PHONY: setup
setup: $(STAMPS)/$(EXTRAS) ## build .venv: torch for CPU (TORCH=torch==2.13.0 for CUDA), then this package [EXTRAS=train]

.PHONY: demo
demo: $(STAMPS)/demo ## train and evaluate CCRA on Easy-VQA, CPU, under 15 minutes (FULL=1: all test questions)
	$(IN_VENV) bash playground/tiny/demo.sh $(ARGS)

.PHONY: demo-photos
demo-photos: $(STAMPS)/photos ## the same on photographs, with a pretrained vision tower (SCALE=cpu, gpu: pretrained language models, too)
	$(IN_VENV) bash playground/photos/demo.sh $(ARGS)

.PHONY: chat
chat: $(STAMPS)/serve ## chat in the browser, with the demo's model or ARGS="--model-path ..."
	$(BIN)/python -m llava.serve.app $(ARGS)

TESTED := dev,train,demo,photos,eval,serve,browser

.PHONY: test
test: $(STAMPS)/$(TESTED) ## run the tests (those of the web page need Chromium: apt-get install chromium)
	$(BIN)/python -m pytest $(TEST_ARGS) $(ARGS)

.PHONY: screenshots
screenshots: $(STAMPS)/$(TESTED) ## take docs/images of the chat anew, with Chromium and the demo's model (ARGS: the chat's)
	SCREENSHOTS=docs/images CHAT_FLAGS='$(ARGS)' $(BIN)/python -m pytest tests/llava/serve/test_browser.py

.PHONY: lint
lint: $(STAMPS)/dev ## ruff and shellcheck, nothing is changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files -z '*.sh' .ci/run | xargs -0 $(BIN)/shellcheck --external-sources

.PHONY: format
format: $(STAMPS)/dev ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: typecheck
typecheck: $(STAMPS)/dev ## mypy over llava and ccra_patch
	$(BIN)/mypy

.PHONY: bench
bench: $(STAMPS)/train ## time and memory of the projectors, and what ccra costs a whole model
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/projectors.py $(ARGS)

.PHONY: eval-gqa
eval-gqa: $(STAMPS)/base ## evaluate a checkpoint on GQA (every eval-* takes CKPT=..., DATA=...)

.PHONY: eval-sqa
eval-sqa: $(STAMPS)/eval ## ScienceQA, and its subset with pictures

.PHONY: eval-textvqa
eval-textvqa: $(STAMPS)/eval ## TextVQA

.PHONY: eval-vizwiz
eval-vizwiz: $(STAMPS)/eval ## VizWiz: the file for its server, or a score (ANNOTATIONS=...)

.PHONY: eval-mmbench
eval-mmbench: $(STAMPS)/eval ## MMBench: the upload file, and scores on dev

.PHONY: eval-mmvet
eval-mmvet: $(STAMPS)/eval ## MM-Vet, marked by a judge if there is one (OPENAI_API_KEY)

.PHONY: eval-seed
eval-seed: $(STAMPS)/eval ## SEED-Bench, over pictures and over videos

.PHONY: eval-mmmu
eval-mmmu: $(STAMPS)/eval ## MMMU

.PHONY: eval-mme
eval-mme: $(STAMPS)/eval ## MME: perception and cognition

.PHONY: eval-pope
eval-pope: $(STAMPS)/eval ## POPE

.PHONY: eval-vqav2
eval-vqav2: $(STAMPS)/eval ## VQAv2: the file for its server, or a score (ANNOTATIONS=...)

.PHONY: eval-amber
eval-amber: $(STAMPS)/eval ## AMBER

.PHONY: eval-hallusion
eval-hallusion: $(STAMPS)/eval ## HallusionBench (JUDGE=1: by a judge)

.PHONY: eval-text
eval-text: $(STAMPS)/eval ## any LLaVA-format JSON: validation loss and text metrics (DATA=..., IMAGES=...)

.PHONY: eval-all
eval-all: $(STAMPS)/eval ## all benchmarks that are there (EVAL_DATA=...), one line each beside the papers' rows

EVALUATIONS := $(patsubst scripts/v1_5/eval/%.sh,eval-%,$(wildcard scripts/v1_5/eval/*.sh))
$(EVALUATIONS): eval-%:
	$(IN_VENV) bash scripts/v1_5/eval/$*.sh $(ARGS)

.PHONY: docs
docs: $(STAMPS)/docs ## build the site from docs/ into site/; a warning is an error
	$(BIN)/mkdocs build --strict --quiet

.PHONY: clean
clean: ## remove caches; .venv, checkpoints and the demo's cache stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# -- the environment ---------------------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed: make setup PYTHON=python3.11" >&2; exit 2; }
	rm -rf $(VENV)/bin/python* $(STAMPS)
	$(PYTHON) -m venv $(VENV)

# Installed before everything else: the packages that need a torch then take this one.
$(TORCH_STAMP): | $(BIN)/python
	$(BIN)/python -m pip install $(TORCH)
	@rm -rf $(STAMPS) && mkdir -p $(STAMPS) && touch $@

# One stamp for each list of extras, out of date when setup.py is newer; every list brings the base along.
$(STAMPS)/base: EXTRA =
$(STAMPS)/%: EXTRA = [$*]
$(STAMPS)/%: setup.py $(TORCH_STAMP)
	$(BIN)/python -m pip install --editable ".$(EXTRA)" "$(firstword $(TORCH))"
	@touch $@ $(STAMPS)/base
