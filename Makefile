# Everything runs in .venv, which the first target makes. PYTHON chooses the interpreter it is made with (3.10 or newer).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# A process per core, up to four: each of them imports PyTorch. Tests of one file share what they have trained.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
TESTS := not slow and not thorough

.PHONY: pendulum flow pretrained celeba test test-slow docs lint first-commands links bench quality quality-best table1 clean

pendulum: $(STAMP)  ## the main job: train on Pendulum, score, write runs/pendulum/report.html (a minute or two)
	$(BIN)/causalvae train pendulum --overwrite

flow: $(STAMP)  ## the same on Flow
	$(BIN)/causalvae train flow --overwrite

celeba: $(STAMP)  ## faces of your own copy: make celeba ROOT=path/to/celeba (half an hour for 8,000 faces on 2 cores that compute in bfloat16, an hour on others)
	$(BIN)/causalvae train celeba --root $(ROOT) --overwrite

pretrained: $(STAMP)  ## the runs that come with the package: trains both, and keeps weights, configuration and scores
	$(BIN)/python benchmarks/pretrained.py

test: $(STAMP)  ## the tests (three minutes on 2 cores); make test TESTS="not slow" is what CI runs (eleven)
	$(BIN)/python -m pytest $(PARALLEL) -m "$(TESTS)"

test-slow: $(STAMP)  ## the others
	$(BIN)/python -m pytest $(PARALLEL) -m "slow or thorough"

docs: $(STAMP)  ## the documentation: build/docs/index.html
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

lint: $(STAMP)  ## formatting, lint, types, import directions, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

first-commands: $(STAMP)  ## the README's first commands from a wheel, in an environment with nothing else of the project
	$(BIN)/python .ci/first_commands.py

links: $(STAMP)  ## the documentation's links to other sites (those within it are checked by make test)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m sphinx -q -b linkcheck -D plot_gallery=0 docs build/links

bench: $(STAMP)  ## speed: renderers, training step, memory, counterfactuals, CelebA's loader, MIC and TIC, the score card, time to the paper's scores
	$(BIN)/python benchmarks/renderer.py --data pendulum
	$(BIN)/python benchmarks/renderer.py --data flow
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/throughput.py --out benchmarks/results/throughput.json --figure docs/images/cost.png
	$(BIN)/python benchmarks/memory.py --out benchmarks/results/memory.json
	$(BIN)/python benchmarks/celeba_loader.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/concepts.py
	$(BIN)/python benchmarks/scorecard.py
	$(BIN)/python benchmarks/time_to_score.py

quality: $(STAMP)  ## Pendulum and Flow over 5 seeds, and few labels (about 50 minutes on 2 cores; goes on where it was stopped)
	$(BIN)/python benchmarks/quality.py --data pendulum
	$(BIN)/python benchmarks/quality.py --data flow
	$(BIN)/python benchmarks/quality.py --runs runs/few_labels --out benchmarks/results/few_labels.json -- --label-share 0.01

quality-best: $(STAMP)  ## the same with --preset best, mechanism noise and held-out combinations, and the ablation (hours)
	for data in pendulum flow; do \
	  $(BIN)/python benchmarks/quality.py --data $$data --runs runs/best --out benchmarks/results/$${data}_best.json -- --preset best && \
	  $(BIN)/python benchmarks/quality.py --data $$data --runs runs/noise --out benchmarks/results/$${data}_noise.json -- --noise 0.3 && \
	  $(BIN)/python benchmarks/quality.py --data $$data --runs runs/split --out benchmarks/results/$${data}_split.json -- --partition compositional || exit 1; \
	done
	$(BIN)/python benchmarks/ablation.py
	$(BIN)/python benchmarks/pixel_noise.py --out benchmarks/results/pixel_noise.json

table1: $(STAMP)  ## the paper's table 1, all methods over 5 seeds (hours; goes on where it was stopped)
	$(BIN)/python -m benchmarks.table1

$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
