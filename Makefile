# make train | test | check: each makes the virtual environment first when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints-cpu.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test check format clean

train: $(STAMP)
	@$(BIN)/tpo-dist train jobs/token_reversal.yaml $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/mypy --no-error-summary

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV)

# Compiled byte code saves seconds at every start of every process, so it is made once, here.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || { echo "installing (once): making the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing (once): packages into $(VENV), a few minutes; see $(VENV)/install.log for how far it is"
	@$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]' \
	  >$(VENV)/install.log 2>&1 || { tail -n 20 $(VENV)/install.log; exit 1; }
	@touch $@
