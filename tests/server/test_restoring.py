"""Restoring between servers: who must have the blob, where it is fetched, and when it is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from support.virtual import FixedChance, VirtualTimer

from gemot.server.machine import RestoreDue
from gemot.server.model.errors import BadRequest, GemotError, NotFound, Unavailable
from gemot.server.model.query import Applied
from gemot.server.model.restore import Blob, Restore, Restored
from gemot.server.raft.types import SnapshotMeta
from gemot.server.restoring import REACH_MS, TIDY_MS, UNUSED_MS, Restoring
from gemot.server.rpc.message import BlobPiece, Call, FetchBlob, Passed, Stage, Upload
from gemot.server.state.meta import RestoreMark
from gemot.server.state.restore import Placement

DATA = b"state file " * 100
BLOB = Blob("f" * 64, len(DATA), 50, 2, 0, "1.0")
COMMAND = Restore(b"id", BLOB.sha256, BLOB.size, BLOB.index, 0)
DUE = RestoreDue(COMMAND, Placement(100, 3, 0, 100, 1, 0, ()))


class Scene:
    """One server, "a", of three. What it asks of the others waits in `asked`."""

    def __init__(self) -> None:
        self.timer = VirtualTimer()
        self.asked: list[tuple[str, Call, Callable[[Any], None]]] = []
        self.did: list[Any] = []
        self.logged: list[Callable[[Any], None]] = []
        self.kept: dict[str, Blob] = {}
        self.without_a_vote: tuple[str, ...] = ()
        self.ids = ("a", "b", "c")
        self.busy = False
        self.inbox_data = b""
        self.finished: Blob | GemotError = BLOB
        self.prepared: Callable[[Any], None] | None = None
        self.held_terms: dict[int, int] = {}
        raft = SimpleNamespace(leader="a", commit=10, last_index=10)
        self.state = SimpleNamespace(restores=(), applied_index=10)
        self.part = Restoring(
            me="a",
            archives=self,  # type: ignore[arg-type]
            replica=SimpleNamespace(raft=raft, on_restored=lambda due: self.did.append("restored")),  # type: ignore[arg-type]
            state=self.state,  # type: ignore[arg-type]
            log=SimpleNamespace(term=self.held_terms.get),  # type: ignore[arg-type]
            peers=self,
            apply=self._apply,
            busy=lambda: self.busy,
            hold_reads=lambda: self.did.append("reads held"),
            taken=lambda meta: self.did.append(meta.index),
            timer=self.timer,
            random=FixedChance(0.0),
        )

    def voters(self) -> tuple[str, ...]:
        return self.ids

    def servers(self) -> tuple[str, ...]:
        return (*self.ids, *self.without_a_vote)

    def voters_at(self, index: int) -> tuple[str, ...]:
        return self.ids

    def ask(self, id: str, call: Call, done: Callable[[Any], None]) -> None:
        self.asked.append((id, call, done))

    def name(self, id: str) -> str:
        return f"srv-{id}"

    def _apply(self, command: Restore, token: str, done: Callable[[Any], None]) -> None:
        self.did.append(command.sha256)
        self.logged.append(done)

    # -- Archives ----------------------------------------------------------------------------------

    def take_in(self, id: int, data: bytes, done: Callable[[GemotError | None], None]) -> None:
        done(BadRequest("damaged") if data == b"bad" else None)

    def finish(self, id: int, done: Callable[[Blob | GemotError], None]) -> None:
        if isinstance(self.finished, Blob):
            self.kept[self.finished.sha256] = self.finished
        done(self.finished)

    def abandon(self, id: int) -> None:
        self.did.append("abandoned")

    def blobs(self) -> tuple[Blob, ...]:
        return tuple(self.kept.values())

    def read_blob(self, sha256: str, offset: int) -> bytes:
        if sha256 not in self.kept:
            raise NotFound("it is not here")
        return DATA[offset : offset + 500]

    def blob_inbox(self, blob: Blob) -> Any:
        self.inbox_data = b""

        def write(offset: int, data: bytes) -> None:
            assert offset == len(self.inbox_data)
            self.inbox_data += data

        def finish(done: Callable[[GemotError | None], None]) -> None:
            self.kept[blob.sha256] = blob
            done(None)

        return SimpleNamespace(write=write, finish=finish)

    def prepare(
        self, sha256: str, place: Placement, voters: tuple[str, ...], done: Callable[[Any], None]
    ) -> None:
        self.did.append("preparing")
        self.prepared = done

    def replace(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        self.did.append("replacing")
        done()

    def forget(self, sha256: str) -> None:
        self.did.append("forgotten")
        self.kept.pop(sha256, None)

    # -- steps -------------------------------------------------------------------------------------

    def answer(self, result: Any) -> tuple[str, Call]:
        """The oldest question of all that are open."""
        id, call, done = self.asked.pop(0)
        done(result)
        return id, call

    def upload(self) -> list[Any]:
        told: list[Any] = []
        self.part.on_upload("web", Upload(1, 0, b"all", True), told.append)
        return told


def test_it_is_logged_once_every_voter_has_it() -> None:
    scene = Scene()
    told = scene.upload()
    assert scene.answer(True) == ("b", Stage(BLOB))
    assert scene.did == []
    assert scene.answer(True) == ("c", Stage(BLOB))
    assert scene.did == [BLOB.sha256]
    scene.logged[0](Applied(100, True))
    assert told == [], "logged is not done"
    id = bytes(16)
    scene.state.restores = (RestoreMark(100, 100, 1, id, BLOB.sha256),)
    scene.part.on_tick()
    assert told == [Restored(100, 1, ())]


def test_a_voter_that_cannot_be_reached_is_gone_without_and_named() -> None:
    scene = Scene()
    told = scene.upload()
    scene.answer(True)
    for _ in range(100):
        if not scene.asked:
            break
        scene.answer(Unavailable("not connected"))
        scene.timer.pass_ms(REACH_MS // 10)
    assert scene.did == [BLOB.sha256]
    scene.logged[0](Applied(100, True))
    scene.state.restores = (RestoreMark(100, 100, 1, bytes(16), BLOB.sha256),)
    scene.part.on_tick()
    assert told == [Restored(100, 1, ("srv-c",))]


def test_a_minority_is_not_enough() -> None:
    scene = Scene()
    told = scene.upload()
    for _ in range(200):
        if not scene.asked:
            break
        scene.answer(Unavailable("not connected"))
        scene.timer.pass_ms(REACH_MS // 10)
    assert scene.did == []
    assert isinstance(told[0], Unavailable)
    assert "only 1 of 3" in told[0].message


def test_a_damaged_archive_is_told_and_nobody_else_hears_of_it() -> None:
    scene = Scene()
    told: list[Any] = []
    scene.part.on_upload("web", Upload(1, 0, b"bad", False), told.append)
    scene.part.on_upload("web", Upload(1, 3, b"more", False), told.append)
    assert [type(one) for one in told] == [BadRequest, NotFound]
    scene.finished = BadRequest("cut short")
    assert [type(one) for one in scene.upload()] == [BadRequest]
    assert scene.asked == []


def test_pieces_of_another_agent_or_out_of_order_are_refused() -> None:
    scene = Scene()
    told: list[Any] = []
    scene.part.on_upload("web", Upload(1, 0, b"abc", False), told.append)
    scene.part.on_upload("other", Upload(1, 3, b"d", False), told.append)
    scene.part.on_upload("web", Upload(1, 5, b"d", False), told.append)
    scene.part.on_upload("web", Upload(1, 3, b"d", False), told.append)
    assert [one if one is True else type(one) for one in told] == [True, NotFound, NotFound, True]


def test_an_upload_that_goes_silent_is_abandoned() -> None:
    scene = Scene()
    scene.part.on_upload("web", Upload(1, 0, b"abc", False), lambda _: None)
    scene.timer.pass_ms(61_000)
    scene.part.on_tick()
    assert scene.did == ["abandoned"]


def test_a_server_asked_to_have_it_fetches_it_from_the_asker_piece_by_piece() -> None:
    scene = Scene()
    told: list[Any] = []
    scene.part.on_stage("b", Stage(BLOB), told.append)
    scene.part.on_stage("b", Stage(BLOB), told.append)
    while scene.asked:
        id, call, done = scene.asked.pop(0)
        assert id == "b"
        assert isinstance(call, FetchBlob)
        done(BlobPiece(call.offset, DATA[call.offset : call.offset + 500]))
    assert scene.inbox_data == DATA
    assert told == [True, True]
    scene.part.on_stage("c", Stage(BLOB), told.append)
    assert told[2] is True, "it is there already"


def test_what_is_due_is_fetched_from_one_after_the_other_until_one_has_it() -> None:
    scene = Scene()
    scene.part.on_restore(DUE)
    assert "waiting for the snapshot" in scene.part.waiting_for
    seen = []
    for _ in range(3):
        id, _ = scene.answer(NotFound("not here"))
        seen.append(id)
        scene.timer.pass_ms(300)
    assert set(seen) == {"b", "c"}
    while scene.asked:
        _, call, done = scene.asked.pop(0)
        assert isinstance(call, FetchBlob)
        done(BlobPiece(call.offset, DATA[call.offset : call.offset + 500]))
    assert scene.did == ["preparing"], "reads go on"
    assert scene.part.replacing
    assert scene.prepared is not None
    scene.busy = True
    scene.prepared(SnapshotMeta(100, 3, ("a",)))
    assert scene.did[1:] == ["reads held"], "a read that had begun has the old file open"
    scene.busy = False
    scene.timer.pass_ms(100)
    assert scene.did[2:] == ["replacing", "restored", 100]
    assert scene.part.waiting_for == ""


def test_what_is_due_is_fetched_from_servers_without_a_vote_too() -> None:
    """The last voter comes to a restore whose blob it lost: those without a vote still have it."""
    scene = Scene()
    scene.ids, scene.without_a_vote = ("a",), ("b",)
    scene.part.on_restore(DUE)
    id, call = scene.answer(BlobPiece(0, DATA[:500]))
    assert (id, type(call)) == ("b", FetchBlob)


def test_nothing_is_replaced_while_something_else_works_on_the_files() -> None:
    scene = Scene()
    scene.kept[BLOB.sha256] = BLOB
    scene.busy = True
    scene.part.on_restore(DUE)
    scene.timer.pass_ms(1_000)
    assert scene.did == []
    scene.busy = False
    scene.timer.pass_ms(100)
    assert scene.did == ["preparing"]


def test_a_blob_found_damaged_is_fetched_again_and_meanwhile_read() -> None:
    scene = Scene()
    scene.kept[BLOB.sha256] = BLOB
    scene.part.on_restore(DUE)
    assert scene.prepared is not None
    scene.kept.clear()
    scene.prepared(NotFound("damaged on disk"))
    assert scene.did == ["preparing"]
    assert isinstance(scene.asked[0][1], FetchBlob)


def test_a_blob_is_kept_until_no_log_has_its_entry_and_every_voter_has_passed_it() -> None:
    scene = Scene()
    scene.kept[BLOB.sha256] = BLOB
    scene.state.restores = (RestoreMark(100, 100, 1, b"id", BLOB.sha256),)
    scene.held_terms[100] = 3

    def tidy() -> None:
        scene.timer.pass_ms(TIDY_MS)
        scene.part.on_tick()

    tidy()
    assert scene.asked == [], "this log holds its entry"
    del scene.held_terms[100]
    tidy()
    assert scene.answer(True) == ("b", Passed(100))
    scene.answer(False)
    assert scene.did == [], "one has not passed it"
    tidy()
    scene.answer(True)
    scene.answer(Unavailable("not connected"))
    assert scene.did == [], "one cannot be asked"
    tidy()
    scene.answer(True)
    scene.answer(True)
    assert scene.did == ["forgotten"]


def test_a_blob_that_was_never_logged_is_forgotten_after_an_hour() -> None:
    scene = Scene()
    scene.kept[BLOB.sha256] = BLOB
    scene.timer.pass_ms(TIDY_MS)
    scene.part.on_tick()
    assert scene.did == []
    scene.timer.pass_ms(UNUSED_MS)
    scene.part.on_tick()
    assert scene.did == ["forgotten"]
