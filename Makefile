# Two commands: `make demo` trains a small policy end to end, `make test` runs all checks. Each sets up what it needs.
# On a GPU machine: make setup ACCELERATOR=cuda. Later commands keep that choice; another one makes .venv anew.

PYTHON ?= python3
VENV := .venv
ACCELERATOR ?= $(shell cat $(VENV)/.accelerator 2>/dev/null || echo cpu)
LOCK := requirements/$(ACCELERATOR).lock
INSTALLED := $(VENV)/.installed-$(ACCELERATOR)

.PHONY: help setup demo test types coverage docs release audit check sandbox sandbox-cpp sandbox-libraries lock clean

help:
	@echo "make demo    train on this machine: about 10 minutes on two cores"
	@echo "make test    audit, lint and all tests: about 40 minutes"
	@echo "make docs    the documentation as pages, in site/"
	@echo "make types   mypy alone; make coverage: what unit and fuzz tests reach, by room"
	@echo "make release build wheel and sdist of what is committed, and try them: CONTRIBUTING.md"
	@echo "make audit   dependencies against the locks and known advisories; secrets in files"
	@echo "make setup   only install: .venv, Docker where possible, the sandbox image"
	@echo "make sandbox-cpp sandbox-libraries  the sandbox image that also compiles C++"
	@echo "make check   validate cluster/local.yaml and print derived numbers"
	@echo "make lock    resolve requirements/*.lock again from pyproject.toml"

setup: $(INSTALLED) sandbox

demo: setup
	$(VENV)/bin/pgrpo train cluster/local.yaml

check: setup
	$(VENV)/bin/pgrpo check cluster/local.yaml

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

audit: $(INSTALLED)
	$(VENV)/bin/python deploy/audit.py
	$(VENV)/bin/python deploy/secret_scan.py

test: setup audit
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n auto tests/unit tests/fuzz tests/deploy
	$(VENV)/bin/python -m pytest tests/actors tests/integration tests/chaos

types: $(INSTALLED)
	$(VENV)/bin/mypy

coverage: setup
	$(VENV)/bin/python -m pytest -q -n auto --cov --cov-report= tests/unit tests/fuzz
	$(VENV)/bin/python deploy/coverage_by_room.py

release: setup audit
	bash deploy/release.sh

$(INSTALLED): $(LOCK) pyproject.toml deploy/install.sh
	PYTHON=$(PYTHON) bash deploy/install.sh $(VENV) $(ACCELERATOR)
	touch $@

sandbox: $(INSTALLED)
	bash deploy/setup-docker.sh $(VENV)
	$(VENV)/bin/python -m pgrpo_ray.sandbox.image

sandbox-cpp: $(INSTALLED)
	bash deploy/setup-docker.sh $(VENV)
	$(VENV)/bin/python -m pgrpo_ray.sandbox.image --with cpp

sandbox-libraries: $(INSTALLED)
	bash deploy/setup-docker.sh $(VENV)
	$(VENV)/bin/python -m pgrpo_ray.sandbox.image --with libraries

lock: $(INSTALLED)
	bash deploy/lock.sh $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .coverage build dist site
