# Everything happens in .venv, which the first target that needs it creates. Needs only Python >= 3.11, pip and make.
#
#   make PYTHON=python3.12 ...   another interpreter
#   make PIP_ARGS='...' ...      more arguments for pip, such as a package index
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
PROTO_OUT ?= proto

BIN := .venv/bin
STAMP := .venv/.installed
BUNDLE := var/demo-bundle
EXTRAS := server,export,train,plot,dev
PEERS := .venv-peers/bin
PEERS_STAMP := .venv-peers/.installed
EXPORT_SOURCES := $(wildcard demo/en-de/*) $(shell find export proto -name '*.py')

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow bench bench-peers check deploy-check protos protos-check clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

install: $(STAMP)  ## Create .venv and install everything into it

# Always with the constraints: a looser torch would be resolved to another build and pull gigabytes.
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard server/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP) $(BUNDLE)/manifest.json  ## Checkpoint -> bundle -> server -> translations -> metrics
	$(BIN)/python demo/demo.py $(BUNDLE)

# The manifest is the last file that an export writes, so it dates the bundle.
$(BUNDLE)/manifest.json: $(EXPORT_SOURCES) | $(STAMP)
	mkdir -p var
	$(BIN)/seqserve export demo/en-de $(BUNDLE) --force

test: $(STAMP)  ## The test suite, without the tests marked slow
	$(BIN)/pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP)  ## The tests marked slow
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

bench: var/bench/bundle/manifest.json var/bench/bundle-int8/manifest.json  ## Beside CTranslate2 and Hugging Face; see bench/README.md
	$(BIN)/python bench/side_by_side.py
	$(BIN)/python bench/side_by_side.py --precision int8
	$(BIN)/python bench/side_by_side.py --precision int8 --beam-size 4 --sizes 1 16

bench-peers: $(PEERS_STAMP)  ## Create .venv-peers, where the systems that bench compares with live

$(PEERS_STAMP): bench/requirements-peers.txt constraints.txt
	test -x $(PEERS)/python || $(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -r bench/requirements-peers.txt
	touch $@

# The last file that make_models.py writes.
var/bench/ctranslate2-float32/model.bin: bench/make_models.py bench/workload.py | $(PEERS_STAMP)
	$(PEERS)/python bench/make_models.py var/bench

var/bench/bundle/manifest.json: var/bench/ctranslate2-float32/model.bin $(shell find export proto -name '*.py') | $(STAMP)
	$(BIN)/seqserve export var/bench/hugging-face var/bench/bundle --force

var/bench/bundle-int8/manifest.json: var/bench/bundle/manifest.json
	$(BIN)/seqserve export var/bench/hugging-face var/bench/bundle-int8 --precision int8 --force

check: $(STAMP) protos-check deploy-check  ## Lint, types, import directions, protos, deployment files, sizes
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/sizes.py

deploy-check: $(STAMP)  ## Render and validate the Kubernetes manifests, lint the Dockerfile
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/yamllint --strict deploy
	$(BIN)/python deploy/manifests.py deploy/base

protos: $(STAMP)  ## Generate the gRPC stubs beside seq2seq.proto
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$(PROTO_OUT) --pyi_out=$(PROTO_OUT) \
		--grpc_python_out=$(PROTO_OUT) proto/seqserve/v1/seq2seq.proto

# Into a folder of its own, so that checking never changes the tree and needs no git.
protos-check: $(STAMP)  ## Lint the proto; the committed stubs must be what it generates
	$(BIN)/buf lint
	rm -rf var/protos && mkdir -p var/protos
	$(MAKE) --no-print-directory protos PROTO_OUT=var/protos
	@for stub in var/protos/seqserve/v1/*; do \
		diff -q $$stub proto/$${stub#var/protos/} || { echo "run make protos" >&2; exit 1; }; done

clean:  ## Remove everything that the other targets made
	rm -rf .venv .venv-peers var build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
