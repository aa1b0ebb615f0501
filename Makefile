# Every target sets up .venv by itself. The stamp is newer than pyproject.toml once everything is installed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
READY := .venv/.ready

.PHONY: setup demo test check bench docs clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv || { $(PYTHON) -m pip install --quiet virtualenv && $(PYTHON) -m virtualenv --quiet .venv; }
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

demo: $(READY)   ## train, evaluate and predict on built-in scenes; ends with the path of what to open
	@rm -rf demo
	.venv/bin/picie demo --out demo

test: $(READY)   ## the whole suite
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2

check: $(READY)  ## style and types
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

bench: $(READY)  ## an epoch beside the bare network and the naive recipe; DATA=folder takes your own images
	@mkdir -p benchmarks/results
	.venv/bin/picie bench $(DATA) --backbone resnet18 --backbone tf_efficientnet_lite0 --out benchmarks/results
	.venv/bin/picie bench $(DATA) --backbone tf_efficientnet_lite0 --freeze --out benchmarks/results

docs: $(READY)   ## the documentation as pages: site/index.html
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet && echo site/index.html

clean:
	rm -rf .venv demo site  # not runs/: those are yours
