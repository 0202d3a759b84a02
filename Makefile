# The two commands: make lab, make test. Everything they do stands in lessons_src/bootstrap.py, which also runs without make.
# Kept to what GNU make 3.81 (macOS) understands.

# The first Python of a supported version that runs; else any Python, for bootstrap.py to say what is wrong with it.
IN_RANGE = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
NAMES = python3.13 python3.12 python3.11 python3 python
ifndef PYTHON
PYTHON := $(shell for p in $(NAMES); do $$p -c '$(IN_RANGE)' 2>/dev/null && { echo $$p; exit; }; done; \
                  for p in python3 python; do $$p -c '' 2>/dev/null && { echo $$p; exit; }; done)
endif

BOOTSTRAP = "$(PYTHON)" lessons_src/bootstrap.py
RUN = .venv/bin/python
PORT ?= 8888
EDITION ?=
LESSON ?=
SHOTS ?= build/browser
SOLUTIONS ?= build/solutions
SELECT = $(if $(LESSON),--lesson $(LESSON)) $(if $(EDITION),--lang $(EDITION))
EXPERIMENTS = $(patsubst lessons_src/experiments/lesson_%.py,%,$(sort $(wildcard lessons_src/experiments/lesson_*.py)))
FAMILY = small medium large no-reviews encoder
# A kernel that builds a notebook runs as a learner's does: one thread, no waiting in spin locks, repeatable hashes.
BUILD_ENV = OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0 PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=0 HF_HUB_OFFLINE=1 TUNELAB_STRICT=1

.PHONY: help python env lab test verify browser notebooks solutions pretrain pretrain-family experiments baselines data-report bench environment lint clean-env

help:
	@echo "make lab          open JupyterLab on lesson 00            (EDITION=en|zh, PORT=8888)"
	@echo "make test         unit tests, then every notebook"
	@echo "make env          only create or repair .venv              (TORCH_INDEX=address of PyTorch's CPU builds)"
	@echo "make verify       every cell twice, alone and under load; seconds and memory   (LESSON=01, EDITION=en|zh)"
	@echo "make browser      run the notebooks in a real browser; screenshots in SHOTS=build/browser"
	@echo "make notebooks    rebuild notebooks/ from lessons_src/     (LESSON=01, EDITION=en|zh)"
	@echo "make solutions    the notebooks with solutions filled in, into SOLUTIONS=build/solutions"
	@echo "make pretrain     train the models of assets/models/ from nothing; goes on after an interrupt"
	@echo "make pretrain-family  small models pre-trained alike, to be compared; goes on after an interrupt"
	@echo "make experiments  the tables over several seeds in assets/results/   (LESSON=01)"
	@echo "make baselines    what needs no fine-tuning, on the hand-written sets, into assets/results/"
	@echo "make data-report  counts, lengths, balance and ten random rows of each set"
	@echo "make bench        throughput and latency of the API with parallel clients, as ratios to one"
	@echo "make environment  rewrite environment.yml from pyproject.toml"
	@echo "make lint         ruff, and the drift checks of everything that is derived"
	@echo "make clean-env    delete .venv"

python:
	@if [ -z "$(PYTHON)" ]; then echo "No Python found. Install Python 3.11, 3.12 or 3.13 (python.org, your package manager," \
	  "pyenv or conda), then run make again; or name one: make lab PYTHON=/path/to/python3.12" >&2; exit 1; fi

env: python
	@$(BOOTSTRAP) env

lab: python
	@$(BOOTSTRAP) lab --edition "$(EDITION)" --port "$(PORT)"

test: python
	@$(BOOTSTRAP) test

verify: env
	$(RUN) lessons_src/verify.py $(SELECT)

browser: env
	$(RUN) lessons_src/browser.py --out "$(SHOTS)" $(SELECT)

notebooks: env
	$(BUILD_ENV) $(RUN) lessons_src/build.py $(SELECT)

solutions: env
	$(BUILD_ENV) $(RUN) lessons_src/build.py --solutions "$(SOLUTIONS)" $(SELECT)

pretrain: env
	GOMP_SPINCOUNT=0 $(RUN) lessons_src/pretrain.py
	GOMP_SPINCOUNT=0 $(RUN) lessons_src/distill.py

pretrain-family: env
	for n in $(FAMILY); do GOMP_SPINCOUNT=0 $(RUN) lessons_src/pretrain.py --sibling $$n || exit 1; done

experiments: env
	for n in $(or $(LESSON),$(EXPERIMENTS)); do $(BUILD_ENV) $(RUN) -m experiments.lesson_$$n || exit 1; done

baselines: env
	$(BUILD_ENV) $(RUN) lessons_src/baselines.py

data-report: env
	$(RUN) lessons_src/data_report.py

bench: env
	$(BUILD_ENV) $(RUN) lessons_src/bench.py

environment: python
	"$(PYTHON)" lessons_src/environment.py

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) lessons_src/environment.py --check
	$(RUN) lessons_src/build.py --check

clean-env:
	rm -rf .venv .venv.lock
