# Every target uses one environment, .venv, and sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# What the lab, the stub of NVIDIA's library, the C floor of the benchmarks, the IPMI simulator, the pages in a real
# browser and the metrics in a real Prometheus need from Debian.
DEBIAN := python3-venv gcc libc6-dev munge slurm-wlm slurmdbd mariadb-server openipmi ipmitool chromium fonts-dejavu-core prometheus rpm strace bindfs

.DEFAULT_GOAL := help
.PHONY: help setup system demo test lint bench fuzz chaos accuracy golden docs man site compat pythons install-check machine node sample up down clean coverage mutants

help: ## show these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

system:
	@if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "note: not root on Debian: parts that need Slurm ($(DEBIAN)) are skipped, by name" >&2; \
	else \
	    missing=$$(for p in $(DEBIAN); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	    if [ -n "$$missing" ]; then \
	        echo "installing from Debian:" $$missing; \
	        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	    fi; \
	fi

$(STAMP): pyproject.toml | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[nvml,dev]'
	touch $(STAMP)

# An editable checkout compiles its modules at its first start, or, where nothing may be kept (by a shell's setting, by the
# lab's users), at every one: a third of a command's time.
unexport PYTHONDONTWRITEBYTECODE
setup: system $(STAMP) ## install what everything below needs: Debian packages (as root) and .venv
	@$(BIN)/python -m compileall -q hpccarbon tests bench

demo: setup ## the main job on a private Slurm cluster: mixed load, aggregate, reports; leaves .demo/
	$(BIN)/python -m tests.lab.demo

# What the machine has once (the private cluster, real cgroups) mostly waits for jobs: the rest runs beside it. What no
# clock matters to (and the packages, which are built for all their tests at once) takes what these two leave of the CPUs.
CALM := tests/summary tests/report tests/test_packages.py tests/test_accuracy.py tests/test_cli.py \
	tests/site/test_aggregate.py tests/site/test_retention.py tests/submit/test_green_year.py tests/tracker/test_compare.py
parts = mkdir -p build; \
	$(1) -m pytest -m "not lab and not root" $(CALM:%=--ignore=%) >build/rest.log 2>&1 & rest=$$!; \
	nice -n 19 $(1) -m pytest $(CALM) >build/calm.log 2>&1 & calm=$$!; \
	$(1) -m pytest -m "lab or root" $(CALM:%=--ignore=%); once=$$?; \
	wait $$rest; rest=$$?; wait $$calm; calm=$$?; cat build/rest.log build/calm.log; [ $$once$$rest$$calm = 000 ]

test: setup lint ## the whole suite; without root and Slurm the lab's tests are skipped, loudly
	@$(call parts,$(BIN)/python)

coverage: setup ## which branches of the base, node/ and site/ the whole suite takes (minutes; what SIGKILL ends tells nothing)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[coverage]'
	rm -rf build/coverage && mkdir -p -m 1777 build/coverage  # tests run programs as other users, too
	-@$(call parts,$(BIN)/python -m coverage run)
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

mutants: setup ## our arithmetic broken in some 2,000 places, one at a time: does a test notice? PATTERN=hpccarbon.units.*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutation]'
	$(BIN)/python -m tests.mutants $(PATTERN)

lint: setup ## ruff, mypy --strict, no dead code, no unused dependency
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture
	$(BIN)/deptry .

bench: setup ## benchmarks: each a ratio in one run; prints a table, writes build/bench.json; NAMES="day dask big year": minutes
	$(BIN)/python -m bench $(NAMES)

fuzz: setup ## 120,000 damaged inputs for everything that reads what others wrote; INPUTS=, SEED=; prints a table
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --inputs $(or $(INPUTS),120000) --seed $(or $(SEED),1)

chaos: setup ## crashes, full disks, wrong clocks, storms, from one seed; SEED=; prints a table (minutes; root for all)
	$(BIN)/python -m tests.chaos --seed $(or $(SEED),1)

accuracy: setup ## the division and the peers' published formulas against a known truth; rewrites docs/accuracy.md
	$(BIN)/python -m bench.accuracy

golden: setup ## rewrite the golden files of the commands' output; review the diff
	HPCCARBON_GOLDEN=1 $(BIN)/python -m pytest -q tests/report tests/summary tests/test_cli.py tests/site/test_audit.py

docs: setup ## rewrite the pages that are made from the code, docs/cli.md, schema.md, config.md, api.md among them
	$(BIN)/python docs/generate.py

site: setup ## the pages of docs/ as a site in build/site; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/site

compat: setup ## the Slurm tests against Slurm 24.11 and 26.05, in Debian folders below build/compat (root, minutes)
	@dpkg-query -W debootstrap >/dev/null 2>&1 || apt-get install -y -qq debootstrap >/dev/null
	$(BIN)/python -m tests.compat

pythons: setup ## the suite without the lab on Python 3.10 to 3.13, 3.10 with the oldest dependencies too; the badge (minutes)
	@$(BIN)/python -m tests.pythons; status=$$?; $(BIN)/python docs/generate.py; exit $$status

install-check: setup ## docs/install.md to the letter, in a clean Debian folder; units and packages under a systemd that boots there (root)
	@dpkg-query -W debootstrap >/dev/null 2>&1 || apt-get install -y -qq debootstrap >/dev/null
	$(BIN)/python -m tests.install
	$(BIN)/python -m tests.booted

machine: setup ## a Debian 13 machine in QEMU: real cgroup v2, systemd and Slurm 24.11; a reboot and a power cut on the way (root, minutes)
	@dpkg-query -W debootstrap qemu-system-x86 >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends debootstrap qemu-system-x86 >/dev/null
	$(BIN)/python -m tests.machine

node: setup ## one file for compute nodes, and its .deb and .rpm, in dist/; PYTHON: the Python that the nodes have
	$(PYTHON) -m venv build/node
	build/node/bin/python slurm_scripts/deploy/build_node.py . dist/hpccarbon-node.pyz
	$(BIN)/python slurm_scripts/deploy/build_packages.py dist/hpccarbon-node.pyz dist

sample: setup ## record the sample ledger in the package anew, in the lab (12 minutes)
	$(BIN)/python -m tests.lab.sample

man: setup ## the manual pages, from the commands' help, into build/man
	$(BIN)/python docs/man.py

up: setup ## start the lab and leave it running (python -m tests.lab run CMD)
	$(BIN)/python -m tests.lab up

down: setup ## stop the lab and remove every trace of it
	$(BIN)/python -m tests.lab down

clean: ## remove what the other targets made, but for the lab (make down)
	rm -rf $(VENV) build dist .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
