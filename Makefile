PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO_INSTALLED := .venv/.installed-demo

.PHONY: demo test test-browser test-ray test-fast reliability lint install

install: $(INSTALLED)

# By uv where there is one that reaches the packages, else by pip. Not compiled: of its 27,000 files
# few are ever imported, and those are compiled then.
define INSTALL
$(PYTHON) -m venv .venv
{ command -v uv > /dev/null && uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]'; } \
|| { echo "Installing by pip"; $(BIN)/pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt --editable '.[$(EXTRAS)]'; }
endef

$(INSTALLED): EXTRAS := pipeline,export,dev
$(INSTALLED): pyproject.toml constraints.txt
	$(INSTALL)
	touch $(DEMO_INSTALLED) $@

$(DEMO_INSTALLED): EXTRAS := pipeline
$(DEMO_INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv, which takes some minutes"
	$(INSTALL)
	touch $@

demo: $(DEMO_INSTALLED)
	$(BIN)/stillwatch demo

# More workers than cores: what starts servers mostly waits. In the order of collection, which has
# what takes minutes first. What needs PostgreSQL, which Debian's
# package of that name brings, is skipped where it is not.
test: install
	$(BIN)/pytest -n 6 --dist loadgroup --no-loadscope-reorder -m "not browser and not ray"

# A walk through the pages in Chromium, which Debian's package of that name brings.
test-browser: install
	$(BIN)/pytest -m browser

# Trainings on a Ray cluster of two nodes on this machine.
test-ray: install
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/pytest -m ray

test-fast: install
	$(BIN)/pytest -n 2 --dist loadgroup -m "not servers and not processes"

# Each fault three times, some at the same time; writes what came of it.
reliability: install
	$(BIN)/pytest -n 3 --dist worksteal tests/faults --repeats 3 --page docs/reliability.md

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
