# Two commands: `make demo` trains a small policy end to end, `make test` runs all checks. Each sets up what it needs.
# On a GPU machine: make setup ACCELERATOR=cuda

ACCELERATOR ?= cpu
PYTHON ?= python3
VENV := .venv
LOCK := requirements/$(ACCELERATOR).lock
INSTALLED := $(VENV)/.installed-$(ACCELERATOR)

.PHONY: demo test setup check sandbox lock clean help

help:
	@echo "make demo    train on this machine, about 15 minutes on two cores"
	@echo "make test    lint and all tests"
	@echo "make setup   only install: .venv, Docker where possible, the sandbox image"
	@echo "make check   validate cluster/local.yaml and print derived numbers"
	@echo "make lock    resolve requirements/*.lock again from pyproject.toml"

setup: $(INSTALLED) sandbox

demo: setup
	$(VENV)/bin/pgrpo train cluster/local.yaml

check: $(INSTALLED)
	$(VENV)/bin/pgrpo check cluster/local.yaml

test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest

$(INSTALLED): $(LOCK) pyproject.toml deploy/install.sh
	PYTHON=$(PYTHON) bash deploy/install.sh $(VENV) $(LOCK)
	touch $@

sandbox: $(INSTALLED)
	bash deploy/setup-docker.sh
	$(VENV)/bin/python -m pgrpo_ray.sandbox.image

lock: $(INSTALLED)
	bash deploy/lock.sh $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
