# make demo    Table 2 of the paper from real training on real images, at the smallest preset (about twelve minutes)
# make studies-smoke    every study to its table at the smallest preset (hours; repeating it continues), or some, shorter:
#              make studies-smoke STUDIES='kernel trunk' OPTIONS='--set train.steps=40'
# make test    the tests that need neither root nor a system package
# make lint    ruff and mypy
# make docs    the documentation, as a site of its own in site/
# make bench   speed, as ratios against what one would run instead
# make gpu-check   what a new GPU has to show, in eight minutes and without a network; nothing is installed for it
#
# Every target makes .venv first when it is missing or older than requirements.lock.
# PYTHON chooses the interpreter (>= 3.11):  make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# two jobs of one thread each: networks this small keep no two cores busy with one step
DEMO := $(BIN)/python -m studies.run ablation_table2 --preset smoke --cluster local --jobs 2

.PHONY: demo studies-smoke test test-slow test-slurm test-browser test-postgres test-wheel lint docs format bench gpu-check lock clean
.DEFAULT_GOAL := demo

.venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fvar needs Python >= 3.11, $(PYTHON) is older: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	$(DEMO)

studies-smoke: $(STAMP)  ## a study that fails (1) or cannot start (2) is named at the end; Ctrl-C ends all
	@failed=; for name in $(or $(STUDIES),$$($(BIN)/python -m studies list --names | grep -vx grid)); do \
	  $(BIN)/python -m studies.run $$name --preset smoke --cluster local --jobs 2 $(OPTIONS) || \
	    { status=$$?; [ $$status -le 2 ] || exit $$status; failed="$$failed $$name"; }; done; \
	  [ -z "$$failed" ] || { echo "not to its table:$$failed"; exit 1; }

test: $(STAMP)  ## two at a time: every test computes on one thread
	$(BIN)/python -m pytest -n 2 --dist loadfile \
	  -m "not slow and not slurm and not browser and not postgres and not wheel and not gpu"

test-slow: $(STAMP)  ## minutes each; those of the loopback cluster need root
	$(BIN)/python -m pytest -m slow --timeout 3000

test-slurm: $(STAMP)  ## as root: installs Debian's SLURM; three clusters on 127.0.0.1, since most tests wait
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "slurm and not slow" tests/slurm --timeout 900

test-browser: $(STAMP)  ## needs Debian's chromium; pictures of pages stay in build/screenshots
	$(BIN)/python -m pytest -m browser

test-postgres: $(STAMP)  ## as root; needs Debian's postgresql and python3-psycopg2
	$(BIN)/python -m pytest -m postgres --timeout 900

test-wheel: $(STAMP)  ## builds the wheel, installs it in a fresh environment, runs a shortened Table 2 elsewhere
	$(BIN)/python -m pytest -m wheel

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(STAMP)  ## without network; a warning is an error, a link that leads nowhere too
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@set -e; for file in tests/benchmarks/bench_*.py; do \
	  $(BIN)/python -m tests.benchmarks.$$(basename $$file .py); done

gpu-check:  ## on one GPU; ARGS="--original DIR" adds the original's own code
	@$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON)) -m tests.gpu.check $(ARGS)

lock: $(STAMP)  ## write what .venv holds now as exact pins
	$(BIN)/python -m pip freeze --exclude-editable --all | $(PYTHON) .ci/pin.py > requirements.lock

clean:
	rm -rf .venv build site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
