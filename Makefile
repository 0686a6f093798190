# Each target builds .venv first when it is missing or stale. CONFIG picks another activity.yaml.
PYTHON ?= python3
CONFIG ?= activity.yaml
BIN := .venv/bin

.PHONY: run test test-plain bench lint lock venv clean

venv: .venv/.complete

.venv/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] < (3, 14); sys.exit(0 if ok else "make: Python 3.11, 3.12 or 3.13 is needed (TensorFlow has no later wheels); this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: venv
	$(BIN)/activity simulate --config $(CONFIG) --if-needed
	$(BIN)/activity run --config $(CONFIG) --as-of last --backfill 14 --tour
	$(BIN)/activity evaluate --config $(CONFIG) --seeds 2 --max-labels 6000

test: venv
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# The same without the plug-ins: every feature_store.yaml that a test writes is plain Feast's.
test-plain: venv
	ACTIVITY_PLAIN_FEAST=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint models pipelines serving transformations

bench: venv
	$(BIN)/python -m benchmarks

# Exact versions for every supported Python; written without any index address.
lock:
	uv pip compile --universal --extra dev --no-emit-index-url --no-header --index-strategy unsafe-best-match --quiet pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
