# Two commands do everything on a fresh machine: `make run` and `make test`. See README.md.

PYTHON ?= python3.11
VENV ?= .venv
CORES ?= $(shell nproc)
BIN := $(VENV)/bin

# make run PRESET=quick            small budgets, a first complete result in minutes
# make run CORPUS=emobank          an own corpus: config/corpora/emobank.yaml
# make run TARGET=valence          one variable
PRESET ?=
CORPUS ?=
TARGET ?= all
CONFIGS := $(if $(CORPUS),config/corpora/$(CORPUS).yaml) $(if $(PRESET),config/presets/$(PRESET).yaml)
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) $(if $(strip $(CONFIGS)),--configfile $(CONFIGS))

.PHONY: run explain accept test lint format bench bench-goemotions bench-scale soak soak-rebuilds soak-bundle config env lock clean help
.PHONY: env-cluster slurm-test slurm-cancel

run: env  ## build everything (PRESET=, CORPUS=, TARGET=, CORES=)
	$(SNAKEMAKE) -- $(TARGET)

explain: env  ## say in plain words what `make run` would build again, and why
	@PYTHONPATH=workflow_scripts $(BIN)/python -m perceive.explain $(SNAKEMAKE) $(TARGET)

accept: env  ## fail where an acceptance gate fails
	$(SNAKEMAKE) -- accept

test: env  ## lint, unit tests and a real end-to-end run
	$(MAKE) lint
	$(BIN)/python -m pytest -n 2

lint: env  ## ruff, snakefmt, mypy, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint

format: env  ## format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/snakefmt Snakefile rules

bench: env  ## speed of the parts, as ratios against references, and the cost of every rule
	$(BIN)/python tests/bench.py

bench-goemotions: env  ## GoEmotions beside published figures; the corpus under PERCEIVE_DATA, an hour on 2 cores
	$(MAKE) run CORPUS=goemotions
	$(BIN)/python tests/bench.py goemotions

bench-scale: env  ## 5,200 and 52,000 items through everything: time and memory of every rule, and how they grow
	PYTHONPATH=workflow_scripts:tests $(BIN)/python tests/scale.py

soak: env  ## kill the workflow at random moments until it is through, and compare with a run in peace
	PYTHONPATH=workflow_scripts:tests $(BIN)/python tests/soak.py

soak-rebuilds: env  ## 50 rounds of random changes, each compared with a build from scratch (two hours)
	PYTHONPATH=workflow_scripts:tests $(BIN)/python tests/soak_rebuilds.py

soak-bundle: env  ## 50,000 reflections through the scorer of results/bundle, killed in the middle
	PYTHONPATH=workflow_scripts:tests $(BIN)/python tests/soak_bundle.py

slurm-test: env-cluster  ## the workflow on a real Slurm of one node, brought up and torn down (Debian, root)
	PYTHONPATH=workflow_scripts:tests $(BIN)/python tests/slurm.py

slurm-cancel:  ## cancel your jobs of this folder that a killed run has left in Slurm's queue
	squeue --me --noheader --format='%i|%j|%Z' \
	  | awk -F'|' -v here="$$PWD" '$$2 ~ /^perceive_/ && $$3 == here { print $$1 }' | xargs --no-run-if-empty scancel

config: env  ## write config/config.yaml and config/schema.json anew from the schema
	cd workflow_scripts && ../$(BIN)/python -c "from pathlib import Path; from perceive.config import write_generated; write_generated(Path('../config'))"

env: $(VENV)/.complete  ## the Python environment, from the lock file

$(VENV)/.complete: envs/requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.lock
	@touch $@

env-cluster: $(VENV)/.cluster  ## the environment, with what runs jobs on clusters

$(VENV)/.cluster: $(VENV)/.complete envs/cluster.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/cluster.lock -c envs/requirements.lock
	@touch $@

lock:  ## resolve envs/requirements.in anew into the lock file
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.in
	{ echo "# Every package of the environment, pinned. Written by 'make lock' from requirements.in."; \
	  .venv-lock/bin/python -m pip freeze | sed 's/^torch==\([0-9.]*\)+.*/torch==\1/' \
	  | grep -v '^nvidia-\|^triton=='; } > envs/requirements.lock
	.venv-lock/bin/python -m pip freeze | sed 's/+.*//' | sort > .venv-lock/before
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check -r envs/cluster.in -c envs/requirements.lock
	{ echo "# What running on a cluster needs beside requirements.lock, pinned. Written by 'make lock' from cluster.in."; \
	  .venv-lock/bin/python -m pip freeze | sed 's/+.*//' | sort | comm -13 .venv-lock/before - | sort -f; } > envs/cluster.lock
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check -r envs/serving.in -c envs/requirements.lock
	{ echo "# What a bundle needs to answer, pinned. Written by 'make lock' from serving.in."; \
	  .venv-lock/bin/python -m pip freeze; } > envs/serving.lock
	rm -rf .venv-lock
	$(PYTHON) envs/make_environment.py

clean:  ## remove results and the environment (never the ledgers)
	rm -rf results/* .snakemake $(VENV)
	git checkout -- results/README.md

help:
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 20
