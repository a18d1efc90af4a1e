# Each target does everything from a bare clone: virtual environment, install, run.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install test reproduce clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --nbmake tests notebooks

# The two-digit experiment on the embedded 8x8 digits, capsules beside the CNN control, and its table.
reproduce: install
	$(BIN)/python -m capsnet.reproduce

clean:
	rm -rf $(VENV) build dist *.egg-info
