"""A cluster taken over from older releases, server by server, under load.

There is one release yet, so what is older here is what its servers left on disk, state files of each earlier
format, and what they said that they know. Servers that were upgraded from different formats and those that
were not must come to one state; what older ones would stop at begins with the last one that is upgraded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from simulation.families.every import Family, every
from simulation.families.kv import KvFamily
from simulation.families.locks import LockFamily
from simulation.families.push import PushFamily
from simulation.families.txn import TxnFamily
from simulation.network import CALM
from simulation.node import Node
from simulation.run import SECOND_US, Run
from simulation.swarm import Plan, draw
from simulation.world import World
from support.lossy_vfs import LossyVfs, registered
from support.old_state import OLD_FORMATS, make_old

from gemot.server.features import Features
from gemot.server.kv_history import KvHistoryConfig
from gemot.server.model.autopilot import AutopilotConfig
from gemot.server.reports import Reports
from gemot.server.rpc.message import EXPIRY, HISTORY, Report
from gemot.server.state.tables import FORMAT
from gemot.server.storage.statefile import StateFile

SERVERS = len(OLD_FORMATS) + 1 + len(OLD_FORMATS) % 2
"""An odd number, and more than there are older formats."""


@pytest.fixture
def vfs() -> Iterator[LossyVfs]:
    with registered("gemot-upgrade") as vfs:
        yield vfs


def _leave_as_of(number: int, node: Node, vfs: LossyVfs) -> None:
    """The state file of a server that is down is as the release of that format would have left it."""
    path = node.directory / "state.db"
    old = path.with_name("old.db")
    node.detach()
    # Opened and closed, so that what stands in its log is in the file.
    StateFile(path, sync=False).close()
    make_old(path, old, number)
    os.replace(old, path)
    assert int.from_bytes(path.read_bytes()[60:64], "big") == number, "SQLite's header has its user_version"
    vfs.attach(str(node.directory), node.lossy)


def _format_of(node: Node) -> int:
    assert node.opened is not None
    found: int = node.opened.file.cursor.execute("pragma user_version").get
    return found


def _before_autopilot(random: Random, faults: list[str], chores: list[str]) -> Plan:
    """Nothing is set that an older format has no table for."""
    plan = draw(random, faults, chores)
    server = msgspec.structs.replace(
        plan.server,
        autopilot=AutopilotConfig(),
        kv_history=KvHistoryConfig(revisions=0),
        bootstrap_expect=SERVERS,
    )
    return msgspec.structs.replace(plan, servers=SERVERS, server=server, chores=())


def _before_sessions(world: World, kv: KvFamily, time_ms: Callable[[], int]) -> list[Family]:
    """Without locks, transactions, which note guards, and keys that expire: older formats have no tables for
    them."""
    later = LockFamily | TxnFamily | PushFamily
    return [each for each in every(world, kv, time_ms) if not isinstance(each, later)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_servers_of_older_formats_come_to_the_state_of_all_the_others(
    seed: int, tmp_path: Path, vfs: LossyVfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulation.run.draw", _before_autopilot)
    monkeypatch.setattr("simulation.run.every", _before_sessions)
    run = Run(seed, tmp_path, vfs)
    run.network.weather = CALM
    try:
        for node in run.nodes:
            node.start()
        for actor in [*run.clients, *run.actors]:
            actor.start()
        run.world.run(5 * SECOND_US)
        upgraded = dict(zip(run.nodes, OLD_FORMATS, strict=False))
        for node, number in upgraded.items():
            assert node.opened is not None
            assert node.opened.state.applied_index > 10, "there is something to take over"
            node.crash()
            _leave_as_of(number, node, vfs)
            node.start()
            assert _format_of(node) == FORMAT
            assert not any("rebuilt" in note for note in node.notes), "it was taken over, not made anew"
            run.world.run(run.world.now_us + 3 * SECOND_US)
        run._calm()
        result = run._judge()
        assert result.operations > 300
        assert len(upgraded) == len(OLD_FORMATS) < len(run.nodes)
    finally:
        run.close()


# -- what waits for the last server ----------------------------------------------------------------

UNKNOWN = {6: (HISTORY, EXPIRY), 7: (EXPIRY,)}
"""What the releases of these formats do not know. Each later release begins it once all servers know it."""


def _with_history(random: Random, faults: list[str], chores: list[str]) -> Plan:
    """Few revisions of each key, so that some are surplus."""
    plan = draw(random, faults, chores)
    history = KvHistoryConfig(revisions=3)
    server = msgspec.structs.replace(plan.server, kv_history=history, bootstrap_expect=3)
    return msgspec.structs.replace(plan, servers=3, server=server, chores=())


def _make_ignorant(old: set[str], features: tuple[str, ...], patch: pytest.MonkeyPatch) -> None:
    """Servers whose ids are in `old` say of themselves that they do not know these, and begin none."""
    report, without = Reports._report, Features.without

    def reported(self: Reports, *args: Any) -> Report:
        made = report(self, *args)
        known = [each for each in made.features if each not in features]
        return msgspec.structs.replace(made, features=tuple(known)) if self._me.id in old else made

    def without_me_too(self: Features, feature: str) -> tuple[str, ...]:
        found = without(self, feature)
        return (*found, self._me) if self._me in old and feature in features else found

    patch.setattr(Reports, "_report", reported)
    patch.setattr(Features, "without", without_me_too)


def _begun(nodes: list[Node], feature: str) -> bool:
    return any(node.opened.state.has_had(feature) for node in nodes if node.opened is not None)


@pytest.mark.parametrize(("number", "seed"), [(6, 1), (7, 2)])
def test_what_an_older_format_has_no_place_for_begins_with_the_last_server_that_is_upgraded(
    number: int, seed: int, tmp_path: Path, vfs: LossyVfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of one older release, with every family at work; of the release of format 7 with history on."""
    monkeypatch.setattr("simulation.run.draw", _with_history)
    run = Run(seed, tmp_path, vfs)
    run.network.weather = CALM
    old, waiting = {node.member.id for node in run.nodes}, UNKNOWN[number]
    _make_ignorant(old, waiting, monkeypatch)
    try:
        for node in run.nodes:
            node.start()
        for actor in [*run.clients, *run.actors]:
            actor.start()
        run.world.run(8 * SECOND_US)
        assert _begun(run.nodes, HISTORY) is (HISTORY not in waiting)
        for node in run.nodes:
            assert not any(_begun(run.nodes, feature) for feature in waiting)
            node.crash()
            _leave_as_of(number, node, vfs)
            old.remove(node.member.id)
            node.start()
            assert _format_of(node) == FORMAT
            assert not any("rebuilt" in note for note in node.notes), "it was taken over, not made anew"
            run.world.run(run.world.now_us + 4 * SECOND_US)
        run.world.run(run.world.now_us + 4 * SECOND_US)
        assert all(_begun([node], feature) for node in run.nodes for feature in (HISTORY, EXPIRY))
        run._calm()
        assert run._judge().operations > 300
        assert all(node.opened is not None and node.opened.state.history[2] for node in run.core)
    finally:
        run.close()
