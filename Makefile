# Thin names over CMake, pip and pytest. `make help` lists them.
# A fresh machine needs Python >= 3.10 with venv, g++ >= 11 and make.

PYTHON ?= python3
BUILD ?= build/dev
REPORT ?= tests/gpu_report.json
# Where the pinned CPU build of torch comes from, if the active Python has none.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_PIN := 2.13.0+cpu

VENV := .venv
VPY := $(VENV)/bin/python
# .venv has its own CMake and ninja where the system's are missing or too old.
own = $(shell test -x $(VENV)/bin/$(1) && echo $(CURDIR)/$(VENV)/bin/$(1) || command -v $(1))
CMAKE = $(call own,cmake)
CTEST = $(call own,ctest)
NINJA = $(call own,ninja)
PIP = $(VPY) -m pip --disable-pip-version-check

# More options for CMake, for example CMAKE_ARGS=-DGG_WERROR=ON; scikit-build-core reads them too.
CMAKE_ARGS ?=
export CMAKE_ARGS

# Tests fill fresh memory with NaN; malloc's cache of small blocks would hand out old contents.
export GLIBC_TUNABLES := glibc.malloc.tcache_count=0

# Whatever the installed package is made from.
INPUTS := $(shell find CMakeLists.txt pyproject.toml cmake include src python -type f \
                  -not -name '*.pyc' 2>/dev/null)
CPP_FILES = $(shell find include src tests/cpp examples/cpp \
                    -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test gpu-test bench profile format lint docs wheel clean
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

demo: $(BUILD)/installed-demo  ## train a small MoE language model, on the GPU if there is one
	$(VPY) examples/train_moe_lm.py $(ARGS)

test: $(BUILD)/installed-test  ## build everything (CUDA where nvcc is), run every test
	$(CMAKE) --build $(BUILD) --target tests
	$(CTEST) --test-dir $(BUILD) --output-on-failure --no-tests=error
	$(VPY) tools/check_symbols.py $(BUILD)/libgrouped_gemm_torch_*.so
	$(VPY) -m pytest tests/python -q $(ARGS)

# On a machine with a GPU, on libraries built anywhere: installs nothing, needs no network.
# PATHS=sm70,sm75: once for each path, forced, side by side; all into one report. A build with
# GG_CUDA_ARCHS=ptx has what older generations run, for a newer GPU's driver to compile.
PATHS ?= $(or $(GG_FORCE_PATH),auto)
gpu-test:  ## run the tests on this machine's GPU, with $(PYTHON) and the libraries in $(BUILD)
	$(PYTHON) tools/run_paths.py --build $(BUILD) --report $(REPORT) --paths "$(PATHS)" -- $(ARGS)

# The README's performance section and benchmarks/results/ come from RESULTS and nothing else.
RESULTS ?= build/bench.json
bench: $(BUILD)/installed-demo  ## measure this machine: ARGS="--quick", "--all", "--case 'fwd/*'"
	$(VPY) -m grouped_gemm bench --json $(RESULTS) $(ARGS)

profile: $(BUILD)/installed-demo  ## Nsight Compute on one case: CASE=fwd/olmoe-up/random/bf16
	$(VPY) -m grouped_gemm bench profile $(if $(CASE),'$(CASE)') $(ARGS)

format: $(VENV)/dev-tools  ## rewrite the sources in the house format
	$(VENV)/bin/clang-format -i $(CPP_FILES)
	-$(VENV)/bin/ruff check --fix -q .
	$(VENV)/bin/ruff format -q .

lint: $(VENV)/dev-tools  ## check format and layers, change nothing
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VPY) tools/check_layers.py

docs: $(BUILD)/installed-test  ## docs/api.md from docstrings and headers
	$(VPY) tools/make_api_docs.py

WHEEL_ARCHS ?= release
WHEEL_BUILD ?= build/wheel
wheel: $(VENV)/ready  ## a wheel for every GPU architecture, in dist/
	rm -f dist/*.whl
	GG_CUDA_ARCHS="$(WHEEL_ARCHS)" $(PIP) wheel -v --no-deps --no-build-isolation -w dist \
	  -C build-dir=$(WHEEL_BUILD) .
	$(VPY) tools/check_wheel.py dist/*.whl

clean:  ## remove what the other targets made
	rm -rf .venv build dist

# ---- steps -------------------------------------------------------------------

$(VENV)/ready: tools/setup_venv.py
	$(PYTHON) tools/setup_venv.py --venv $(VENV) --torch-pin $(TORCH_PIN) --torch-index $(TORCH_INDEX)
	@touch $@

$(VENV)/dev-tools: pyproject.toml | $(VENV)/ready
	$(PIP) install -q --ignore-installed $(shell sed -n 's/^dev = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
	@touch $@

# CMake first, since it shows its progress; pip then packs what is built.
# $(1): GG_CUDA, $(2): GG_CUDA_ARCHS, $(3): other CMake options, $(4): extras
define install
$(CMAKE) -S . -B $(BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(NINJA) -DCMAKE_BUILD_TYPE=Release \
  -DPython3_EXECUTABLE=$(abspath $(VPY)) -DGG_TORCH=ON -DGG_CUDA=$(1) -DGG_CUDA_ARCHS="$(2)" $(3) \
  $(CMAKE_ARGS)
$(CMAKE) --build $(BUILD) --target wheel_libraries
GG_CUDA=$(1) GG_CUDA_ARCHS="$(2)" $(PIP) install -q --no-build-isolation \
  -C build-dir=$(BUILD) '.[$(4)]'
endef

# With a GPU and a torch that can use it, for that GPU alone; else the CPU part, quickly.
GPU_HERE = $(shell $(VPY) -c 'import torch; torch.version.cuda and torch.cuda.is_available() and print("yes")')
$(BUILD)/installed-demo: $(INPUTS) $(VENV)/ready
	$(call install,$(if $(GPU_HERE),AUTO,OFF),$(if $(GPU_HERE),native,fast),,demo)
	@rm -f $(BUILD)/installed-test; touch $@

# What the tests need is more than what the demo needs.
GG_CUDA ?= AUTO
GG_CUDA_ARCHS ?= fast
$(BUILD)/installed-test: $(INPUTS) $(VENV)/ready
	$(call install,$(GG_CUDA),$(GG_CUDA_ARCHS),-DGG_BUILD_TESTS=ON,$(TEST_EXTRAS))
	@touch $@ $(BUILD)/installed-demo
TEST_EXTRAS := demo,test
