# Every target sets up what it needs in .venv, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,
READY := $(VENV)/.ready
# TensorRT-RTX builds engines without a GPU; it has wheels for 64-bit x86 Linux only.
EXTRAS := train$(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(comma)tensorrt-rtx)

.PHONY: demo test lint format docs plugins gpu-test gpu-bench fuzz fuzz-replay fuzz-ops fuzz-plugin fuzz-qonnx lint-native soak wheel sbom oldest clean

demo: $(READY)
	$(BIN)/python -m training.demo

test: $(READY)
	$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find plugins -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find plugins -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

# The TensorRT plugin library, for all GPUs or for some: make plugins ARCHITECTURES=89-real
plugins: $(READY)
	$(BIN)/python plugins/scripts/build_library.py \
		$(if $(ARCHITECTURES),--architectures "$(ARCHITECTURES)") --jobs $(or $(JOBS),2)

# Every plugin on this machine's GPU, then under compute-sanitizer. Needs no TensorRT.
gpu-test: $(READY)
	$(BIN)/python plugins/scripts/gpu_test.py

# The plugins against cuDNN through torch; writes benchmarks/results/gpu-NAME.md.
gpu-bench: $(READY)
	$(BIN)/python -m benchmarks.gpu

# Mutated files through the command line: make fuzz COUNT=100000 SEED=7. Findings go to build/fuzz;
# make fuzz-replay FILE=build/fuzz/NAME runs one again.
fuzz: $(READY)
	PYTHONPATH=tests:.:plugins/scripts $(BIN)/python -m fuzz --count $(or $(COUNT),2000) --seed $(or $(SEED),1) \
		--jobs $(or $(JOBS),2)

fuzz-replay: $(READY)
	PYTHONPATH=tests:.:plugins/scripts $(BIN)/python -m fuzz --replay $(FILE)

# The op library under ASan and UBSan, in ONNX Runtime with mutated nodes: make fuzz-ops COUNT=20000
fuzz-ops: $(READY)
	PYTHONPATH=tests:.:plugins/scripts $(BIN)/python -m fuzz --sanitized \
		$(if $(FILE),--replay $(FILE),--targets ops --count $(or $(COUNT),2000) --seed $(or $(SEED),1))

# Random QONNX files, imported and compared with QONNX's own executor: make fuzz-qonnx COUNT=10000
fuzz-qonnx: $(READY)
	OMP_NUM_THREADS=1 PYTHONPATH=tests:.:plugins/scripts $(BIN)/python -m fuzz.qonnx \
		$(if $(FILE),--replay $(FILE),--count $(or $(COUNT),2000) --seed $(or $(SEED),1) --jobs $(or $(JOBS),2))

# The TensorRT plugins from arbitrary bytes, by libFuzzer: make fuzz-plugin COUNT=1000000
fuzz-plugin: $(READY)
	$(BIN)/python plugins/scripts/fuzz_plugin.py $(if $(FILE),--replay $(FILE),--count $(or $(COUNT),100000))

# clang-tidy over all C++ that ships; takes minutes.
lint-native: $(READY)
	$(BIN)/python plugins/scripts/tidy.py

# 10,000 inferences of changing batches and threads in many sessions: memory stays flat.
soak: $(READY)
	PYTHONPATH=tests:.:plugins/scripts $(BIN)/python -m soak --count $(or $(COUNT),10000)

# The same commit gives the same bytes, wherever it lies.
wheel: $(READY)
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet --no-deps \
		--wheel-dir dist .

# What an installation consists of, as CycloneDX: dist/sbom.json.
sbom: $(READY)
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.json $(BIN)/python

# The tests with the oldest versions that pyproject.toml allows: gigabytes, in build/oldest.
OLDEST := build/oldest
oldest: $(READY)
	test -x $(OLDEST)/bin/python || $(BIN)/uv venv --quiet --seed --python $(PYTHON) $(OLDEST)
	$(BIN)/uv pip compile --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
		pyproject.toml $(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra)) --group dev \
		--output-file $(OLDEST)/versions.txt
	$(BIN)/uv pip sync --quiet --python $(OLDEST)/bin/python $(OLDEST)/versions.txt
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --no-deps --editable .
	$(OLDEST)/bin/python -m pytest -W default -p no:cacheprovider -n $(or $(JOBS),2) --dist worksteal \
		$(or $(TESTS),tests)

# Reads in build/site/index.html.
docs: $(READY)
	$(BIN)/python docs/op_reference.py > docs/ops.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Installed again only when pyproject.toml or the native code changed.
$(READY): pyproject.toml $(shell find plugins -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)
	@echo "Installing packages into $(VENV): minutes and gigabytes the first time, torch most of them."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]" --group dev
	touch $@

clean:
	rm -rf $(VENV) build dist demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
