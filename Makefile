# make demo       set everything up in .venv, then serve the demonstration model on http://127.0.0.1:8080
# make test       set everything up, then ruff, mypy, import-linter and pytest
# make test-slow  the tests that take minutes
# make lint       ruff, mypy, import-linter alone
# make clean      remove .venv and every cache
#
# Needs Python 3.11 or newer, a C++ compiler, and the network the first time. PYTHON=... chooses the interpreter,
# PORT=... the demonstration's port, ENGINE=cpu|cuda|vulkan|metal the engine's backend (default: what suits the GPU).

VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8080
ENGINE ?= auto
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP    := $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check
START  := $(shell date +%s)
TOOK   = $$(( $$(date +%s) - $(START) )) s

# tests compare with torch on the CPU; Linux' default build brings gigabytes of CUDA, the "+cpu" build does not
TORCH       := torch==2.13.0$(if $(filter Linux,$(shell uname -s)),+cpu)
TORCH_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test test-slow lint clean setup setup-test rpc-device

demo: setup
	@echo "Set-up took $(TOOK). The demonstration starts at http://127.0.0.1:$(PORT) (Ctrl-C ends it)."
	@$(BIN)/edgemed serve demo --offline --port $(PORT) || [ $$? -eq 130 ]

setup: $(VENV)/.ready
setup-test: $(VENV)/.ready-test

# A busy machine decides a race now and then: what fails is tried once more, and named as RERUN at the end.
test: setup-test rpc-device
	@echo "Set-up took $(TOOK)."
	@$(MAKE) --no-print-directory lint
	@echo "Set-up and checks took $(TOOK); now the tests, whose own time stands in their last line."
	@$(BIN)/python -m pytest --reruns 1 -rR

test-slow: setup-test rpc-device
	@$(BIN)/python -m pytest -m slow --timeout 3600

# A second device without a GPU, for the tests that put layers on one; built once, kept in ~/.cache/edgemed-peers.
rpc-device: setup-test
	@echo "Looking for the tests' second device; it is built where it is missing (2 to 4 minutes on 2 cores) ..."
	@$(BIN)/python benchmarks/peers/build.py --only rpc >$(VENV)/rpc-device.log 2>&1 || \
		echo "It could not be built ($(VENV)/rpc-device.log says why): the tests that need it are skipped."

lint: setup-test
	@echo "ruff";          $(BIN)/ruff check .
	@echo "mypy --strict"; $(BIN)/mypy
	@echo "import-linter"; $(BIN)/lint-imports --no-cache --no-logo

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The stamps: what is below runs again only when pyproject.toml is newer than they are.

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "edgemed needs Python 3.11 or newer; none was found. Debian, Ubuntu: sudo apt install python3"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv module is missing. Debian, Ubuntu: sudo apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.ready: $(VENV)/.python pyproject.toml
	@echo "Installing edgemed and what it needs ..."
	@$(PIP) -e .
	@$(BIN)/python -m edgemed.hardware.install_engine --backend $(ENGINE)
	@$(PIP) -e '.[llama-cpp]'
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@echo "Installing what the tests need ..."
	@if $(PIP) '$(TORCH)' 2>/dev/null || $(PIP) --index-url $(TORCH_INDEX) --timeout 15 --retries 0 '$(TORCH)' 2>/dev/null; \
	then $(PIP) -e '.[llama-cpp,workstation,dev]'; \
	else echo "torch could not be installed: the tests that compare with it are skipped."; $(PIP) -e '.[llama-cpp,dev]'; fi
	@touch $@
