# Short names for three commands of the documentation. `make` alone lists them; `make -n TARGET` prints what a target runs.
#
#   make dev-install
#   make runtime-image ENGINE=docker VARIANT=cpu
#   make pack SUITE=subset OPTIONS='-n 4 --net 1'

SUITE ?= smoke
OPTIONS ?=
VARIANT ?= cuda
ENGINE ?= $(or $(INVARLOCK_CONTAINER_ENGINE),$(if $(shell command -v podman),podman,$(if $(shell command -v docker),docker,podman)))

.PHONY: help dev-install runtime-image pack

help:
	@printf '%s\n' \
	  'make dev-install                 install InvarLock, its tests and its linters into the active environment' \
	  'make runtime-image               build the runtime image; ENGINE=podman|docker, VARIANT=cuda|cpu' \
	  'make pack SUITE=subset           run a suite and build its evidence pack; OPTIONS="-n 4 --net 1" are options of pytest'

dev-install:
	pip install -c constraints.txt -e '.[suite,test,lint]' tox

runtime-image:
	$(ENGINE) build -t invarlock-runtime:local --build-arg VARIANT=$(VARIANT) .

pack:
	pytest suites -m '$(SUITE)' $(OPTIONS)
