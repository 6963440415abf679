# make start      set up, check the installation, super-resolve a photo, open chapter 00 in JupyterLab
# make test       set up if need be, then every test: package, notebooks, solutions, exercises, browser
# make check      formatting, exercises and notebooks in sync with their sources, audit of the chapters
# make notebooks  execute the chapters and solutions that differ from their source (ONLY="01 02" or ONLY=all for more)
# make exercises  rebuild the exercises from the solutions
# make html       export chapters and solutions to out/html, alternative texts included
# make format     let ruff format everything
#
# PYTHON names the interpreter for .venv (3.11 or newer). TORCH_FLAGS goes to the command that installs torch, for example
# TORCH_FLAGS="--index-url https://download.pytorch.org/whl/cpu" for the smaller build without CUDA.

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH_FLAGS ?=
ONLY ?= --changed
BIN := .venv/bin
INSTALLED := .venv/.installed
CELL_SECONDS := 120
LAB := $(BIN)/python -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" notebooks/00_start_here.ipynb

.PHONY: start test check notebooks exercises html format install

start: $(INSTALLED)
	@$(BIN)/python -m tutorial_lib doctor
	@$(BIN)/python -m tutorial_lib demo
	@if [ -t 0 ] && [ -t 1 ] && [ "$$CI" != true ]; then \
		if [ "$$(id -u)" = 0 ]; then root=--allow-root; fi; \
		exec $(LAB) $$root; \
	else \
		echo "To open chapter 00 in JupyterLab (it answers on this computer only and prints a link with a token):"; \
		echo '    $(LAB)'; \
	fi

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3.11"; exit 2; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "The venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 2; }
	$(BIN)/python -m pip install $(TORCH_FLAGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e '.[notebooks,test]'
	@touch $@

test: export OMP_NUM_THREADS = 1
test: $(INSTALLED)
	@status=0; \
	echo "== package, exercises, tools"; \
	$(BIN)/python -m pytest tests --ignore=tests/browser -n 2 -q || status=1; \
	echo "== notebooks and solutions, every cell"; \
	$(BIN)/python -m pytest notebooks solutions -n 2 --dist loadfile --nbval-lax \
		--nbval-cell-timeout=$(CELL_SECONDS) -q || status=1; \
	echo "== browser"; \
	$(BIN)/python -m pytest tests/browser -q -rs || status=1; \
	exit $$status

check: $(INSTALLED)
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python tools/build_exercises.py --check
	@$(BIN)/python tools/audit.py

notebooks: $(INSTALLED)
	@$(BIN)/python tools/execute_notebooks.py $(filter-out all,$(ONLY))

html: $(INSTALLED)
	@$(BIN)/python tools/export_html.py

exercises: $(INSTALLED)
	@$(BIN)/python tools/build_exercises.py

format: $(INSTALLED)
	@$(BIN)/python -m ruff format .
	@$(BIN)/python -m ruff check --fix .
