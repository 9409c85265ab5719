"""Fetching a snapshot: whole, in order, one at a time; whatever the network and the leader do meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.virtual import VirtualTimer

from gemot.server.install import BUSY_MS, STALLED_MS, Installer
from gemot.server.model.errors import Corrupt, DiskFailed, GemotError, NotFound, Unavailable
from gemot.server.raft.types import SnapshotMeta, SnapshotOffer
from gemot.server.rpc.message import Call, FetchSnapshot, SnapshotChunk

META = SnapshotMeta(100, 3, ("a", "b", "c"))
OFFER = SnapshotOffer(3, "leader", META)
WHOLE = bytes(range(250))
PIECE = 100


def chunk(offset: int, /, **changes: Any) -> SnapshotChunk:
    data = WHOLE[offset : offset + PIECE]
    good = SnapshotChunk(1, 0, len(WHOLE), "sha", "1.0", offset, data)
    return msgspec.structs.replace(good, **changes)


class Box:
    """Where a snapshot is put together; `broken` is what finishing it raises."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.data = b""

    def write(self, offset: int, data: bytes) -> None:
        if self._scene.disk_full:
            raise DiskFailed("no space")
        assert offset == len(self.data), "pieces come in order"
        self.data += data

    def finish(self, done: Callable[[GemotError | None], None]) -> None:
        self._scene.did.append("verifying")

        def verified() -> None:
            whole = self.data == WHOLE
            self._scene.did.append("kept" if whole else "refused")
            done(None if whole else Corrupt("it is not what it should be"))

        self._scene.worker.append(verified)


class Readers:
    """Who reads the state; `scene.reading` says that a list is being read."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    @property
    def reading(self) -> bool:
        return self._scene.reading

    def hold(self) -> None:
        assert self._scene.did[-1] == "kept"
        self._scene.readers_held = True


class Scene:
    def __init__(self) -> None:
        self.timer = VirtualTimer()
        self.asked: list[tuple[str, FetchSnapshot, Callable[[Any], None]]] = []
        self.did: list[Any] = []
        self.worker: list[Callable[[], None]] = []
        self.resets: list[Callable[[], None]] = []
        self.flushes: list[Callable[[], None]] = []
        self.disk_full = self.log_is_slow = False
        self.busy = False
        self.reading = self.readers_held = False
        self.refuse: GemotError | None = None
        self.installer = Installer(
            replica=self,  # type: ignore[arg-type]
            log=self,  # type: ignore[arg-type]
            call=self._call,
            inbox=self._inbox,
            replace_state=self._replace_state,
            timer=self.timer,
            busy=lambda: self.busy,
            readers=Readers(self),
        )

    def _call(self, to: str, call: Call, done: Callable[[Any], None]) -> None:
        assert isinstance(call, FetchSnapshot)
        self.asked.append((to, call, done))

    def _inbox(self, meta: SnapshotMeta, first: SnapshotChunk) -> Box:
        if self.refuse is not None:
            raise self.refuse
        return Box(self)

    def _replace_state(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        self.did.append("replacing")

        def replaced() -> None:
            self.did.append("replaced")
            done()

        self.worker.append(replaced)

    def flush(self, done: Callable[[], None]) -> None:
        if self.log_is_slow:
            self.flushes.append(done)
        else:
            done()

    def work(self) -> None:
        """The worker does its next piece, and its end is told."""
        self.worker.pop(0)()

    def reset(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        self.did.append("reset")
        self.resets.append(done)

    def hold(self) -> None:
        assert self.did[-1] == "kept"

    def on_installed(self, meta: SnapshotMeta, ok: bool) -> None:
        self.did.append((meta.index, ok))

    def answer(self, result: Any = None, number: int = -1) -> None:
        _, call, done = self.asked[number]
        done(chunk(call.offset) if result is None else result)

    def all_pieces(self) -> None:
        for _ in range(3):
            self.answer()

    def verified(self) -> None:
        """All pieces come, and are found to be what they should be."""
        self.all_pieces()
        self.work()

    def installed(self) -> None:
        """All that follows on the last piece."""
        self.verified()
        self.resets[-1]()
        self.work()


IN_ORDER = ["verifying", "kept", "reset", "replacing", "replaced"]


def test_pieces_are_fetched_in_order_and_everything_follows_in_its_order() -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    scene.all_pieces()
    assert [(to, call.offset) for to, call, _ in scene.asked] == [("leader", n) for n in (0, 100, 200)]
    assert scene.did == ["verifying"], "nothing is done with what is not verified"
    scene.work()
    assert scene.did == ["verifying", "kept", "reset"], "the state waits until the log has been reset"
    scene.resets[0]()
    assert scene.did == ["verifying", "kept", "reset", "replacing"], "the replica waits for the state"
    scene.work()
    assert scene.did == [*IN_ORDER, (100, True)]
    assert scene.installer.installed == 1


def test_a_snapshot_is_kept_only_when_all_that_came_before_is_durable() -> None:
    """Or a fall could leave a server with the data of a cluster and without its id: it would join none."""
    scene = Scene()
    scene.log_is_slow = True
    scene.installer.on_install(OFFER)
    scene.all_pieces()
    assert scene.did == []
    scene.flushes.pop()()
    assert scene.did == ["verifying"]


def test_nobody_else_works_on_the_files_from_the_last_piece_to_the_end() -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    steps = [scene.all_pieces, scene.work, lambda: scene.resets[0](), scene.work]
    seen = []
    for step in steps:
        step()
        seen.append((scene.installer.replacing, scene.readers_held))
    assert seen == [(True, False), (True, True), (True, True), (False, True)]


def test_reads_go_on_while_a_snapshot_is_verified() -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    scene.all_pieces()
    assert not scene.readers_held


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("loss", [Unavailable("broke"), NotFound("pruned")])
def test_a_piece_that_does_not_come_ends_the_try_and_a_new_offer_begins_it_anew(
    at: int, loss: GemotError
) -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    for _ in range(at):
        scene.answer()
    scene.answer(loss)
    assert scene.did == [(100, False)]
    scene.installer.on_install(OFFER)
    assert scene.asked[-1][1].offset == 0
    scene.installed()
    assert scene.did[-1] == (100, True)


@pytest.mark.parametrize("wrong", [chunk(100), chunk(0, offset=5)])
def test_a_piece_of_another_place_is_not_taken(wrong: SnapshotChunk) -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    scene.answer(wrong)
    assert scene.did == [(100, False)]


def test_a_snapshot_that_changed_on_the_way_is_not_installed() -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    scene.answer()
    scene.answer(chunk(100, data=bytes(PIECE)))
    scene.answer()
    scene.work()
    assert scene.did == ["verifying", "refused", (100, False)]
    assert not scene.installer.replacing
    assert not scene.readers_held
    scene.installer.on_install(OFFER)
    scene.installed()
    assert scene.did[-1] == (100, True)


def test_a_snapshot_cut_short_is_not_installed() -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    scene.answer()
    scene.answer(chunk(100, data=b""))
    scene.work()
    assert scene.did == ["verifying", "refused", (100, False)]


def test_a_snapshot_that_cannot_be_taken_in_is_refused() -> None:
    scene = Scene()
    scene.refuse = Corrupt("a snapshot of 0 bytes was offered")
    scene.installer.on_install(OFFER)
    scene.answer()
    assert scene.did == [(100, False)]


def test_a_copy_of_the_old_state_under_way_is_waited_for() -> None:
    scene = Scene()
    scene.busy = True
    scene.installer.on_install(OFFER)
    scene.all_pieces()
    scene.timer.pass_ms(STALLED_MS * 3)
    assert scene.did == []
    scene.busy = False
    scene.timer.pass_ms(BUSY_MS)
    assert scene.did == ["verifying"]
    assert scene.installer.replacing


def test_a_long_read_of_the_old_state_is_waited_for_and_no_new_one_begins() -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    scene.reading = True
    scene.verified()
    assert scene.readers_held
    scene.resets[0]()
    scene.timer.pass_ms(STALLED_MS)
    assert scene.did == ["verifying", "kept", "reset"], "the file is in use"
    assert scene.installer.replacing
    scene.reading = False
    scene.timer.pass_ms(BUSY_MS)
    scene.work()
    assert scene.did == [*IN_ORDER, (100, True)]


def test_a_failed_disk_is_not_a_failed_try() -> None:
    scene = Scene()
    scene.disk_full = True
    scene.installer.on_install(OFFER)
    with pytest.raises(DiskFailed):
        scene.answer()
    assert scene.did == []


def test_the_same_offer_again_disturbs_nothing_until_it_stalls() -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    scene.timer.pass_ms(STALLED_MS - 1)
    scene.installer.on_install(OFFER)
    assert len(scene.asked) == 1
    scene.timer.pass_ms(1)
    scene.installer.on_install(SnapshotOffer(4, "other", META))
    assert scene.asked[-1][0] == "other"
    scene.answer(number=0)
    assert len(scene.asked) == 2, "what the first one still says is not heard"
    scene.installed()
    assert scene.did[-1] == (100, True)


def test_a_newer_offer_takes_the_place_of_one_on_its_way() -> None:
    scene = Scene()
    scene.installer.on_install(OFFER)
    scene.answer()
    newer = SnapshotOffer(3, "leader", SnapshotMeta(200, 3, META.voters))
    scene.installer.on_install(newer)
    assert (scene.asked[-1][1].index, scene.asked[-1][1].offset) == (200, 0)
    scene.installed()
    assert scene.did == [*IN_ORDER, (200, True)]


def test_no_offer_comes_between_a_reset_log_and_its_state() -> None:
    """The log stands at the snapshot already: the state must follow, whatever is offered meanwhile."""
    scene = Scene()
    scene.installer.on_install(OFFER)
    other = SnapshotOffer(4, "other", SnapshotMeta(300, 4, META.voters))
    for step in (scene.all_pieces, scene.work, lambda: scene.resets[0]()):
        step()
        scene.timer.pass_ms(STALLED_MS * 2)
        scene.installer.on_install(other)
    scene.work()
    assert scene.did == [*IN_ORDER, (100, True)]
    scene.installer.on_install(other)
    assert scene.asked[-1][1].index == 300
