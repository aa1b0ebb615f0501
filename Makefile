# Every target sets up .venv by itself. The stamp is newer than pyproject.toml once everything is installed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
READY := .venv/.ready
BENCH = .venv/bin/python -m benchmarks $(DATA) --out benchmarks/results

.PHONY: setup demo test test-long test-backbones fuzz check bench docs clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv || { $(PYTHON) -m pip install --quiet virtualenv && $(PYTHON) -m virtualenv --quiet .venv; }
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

demo: $(READY)   ## train, evaluate and predict on built-in scenes; prints the path of the report
	@rm -rf demo
	.venv/bin/picie demo --out demo

test: $(READY)   ## run the whole test suite
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2

test-long: $(READY)  ## run the notebooks, export the default backbone, interrupt commands; takes about 7 minutes of CPU
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 -m long -k 'not every_listed_backbone' tests

test-backbones: $(READY)  ## export every listed backbone of up to 30 million parameters; takes minutes
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 -m long -k every_listed_backbone tests

fuzz: $(READY)   ## try 2,016 damaged inputs; takes about 7 minutes of CPU
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.robustness

check: $(READY)  ## check style, types and import contracts
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

bench: $(READY)  ## compare an epoch with the bare network and the naive recipe; DATA=folder uses your own images
	@mkdir -p benchmarks/results
	$(BENCH) --backbone resnet18 --backbone tf_efficientnet_lite0
	$(BENCH) --backbone tf_efficientnet_lite0 --freeze

docs: $(READY)   ## build the documentation: site/index.html
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet && echo site/index.html

clean:
	rm -rf .venv demo site  # keeps runs/
