# make demo    the whole path on real data, in about 5 minutes after installation
# make test    what must hold before a change lands; make test-long what must hold too and takes minutes each: whole jobs, tutorials, the wheel
# make docs    the site (needs Quarto)        make bench    the benchmarks
# make bench-tune    tuning beside its peers, in about 30 minutes; make bench-tune-long what takes hours, and goes on where it stopped
# make bench-assess    the evidence beside shap, fairlearn and Polars, the time of the assess job, and on a GPU the explanations there
# Each does all of its own set-up. TORCH=cpu (default), cuda or mps chooses the build of PyTorch.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= cpu
VENV := .venv
BIN := $(abspath $(VENV))/bin
export MLW_TEST_DATA ?= $(wildcard $(abspath ../shared/data))
export WANDB_MODE ?= offline

# On Linux the wheels of the public index carry CUDA; PyTorch's own index has smaller ones, which sort higher. A configured index is left alone.
TORCH_INDEX := $(if $(and $(filter cpu,$(TORCH)),$(filter Linux,$(shell uname -s)),$(if $(PIP_INDEX_URL)$(PIP_FIND_LINKS),,none)),--extra-index-url https://download.pytorch.org/whl/cpu)

export TORCH_INDEX

.PHONY: demo test test-long docs bench bench-assess bench-tune bench-tune-long lock clean readme
demo: $(VENV)/demo-$(TORCH)
	$(BIN)/mlw demo

test: $(VENV)/dev-$(TORCH)
	@bash tests/all.sh

test-long: $(VENV)/dev-$(TORCH)
	@bash tests/all.sh long

docs: $(VENV)/dev-$(TORCH)
	@command -v quarto >/dev/null || { echo "make docs needs Quarto: https://quarto.org/docs/get-started"; exit 2; }
	$(BIN)/nbdev-docs

bench: $(VENV)/dev-$(TORCH)
	@for f in benchmarks/bench_*.py; do echo "== $$f"; $(BIN)/python $$f; done

bench-assess: $(VENV)/dev-$(TORCH)
	@missed=0; for f in fairness slices explain assess; do echo "== $$f"; $(BIN)/python benchmarks/bench_$$f.py || missed=1; done; \
	echo "== assess_gpu"; $(BIN)/python benchmarks/assess_gpu.py || [ $$? = 2 ] || missed=1; exit $$missed   # 2: no GPU

bench-tune bench-tune-long: $(VENV)/dev-$(TORCH)
	$(BIN)/python benchmarks/$(subst -,_,$(@:bench-%=%)).py

# README.md from nbs/index.ipynb
readme: $(VENV)/dev-$(TORCH)
	$(BIN)/python -m tests.readme

$(VENV)/demo-$(TORCH) $(VENV)/dev-$(TORCH): pyproject.toml constraints.txt
	@case "$(TORCH)" in cpu|cuda|mps) ;; *) echo "TORCH is cpu, cuda or mps, not '$(TORCH)'"; exit 2;; esac
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; found $$("$(PYTHON)" --version). Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@for other in $(filter-out $(TORCH),cpu cuda mps); do if ls $(VENV)/*-$$other >/dev/null 2>&1; then $(BIN)/python -m pip uninstall -q -y torch; rm -f $(VENV)/*-$$other; fi; done
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch $(TORCH_INDEX)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(firstword $(subst -, ,$(@F)))]'
	@touch $@

# The versions that make uses, written anew from what is installed.
lock: $(VENV)/dev-$(TORCH)
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//' | grep -viE '^(nvidia-|cuda-|triton==|pip==|setuptools==)' > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf build dist *.egg-info _proc _docs .pytest_cache .ruff_cache
