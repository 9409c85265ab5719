# Every target is one line of work; `make test` is the whole suite.
PY ?= python3
VENV = .venv
BIN = $(VENV)/bin
SEEDS ?= 100
FROM ?= 1
STATES ?= 1000000
GRAPHS ?= 2000
SECONDS ?= 60
SEED ?= 1
KILLS ?= 20
ROUNDS ?= 3
WRITES ?= 200000
JOBS ?= 2
PARTS ?=
PACKETS ?= 1000000
MEMBERS ?= 100
WATCHERS ?= 1000
DELIVERIES ?= 1000000

.PHONY: run venv dev test test-processes test-others test-computed lint types bench bench-tools failover cluster sim mutants model links chaos tools clients crash-points mixed gossip-sim gossip-fuzz gossip-fuzz-live gossip-hosts watchers lock-set lock-set-live handover patroni

run: venv
	$(BIN)/gemot agent -dev -hint

venv: $(BIN)/gemot

$(BIN)/gemot: pyproject.toml
	$(PY) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	@touch $@

dev: $(VENV)/.dev

$(VENV)/.dev: $(BIN)/gemot
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --group dev
	@touch $@

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy

COMPUTED = tests/simulation tests/storage tests/state tests/mutants

# Compiled first: where PYTHONDONTWRITEBYTECODE is set, as in many a container, each of the hundreds of programs
# that the tests start would else compile it all anew. Then three parts at a time: two that mostly wait for
# processes, and one that computes in the time which they leave.
test: dev tools
	$(BIN)/python -m compileall -q agent checks dns server
	$(MAKE) --no-print-directory -j 3 test-processes test-others test-computed

test-processes:
	$(BIN)/pytest -q --durations=25 tests/cluster

test-others:
	$(BIN)/pytest -q --durations=25 $(addprefix --ignore ,tests/cluster $(COMPUTED))

test-computed:
	nice -n 10 $(BIN)/pytest -q --durations=25 $(COMPUTED)

sim: dev
	$(BIN)/python tests/simulation/run.py --seeds $(SEEDS) --from $(FROM)

crash-points: dev
	$(BIN)/python tests/simulation/crash_points.py --jobs $(JOBS)

mutants: dev
	$(BIN)/python tests/mutants/run.py $(if $(ONLY),--only $(ONLY))

lock-set: dev
	$(BIN)/python tests/simulation/lock_set.py --writes $(WRITES) --from $(FROM)

model: dev
	$(BIN)/python tests/raft/model_check.py --states $(STATES)

links: dev
	$(BIN)/python tests/raft/link_check.py --graphs $(GRAPHS)

mixed: dev
	$(BIN)/python tests/simulation/mixed.py --seeds $(SEEDS) --from $(FROM)

gossip-sim: dev
	$(BIN)/python tests/gossip/sim.py --members $(MEMBERS)

gossip-fuzz: dev
	$(BIN)/python tests/gossip/fuzz.py --packets $(PACKETS) --seed $(SEED)

gossip-fuzz-live: dev
	$(BIN)/python tests/gossip/fuzz_live.py --datagrams $(PACKETS) --seed $(SEED)
	$(BIN)/python tests/gossip/fuzz_sealed.py --datagrams $(PACKETS) --seed $(SEED)

gossip-hosts: dev
	$(BIN)/python tests/cluster/cut_hosts.py --bar --seed $(SEED)

watchers: dev
	$(BIN)/python tests/cluster/watchers.py --watchers $(WATCHERS) --deliveries $(DELIVERIES) --seed $(SEED)

chaos: dev
	$(BIN)/python tests/cluster/chaos.py --seconds $(SECONDS) --seed $(SEED)

lock-set-live: dev
	$(BIN)/python tests/cluster/lock_set.py --seconds $(SECONDS) --seed $(SEED)

handover: dev
	$(BIN)/python tests/cluster/handover.py --kills $(KILLS) --seed $(SEED)

tools:
	sh tests/support/fetch_tools.sh

bench-tools:
	sh bench/fetch_zookeeper.sh

clients: dev
	$(BIN)/python tests/clients/run.py

patroni: dev
	$(BIN)/python tests/clients/patroni_run.py --rounds $(ROUNDS) --seed $(SEED)

cluster: venv tools
	@$(BIN)/python tests/support/demo_cluster.py

bench: dev tools bench-tools
	$(BIN)/python bench/run.py $(PARTS)

failover: dev tools
	$(BIN)/python bench/failover.py --kills $(KILLS)
