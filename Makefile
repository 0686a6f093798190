# Each target builds .venv first when it is missing or stale: `run` what a user needs, `test`, `lint`
# and `bench` what they need besides. CONFIG picks another activity.yaml.
PYTHON ?= python3
CONFIG ?= activity.yaml
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test test-plain bench lint lock venv clean

venv: .venv/.complete

.venv/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] < (3, 14); sys.exit(0 if ok else "make: Python 3.11, 3.12 or 3.13 is needed (TensorFlow has no later wheels); this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv --clear .venv
	$(PIP) --require-hashes --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.complete requirements-dev.lock
	$(PIP) --require-hashes --requirement requirements-dev.lock
	@touch $@

run: venv
	$(BIN)/activity simulate --config $(CONFIG) --if-needed
	$(BIN)/activity run --config $(CONFIG) --as-of last --backfill 14 --tour
	$(BIN)/activity evaluate --config $(CONFIG) --seeds 2 --max-labels 6000 --untuned --without ease --without als --without sasrec
	$(BIN)/activity recommend --config $(CONFIG)

test: .venv/.dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# The same without the plug-ins: every feature_store.yaml that a test writes is plain Feast's.
test-plain: .venv/.dev
	ACTIVITY_PLAIN_FEAST=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint models operations pipelines serving transformations

bench: .venv/.dev
	$(BIN)/python -m benchmarks

# Exact versions and hashes for every supported Python; written without any index address.
COMPILE := uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --index-strategy unsafe-best-match --quiet pyproject.toml
lock:
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra dev --extra s3 --extra spark --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
