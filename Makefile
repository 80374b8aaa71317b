# `make help` lists the tasks. Everything that Pratique needs to be built, tried
# and tested is installed or built from here; nothing is fetched but Go modules
# and Debian packages.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

GO ?= go
CONFIG ?= configs/dev.yaml

# Trivy's analysis half needs the toolchain's jsonv2 experiment; only the worker
# links it. The same flags for the worker and its tests, so that the 2,800
# packages behind it are compiled once.
RELEASE := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w"
ANALYZE := CGO_ENABLED=0 GOEXPERIMENT=jsonv2
ANALYZE_PACKAGES := ./scanner/analyze/... ./cmd/pratique-analyzer/...

# Commands that tests start, and the Debian packages that bring them.
E2E_TOOLS := ip=iproute2 skopeo=skopeo podman=podman buildah=buildah containerd=containerd ctr=containerd runc=runc busybox=busybox-static
BENCH_TOOLS := wrk=wrk nginx=nginx-light
REDIS_TOOLS := redis-cli=redis-tools redis-server=redis-server redis-sentinel=redis-sentinel

.PHONY: help
help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build bin/demo ## build, start Pratique beside a sample upstream, show a pull that is served and one that is refused
	@bin/demo -config $(CONFIG) $(if $(DEMO_EXIT),-exit)

.PHONY: build
build: ## build bin/pratique and bin/pratique-analyzer (the first time: about ten minutes, 2.2 GB of memory)
	@$(MAKE) bin/pratique bin/pratique-analyzer

.PHONY: test
test: tools ## unit and component tests of every package
	@$(MAKE) bin/pratique bin/pratique-analyzer bin/testsum bin/versitygw
	@failed=0; \
	  PRATIQUE_ANALYZER=$(CURDIR)/bin/pratique-analyzer $(GO) test -json ./... | bin/testsum -suite unit || failed=1; \
	  $(ANALYZE) $(GO) test -trimpath -json $(ANALYZE_PACKAGES) | bin/testsum -suite analyze || failed=1; \
	  $(GO) -C tools/helm test -json ./... | bin/testsum -suite deploy || failed=1; \
	  exit $$failed

.PHONY: e2e
e2e: tools build peers bin/demo bin/fleet bin/testsum ## the real binaries against a stock registry, with crane, skopeo, podman and containerd (as root)
	@failed=0; \
	  $(GO) test -tags e2e -count=1 -parallel 8 -timeout 20m -json ./e2e/... | bin/testsum -suite e2e || failed=1; \
	  $(GO) test -tags e2e,chaos -count=1 -run '^TestChaos$$' -timeout 10m -json ./e2e | bin/testsum -suite chaos || failed=1; \
	  exit $$failed

CHAOS_SECONDS ?= 300

.PHONY: chaos
chaos: tools build bin/versitygw ## three replicas under load while everything fails (5 minutes); writes the table and the plot of docs/reliability.md (as root)
	CHAOS_REPORT=1 CHAOS_SECONDS=$(CHAOS_SECONDS) $(GO) test -tags e2e,chaos -count=1 -timeout 1h -run '^TestChaos$$' -v ./e2e

ROUNDS ?= 300

.PHONY: crash
crash: build ## kill -9 the server under load, ROUNDS times (300: about 20 minutes), and check what is left
	@CRASH_ROUNDS=$(ROUNDS) $(GO) test -tags e2e -count=1 -timeout 3h -run '^TestCrash$$' -v ./e2e

.PHONY: check
check: ## gofmt, vet, lint, race tests, modules and generated files clean
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "gofmt -w these:" $$unformatted; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags e2e,bench,chaos,clients ./e2e/...
	$(GO) -C tools/peers vet ./...
	$(GO) -C tools/helm vet ./...
	$(GO) tool -modfile=tools/lint/go.mod golangci-lint run
	$(GO) mod tidy -diff
	for m in peers containerd17 containerd2 docker29 cosign trivy helm versitygw; do $(GO) -C tools/$$m mod tidy -diff || exit 1; done
	$(GO) generate ./... && git diff --exit-code
	@$(MAKE) bin/pratique-analyzer bin/testsum bin/versitygw
	PRATIQUE_ANALYZER=$(CURDIR)/bin/pratique-analyzer $(GO) test -race -json ./... | bin/testsum -suite race

.PHONY: bench
bench: build peers ## measure Pratique and its peers in one run (about twelve minutes; a quiet machine) and write docs/benchmarks.md
	@tools/apt.sh $(BENCH_TOOLS) $(REDIS_TOOLS)
	$(GO) test -tags e2e,bench -count=1 -timeout 20m -run '^TestBench$$' ./e2e

.PHONY: scale
scale: ## measure what images, reports, pulls, events and jobs take in Redis: the table that docs/scale.md computes with (a minute)
	@tools/apt.sh redis-server=redis-server
	@$(GO) test ./internal/redis -run '^$$' -bench '^BenchmarkScale$$' -benchtime 1x -timeout 20m

.PHONY: bench-fleet
bench-fleet: bin/pratique-analyzer bin/fleet bin/trivy ## measure database updates of 100,000 images (about half an hour, 4 GB) and write their part of docs/benchmarks.md
	@tools/apt.sh jq=jq
	tools/fleet/bench.sh

.PHONY: crash-update
crash-update: build bin/fleet ## kill -9 the server while another database comes into use, ROUNDS times (50: about three minutes)
	@CRASH_ROUNDS=$(ROUNDS) $(GO) test -tags e2e -count=1 -timeout 3h -run '^TestUpdateCrash$$' -v ./e2e

.PHONY: demo-data
demo-data: ## build configs/demo/trivy-db.tar.gz anew from the advisories in the repository
	$(GO) generate ./configs/demo

.PHONY: tools
tools: ## install the Debian packages that the tests start (as root)
	@tools/apt.sh $(E2E_TOOLS) $(REDIS_TOOLS)

.PHONY: peers
peers: bin/crane bin/registry bin/criclient bin/conformance bin/containerd2 bin/trivy bin/versitygw ## build the clients and registries that e2e and bench start

.PHONY: clients
clients: tools build peers bin/containerd17 bin/dockerd bin/cosign bin/testsum ## mirrors left open, nodes closed and images signed, with every client that can be built from modules (as root)
	@E2E_CLIENTS=all $(GO) test -tags e2e,clients -count=1 -timeout 30m -run '^(TestOpenMirror|TestNodesConfig|TestCosign)' -json ./e2e | bin/testsum -suite clients

.PHONY: clean
clean: ## remove what was built and what `make run` kept
	rm -rf bin dist var

# The Go command knows best what is stale, so these are always asked for.
.PHONY: bin/pratique bin/pratique-analyzer bin/demo bin/fleet bin/testsum bin/crane bin/registry bin/criclient bin/conformance bin/containerd17 bin/containerd2 bin/dockerd bin/cosign bin/trivy bin/versitygw
bin/pratique:
	@$(RELEASE) -o $@ ./cmd/pratique

bin/pratique-analyzer:
	@$(ANALYZE) $(RELEASE) -o $@ ./cmd/pratique-analyzer

bin/demo:
	@$(RELEASE) -o $@ ./tools/demo

bin/fleet:
	@$(RELEASE) -o $@ ./tools/fleet

bin/testsum:
	@$(RELEASE) -o $@ ./tools/testsum

bin/crane:
	@cd tools/peers && $(RELEASE) -o ../../$@ github.com/google/go-containerregistry/cmd/crane

bin/registry:
	@cd tools/peers && $(RELEASE) -o ../../$@ github.com/distribution/distribution/v3/cmd/registry

bin/criclient:
	@cd tools/peers && $(RELEASE) -o ../../$@ ./criclient

bin/conformance:
	@cd tools/peers && $(RELEASE) -o ../../$@ github.com/opencontainers/distribution-spec/conformance

bin/containerd17:
	@cd tools/containerd17 && $(RELEASE) -o ../../$@ github.com/containerd/containerd/cmd/containerd

bin/dockerd:
	@cd tools/docker29 && $(RELEASE) -o ../../$@ github.com/moby/moby/v2/cmd/dockerd

bin/containerd2:
	@cd tools/containerd2 && $(RELEASE) -o ../../$@ github.com/containerd/containerd/v2/cmd/containerd

bin/cosign:
	@cd tools/cosign && $(RELEASE) -o ../../$@ github.com/sigstore/cosign/v3/cmd/cosign

bin/trivy:
	@cd tools/trivy && $(ANALYZE) $(RELEASE) -o ../../$@ github.com/aquasecurity/trivy/cmd/trivy

bin/versitygw:
	@cd tools/versitygw && $(RELEASE) -o ../../$@ github.com/versity/versitygw/cmd/versitygw
