# The project's everyday commands. `make` alone lists them.
# Each target that needs Python has `venv` made first; on a machine without Python, .ci/venv sees to it.

PYTHON := .venv/bin/python
COMPILE := .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet
# More than there are cores: a test of processes or of a broker spends most of its time waiting.
FOUR := --numprocesses 4

VERIFIED = $$(grep -rl --include='test_*.py' 'pytest.mark.verify' tests)

# Else each of the many processes of a test run would compile the service, and pytest every test file, again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test covered verify chaos lint types docs bench audit sbom lock format clean venv

help: ## List these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile

demo: venv ## Show the whole worker at work, with a broker, a dialer and a CRM of its own
	@.venv/bin/crm-sync demo

test: lint ## Check what a change needs: lint, types, most tests, each file's coverage
	@$(MAKE) --no-print-directory --jobs 2 types covered

covered: venv
	$(PYTHON) -m simulators.broker --prepare
	$(PYTHON) -m pytest -m "not verify" $(FOUR) --dist worksteal --cov --cov-report=term-missing --cov-report=json
	$(PYTHON) .ci/coverage_floor.py coverage.json

verify: venv ## Check the rest: deployment, monitoring, documents, the proof under faults
	$(PYTHON) -m simulators.broker --prepare
	$(PYTHON) -m tests.tools
	$(PYTHON) -m pytest -m verify $(FOUR) --dist loadfile $(VERIFIED)

chaos: venv ## Break everything again and again, and account for every event; under 30 minutes
	$(PYTHON) -m simulators.broker --prepare
	$(PYTHON) -m tests.system.chaos

lint: venv ## Check style and format
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

types: venv ## Check types
	$(PYTHON) -m mypy

docs: venv ## Make the generated pages again, and the site in site/
	$(PYTHON) -m docs.generate
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

bench: venv ## Measure what an event costs beside a bare loop; on a machine that does nothing else
	$(PYTHON) -m benchmarks

audit: venv ## List the licences of what a deployment installs, and its known vulnerabilities
	.venv/bin/pip-licenses --order license --with-urls --packages $$(sed -n 's/^\([a-z0-9.-]*\)==.*/\1/p' requirements.lock)
	.venv/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

sbom: venv ## Write the bill of materials of a deployment, in CycloneDX, to build/sbom.json
	mkdir -p build
	.venv/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-file build/sbom.json requirements.lock

# Keeps the versions that are locked now, if pyproject.toml still allows them;
# `make lock UPGRADE=--upgrade` takes the newest. Each lock follows the one before it.
lock: venv ## Make the requirements locks again
	$(COMPILE) $(UPGRADE) pyproject.toml --extra crm --extra tracing -o requirements.lock
	$(COMPILE) $(UPGRADE) pyproject.toml --extra crm --extra tracing --group dev -c requirements.lock -o requirements-dev.lock
	$(COMPILE) $(UPGRADE) --group build -c requirements-dev.lock -o requirements-build.lock

format: venv ## Format the code, and fix what ruff can fix by itself
	$(PYTHON) -m ruff check --fix-only
	$(PYTHON) -m ruff format

clean: ## Remove everything that can be made again
	rm -rf .venv .cache site .coverage .coverage.* coverage.json htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@.ci/venv
