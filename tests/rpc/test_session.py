"""The serving side of a conversation: who may speak, about what, and what becomes of their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.members import client, hello, server

from gemot.server.model.catalog import Node as CatalogNode
from gemot.server.model.catalog import Register
from gemot.server.model.command import Command, RetryId
from gemot.server.model.coordinate import Coordinate, NodeCoordinate, SetCoordinates
from gemot.server.model.errors import (
    Busy,
    Forbidden,
    GemotError,
    NoLeader,
    PeerBroke,
    WireError,
    from_wire,
)
from gemot.server.model.kv import ExpireKeys, KvDelete, KvGet, KvPurge, KvSet
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.session import CreateSession, DestroySession, EndLeases, RenewSession
from gemot.server.model.session import Session as CatalogSession
from gemot.server.model.txn import MAX_OPS, CheckFence, FenceGuard, KvOp, Txn
from gemot.server.model.upkeep import (
    PruneRetries,
    ReapTombstones,
    Tick,
    TrimChanges,
    TrimHistory,
    VerifyState,
)
from gemot.server.raft.types import CampaignNow, Message
from gemot.server.rpc import session as session_module
from gemot.server.rpc.frame import MAX_ANSWER_BYTES, FrameReader, Kind
from gemot.server.rpc.message import (
    Apply,
    Ask,
    Bookmark,
    Call,
    Cancelled,
    Enlist,
    FetchSnapshot,
    Forward,
    Found,
    Hello,
    Join,
    Joined,
    Leave,
    Member,
    Numbered,
    Promise,
    Report,
    Status,
    Subscribe,
    TierStatus,
    decode_hello,
    decode_returned,
    encode,
)
from gemot.server.rpc.session import MAX_COMMAND_BYTES, Packer, Session

ME = server(1)
CLUSTER = "c1"
ASK = Ask(KvGet(b"k"), Options())
ANSWER = Answer(None, 7)
RETRY = RetryId(b"origin", 1, 0)


class FakeTier:
    """Notes what is asked; the test answers when it likes."""

    def __init__(self, cluster: str = CLUSTER) -> None:
        self.cluster = cluster
        self.asked: list[tuple[Member, Call]] = []
        self.replies: list[Callable[[Any], None]] = []
        self.cancelled: list[int] = []
        self.present: list[str] = []
        self.raft: list[Message] = []
        self.answer_at_once: Any = None

    def hello(self) -> Hello:
        return hello(ME, cluster=self.cluster)

    def handle(self, member: Member, call: Call, reply: Callable[[Any], None]) -> Callable[[], None]:
        number = len(self.asked)
        self.asked.append((member, call))
        self.replies.append(reply)
        if self.answer_at_once is not None:
            reply(self.answer_at_once)
        return lambda: self.cancelled.append(number)

    def on_raft(self, member: Member, cluster: str, message: Message) -> None:
        self.raft.append(message)

    def on_connected(self, member: Member) -> None:
        self.present.append(member.name)

    def on_disconnected(self, member: Member) -> None:
        self.present.remove(member.name)


class Talk:
    """A session and what it sent."""

    def __init__(self, tier: FakeTier | None = None, *, join_only: bool = False) -> None:
        self.tier = tier or FakeTier()
        self.sent: list[tuple[Kind, bytes]] = []
        self._reader = FrameReader(greeted=True, max_bytes=MAX_ANSWER_BYTES)
        self.session = Session(
            tier=self.tier,
            send=lambda data: self.sent.extend(self._reader.feed(data)),
            close=lambda reason: None,
            join_only=join_only,
        )

    def greet(self, member: Member | None = None, **more: Any) -> Talk:
        self.session.on_frame(Kind.HELLO, encode(hello(member or client(1), **more)))
        return self

    def call(self, id: int, call: Call) -> None:
        self.session.on_frame(Kind.CALL, encode(Numbered(id, call)))

    def cancel(self, id: int) -> None:
        self.session.on_frame(Kind.CANCEL, encode(Cancelled(id)))

    def last(self, type_: Any) -> tuple[Kind, int, Any]:
        kind, body = self.sent[-1]
        returned = decode_returned(body)
        return kind, returned.id, msgspec.msgpack.decode(returned.body, type=type_)

    def failure(self) -> GemotError:
        kind, _, error = self.last(WireError)
        assert kind == Kind.FAILURE
        return from_wire(error)


# -- greeting --------------------------------------------------------------------------------------


def test_a_hello_is_answered_by_a_hello_and_makes_the_member_present() -> None:
    talk = Talk().greet()
    assert talk.sent[0][0] == Kind.HELLO
    assert decode_hello(talk.sent[0][1]).member == ME
    assert talk.tier.present == ["web1"]
    talk.session.on_closed()
    assert talk.tier.present == []


@pytest.mark.parametrize("kind", [k for k in Kind if k != Kind.HELLO])
def test_nothing_is_heard_before_the_hello(kind: Kind) -> None:
    talk = Talk()
    with pytest.raises(PeerBroke, match="first frame must be a hello"):
        talk.session.on_frame(kind, encode(Numbered(1, ASK)))
    assert talk.tier.asked == []


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.REPLY, Kind.FAILURE, Kind.EVENT, Kind.PONG, Kind.BOOKMARK])
def test_frames_that_are_not_for_a_server_end_the_conversation(kind: Kind) -> None:
    with pytest.raises(PeerBroke, match=f"{kind.name} frame is not for a server"):
        Talk().greet().session.on_frame(kind, b"")


MISMATCHES = [
    (hello(client(1), protocols=(9, 12)), "web1 speaks protocol 9 to 12, srv1 1 to 1"),
    (
        hello(client(1, datacenter="dc2")),
        "web1 belongs to datacenter 'dc2', srv1 to 'dc1'",
    ),
    (hello(server(2), cluster="c2"), "srv2 belongs to cluster c2, srv1 to cluster c1"),
]


@pytest.mark.parametrize(("stranger", "said"), MISMATCHES)
def test_a_mismatch_names_both_sides_and_is_told_to_the_stranger(stranger: Hello, said: str) -> None:
    talk = Talk()
    with pytest.raises(PeerBroke, match=said):
        talk.session.on_frame(Kind.HELLO, encode(stranger))
    assert talk.failure().message == said
    assert talk.tier.present == []


def test_a_server_without_a_cluster_is_welcome_before_and_after_the_beginning() -> None:
    Talk().greet(server(2))
    Talk(FakeTier(cluster="")).greet(server(2), cluster="c2")


BAD_MEMBERS = [
    server(2, rpc="nowhere"),
    server(2, rpc=":8300"),
    server(2, rpc="10.0.0.2:0"),
    server(2, rpc="10.0.0.2:99999"),
    server(2, rpc="10.0.0.2:" + "9" * 5_000),
    server(2, rpc="10.0.0.2:٣"),
    server(2, rpc=""),
    server(2, id=""),
    server(2, name=""),
    client(2, name=""),
    client(2, rpc="10.0.0.2:8300"),
]


@pytest.mark.parametrize("member", BAD_MEMBERS)
def test_a_member_that_makes_no_sense_is_refused(member: Member) -> None:
    talk = Talk()
    with pytest.raises(PeerBroke, match="a hello of "):
        talk.greet(member)
    assert talk.tier.present == []


# -- who may ask what ------------------------------------------------------------------------------

SERVERS_ONLY: list[Call] = [
    Forward(KvSet(b"k", b"v"), "", RETRY),
    FetchSnapshot(1, 1, 0),
    Report((ME,)),
    Promise("c", (ME,)),
    Enlist(),
    Found("c", (ME,)),
]


@pytest.mark.parametrize("call", SERVERS_ONLY)
def test_calls_among_servers_are_refused_to_a_client(call: Call) -> None:
    talk = Talk().greet()
    talk.call(1, call)
    assert isinstance(talk.failure(), Forbidden)
    assert talk.failure().message == f"{type(call).__name__} is for servers only"
    assert talk.tier.asked == []


@pytest.mark.parametrize("call", SERVERS_ONLY)
def test_calls_among_servers_reach_the_tier_from_a_server(call: Call) -> None:
    talk = Talk().greet(server(2))
    talk.call(1, call)
    assert [asked for _, asked in talk.tier.asked] == [call]


@pytest.mark.parametrize(
    "call", [ASK, Status(), Leave("web1"), Apply(KvSet(b"k", b"v"), "", RETRY), Subscribe(KvGet(b"k"), "", 0)]
)
def test_the_join_port_answers_nothing_but_join(call: Call) -> None:
    talk = Talk(join_only=True).greet(server(2))
    talk.call(1, call)
    assert "only tells who the servers are" in talk.failure().message
    talk.call(1, Join(3))
    talk.tier.replies[-1](Joined((ME,), 3, ""))
    assert talk.last(Joined)[2].servers == (ME,)


def test_the_join_port_takes_no_raft_message_and_makes_nobody_present() -> None:
    talk = Talk(join_only=True).greet(server(2))
    with pytest.raises(PeerBroke, match="RAFT"):
        talk.session.on_frame(Kind.RAFT, encode(CampaignNow(1, server(2).id)))
    assert talk.tier.present == []


LEADERS_OWN: list[Command] = [
    KvPurge(10),
    Tick(),
    TrimChanges(1 << 60),
    ReapTombstones(1 << 60),
    PruneRetries(1 << 60),
    TrimHistory(0, 1 << 60, 0),
    VerifyState(1, bytes(16)),
    SetCoordinates((NodeCoordinate("web1", Coordinate()),)),
    EndLeases((("s", 0),)),
    ExpireKeys(((b"a", 1),)),
]


@pytest.mark.parametrize("command", LEADERS_OWN)
@pytest.mark.parametrize("from_server", [True, False])
def test_the_leaders_own_commands_come_from_nobody_else(command: Command, from_server: bool) -> None:
    talk = Talk().greet(server(2) if from_server else client(1))
    talk.call(1, Forward(command, "", RETRY) if from_server else Apply(command, "", RETRY))
    assert isinstance(talk.failure(), Forbidden)
    assert talk.tier.asked == []


@pytest.mark.parametrize(
    "command", [CreateSession(CatalogSession("s", "web1")), DestroySession("s"), RenewSession("s")]
)
def test_sessions_are_begun_renewed_and_ended_from_outside(command: Command) -> None:
    for talk, call in (
        (Talk().greet(client(1)), Apply(command, "", RETRY)),
        (Talk().greet(server(2)), Forward(command, "", RETRY)),
    ):
        talk.call(1, call)
        assert [asked for _, asked in talk.tier.asked] == [call]


def test_transactions_are_asked_from_outside() -> None:
    command = Txn((KvOp("set", b"a"), CheckFence(b"b", 1), FenceGuard(b"r", 1)))
    for talk, call in (
        (Talk().greet(client(1)), Apply(command, "", RETRY)),
        (Talk().greet(server(2)), Forward(command, "", RETRY)),
    ):
        talk.call(1, call)
        assert [asked for _, asked in talk.tier.asked] == [call]


@pytest.mark.parametrize("number", range(12))
def test_a_write_that_no_log_could_hold_is_refused_at_the_door(number: int) -> None:
    write = (
        Apply(KvSet(b"k", bytes(MAX_COMMAND_BYTES)), "", None),
        Apply(KvSet(bytes(4097), b""), "", None),
        Apply(KvDelete(bytes(MAX_COMMAND_BYTES)), "", None),
        Apply(Register(CatalogNode("n", "a", meta={"k": "v" * MAX_COMMAND_BYTES})), "", None),
        Apply(KvSet(b"k", b""), "", RetryId(b"o", (1 << 63) + 1, 1 << 63)),
        Apply(KvSet(b"k", b""), "", RetryId(b"o", -1, -2)),
        Apply(KvSet(b"k", b""), "", RetryId(b"o", 1, 1)),
        Apply(KvSet(b"k", b""), "", RetryId(bytes(65), 1, 0)),
        Apply(KvSet(b"k", b""), "", RetryId(b"", 1, 0)),
        Apply(Txn((KvOp("get", b"k"),) * (MAX_OPS + 1)), "", None),
        Apply(Txn((KvOp("set", b"k"), KvOp("set", bytes(4097)))), "", None),
        Apply(Txn((CheckFence(bytes(4097), 1),)), "", None),
    )[number]
    talk = Talk().greet()
    talk.call(1, write)
    assert talk.failure().code in ("too-large", "bad-request")
    assert talk.tier.asked == []


def test_the_longest_transaction_that_may_be_configured_gets_through() -> None:
    talk = Talk().greet()
    talk.call(1, Apply(Txn((KvOp("set", b"k"),) * MAX_OPS), "", RETRY))
    assert len(talk.tier.asked) == 1


def test_the_largest_value_that_may_be_configured_gets_through() -> None:
    talk = Talk().greet()
    talk.call(1, Apply(KvSet(bytes(4096), bytes(8 << 20)), "t" * 36, RETRY))
    assert len(talk.tier.asked) == 1


# -- the life of a call ----------------------------------------------------------------------------


def test_a_call_id_is_free_again_once_it_is_answered() -> None:
    talk = Talk().greet()
    for _ in range(3):
        talk.call(5, ASK)
        talk.tier.replies[-1](ANSWER)
        assert talk.last(Any) == (Kind.REPLY, 5, [None, 7, True, 0, 0])


def test_a_call_id_in_use_ends_the_conversation() -> None:
    talk = Talk().greet()
    talk.call(5, ASK)
    with pytest.raises(PeerBroke, match="call id 5 is already in use"):
        talk.call(5, ASK)


def test_a_late_answer_never_passes_for_that_of_a_newer_call_of_the_same_id() -> None:
    talk = Talk().greet()
    talk.call(5, ASK)
    talk.cancel(5)
    talk.call(5, ASK)
    before = len(talk.sent)
    talk.tier.replies[0](ANSWER)
    assert len(talk.sent) == before
    talk.tier.replies[1](Answer(None, 8))
    assert talk.last(Any)[2][1] == 8


def test_cancelling_takes_the_waiter_away_and_nothing_more_is_told() -> None:
    talk = Talk().greet()
    talk.call(1, Subscribe(KvGet(b"k"), "", 0))
    talk.tier.replies[0](ANSWER)
    talk.cancel(1)
    assert talk.tier.cancelled == [0]
    before = len(talk.sent)
    talk.tier.replies[0](ANSWER)
    talk.tier.replies[0](Bookmark(9, True, 0))
    assert len(talk.sent) == before
    talk.cancel(1)
    talk.cancel(77)


def test_a_subscription_tells_many_times_and_a_failure_ends_it() -> None:
    talk = Talk().greet()
    talk.call(1, Subscribe(KvGet(b"k"), "", 0))
    for index in (3, 4):
        talk.tier.replies[0](Answer(None, index))
        assert talk.last(Any)[:2] == (Kind.EVENT, 1)
    talk.tier.replies[0](Bookmark(9, True, 0))
    assert talk.last(Bookmark)[0] == Kind.BOOKMARK
    talk.tier.replies[0](Busy("full"))
    assert isinstance(talk.failure(), Busy)
    assert talk.tier.cancelled == [0]
    before = len(talk.sent)
    talk.tier.replies[0](ANSWER)
    assert len(talk.sent) == before


def test_a_subscription_that_is_refused_at_once_leaves_nothing_behind() -> None:
    tier = FakeTier()
    tier.answer_at_once = Busy("full")
    talk = Talk(tier).greet()
    talk.call(1, Subscribe(KvGet(b"k"), "", 0))
    assert isinstance(talk.failure(), Busy)
    assert tier.cancelled == [0]


def test_an_error_crosses_the_wire_as_itself() -> None:
    talk = Talk().greet()
    talk.call(1, ASK)
    talk.tier.replies[0](NoLeader())
    assert isinstance(talk.failure(), NoLeader)


def test_the_end_of_the_connection_cancels_every_call() -> None:
    talk = Talk().greet()
    for id in range(4):
        talk.call(id, ASK)
    talk.tier.replies[2](ANSWER)
    talk.session.on_closed()
    assert talk.tier.cancelled == [0, 1, 3]
    before = len(talk.sent)
    talk.tier.replies[0](ANSWER)
    assert len(talk.sent) == before


def test_more_calls_than_the_limit_are_refused_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_CALLS", 3)
    talk = Talk().greet()
    for id in range(4):
        talk.call(id, ASK)
    assert isinstance(talk.failure(), Busy)
    assert "3 calls" in talk.failure().message
    assert len(talk.tier.asked) == 3
    talk.cancel(0)
    talk.call(9, ASK)
    assert len(talk.tier.asked) == 4


def test_an_answer_that_fits_into_no_frame_is_refused_as_too_large() -> None:
    talk = Talk().greet()
    talk.call(1, ASK)
    talk.tier.replies[0](Answer(bytes(MAX_ANSWER_BYTES), 7))
    assert talk.failure().code == "too-large"
    talk.call(1, ASK)


def test_a_ping_is_answered() -> None:
    talk = Talk().greet()
    talk.session.on_frame(Kind.PING, b"")
    assert talk.sent[-1] == (Kind.PONG, b"")


def test_raft_messages_go_to_the_tier() -> None:
    talk = Talk().greet(server(2), cluster=CLUSTER)
    message = CampaignNow(4, server(2).id)
    talk.session.on_frame(Kind.RAFT, encode(message))
    assert talk.tier.raft == [message]


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.RAFT, Kind.CANCEL])
@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x92\x01", b"\x91" * 50_000, b"\xdf\xff\xff\xff\xff", encode([1.5, 99]), encode("x")],
    ids=["empty", "reserved", "short", "deep", "huge-map", "wrong-types", "text"],
)
def test_a_body_that_cannot_be_read_ends_the_conversation(kind: Kind, body: bytes) -> None:
    with pytest.raises(PeerBroke, match="undecodable"):
        Talk().greet(server(2)).session.on_frame(kind, body)


def test_a_write_and_a_status_are_answered_with_their_own_words() -> None:
    talk = Talk().greet()
    talk.call(1, Apply(KvSet(b"k", b"v"), "", RETRY))
    talk.tier.replies[-1](Applied(5, True))
    assert talk.last(Applied) == (Kind.REPLY, 1, Applied(5, True))
    talk.call(2, Status())
    talk.tier.replies[-1](TierStatus(ME, (ME,), {}))
    assert talk.last(TierStatus)[2].leader == ME


def test_a_long_answer_that_many_wait_for_is_packed_once() -> None:
    packer = Packer()
    answer = Answer([b"row"] * 1_000, 7, True, 0)
    packed = packer.pack(answer)
    assert packer.pack(answer) is packed
    assert msgspec.msgpack.decode(msgspec.msgpack.encode((1, packed))) == [
        1,
        [[b"row"] * 1_000, 7, True, 0, 0],
    ]
    short = Answer(None, 8, True, 0)
    assert packer.pack(short) is short
    assert packer.pack(answer) is not packed, "what was packed is let go with the next answer"
