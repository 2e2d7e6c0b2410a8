# Everything happens in .venv, which `make setup` makes from Python 3.10-3.12 and nothing else.
# Another interpreter than the first of these: make setup PYTHON=/opt/python/bin/python3.12

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup
# The stub generator is old on purpose: later runtimes read its stubs, earlier ones would not read
# a newer one's. It needs an old protobuf of its own, and pkg_resources, which setuptools 81 lost.
PROTO_TOOLS := $(VENV)/proto-tools/.grpcio-tools-1.62.3
DEBIAN := $(VENV)/.debian
ENGINE := $(VENV)/.container-engine
PYTEST_ARGS ?=
PYTEST_JOBS ?= 2
TRAIN_ARGS ?=
RUN ?= runs/deeprm-$(shell date +%Y%m%d-%H%M%S)
RUN := $(RUN)
RUNS ?=
WHEELHOUSE ?= wheelhouse
EXTRAS ?= train,video

# Hundreds of processes load the same modules.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup test ready lint format format-check types pytest proto proto-archive train gallery wheelhouse bench clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(SETUP) $(PROTO_TOOLS) ## Make .venv with everything in it

test: ## Check format, lint and types, then run all tests, those of containers and clusters too
	@$(MAKE) --no-print-directory --jobs 3 --output-sync ready
	@$(MAKE) --no-print-directory pytest

# Side by side, since each waits for something else: Python's packages, Debian's, the processor.
ready: setup $(DEBIAN) $(ENGINE) format-check lint types

pytest: setup ## Run the tests alone, two files at a time; PYTEST_ARGS="-k adder" for some of them
	$(BIN)/python -m pytest --numprocesses $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder \
		--durations 25 $(PYTEST_ARGS)

lint: setup ## Look for mistakes with ruff
	$(BIN)/ruff check .

format: setup ## Format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

format-check: setup ## Check the format, change nothing
	$(BIN)/ruff format --check .

types: setup ## Check the types with mypy
	$(BIN)/mypy

proto: setup ## Generate the stubs in farsim/v1 from proto/
	proto/generate.sh

train: setup ## Train a DeepRM scheduler on two local servers and compare it with the textbook's
	$(BIN)/farsim train deeprm --config examples/deeprm-ppo.yaml --out $(RUN) $(TRAIN_ARGS)
	$(BIN)/farsim evaluate $(RUN) --gif --out $(RUN)/evaluation

gallery: setup ## Render an episode of every simulator for the README; RUNS=runs for trained policies
	$(BIN)/python -m agent.evaluation.gallery --out docs/images $(if $(RUNS),--runs $(RUNS))

proto-archive: setup ## Pack the contract for other languages: dist/farsim-proto.tar.gz
	proto/archive.sh dist

wheelhouse: setup ## Gather the wheels that images are made of in wheelhouse/; EXTRAS=sim for one's
	$(BIN)/python deploy/docker/requirements.py pyproject.toml $(EXTRAS) --build >$(SETUP)-wheels
	$(BIN)/python -m pip download --disable-pip-version-check --quiet --only-binary=:all: \
		--python-version=3.11 --dest $(WHEELHOUSE) \
		--constraint constraints.txt --requirement $(SETUP)-wheels

bench: setup ## Run the benchmarks
	@for benchmark in benchmarks/*.py; do \
		[ -e "$$benchmark" ] || { echo "no benchmarks here" >&2; exit 1; }; \
		echo "== $$benchmark"; \
		$(BIN)/python "$$benchmark" || exit; \
	done

clean: ## Remove caches and build outputs; .venv and runs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +

# Pip would make bytecode with one processor. Of some templates there is none.
$(SETUP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile \
		--constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

$(PROTO_TOOLS): | $(BIN)/python
	@rm -rf $(@D)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-warn-conflicts --target $(@D) \
		'grpcio-tools==1.62.3' 'grpcio==1.62.3' 'protobuf==4.25.8' 'setuptools==80.10.2'
	@touch $@

# What the tests build and run besides Python: the examples in other languages, and networks. Users
# need none of it, so it is no part of `make setup`. Where it can not be installed, tests say so.
DEBIAN_PACKAGES := g++ cmake pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc iproute2 iptables
NODE_PACKAGES = $(shell command -v node >/dev/null || echo nodejs) $(shell command -v npm >/dev/null || echo npm)

$(DEBIAN): | $(BIN)/python
	@packages=$$(for package in $(DEBIAN_PACKAGES); do \
		dpkg-query --show --showformat='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; \
	done; echo $(NODE_PACKAGES)); packages=$$(echo $$packages); \
	if [ -z "$$packages" ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $$packages, for the tests of other languages and of networks" >&2; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$packages >/dev/null && touch $@; \
	else \
		echo "the tests of other languages and of networks need: sudo apt-get install $$packages" >&2; \
	fi

# The tests of containers take a Docker Engine, and start it if it does not run. After the packages
# above: Debian installs one thing at a time.
$(ENGINE): | $(DEBIAN)
	tests/deploy/engine.sh install
	@touch $@

# Debian keeps venv's pip in a package of its own.
$(BIN)/python:
	@command -v '$(PYTHON)' >/dev/null || { \
		echo "error: no $(PYTHON) here; install Python 3.10, 3.11 or 3.12, or say make setup PYTHON=..." >&2; exit 1; }
	@'$(PYTHON)' -c '$(SUPPORTED)' || { \
		echo "error: $$('$(PYTHON)' --version) is not Python 3.10-3.12; say which one to use: make setup PYTHON=python3.11" >&2; exit 1; }
	@'$(PYTHON)' -c 'import venv, ensurepip' 2>/dev/null || { \
		package=$$('$(PYTHON)' -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing $$package, which $(PYTHON) -m venv needs" >&2; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$package" >/dev/null; \
		else \
			echo "error: $(PYTHON) cannot make virtual environments; on Debian or Ubuntu: sudo apt-get install $$package" >&2; exit 1; \
		fi; }
	'$(PYTHON)' -m venv $(VENV)
