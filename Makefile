# Everything runs in a virtual environment that the first target makes. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= results

.PHONY: demo test test-slow test-fuzz test-newest-timm lint digits figures readme docs check-cuda clean

demo: $(VENV)/.installed ## attack an embedded triplet by the standard protocol; write its entry, card, page and plot
	$(BIN)/asz eval Demo2026Constant --dataset digits --out $(OUT) --compare-with eval/results
	$(BIN)/asz card Demo2026Constant --dataset digits --results $(OUT) --out $(OUT)/cards
	$(BIN)/asz plot trade-off $(OUT) eval/results --dataset digits --threat-model Linf --out $(OUT)/trade-off.png
	$(BIN)/asz leaderboard $(OUT) eval/results --cards $(OUT)/cards --cards model_cards
	@echo "Look: open $(OUT)/leaderboard.html in a browser; the plot is $(OUT)/trade-off.png, the card is in $(OUT)/cards"

test: lint ## lint, type check, tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-fuzz: $(VENV)/.installed ## damaged files, strange inputs, wrong command lines: a few minutes
	$(BIN)/python -m pytest -m fuzz tests/fuzz

test-newest-timm: ## the core with the newest timm, in an environment without RobustBench (which pins an older one)
	$(PYTHON) -m venv $(VENV)-newest-timm
	$(VENV)-newest-timm/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-newest-timm/bin/python -m pip install --quiet -e '.[evaluation,tests]' 'timm>=1.0.31'
	$(VENV)-newest-timm/bin/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

digits: $(VENV)/.installed ## make the embedded digits triplets again
	$(BIN)/python eval/recipes/digits.py

figures: $(VENV)/.installed ## measure and draw the constant-alpha curve of the digits triplets
	$(BIN)/python eval/constant_curve.py Demo2026Adaptive --dataset digits --batch-size 360 --out eval/results

readme: $(VENV)/.installed ## the tables and the figure of README.md and docs/, from the records in eval/results/
	$(BIN)/python eval/front_page.py

docs: $(VENV)/.installed ## the site, in site/, with the API reference; fails on a broken link
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/mkdocs build --strict

check-cuda: $(VENV)/.installed ## is everything right and fast on this GPU? CIFAR=folder or .npz; at most 12 minutes
	$(BIN)/python eval/check_cuda.py $(if $(CIFAR),--data $(CIFAR))

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-newest-timm
