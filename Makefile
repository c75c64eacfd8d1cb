PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO_INSTALLED := .venv/.installed-demo
PIP_INSTALL := $(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt

# Many container images set this variable. Without compiled files every process of ours compiles
# torch, MLflow and Prefect anew, which takes three times as long as importing them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo gpu-check install lint package-check reliability test test-browser test-fast test-ray test-slow

install: $(INSTALLED)

# With uv, which takes a third of pip's time. If uv fails, with pip: only pip knows a mirror that its
# own settings name. Not compiled: few of the 27,000 files are ever imported, and Python compiles
# those then.
define INSTALL
$(PYTHON) -m venv .venv
{ uv=$$(command -v uv) || { $(PIP_INSTALL) uv && uv=$(BIN)/uv; }; } \
&& $$uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]' \
|| { echo "Installing by pip"; $(PIP_INSTALL) --no-compile --editable '.[$(EXTRAS)]'; }
endef

$(INSTALLED): EXTRAS := pipeline,export,dev
$(INSTALLED): pyproject.toml constraints.txt
	$(INSTALL)
	touch $(DEMO_INSTALLED) $@

$(DEMO_INSTALLED): EXTRAS := pipeline
$(DEMO_INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv, which takes a minute or more"
	$(INSTALL)
	touch $@

demo: $(DEMO_INSTALLED)
	$(BIN)/stillwatch demo

# docs/testing.md says what each of the targets holds.
# Two workers more than two cores: what starts servers waits at times. In the order of collection,
# which has the longest groups first.
test: install
	$(BIN)/pytest -n 4 --dist loadgroup --no-loadscope-reorder -m "not browser and not ray and not slow"

test-fast: install
	$(BIN)/pytest -n 2 --dist loadgroup -m "not servers and not costly and not browser and not ray and not slow"

# Stories that wait for minutes, and retrainings in every configuration.
test-slow: install
	$(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder -m slow

# A walk through the pages in Chromium, which Debian's package of that name brings.
test-browser: install
	$(BIN)/pytest -m browser

# Trainings on a Ray cluster of two nodes on this machine.
test-ray: install
	$(PIP_INSTALL) --editable '.[ray]'
	$(BIN)/pytest -m ray

# Each fault three times, some at the same time; writes what came of it.
reliability: install
	$(BIN)/pytest -n 3 --dist worksteal tests/faults --repeats 3 --page docs/reliability.md

# Every method on this machine's GPU, in at most 8 minutes, with the images of IMAGES=ROOT/CATEGORY.
# Not "install": a GPU machine often has torch and no registry, and this needs no upper floor.
gpu-check:
	PYTHONPATH=src $(or $(wildcard $(BIN)/python),$(PYTHON)) -m benchmarks.gpu_check $(IMAGES)

# The wheel in empty environments, one for each extra that people install.
package-check: install
	.ci/check-wheel edge pipeline

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
