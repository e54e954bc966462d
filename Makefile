PYTHON ?= python3
VENV ?= .venv
# One environment for each state of the packaging files, so that reruns are quick and never stale.
STAMP := $(VENV)/.installed-$(shell cat setup.cfg pyproject.toml | cksum | cut -d ' ' -f 1)

.PHONY: demo demo-rl test test-long lint types install clean

install: $(STAMP)

$(STAMP):
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "Python 3.11 or 3.12 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	rm -f $(VENV)/.installed-*
	touch $@

demo: $(STAMP)
	$(VENV)/bin/vie-bench demo runs/demo

demo-rl: $(STAMP)
	$(VENV)/bin/vie-bench demo-rl runs/demo-rl

test: $(STAMP)
	$(VENV)/bin/python -m pytest -q

test-long: $(STAMP)
	$(VENV)/bin/python -m pytest -q -m long

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
