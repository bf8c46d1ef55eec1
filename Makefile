# Two commands are all a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-oldest test-newest lint soak fuzz bench bench-gpu models sample-data clean

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard src/secbatch/*.c src/secbatch/models/native/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@# torch first and pinned: any other package would bring a build for GPUs, several gigabytes of it.
	$(BIN)/pip install --quiet --constraint constraints.txt "torch"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)  ## install, run the main job on bundled data with bundled models, look at the result
	$(BIN)/secbatch run jobs/quickstart.yaml
	$(BIN)/secbatch show enriched/quickstart --rows 8

test: $(STAMP)  ## the whole suite, a process for each of up to four cores
	@# Threads that wait let go of the core: those of the other processes need it.
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not soak" --numprocesses auto --maxprocesses 4 --dist loadfile

test-oldest: OTHER := oldest
test-oldest: CONSTRAINED := --constraint constraints-oldest.txt
test-newest: OTHER := newest
test-oldest test-newest:  ## the suite with the oldest or newest versions that are admitted: downloads 3 GB, torch for GPUs
	$(PYTHON) -m venv $(VENV)-$(OTHER)
	$(VENV)-$(OTHER)/bin/pip install --quiet --upgrade $(CONSTRAINED) --editable ".[dev]"
	OMP_WAIT_POLICY=PASSIVE $(VENV)-$(OTHER)/bin/python -m pytest -m "not soak" --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(STAMP)  ## the long runs
	$(BIN)/python -m pytest -m soak

fuzz: $(STAMP)  ## 100,000 generated inputs and job files, then as many again by a coverage-guided fuzzer (atheris)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[fuzz]"
	$(BIN)/python -m pytest -m soak tests/fuzz
	for kind in csv jsonl parquet job; do PYTHONPATH=tests/fuzz $(BIN)/python tests/fuzz/guided.py $$kind -runs=26000 || exit 1; done

bench: $(STAMP)  ## what is measured, against peers, with plots: about half an hour on 2 cores
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	for subject in encoder architectures chat endpoint training host_path start memory_growth repeats small_labels identity_and_ledger lost_work real_reports parity int8_agreement; do \
		echo "== $$subject"; $(BIN)/python benchmarks/$$subject.py || exit 1; done

bench-gpu: $(STAMP)  ## what is measured on a machine with a GPU, and its CPU in bfloat16
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/gpu_gaps.py
	$(BIN)/python benchmarks/encoder.py --quick --precision bfloat16 --rows 400000
	$(BIN)/python benchmarks/chat.py --quick
	$(BIN)/python -m pytest tests/cuda
	$(BIN)/python benchmarks/encoder_layer.py --precision bfloat16
	$(BIN)/python benchmarks/encoder.py --quick --device cpu --task fill-mask --precision bfloat16 --peers bfloat16 --peers float32

models: $(STAMP)  ## train the built-in models from a folder of corpora: make models CORPUS=DIR
	@test -n "$(CORPUS)" || { echo "say where the corpora are: make models CORPUS=DIR"; exit 2; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[train]"
	@# The chat model needs more of the corpora: what is missing is said at once, not after an hour of the other.
	$(BIN)/python -m secbatch.training.chat --corpus "$(CORPUS)" --output src/secbatch/builtin/chat
	$(BIN)/python -m secbatch.training.masked_lm --corpus "$(CORPUS)" --output src/secbatch/builtin/mlm

sample-data: $(STAMP)  ## rebuild the Parquet file of sample_data from its readable source
	$(BIN)/python sample_data/build.py

clean:
	rm -rf $(VENV) build dist enriched
