"""What one seed draws before it begins: which faults are on, how often, and how large everything is.

Each run leaves many faults out on purpose: those that are always on hide each other (Groce et al., "Swarm
Testing", ISSTA 2012).
"""

from __future__ import annotations

from random import Random

import msgspec
from simulation.network import Weather

from gemot.server.config import ServerConfig
from gemot.server.model.autopilot import AutopilotConfig
from gemot.server.raft.types import RaftConfig
from gemot.server.space import SpaceConfig

OFTEN = (
    "crash-in-install",
    "crash-in-restore",
    "crash-in-staging",
    "disk-fills",
    "eio-read-meta",
    "flip-active",
    "flip-meta-a",
    "flip-meta-b",
    "flip-sealed",
    "flip-snapshot",
    "flip-state",
    "flip-wal",
    "lost-write",
    "lost-write-meta",
    "lost-write-snap",
    "lost-write-state",
    "misdirected-write",
    "misdirected-write-state",
    "rot-sealed",
    "rot-snapshot",
    "rot-state",
    "server-joins",
    "stale-meta",
    "wipe-new-id",
    "wipe-old-id",
)
"""Faults that are tried more often, since they often find nobody whom they may strike."""

WEATHER = ("loss", "duplicate", "delay", "reorder")


class Told(msgspec.Struct, frozen=True):
    """Of the change table: rows that are told at once, and how many are kept, give or take a step."""

    rows: int = 500
    kept: int = 50_000
    step: int = 10_000


class Plan(msgspec.Struct, frozen=True):
    """Sizes and faults of one run."""

    servers: int
    weather: Weather
    faults: tuple[str, ...]
    pause_us: int
    """The longest time between two faults."""

    clients: int
    think_us: int
    keys: int
    segment_bytes: int
    raft: RaftConfig
    server: ServerConfig
    spares: int = 0
    """Servers that may join later."""

    damaged: int = 2
    """How many servers may be damaged at a time: none where autopilot may leave two voters only."""

    scrub_rest_us: int = 0
    """How long the scrubber of each server rests between two passes."""

    chores: tuple[str, ...] = ()
    """What operators do now and then."""

    told: Told = Told()


class Aim(msgspec.Struct, frozen=True):
    """What a run is to try in place of what it drew, for pairs that chance brings too seldom."""

    faults: tuple[str, ...] = ()
    chores: tuple[str, ...] = ()

    def at(self, plan: Plan) -> Plan:
        return msgspec.structs.replace(
            plan, faults=self.faults or plan.faults, chores=self.chores or plan.chores
        )


AS_DRAWN = Aim()


def draw(random: Random, faults: list[str], chores: list[str]) -> Plan:
    """The sizes first: a new fault leaves them as they were, seed by seed."""
    servers = random.choice([3, 3, 5])
    wide = random.choice([500, 5_000, 60_000])
    # Several wait for as long as a hold time where a quorum is gone: the others go on.
    clients = random.choice([5, 8, 12])
    plan = Plan(
        servers=servers,
        weather=Weather(
            loss=random.choice([0.0, 0.02, 0.1]),
            duplicate=random.choice([0.0, 0.05, 0.2]),
            delay_min_us=100,
            delay_max_us=wide,
            slow=random.choice([0.0, 0.01, 0.05]),
        ),
        faults=(),
        pause_us=random.choice([1_500_000, 2_500_000, 5_000_000]),
        clients=clients,
        think_us=clients * random.choice([30_000, 60_000]),
        keys=random.choice([1, 3, 8]),
        segment_bytes=random.choice([8 << 10, 16 << 10, 64 << 10]),
        raft=RaftConfig(
            max_inflight_batches=random.choice([1, 4, 64]),
            max_batch_bytes=random.choice([256, 4_096, 1 << 20]),
            window_bytes=random.choice([512, 16 << 20]),
        ),
        server=ServerConfig(
            bootstrap_expect=servers,
            snapshot_rest_ms=0,
            snapshot_entries=random.choice([12, 12, 40, 1_000]),
            trailing_entries=random.choice([2, 2, 10, 500]),
            checkpoint_wal_bytes=random.choice([64 << 10, 1 << 20]),
            list_rows=random.choice([0, 0, 3, 1_000]),
        ),
    )
    share = random.choice([0.1, 0.3, 0.6, 1.0])
    some = tuple(name for name in faults if random.random() < share) or (random.choice(faults),)
    some += tuple(name for name in some if name in OFTEN) * 2
    plan = msgspec.structs.replace(plan, faults=some, spares=random.choice([0, 1, 2]))
    cleanup, min_quorum, damaged = random.choice([(True, 3, 1), (True, 3, 1), (True, 0, 0), (False, 0, 2)])
    autopilot = AutopilotConfig(
        cleanup_dead_servers=cleanup,
        min_quorum=min_quorum,
        last_contact_threshold_ms=random.choice([200, 1_000]),
        server_stabilization_time_ms=random.choice([2_000, 10_000]),
    )
    return msgspec.structs.replace(
        plan,
        damaged=damaged,
        scrub_rest_us=random.choice([3_000_000, 8_000_000]),
        server=msgspec.structs.replace(
            plan.server, autopilot=autopilot, space=SpaceConfig(segment=plan.segment_bytes)
        ),
        chores=tuple(name for name in chores if random.random() < share),
        told=Told(random.choice([2, 5, 500]), random.choice([20, 100, 50_000]), random.choice([5, 50])),
    )
