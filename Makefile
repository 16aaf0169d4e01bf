# make demo   set up and draw the model card's picture with the embedded model
# make test   set up and pass ruff, mypy and the tests that need Python only
# make test-system   the tests that need more: PostgreSQL, chromium, node and npm (packages of these names, util-linux and systemd)
# PYTHON=python3.12 make ...   with another Python (3.11 or newer)
# DEVICE=cuda make miniature   its training on a GPU, minutes in place of hours

PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cpu
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile -c constraints.txt

PROMPT := newest, extremely aesthetic, best quality, 1girl, solo, cat ears, pink hair, orange eyes, long hair, bare shoulders, \
looking at viewer, smile, indoors, casual, living room, playing guitar,
NEGATIVE := very displeasing, worst quality, monochrome, realistic, oldest, loli,

.PHONY: demo test test-system check format miniature clean

demo: $(VENV)/.installed
	@$(BIN)/sote generate "$(PROMPT)" --negative "$(NEGATIVE)" --preset card --seed 1 --out "outputs/card-{seed}.png"

test: check
	$(BIN)/python -m pytest -q -n 2 -m "not system"

test-system: $(VENV)/.installed-system
	npm ci --silent --prefix tests/clients
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m system

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .

# Repeats the training of the embedded model: draws the pictures, trains each part and what measures them, and measures the gates.
# Hours on a CPU; stopped, it goes on where it was.
miniature: $(VENV)/.installed-dev
	$(BIN)/sote train miniature all --device $(DEVICE) --data work/miniature/data --out work/miniature/run --count 60000 \
		--processes $$(nproc) --model sotediffusion/miniature/weights
	$(BIN)/python benchmarks/adherence.py --model sotediffusion/miniature/weights --judge work/miniature/run/judge \
		--probe work/miniature/run/probe --out outputs/adherence

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

# k-diffusion's samplers are compared with ours; its own requirements (torchvision among them) are not needed for that.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps k-diffusion
	@$(BIN)/python -c "import skia" || { echo "skia needs two system libraries: apt-get install libegl1 libgl1"; exit 1; }
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-system: $(VENV)/.installed-dev
	$(PIP) -e ".[dev,system]"
	@touch $@

clean:
	rm -rf $(VENV) build dist outputs .pytest_cache .mypy_cache .ruff_cache
