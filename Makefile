# The two commands a newcomer needs: make demo, make test. Everything else is here too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
STAMP := $(VENV)/.installed
LOWEST := $(VENV)-lowest
# What is tested: this checkout, or a wheel of it.
PACKAGE ?= --editable .
DEBIAN := prometheus prometheus-alertmanager victoria-metrics chromium curl openssl systemd
BENCH_DEBIAN := nginx-light prometheus-pushgateway prometheus-node-exporter wrk curl jq
HELM := v3.22.0
PROMETHEUS3 := v0.316.0
PROMETHEUS_MAINS := $(addprefix github.com/prometheus/prometheus/cmd/,prometheus promtool)
QUICK := 'not e2e and not slow'
# On two cores: tests wait for processes and sockets a third of the time.
WORKERS := 3
IMAGE_DEBIAN := buildah debootstrap bubblewrap
BUILDER ?= docker
LOCK := --universal --python-version 3.11 --generate-hashes --no-build --upgrade --quiet --custom-compile-command 'make lock'

# Install what is missing of these packages, where apt is there.
define from-debian
missing=$$(for package in $(1); do dpkg -s $$package >/dev/null 2>&1 || echo $$package; done); \
if [ -z "$$missing" ]; then echo "$@: all there"; \
elif ! command -v apt-get >/dev/null; then echo "$@: no apt-get here; install by hand: $$missing"; \
else apt-get update -q && apt-get install -q -y --no-install-recommends $$missing; fi
endef

.PHONY: help demo test cover test-all attacks prometheus3 test-lowest check dist image lock audit format dashboards docs chart tools pint dashboard-linter helm bench bench-tools image-tools clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(RUNTIME): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet $(PACKAGE)
	@touch $@

$(STAMP): $(RUNTIME)
	$(BIN)/python -m pip install --quiet --group dev
	@# Tests, benchmarks and dashboards are the checkout's; last on the path, so that a wheel comes first.
	@echo $(CURDIR) > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz-checkout.pth
	@touch $@

demo: $(RUNTIME) ## the exporter on a simulated API, at http://127.0.0.1:12758/metrics
	$(BIN)/cryptoloot-exporter demo

test: $(STAMP) ## the quick tests, in a minute: rules of the code, the alert rules, one run over real sockets
	$(BIN)/pytest -n $(WORKERS) -m $(QUICK)

cover: $(STAMP) ## the quick tests with coverage, branches included
	$(BIN)/pytest -n $(WORKERS) -m $(QUICK) --cov --cov-report=term --cov-fail-under=95

test-all: $(STAMP) ## all tests; PROMETHEUS=path/to/prometheus: with another one than Debian's, and the promtool beside it
	$(BIN)/pytest -n 2 --dist loadfile -m 'not alone' --hypothesis-profile=thorough
	$(BIN)/pytest -m alone

attacks: $(STAMP) ## the attacks of SECURITY.md, two minutes each instead of half a minute
	ATTACK_SECONDS=120 $(BIN)/pytest tests/e2e/test_attacks.py

test-lowest: $(STAMP) ## the quick unit tests on the lowest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --requirement pyproject.toml
	$(BIN)/uv pip freeze --python $(LOWEST)/bin/python > $(LOWEST)/versions.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --constraint $(LOWEST)/versions.txt --group dev $(PACKAGE)
	@echo $(CURDIR) > $$($(LOWEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz-checkout.pth
	$(LOWEST)/bin/pytest -n $(WORKERS) -m $(QUICK)

check: $(STAMP) ## lint, format, types, YAML, Dockerfile, Compose, workflows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

dist: ## wheel and sdist in dist/, as they would be published
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip install --quiet 'build>=1.2' 'twine>=6.1'
	rm -rf dist
	$(VENV)-tools/bin/python -m build --outdir dist .
	$(VENV)-tools/bin/twine check --strict dist/*

image: ## the image cryptoloot-exporter:local, by docker, or by what BUILDER says: podman, buildah
	$(BUILDER) build $(if $(filter podman buildah,$(BUILDER)),--format docker) --tag cryptoloot-exporter:local --build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' exporter/__init__.py) .

lock: $(STAMP) ## pin what the image is made of, by version and hash: requirements.lock, requirements-build.lock
	$(BIN)/uv pip compile $(LOCK) --output-file requirements.lock pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(BIN)/uv pip compile $(LOCK) --output-file requirements-build.lock -

audit: ## known vulnerabilities of the runtime dependencies, and their SBOM (sbom.cdx.json)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(VENV)-audit/bin/python -m pip install --quiet --no-deps .
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip install --quiet pip-audit cyclonedx-bom
	$(VENV)-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.cdx.json $(VENV)-audit/bin/python
	@echo "sbom.cdx.json: $$(grep -c '"purl"' sbom.cdx.json) components"
	@report=$$($(VENV)-tools/bin/pip-audit --progress-spinner off \
		--path $$($(VENV)-audit/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') 2>&1); \
	code=$$?; echo "$$report"; \
	if echo "$$report" | grep -q 'httpx.*could not be audited'; then \
		echo "audit: no source of vulnerabilities can be reached from here, so nothing was checked"; \
	else exit $$code; fi

format: $(STAMP) ## write code the way check wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP) ## write the pages about metrics, keys, flags and rules anew from the code
	$(BIN)/python -m docs

dashboards: $(STAMP) ## write the Grafana dashboards anew from their code
	$(BIN)/python -m dashboards

chart: $(STAMP) ## write anew what the Helm chart has from elsewhere: rules, dashboards, the config's schema, the version
	$(BIN)/python -m deploy.helm

tools: ## what the end-to-end tests need, from Debian, where it is missing and apt is there
	@$(call from-debian,$(DEBIAN))

pint: ## lint the alert rules, where go is there and its proxy hands out pint
	@if ! command -v go >/dev/null; then echo "pint: no go here, so nothing was linted"; \
	elif ! report=$$(GOBIN=$(CURDIR)/$(VENV)-tools/bin timeout 600 go install github.com/cloudflare/pint/cmd/pint@latest 2>&1); \
	then echo "$$report" | tail -2; echo "pint: the Go proxy did not hand it out, so nothing was linted"; \
	else $(VENV)-tools/bin/pint --offline --config alerts/pint.hcl lint alerts/cryptoloot.rules.yml; fi

dashboard-linter: ## lint the dashboards, where go is there and its proxy hands out dashboard-linter
	@if ! command -v go >/dev/null; then echo "$@: no go here, so nothing was linted"; \
	elif ! report=$$(GOBIN=$(CURDIR)/$(VENV)-tools/bin timeout 600 go install github.com/grafana/$@@latest 2>&1); \
	then echo "$$report" | tail -2; echo "$@: the Go proxy did not hand it out, so nothing was linted"; \
	else for file in dashboards/*.json; do $(VENV)-tools/bin/$@ lint --strict --config dashboards/.lint $$file || exit 1; done; fi

helm: ## build helm, which the chart's tests render it with, where go is there and its proxy hands it out
	@if ! command -v go >/dev/null; then echo "helm: no go here, so nothing was built"; \
	elif ! report=$$(GOBIN=$(CURDIR)/$(VENV)-tools/bin timeout 600 go install helm.sh/helm/v3/cmd/helm@$(HELM) 2>&1); \
	then echo "$$report" | tail -2; echo "helm: the Go proxy did not hand it out, so nothing was built"; \
	else echo "helm: $(HELM) is in $(VENV)-tools/bin"; fi

prometheus3: ## build Prometheus 3.16 and its promtool in ten minutes, for test-all, where go is there and its proxy hands it out
	@if ! command -v go >/dev/null; then echo "$@: no go here, so nothing was built"; \
	elif ! report=$$( \
		mkdir -p $(VENV)-tools/$@ && cd $(VENV)-tools/$@ && \
		{ test -f go.mod || go mod init $@; } && \
		go get $(addsuffix @$(PROMETHEUS3),$(PROMETHEUS_MAINS)) && \
		go build -tags remove_all_sd -o . $(PROMETHEUS_MAINS) 2>&1); \
	then echo "$$report" | tail -2; echo "$@: the Go proxy did not hand it out, so nothing was built"; \
	else echo "$@: make test-all PROMETHEUS=$(CURDIR)/$(VENV)-tools/$@/prometheus"; fi

bench: $(STAMP) ## measure, side by side with peers, in 25 minutes: docs/benchmarks.md
	$(BIN)/python -m bench

bench-tools: ## the peers that bench measures, from Debian, as tools does
	@$(call from-debian,$(BENCH_DEBIAN))

image-tools: ## what tests/e2e/test_image.py needs, from Debian, as tools does
	@$(call from-debian,$(IMAGE_DEBIAN))

clean: ## remove what the targets above made
	rm -rf $(VENV) $(VENV)-audit $(VENV)-tools $(LOWEST) sbom.cdx.json .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage* dist build
