# make demo    Airflow changes orders of a local shop, is killed in the middle, and takes it back
# make test    the tests
# make help    the other targets

PYTHON ?= python3
# The provider is developed on the newest, and works on all.
AIRFLOW := 3.3.2
AIRFLOW_2 := 2.11.2
AIRFLOW_3.0 := 3.0.6
AIRFLOW_3.1 := 3.1.8
AIRFLOW_3.2 := 3.2.2
# A preview, which may fail.
AIRFLOW_3.4 := 3.4.0b2
# Each was released on the day before; people run it with what there was by then. The first common-compat that works
# with this provider is younger than 3.0.
DAY_3.4.0b2 := 2026-10-21
DAY_3.3.2 := 2026-09-18
DAY_3.2.2 := 2026-05-30
DAY_3.1.8 := 2026-03-12
DAY_3.0.6 := 2025-08-30
DAY_2.11.2 := 2026-03-15
COMPAT_DAY_3.0.6 := 2026-01-18
LEAST_PYTHON_3.4.0b2 := 3.11
# So that each Python is met; the others are tested on $(PYTHON).
PYTHON_3.0 ?= python3.10
PYTHON_3.1 ?= python3.12
PYTHON_3.2 ?= python3.13
PYTHON_3.4 ?= python3.12
# Its connection form is FAB's.
WITH_3.0 := apache-airflow-providers-fab
VENV := .venv
VENV_2 := .venv-airflow-2
VENV_LOWEST := .venv-lowest
# The lowest versions that pyproject.toml allows of what the provider uses, other than Airflow.
LOWEST = $(shell sed -n 's/^  "\([a-z0-9-]*\)>=\([0-9.]*\)",.*/\1==\2/p' pyproject.toml | grep -v ^apache-airflow==)
# As many tests at a time: some wait more than they compute. The system tests, which share an Airflow, by one worker.
WORKERS ?= 4
PYTEST = -m pytest -n $(WORKERS) --dist loadgroup
# Those of the preview that say whether it will do.
PREVIEW_TESTS := $(patsubst %,tests/test_%.py,provider in_airflow assets examples retries)
# The tests that stand on them rather than on Airflow.
LOWEST_TESTS := $(patsubst %,tests/test_%.py,attempts connection desired endpoints exceptions hook limiter orders pages \
  planner procedures proxies rate_limit responses retries session shared_client store testing tls waiting workers)

# Those that know nothing of Airflow, whose version changes nothing for them.
PURE_TESTS := $(patsubst %,tests/test_%.py,calls cells dataframe failures reconcile_storm record_kills rows_file sandbox \
  snapshot)

# A user's own Airflow must never be touched by a test or a demo.
unexport AIRFLOW_HOME PYTHONPATH
export AIRFLOW__CORE__LOAD_EXAMPLES := False

.PHONY: help demo test test-airflow-2 test-airflow-3.0 test-airflow-3.1 test-airflow-3.2 test-airflow-3.4 test-preview test-slow test-lowest test-mariadb test-odbc test-celery test-s3 needs-mariadb needs-odbc needs-celery test-browser screenshots docs check bench package release constraints clean
.DEFAULT_GOAL := help

help:
	@echo "make demo            Airflow changes orders of a local shop, is killed in the middle, and takes it back"
	@echo "make test            the tests, on Airflow $(AIRFLOW)"
	@echo "make test-airflow-2  the tests, on Airflow $(AIRFLOW_2) (Python 3.10 to 3.12), but for those of test-lowest and pure ones"
	@echo "make test-airflow-3.0, -3.1, -3.2, -3.4: the tests that stand on Airflow itself, on these"
	@echo "make test-preview    some of them on $(AIRFLOW_3.4), which may fail"
	@echo "make test-slow       the full size of the storms and of the kills"
	@echo "make test-lowest     the unit tests, on Airflow $(AIRFLOW_2), with the lowest versions that pyproject.toml allows"
	@echo "make test-mariadb    a warehouse in a MariaDB (takes its server, and what builds its client)"
	@echo "make test-odbc       a warehouse through ODBC (takes unixODBC and SQLite's driver for it)"
	@echo "make test-celery     several machines (takes Redis)"
	@echo "make test-s3         reports in an object store with a real S3 API (moto's)"
	@echo "make test-browser    Airflow's own pages in a real browser (takes Chromium)"
	@echo "make docs            builds the site in build/docs"
	@echo "make screenshots     takes the screenshots of the docs again"
	@echo "make check           ruff, mypy, import-linter, deptry, and the schemas of the repository's own files"
	@echo "make bench           what importing, waiting and reconciling cost, beside rivals"
	@echo "make package         builds wheel and sdist, and tries the wheel in a bare Airflow"
	@echo "make release         builds both twice and compares them, tries the wheel in every Airflow, and says what is left"
	@echo "make constraints     renews the pinned versions of everything"
	@echo "make clean           removes what the other targets made"

demo: $(VENV)/installed
	$(VENV)/bin/python scripts/demo.py

test: $(VENV)/installed
	$(VENV)/bin/python $(PYTEST) $(TESTS)

# Those of test-lowest are on this Airflow, too; the pure ones are in make test.
test-airflow-2: $(VENV_2)/installed
	$(VENV_2)/bin/python $(PYTEST) $(or $(TESTS),$(filter-out $(LOWEST_TESTS) $(PURE_TESTS),$(wildcard tests/test_*.py)))

test-airflow-3.0 test-airflow-3.1 test-airflow-3.2 test-airflow-3.4: test-airflow-%: .venv-airflow-%/installed
	.venv-airflow-$*/bin/python $(PYTEST) -m 'airflow and not celery and not slow' $(TESTS)

# It may fail.
test-preview: $(VENV)/installed
	@$(MAKE) --no-print-directory test-airflow-3.4 TESTS="$(PREVIEW_TESTS)" || \
	  echo "IN PREVIEW, AND IT FAILED: make test-airflow-3.4" >&2

test-slow: $(VENV)/installed
	$(VENV)/bin/python $(PYTEST) -m slow $(TESTS)

test-lowest: $(VENV_LOWEST)/installed
	$(VENV_LOWEST)/bin/python -m pytest $(LOWEST_TESTS)

test-mariadb: needs-mariadb $(VENV)/with-mariadb
	$(VENV)/bin/python -m pytest -m mariadb tests/test_mariadb.py

test-odbc: needs-odbc $(VENV)/with-odbc
	$(VENV)/bin/python -m pytest -m odbc tests/test_odbc.py

test-celery: needs-celery $(VENV)/with-celery
	$(VENV)/bin/python -m pytest -m celery tests/test_system_celery.py

test-s3: $(VENV)/with-s3
	$(VENV)/bin/python -m pytest -m s3 tests/test_s3.py

needs-mariadb:
	@command -v mariadb-install-db >/dev/null || { \
	  echo "There is no MariaDB: on Debian, apt-get install mariadb-server libmariadb-dev pkg-config" >&2; exit 1; }

needs-odbc:
	@command -v odbcinst >/dev/null || { \
	  echo "There is no ODBC: on Debian, apt-get install odbcinst unixodbc libsqliteodbc" >&2; exit 1; }

needs-celery:
	@command -v redis-server >/dev/null || { \
	  echo "There is no Redis: on Debian, apt-get install redis-server" >&2; exit 1; }

test-browser: $(VENV)/installed
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "There is no Chromium: on Debian, apt-get install chromium fonts-noto-core" >&2; exit 1; }
	$(VENV)/bin/python -m pytest -m browser tests/test_browser.py

screenshots: export YOUCAN_SCREENSHOTS := $(CURDIR)/docs/images
screenshots: test-browser

docs: $(VENV)/installed
	AIRFLOW_HOME=$(CURDIR)/build/airflow $(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/deptry --no-ansi .
	@# It takes Python 3.11 or later.
	if [ -x $(VENV)/bin/check-jsonschema ] && [ -d .github ]; then \
	  $(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml && \
	  $(VENV)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml && \
	  $(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[a-b]*.yml && \
	  $(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml && \
	  $(VENV)/bin/check-jsonschema --builtin-schema vendor.readthedocs .readthedocs.yaml; fi

bench: $(VENV)/installed
	$(VENV)/bin/python benchmarks/import_time.py
	$(VENV)/bin/python benchmarks/waiting.py
	$(VENV)/bin/python benchmarks/reconcile.py
	$(VENV)/bin/python benchmarks/orders_to_sql.py
	$(VENV)/bin/python benchmarks/webhooks.py

package: $(VENV)/installed
	$(VENV)/bin/python scripts/try_package.py

release: $(VENV)/installed
	$(VENV)/bin/python scripts/release.py $(AIRFLOW_2) $(AIRFLOW_3.0) $(AIRFLOW_3.1) $(AIRFLOW_3.2) $(AIRFLOW) $(AIRFLOW_3.4)

constraints: $(VENV)/installed
	$(foreach version,$(AIRFLOW_3.4) $(AIRFLOW) $(AIRFLOW_3.2) $(AIRFLOW_3.1) $(AIRFLOW_3.0) $(AIRFLOW_2),$(call compile,$(version)))

define compile
	echo "apache-airflow==$(1)" > $(VENV)/airflow.in
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version $(or $(LEAST_PYTHON_$(1)),3.10) --no-python-downloads \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --exclude-newer $(DAY_$(1)) \
	  $(if $(COMPAT_DAY_$(1)),--exclude-newer-package apache-airflow-providers-common-compat=$(COMPAT_DAY_$(1))) \
	  --extra sandbox --group dev --group site --group mariadb --group odbc --group celery --group s3 --group deployment \
	  pyproject.toml $(VENV)/airflow.in --output-file constraints/airflow-$(1).txt

endef

clean:
	rm -rf $(VENV) $(VENV_2) $(VENV_LOWEST) .venv-airflow-3.* .demo .cache build dist

$(VENV)/installed: pyproject.toml constraints/airflow-$(AIRFLOW).txt
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "There is no $(PYTHON) with venv: on Debian, apt-get install -y python3-venv make" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 15) or sys.exit("Python 3.10 to 3.14 is needed: name one with make PYTHON=python3.12")'
	@echo "Installing Airflow $(AIRFLOW) and what the tests need into $(VENV): about a minute, the first time."
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints/airflow-$(AIRFLOW).txt uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --constraint constraints/airflow-$(AIRFLOW).txt \
	  --editable '.[sandbox]' --group dev --group site apache-airflow==$(AIRFLOW)
	@touch $@

$(VENV)/with-%: $(VENV)/installed
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --constraint constraints/airflow-$(AIRFLOW).txt \
	  --group $*
	@touch $@

$(VENV_2)/installed: pyproject.toml constraints/airflow-$(AIRFLOW_2).txt $(VENV)/installed
	$(VENV)/bin/uv venv --quiet --clear --python $(PYTHON) $(VENV_2)
	$(VENV)/bin/uv pip install --quiet --python $(VENV_2)/bin/python --constraint constraints/airflow-$(AIRFLOW_2).txt \
	  --editable '.[sandbox]' --group dev apache-airflow==$(AIRFLOW_2)
	@touch $@

.SECONDEXPANSION:
.venv-airflow-3.%/installed: pyproject.toml constraints/airflow-$$(AIRFLOW_3.%).txt $(VENV)/installed
	@$(PYTHON_3.$*) -c '' || { echo "There is no $(PYTHON_3.$*): name another with make PYTHON_3.$*=…" >&2; exit 1; }
	$(VENV)/bin/uv venv --quiet --clear --no-python-downloads --python $(PYTHON_3.$*) .venv-airflow-3.$*
	$(VENV)/bin/uv pip install --quiet --python .venv-airflow-3.$*/bin/python \
	  --constraint constraints/airflow-$(AIRFLOW_3.$*).txt --editable '.[sandbox]' --group dev apache-airflow==$(AIRFLOW_3.$*) $(WITH_3.$*)
	@touch $@

$(VENV_LOWEST)/installed: pyproject.toml constraints/airflow-$(AIRFLOW_2).txt $(VENV)/installed
	$(VENV)/bin/uv venv --quiet --clear --python $(PYTHON) $(VENV_LOWEST)
	$(VENV)/bin/uv pip install --quiet --python $(VENV_LOWEST)/bin/python --constraint constraints/airflow-$(AIRFLOW_2).txt \
	  --editable '.[sandbox]' apache-airflow==$(AIRFLOW_2) pytest hypothesis
	@# One by one below what the constraints pin, so that nothing else moves.
	$(VENV)/bin/uv pip install --quiet --python $(VENV_LOWEST)/bin/python --no-deps $(LOWEST)
	@touch $@
