"""A server alone in its cluster, on a real directory, with time that stands still."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support.virtual import VirtualTimer, chance

from gemot.server.consensus import Replica
from gemot.server.model.upkeep import Tick
from gemot.server.raft.types import Batch, Entry, HardState, Message, RaftConfig, SnapshotMeta
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.durable import DurableLog, Save
from gemot.server.storage.realdisk import RealDisk


class _Log:
    """The log port, saving at once and telling a little later."""

    def __init__(self, durable: DurableLog, timer: VirtualTimer) -> None:
        self._durable = durable
        self._timer = timer
        self.on_saved: Callable[[int], None]

    def save(self, hard_state: HardState | None, append: Batch | None, token: int) -> None:
        save = Save(hard_state, append, token)
        if self._durable.append([save]):
            self._durable.sync()
        self._durable.keep_vote([save])
        self._timer.call_soon(lambda: self.on_saved(token))

    def term(self, index: int) -> int | None:
        return self._durable.log.term(index)

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        return self._durable.log.read(first, last, max_bytes)

    def compact(self, base: SnapshotMeta) -> None:
        self._durable.compact(base)

    def reset(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        self._durable.reset(meta)
        self._timer.call_soon(done)


class _Alone:
    """Nobody to send to, nobody to tell."""

    def send(self, to: str, message: Message) -> None:
        raise AssertionError(f"there is no {to}")

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert name.startswith("on_"), name
        return lambda *_: None


def _open(directory: Path) -> Opened:
    config = DataConfig(directory=str(directory), segment_bytes=1 << 20, raft=RaftConfig(), sync=False)
    return open_data(
        disk=RealDisk(sync=False), config=config, node_id="a", random=chance(), authorizer=ALLOW_ALL
    )


def _replica(opened: Opened, timer: VirtualTimer) -> Replica:
    log, alone = _Log(opened.durable, timer), _Alone()
    replica = Replica(
        raft=opened.raft, log=log, machine=opened.machine, state=opened.state, wire=alone, timer=timer
    )
    log.on_saved = replica.on_saved
    replica.start(alone)
    return replica


def _close(opened: Opened) -> None:
    opened.file.close()
    opened.durable.log.close()


def test_it_leads_again_after_a_restart_without_an_election_timeout(tmp_path: Path) -> None:
    opened, timer = _open(tmp_path), VirtualTimer()
    first = _replica(opened, timer)
    first.bootstrap(("a",), campaign=True)
    timer.run()
    assert first.leads
    _close(opened)

    opened = _open(tmp_path)
    again = _replica(opened, timer)
    assert not again.leads
    timer.run()
    assert again.leads, "it needs no tick: there is nobody to wait for"
    _close(opened)


def test_one_of_several_waits_for_its_election_timeout(tmp_path: Path) -> None:
    opened, timer = _open(tmp_path), VirtualTimer()
    first = _replica(opened, timer)
    first.bootstrap(("a", "b"), campaign=False)
    timer.run()
    _close(opened)

    opened = _open(tmp_path)
    _replica(opened, timer)
    timer.run()
    # A candidate would have asked "b", which `_Alone` refuses.
    assert opened.raft.leader == ""
    _close(opened)


def test_cluster_time_goes_on_from_what_is_applied_after_it_began_to_lead(tmp_path: Path) -> None:
    """It leads with a log that its state has yet to apply; the stamps there are later than those here."""
    opened, timer = _open(tmp_path), VirtualTimer()
    first = _replica(opened, timer)
    first.bootstrap(("a",), campaign=True)
    timer.run()
    for _ in range(200):  # a leader looks at its clock at every tick
        timer.pass_ms(50)
        first.propose(Tick(), "", None, lambda _: None)
        timer.run()
    spanned_ms = first.cluster_time_ms()
    assert spanned_ms >= 10_000
    _close(opened)
    for file in tmp_path.glob("state.db*"):
        file.unlink()

    opened = _open(tmp_path)
    assert opened.state.cluster_time_ms == 0
    again = _replica(opened, timer)
    timer.run()
    assert again.leads
    assert opened.state.cluster_time_ms == spanned_ms
    assert again.cluster_time_ms() == spanned_ms
    for passed_ms in range(50, 500, 50):
        timer.pass_ms(50)
        assert again.cluster_time_ms() == spanned_ms + passed_ms
    _close(opened)
