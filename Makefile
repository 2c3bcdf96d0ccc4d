# Everything happens in .venv, which the first target that needs it creates. Needs only Python >= 3.11, pip and make.
#
#   make PYTHON=python3.12 ...   another interpreter
#   make PIP_ARGS='...' ...      more arguments for pip, such as a package index
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
TORTURE_ARGS ?=
# Programs of bench and tests load ONNX Runtime without our packages before it, which turn its telemetry off.
export ORT_DISABLE_TELEMETRY ?= 1
PROTO_OUT ?= proto
SERVER_OUT ?= server
PUBLISHED := proto/published.txtpb

BIN := .venv/bin
STAMP := .venv/.installed
BUNDLE := var/demo-bundle
EXTRAS := server,export,train,plot,dev
PEERS := .venv-peers/bin
PEERS_STAMP := .venv-peers/.installed
AUDIT := .venv-audit/bin
AUDIT_STAMP := .venv-audit/.installed
OPTIMUM := .venv-optimum/bin
OPTIMUM_STAMP := .venv-optimum/.installed
DEPLOY := .venv-deploy/bin
DEPLOY_STAMP := .venv-deploy/.installed
RENDERED := var/rendered
OIP := .venv-oip/bin
OIP_STAMP := .venv-oip/.installed
# Folder with the files of Multi30k, which are no part of this repository; what needs them is left out without.
DATA ?= shared/data/multi30k
HAS_DATA := $(wildcard $(DATA)/test_2016_flickr.en*)
EXPORT_SOURCES := $(wildcard demo/en-de/*) $(shell find export proto -name '*.py')

.DEFAULT_GOAL := help
.PHONY: help install demo playground-shots test test-slow torture bench bench-load bench-models bench-peers
.PHONY: check lint deploy-check monitoring monitoring-check protos protos-check protos-published oip-clients locks
.PHONY: locks-check audit sbom clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

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

playground-shots: $(STAMP) $(BUNDLE)/manifest.json  ## The playground's pictures in docs/images; needs chromium
	$(BIN)/python bench/playground_shots.py $(BUNDLE) docs/images

test: $(STAMP)  ## The test suite, without the tests marked slow
	$(BIN)/pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP)  ## The tests marked slow
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

torture: $(STAMP)  ## What a server bears, in full; TORTURE_ARGS="--scale 0.01 cancels" for less
	PYTHONPATH=tests $(BIN)/python -m torture $(TORTURE_ARGS)

bench: bench-models  ## Beside CTranslate2, Optimum and Hugging Face; see bench/README.md
	$(BIN)/python bench/side_by_side.py
	$(BIN)/python bench/side_by_side.py --precision int8
	$(BIN)/python bench/side_by_side.py --precision int8 --beam-size 4 --sizes 1 16
ifneq ($(HAS_DATA),)
	$(BIN)/python bench/side_by_side.py --model demo --data $(DATA)
	$(BIN)/python bench/side_by_side.py --model demo --data $(DATA) --precision int8
	$(BIN)/python bench/side_by_side.py --model grown --data $(DATA) --precision int8
else
	@echo "the demo model's part was left out: make bench DATA=DIR, with the files of Multi30k" >&2
endif

bench-load: bench-models  ## Latency against arrival rate, overload, endurance; needs DATA=DIR
	$(BIN)/python bench/open_loop.py $(DATA)
	$(BIN)/python bench/behind_long.py var/bench/bundle-int8 --peer var/bench/ctranslate2-float32
	$(BIN)/python bench/overload.py var/bench/bundle-int8
	$(BIN)/python bench/endurance.py $(BUNDLE) $(DATA)
	$(BIN)/python bench/startup.py $(BUNDLE) var/bench/bundle var/bench/bundle-int8

bench-peers: $(PEERS_STAMP) $(OPTIMUM_STAMP)  ## Create .venv-peers and .venv-optimum, for the systems of bench

$(PEERS_STAMP): bench/requirements-peers.txt constraints.txt
	test -x $(PEERS)/python || $(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -r bench/requirements-peers.txt
	touch $@

$(OPTIMUM_STAMP): bench/requirements-optimum.txt
	test -x $(OPTIMUM)/python || $(PYTHON) -m venv .venv-optimum
	$(OPTIMUM)/python -m pip install --quiet $(PIP_ARGS) -r bench/requirements-optimum.txt
	touch $@

# Every model in every system's form. What is named is the last file that its command writes.
bench-models: var/bench/bundle/manifest.json var/bench/bundle-int8/manifest.json $(BUNDLE)/manifest.json \
	var/demo-int8/manifest.json var/bench/optimum-int8/generation_config.json \
	$(if $(HAS_DATA),var/bench/demo-peers/optimum-int8/generation_config.json var/bench/grown/bundle-int8/manifest.json)

var/bench/ctranslate2-float32/model.bin: bench/make_models.py bench/workload.py | $(PEERS_STAMP)
	$(PEERS)/python bench/make_models.py var/bench

var/bench/bundle/manifest.json: var/bench/ctranslate2-float32/model.bin $(shell find export proto -name '*.py') | $(STAMP)
	$(BIN)/seqserve export var/bench/hugging-face var/bench/bundle --force

var/bench/bundle-int8/manifest.json: var/bench/bundle/manifest.json
	$(BIN)/seqserve export var/bench/hugging-face var/bench/bundle-int8 --precision int8 --force

var/demo-int8/manifest.json: $(EXPORT_SOURCES) | $(STAMP)
	mkdir -p var
	$(BIN)/seqserve export demo/en-de var/demo-int8 --precision int8 --force

var/bench/demo-peers/ctranslate2/model.bin: bench/peers/demo_models.py $(wildcard demo/en-de/*) | $(PEERS_STAMP)
	PYTHONPATH=bench:export:proto $(PEERS)/python -m peers.demo_models demo/en-de $(DATA) var/bench/demo-peers

var/bench/grown/ctranslate2/model.bin: bench/peers/grown_demo.py bench/peers/demo_models.py $(wildcard demo/en-de/*) | $(PEERS_STAMP)
	PYTHONPATH=bench:export:proto $(PEERS)/python -m peers.grown_demo demo/en-de $(DATA) var/bench/grown

var/bench/grown/bundle-int8/manifest.json: var/bench/grown/ctranslate2/model.bin $(shell find export proto -name '*.py') | $(STAMP)
	$(BIN)/seqserve export var/bench/grown/native var/bench/grown/bundle-int8 --precision int8 --no-scorer \
		--sentences var/bench/grown/sentences.txt --force

var/bench/optimum-int8/generation_config.json: var/bench/ctranslate2-float32/model.bin | $(OPTIMUM_STAMP)
	PYTHONPATH=bench $(OPTIMUM)/python -m peers.optimum_models var/bench/hugging-face var/bench/optimum

var/bench/demo-peers/optimum-int8/generation_config.json: var/bench/demo-peers/ctranslate2/model.bin | $(OPTIMUM_STAMP)
	PYTHONPATH=bench $(OPTIMUM)/python -m peers.optimum_models var/bench/demo-peers/transformers \
		var/bench/demo-peers/optimum

oip-clients: $(OIP_STAMP)  ## Create .venv-oip: clients of the Open Inference Protocol, for their tests

$(OIP_STAMP): tests/requirements-oip.txt
	test -x $(OIP)/python || $(PYTHON) -m venv .venv-oip
	$(OIP)/python -m pip install --quiet $(PIP_ARGS) -r tests/requirements-oip.txt
	touch $@

check: lint protos-check locks-check deploy-check monitoring-check  ## Lint, types, import directions, protos, locks, deployment files, sizes

lint: $(STAMP)  ## The part of check that looks at Python alone
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/sizes.py

locks: $(STAMP) $(AUDIT_STAMP)  ## Resolve anew what the images install, with hashes: deploy/locks; asks pypi.org
	$(BIN)/python .ci/locks.py --write $(AUDIT)/uv

locks-check: $(STAMP)  ## The locks against pyproject.toml, constraints.txt and .venv
	$(BIN)/python .ci/locks.py

$(AUDIT_STAMP): .ci/requirements-audit.txt
	test -x $(AUDIT)/python || $(PYTHON) -m venv .venv-audit
	$(AUDIT)/python -m pip install --quiet $(PIP_ARGS) -r $< || { \
		echo "make: the tools could not be installed, for which a package index is needed" >&2; exit 1; }
	touch $@

var/server-packages.txt: $(STAMP) .ci/server_packages.py
	mkdir -p var
	$(BIN)/python .ci/server_packages.py > $@

# Strict: without it, packages that the database did not answer for count as harmless.
audit: var/server-packages.txt $(AUDIT_STAMP)  ## Known vulnerabilities of what a server is made of; asks pypi.org
	$(AUDIT)/pip-audit --strict --requirement $< --no-deps --disable-pip --progress-spinner off || { \
		echo "make: not clean: either known vulnerabilities are above, or pypi.org was not reached and nothing was checked" >&2; \
		exit 1; }

sbom: var/server-packages.txt $(AUDIT_STAMP)  ## What a server is made of, as CycloneDX: var/sbom.json
	$(AUDIT)/cyclonedx-py requirements $< --output-reproducible --of JSON --output-file var/sbom.json
	$(BIN)/python .ci/server_packages.py --check var/sbom.json

# What kubectl renders is looked at by everything else. The packages of npm carry schemas that PyPI has not.
deploy-check: $(STAMP) $(DEPLOY_STAMP)  ## Render and validate the Kubernetes manifests, lint the Dockerfiles
	$(BIN)/hadolint deploy/Dockerfile deploy/Dockerfile.model
	$(BIN)/yamllint --strict deploy
	rm -rf $(RENDERED) && mkdir -p $(RENDERED)
	$(BIN)/python deploy/manifests.py --out $(RENDERED) deploy/base deploy/overlays/*
	$(DEPLOY)/checkov --config-file deploy/checkov.yaml --framework dockerfile -d deploy
	@if ls $(RENDERED)/*.yaml >/dev/null 2>&1; then $(MAKE) --no-print-directory rendered-check; fi

.PHONY: rendered-check
rendered-check: $(DEPLOY_STAMP)
	$(DEPLOY)/checkov --config-file deploy/checkov.yaml --framework kubernetes -d $(RENDERED)
	$(DEPLOY)/python deploy/kserve_models.py $(RENDERED)/*.yaml
	@if ! command -v npm >/dev/null; then \
		echo "skipped: npm is not installed; custom resources were held against deploy/schemas only"; \
	elif mkdir -p var/custom-resources && cp deploy/custom-resources/* var/custom-resources/ && \
		! npm install --prefix var/custom-resources --silent --no-audit --no-fund; then \
		echo "skipped: npm reached no registry; custom resources were held against deploy/schemas only"; \
	else node var/custom-resources/validate.mjs $(RENDERED)/*.yaml; fi

$(DEPLOY_STAMP): deploy/requirements.txt deploy/requirements-models.txt
	test -x $(DEPLOY)/python || $(PYTHON) -m venv .venv-deploy
	$(DEPLOY)/python -m pip install --quiet $(PIP_ARGS) -r deploy/requirements.txt
	$(DEPLOY)/python -m pip install --quiet $(PIP_ARGS) --no-deps -r deploy/requirements-models.txt
	touch $@

monitoring: $(STAMP)  ## Write the dashboard and the PrometheusRule
	$(BIN)/python deploy/monitoring_files.py

monitoring-check: $(STAMP)  ## Rules, alerts and their tests, by promtool
	$(BIN)/python deploy/promtool.py

protos: $(STAMP)  ## Generate the gRPC stubs beside their protos
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$(PROTO_OUT) --pyi_out=$(PROTO_OUT) \
		--grpc_python_out=$(PROTO_OUT) proto/seqserve/v1/seq2seq.proto
	$(BIN)/python -m grpc_tools.protoc -Iserver --python_out=$(SERVER_OUT) --pyi_out=$(SERVER_OUT) \
		--grpc_python_out=$(SERVER_OUT) server/seqserve_server/open_inference/open_inference.proto

# Into a folder of its own, so that checking never changes the tree and needs no git. Both images hold both modules: of
# sources, buf would compare each module with all that was published.
protos-check: $(STAMP)  ## Lint the protos; nothing published may break; the committed stubs must be what they generate
	$(BIN)/buf lint
	rm -rf var/protos && mkdir -p var/protos/proto var/protos/server
	$(BIN)/buf build --output var/now.binpb
	$(BIN)/buf breaking var/now.binpb --against $(PUBLISHED)
	$(MAKE) --no-print-directory protos PROTO_OUT=var/protos/proto SERVER_OUT=var/protos/server
	@for stub in $$(cd var/protos && find * -type f); do \
		diff -q var/protos/$$stub $$stub || { echo "run make protos" >&2; exit 1; }; done

# Checked first: what is no longer compatible is not made so by being published.
protos-published: protos-check  ## At a release: the protos as they are become those that may not break
	$(BIN)/buf build --exclude-source-info --output $(PUBLISHED)

clean:  ## Remove everything that the other targets made
	rm -rf .venv .venv-peers .venv-optimum .venv-deploy .venv-audit .venv-oip var build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
