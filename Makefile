# One environment for everything: created and filled on the first use of any target, separate from ComfyUI's.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.14.1 torchvision==0.29.1
READY := $(VENV)/.ready
# A real ComfyUI to test in; a checkout of one's own, named by COMFYUI_PATH, takes its place.
HOST := .host
HOST_READY := $(HOST)/.ready

# A worker a core and a thread a worker: threads of several processes would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test check lint host hosts clean

demo: $(READY)
	$(BIN)/python -m training.demo

test: $(READY) $(if $(COMFYUI_PATH),,$(HOST_READY))
	$(PYTEST)

# For every edit, in two minutes: whole commands, documents and hosts are left to make test.
check: lint
	$(PYTEST) -m "not slow and not host" tests/core tests/nodes tests/test_rooms.py

# To ComfyUI the whole folder is one package, of which nodes is a part: build/pack stands for its name there.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	mkdir -p build && ln -sfn .. build/pack
	cd build && $(abspath $(BIN))/mypy --config-file ../pyproject.toml -p pack.nodes

# torch first and alone, so that no other package's wish picks another build of it.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[train,eval,test]' $(TORCH)
	touch $(READY)

host: $(HOST_READY)

$(HOST_READY): tests/host/install.py
	$(PYTHON) tests/host/install.py $(HOST)

# The tests inside older ComfyUIs, one after the other; they share the newest one's packages (0.1 GB each).
OLDER_HOSTS := 0.26.0 0.20.1 0.16.3

hosts: $(READY) $(HOST_READY) $(OLDER_HOSTS:%=host-%)

host-%: $(READY) $(HOST_READY)
	$(PYTHON) tests/host/install.py $(HOST)/$* --comfyui $* --over $(HOST)
	COMFYUI_PATH=$(abspath $(HOST))/$*/ComfyUI COMFYUI_PYTHON=$(abspath $(HOST))/$*/venv/bin/python \
		$(PYTEST) tests/host

clean:
	rm -rf $(VENV) $(HOST) demo_output build *.egg-info
