"""Room on the disks: what is refused before it is proposed, by whose shortage, and what never is."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest

from gemot.server.model.catalog import Deregister, Node, Register
from gemot.server.model.command import Command
from gemot.server.model.errors import Busy
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvSet
from gemot.server.model.txn import CheckFence, FenceGuard, KvOp, Txn, TxnOp
from gemot.server.raft.node import Raft
from gemot.server.rpc.message import Member, Report, decode_call, encode
from gemot.server.space import LEAST_BYTES, Room, Sizes, Space, SpaceConfig, room

MIB = 1 << 20
SMALL = KvSet(b"k", b"v")
ROOMY = (100 << 30, 200 << 30)


def member(number: int) -> Member:
    return Member(f"id{number}", f"srv{number}", "10.0.0.1", "server", "dc1", "", f"10.0.0.{number}:8300")


class Scene:
    """srv1 of three, as `Space` sees Raft, the disk and the state file."""

    def __init__(self, *, leads: bool = True, wanted: int = 100 * MIB) -> None:
        self.leader = "id1" if leads else "id2"
        self.voters: tuple[str, ...] = ("id1", "id2", "id3")
        self.silent: tuple[str, ...] = ()
        self.now: tuple[int, int] | None = ROOMY
        self.last_index = 10
        self.applied = 10
        self.space = Space(
            me=member(1),
            config=SpaceConfig(reserve=wanted),
            disk=self,
            raft=cast(Raft, self),
            file_bytes=lambda: (MIB, 0, 0),
        )

    def measured(self) -> tuple[int, int, int] | None:
        return (*self.now, self.applied) if self.now is not None else None

    def own(self, free: int) -> None:
        self.now = (free, ROOMY[1])

    def other(self, number: int, free: int, applied: int = -1) -> None:
        self.space.hear(member(number), Room(free, 100 * MIB, applied))

    def look(self) -> None:
        self.space.look()

    def refused(self, command: Command = SMALL) -> str:
        refusal = self.space.refuse(command)
        assert refusal is None or isinstance(refusal, Busy)
        return refusal.message if refusal is not None else ""


# -- the reserve ---------------------------------------------------------------------------------------


def test_the_reserve_has_room_for_segments_a_snapshot_and_the_states_log() -> None:
    sizes = Sizes(free=1, disk=1 << 40, state=900 * MIB, unused=0, growth=16 * MIB, segment=64 * MIB)
    assert room(sizes, -1) == Room(1, (128 + 900 + 16) * MIB)


def test_it_is_256_mib_at_least_but_an_eighth_of_a_small_disk() -> None:
    sizes = Sizes(free=1, disk=1 << 40, state=MIB, unused=0, growth=16 * MIB, segment=MIB)
    assert room(sizes, -1).reserve == LEAST_BYTES
    assert room(msgspec.structs.replace(sizes, disk=800 * MIB), -1).reserve == 100 * MIB


def test_pages_that_deletes_left_unused_stand_for_what_is_needed_for_rows() -> None:
    sizes = Sizes(free=1, disk=1 << 40, state=50 * MIB, unused=40 * MIB, growth=0, segment=MIB)
    assert room(sizes, -1).reserve == LEAST_BYTES - 40 * MIB
    assert room(msgspec.structs.replace(sizes, unused=LEAST_BYTES), -1).reserve == 52 * MIB


def test_what_is_configured_holds_and_0_keeps_none() -> None:
    sizes = Sizes(free=7, disk=1 << 40, state=MIB, unused=0, growth=0, segment=MIB)
    assert room(sizes, 5) == Room(7, 5)
    scene = Scene(wanted=0)
    scene.own(0)
    scene.look()
    assert not scene.refused()


# -- who is short --------------------------------------------------------------------------------------


def test_with_room_everywhere_nothing_is_refused() -> None:
    scene = Scene()
    scene.look()
    assert not scene.refused()
    assert scene.space.told == ""


def test_a_leader_inside_its_reserve_refuses_and_names_server_size_and_key() -> None:
    scene = Scene()
    scene.own(10 * MIB)
    scene.look()
    told = scene.refused()
    assert told.startswith("No space: srv1 has 10.0 MiB left on its disk and keeps 100.0 MiB in reserve")
    assert "limits.disk_reserve_bytes" in told
    assert scene.space.told == told
    assert scene.space.refused == 1


def test_one_follower_without_room_stops_nobody_two_of_three_do() -> None:
    scene = Scene()
    scene.other(2, MIB)
    scene.look()
    assert not scene.refused()
    scene.other(3, MIB)
    scene.look()
    assert "srv" in scene.refused()


def test_a_full_follower_that_the_others_do_without_is_not_named_for_a_full_leader() -> None:
    scene = Scene()
    scene.other(2, 0)
    scene.own(MIB)
    scene.look()
    assert scene.refused().startswith("No space: srv1 has 1.0 MiB left")
    scene.other(3, 2 * MIB)
    scene.look()
    assert scene.refused().startswith("No space: srv1 has 1.0 MiB left")
    scene.own(ROOMY[0])
    scene.look()
    assert scene.refused().startswith("No space: srv2 has 0.0 MiB left")
    scene.other(2, ROOMY[0])
    scene.look()
    assert not scene.refused()


def test_the_figures_it_tells_are_those_that_were_weighed_and_they_add_up() -> None:
    """Not what came in since: or it would say that there is no space and name plenty."""
    scene = Scene()
    scene.own(110 * MIB)
    scene.look()
    assert not scene.refused(KvSet(b"k", bytes(MIB)))
    for number in (1, 2, 3):
        scene.other(number, 900 * MIB)
    told = scene.refused(KvSet(b"k", bytes(MIB)))
    assert told.startswith(
        "No space: srv1 has 110.0 MiB left on its disk and keeps 100.0 MiB in reserve, 16.0 MiB"
    )
    assert "more may be needed for what is being written" in told
    assert "8.0 MiB more may be needed" in scene.space.told


def test_a_silent_voter_cannot_store_what_another_has_no_room_for() -> None:
    scene = Scene()
    scene.silent = ("id3",)
    scene.look()
    assert not scene.refused()
    scene.other(2, MIB)
    scene.look()
    assert scene.refused().startswith("No space: srv2")


def test_without_a_quorum_it_is_no_matter_of_space() -> None:
    scene = Scene()
    scene.silent = ("id2", "id3")
    scene.look()
    assert not scene.refused()


def test_a_server_that_says_nothing_of_its_disk_counts_as_roomy() -> None:
    scene = Scene()
    for number in (2, 3):
        scene.space.hear(member(number), Room())
    scene.look()
    assert not scene.refused()


def test_who_votes_no_more_is_forgotten() -> None:
    scene = Scene()
    scene.other(2, MIB)
    scene.other(3, MIB)
    scene.voters = ("id1",)
    scene.look()
    assert not scene.refused()


def test_a_follower_minds_only_its_own_disk() -> None:
    scene = Scene(leads=False)
    scene.other(3, MIB)
    scene.other(2, MIB)
    scene.look()
    assert scene.space.told == ""


# -- what is accepted ----------------------------------------------------------------------------------


FREEING = [KvOp("delete", b"k"), KvOp("delete-tree", b"a"), KvOp("check-index", b"k"), CheckFence(b"k", 1)]


@pytest.mark.parametrize("op", [KvOp("set", b"k"), KvOp("unlock", b"k"), FenceGuard(b"r", 1)])
def test_a_transaction_frees_if_all_of_it_does(op: TxnOp) -> None:
    scene = Scene()
    scene.own(MIB)
    scene.look()
    assert not scene.refused(Txn(tuple(FREEING)))
    assert scene.refused(Txn((*FREEING, op)))


@pytest.mark.parametrize("command", [KvDelete(b"k"), KvDeletePrefix(b""), Deregister("web1")])
def test_what_frees_goes_through_out_of_the_reserve(command: Command) -> None:
    scene = Scene()
    scene.own(MIB)
    scene.look()
    assert scene.refused()
    assert not scene.refused(command)


def test_a_registration_is_a_new_write() -> None:
    scene = Scene()
    scene.own(MIB)
    scene.look()
    node = Node(node="web1", address="10.0.0.9", id="", datacenter="dc1", tagged_addresses={}, meta={})
    assert scene.refused(Register(node=node))


def test_what_comes_between_two_looks_is_counted_so_that_the_reserve_is_never_touched() -> None:
    scene = Scene()
    scene.own(110 * MIB)
    scene.look()
    taken = 0
    while not scene.refused(KvSet(b"k", bytes(512 << 10))):
        taken += 512 << 10
        assert taken < 10 * MIB
    assert taken > 0
    for _ in range(3):
        scene.own(104 * MIB)
        scene.look()
    assert scene.refused(), "and writes go on only when there is a little more than the reserve"
    scene.own(120 * MIB)
    scene.look()
    assert not scene.refused()
    assert scene.space.told == ""


def test_what_was_accepted_is_counted_until_the_disk_was_measured_with_it() -> None:
    scene = Scene()
    scene.own(110 * MIB)
    scene.look()
    assert not scene.refused(KvSet(b"k", bytes(MIB)))
    scene.last_index = 11
    for _ in range(9):
        scene.look()
        assert scene.refused(KvSet(b"k", bytes(MIB))), "a slow disk, or a busy server: it is not applied"
    scene.applied = 11
    scene.look()
    assert not scene.refused(KvSet(b"k", bytes(MIB)))


def test_a_write_accepted_just_before_a_look_counts_as_of_the_entries_after_it() -> None:
    """At that look it is not in the log yet: what was applied then says nothing of it."""
    scene = Scene()
    scene.own(110 * MIB)
    scene.look()
    assert not scene.refused(KvSet(b"k", bytes(MIB)))
    scene.look()
    scene.last_index = 11
    scene.look()
    assert scene.refused(KvSet(b"k", bytes(MIB)))


def test_followers_that_are_behind_are_charged_with_what_they_have_yet_to_store() -> None:
    scene = Scene()
    for number in (2, 3):
        scene.other(number, 110 * MIB, applied=10)
    scene.look()
    assert not scene.refused(KvSet(b"k", bytes(MIB)))
    scene.last_index = 11
    scene.applied = 11
    for _ in range(9):
        scene.look()
        for number in (2, 3):
            scene.other(number, 110 * MIB, applied=10)
    assert scene.refused(KvSet(b"k", bytes(MIB)))
    scene.other(3, 110 * MIB, applied=11)
    scene.look()
    assert not scene.refused(KvSet(b"k", bytes(MIB))), "a quorum has stored it and has room"


def test_a_server_of_an_older_release_is_charged_for_three_looks() -> None:
    scene = Scene()
    for number in (2, 3):
        scene.other(number, 110 * MIB)
    scene.look()
    assert not scene.refused(KvSet(b"k", bytes(MIB)))
    scene.look()
    assert scene.refused(KvSet(b"k", bytes(MIB)))
    for _ in range(3):
        scene.look()
    assert not scene.refused(KvSet(b"k", bytes(MIB)))


def test_a_snapshot_waits_for_room_instead_of_ending_the_process() -> None:
    scene = Scene()
    assert scene.space.fits_snapshot, "nothing is known yet"
    scene.own(10 * MIB)
    scene.look()
    assert not scene.space.fits_snapshot
    scene.own(100 * MIB)
    scene.look()
    assert scene.space.fits_snapshot


def test_a_disk_that_cannot_be_looked_at_refuses_nothing() -> None:
    scene = Scene()
    scene.now = None
    scene.look()
    assert not scene.refused()


# -- the report ----------------------------------------------------------------------------------------


def test_a_report_of_an_older_release_is_understood_and_says_nothing_of_room() -> None:
    old = msgspec.msgpack.encode([7, [5, [msgspec.to_builtins(member(2))]]])
    call = decode_call(old).call
    assert isinstance(call, Report)
    assert Room(call.free_bytes, call.reserve_bytes) == Room()
    assert isinstance(decode_call(msgspec.msgpack.encode([7, [*_raw(encode(call)), "newer"]])).call, Report)


def _raw(body: bytes) -> list[object]:
    found: list[object] = msgspec.msgpack.decode(body)
    return found
