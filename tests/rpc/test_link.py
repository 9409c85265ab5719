"""The calling side: every answer decoded as what was asked, and the truth told when the line breaks."""

from __future__ import annotations

from typing import Any

import pytest
from support.members import client, hello, server
from support.virtual import VirtualTimer

from gemot.server.model.autopilot import AutopilotConfig, AutopilotRow, GetAutopilot
from gemot.server.model.catalog import (
    HealthService,
    Instance,
    Node,
    NodeDetail,
    NodeInfo,
    Nodes,
    Service,
    ServiceNode,
    ServiceNodes,
    Services,
)
from gemot.server.model.changes import KvChange, KvChanges, Told
from gemot.server.model.coordinate import Coordinate, CoordinateOf, Coordinates, NodeCoordinate
from gemot.server.model.errors import (
    Busy,
    Conflict,
    GemotError,
    NoLeader,
    NotLeader,
    OlderRelease,
    OutcomeUnknown,
    PeerBroke,
    RuleFailed,
    Unavailable,
    to_wire,
)
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.model.history import AsOf, KvAsOf, KvRevisions, Revision, Revisions
from gemot.server.model.kv import (
    EntryPage,
    KeyPage,
    KvEntry,
    KvGet,
    KvKeys,
    KvKeysPage,
    KvList,
    KvListPage,
    KvSet,
)
from gemot.server.model.query import VALUES, Answer, Applied, Options, Query
from gemot.server.model.session import (
    CreateSession,
    DestroySession,
    LivingSession,
    RenewSession,
    Session,
    SessionInfo,
    Sessions,
)
from gemot.server.model.txn import (
    FoundCheck,
    FoundKey,
    FoundNode,
    FoundService,
    KvOp,
    NodeOp,
    ReadTxn,
    Txn,
    TxnAnswer,
    TxnError,
)
from gemot.server.raft.types import CampaignNow
from gemot.server.rpc.client import PING_EVERY_MS, SILENT_AFTER_MS, Link
from gemot.server.rpc.frame import GREETING, MAX_FRAME_BYTES, FrameReader, Kind
from gemot.server.rpc.message import (
    COORDINATES,
    FEATURES,
    SESSIONS,
    TXN,
    Apply,
    Ask,
    Bookmark,
    Call,
    Cancelled,
    FetchSnapshot,
    Forward,
    Found,
    Join,
    Joined,
    Leave,
    Locate,
    Operate,
    Promise,
    Report,
    SnapshotChunk,
    Status,
    Subscribe,
    TierStatus,
    decode_call,
    decode_cancelled,
    decode_hello,
    encode,
)

ME = server(1)
ASK = Ask(KvGet(b"k"), Options())
WRITE = Apply(KvSet(b"k", b"v"), "", None)


class Line:
    """A link, what it sent, and what the other side says."""

    def __init__(self, *, greeted: bool = True, features: tuple[str, ...] = FEATURES) -> None:
        self.timer = VirtualTimer()
        self.sent: list[tuple[Kind, bytes]] = []
        self.closed: list[str] = []
        self.ready: list[str] = []
        self._reader = FrameReader()
        self.link = Link(
            hello=hello(client(1)),
            send=lambda data: self.sent.extend(self._reader.feed(data)),
            close=self.closed.append,
            now_ms=self.timer.now_ms,
            on_ready=lambda peer: self.ready.append(peer.member.name),
        )
        self.link.on_open()
        if greeted:
            self.hear(Kind.HELLO, hello(ME, cluster="c1", features=features))

    def hear(self, kind: Kind, word: Any) -> None:
        self.link.on_frame(kind, word if isinstance(word, bytes) else encode(word))

    def ask(self, call: Call) -> list[Any]:
        """What the call is told, as it comes."""
        told: list[Any] = []
        self.cancel = self.link.call(call, told.append)
        return told

    @property
    def last_id(self) -> int:
        return decode_call(self.sent[-1][1]).id


# -- greeting --------------------------------------------------------------------------------------


def test_the_greeting_and_the_hello_go_first() -> None:
    sent: list[bytes] = []
    link = Link(
        hello=hello(client(1)),
        send=sent.append,
        close=lambda reason: None,
        now_ms=lambda: 0,
        on_ready=lambda peer: None,
    )
    link.on_open()
    assert sent[0].startswith(GREETING)
    kind, body = FrameReader().feed(sent[0])[0]
    assert kind == Kind.HELLO
    assert decode_hello(body).member.name == "web1"


def test_nothing_is_asked_before_the_other_side_has_greeted() -> None:
    line = Line(greeted=False)
    told = line.ask(ASK)
    assert isinstance(told[0], Unavailable)
    line.link.send_raft(CampaignNow(1, "a"))
    assert [kind for kind, _ in line.sent] == [Kind.HELLO]
    line.hear(Kind.HELLO, hello(ME))
    assert line.ready == ["srv1"]


@pytest.mark.parametrize("kind", [k for k in Kind if k not in (Kind.HELLO, Kind.FAILURE)])
def test_a_server_that_does_not_greet_first_is_broken(kind: Kind) -> None:
    with pytest.raises(PeerBroke, match="first frame must be a hello"):
        Line(greeted=False).hear(kind, b"")


def test_a_server_of_another_protocol_is_named() -> None:
    with pytest.raises(PeerBroke, match="srv1 speaks protocol 7 to 9, this agent 1 to 1"):
        Line(greeted=False).hear(Kind.HELLO, hello(ME, protocols=(7, 9)))


def test_a_refusal_is_told_in_the_servers_own_words() -> None:
    with pytest.raises(PeerBroke, match="refused: web1 belongs to datacenter"):
        Line(greeted=False).hear(
            Kind.FAILURE, (0, to_wire(PeerBroke("web1 belongs to datacenter 'dc2', srv1 to 'dc1'")))
        )


@pytest.mark.parametrize("body", [b"", b"\xc1", encode((0, 5))])
def test_a_refusal_that_cannot_be_read_is_a_broken_peer(body: bytes) -> None:
    with pytest.raises(PeerBroke):
        Line(greeted=False).hear(Kind.FAILURE, body)


# -- answers ---------------------------------------------------------------------------------------

NODE = Node("n1", "10.0.0.9", id="x" * 36, meta={"rack": "4"}, create_index=3, modify_index=4)
SERVICE = Service("w1", "web", tags=("a", "b"), port=80, meta={"v": "1"})
CHECK = Check("n1", "c1", "alive", status="passing", output="fine")
SESSION = Session("s1", "n1", ttl="10s", ttl_ms=10_000, service_checks=(("c1", ""),), create_index=3)
PLACE = NodeCoordinate("n1", Coordinate((1.5, *(-0.25,) * 7), 0.5, -0.001, 0.0001), 3, 4)
REVISION = Revision(KvEntry(b"k", b"\xff", 0, 0, "", 3, 4, 0, "who", 1 << 40, 2, 0), "set", 6, True, 9, "ann")
FOUND: list[tuple[Query, list[Any]]] = [
    (KvGet(b"k"), [None, KvEntry(b"k", b"\x00\xff", (1 << 64) - 1, 0, "", 3, 4, 1 << 52)]),
    (KvList(b""), [[], [KvEntry(b"\xff", b"", 0, 1, "s", 3, 4)]]),
    (KvKeys(b"a", b"/"), [[], [b"a/", b"\xfe\xff"]]),
    (KvListPage(b"", b"a", 1), [EntryPage([]), EntryPage([KvEntry(b"b", b"", 0, 1, "s", 3, 4)], b"b")]),
    (KvKeysPage(b"a", b"/", b"", 2), [KeyPage([]), KeyPage([b"a/", b"\xfe\xff"], b"\xfe\xff")]),
    (Nodes(), [[], [NODE]]),
    (NodeInfo("n1"), [None, NodeDetail(NODE, (SERVICE,), (CHECK,))]),
    (Services(), [{}, {"web": ["a", "b"], "db": []}]),
    (ServiceNodes("web"), [[], [ServiceNode(NODE, SERVICE)]]),
    (HealthService("web"), [[], [Instance(NODE, SERVICE, (CHECK,))]]),
    (HealthNode("n1"), [[], [CHECK]]),
    (HealthChecks("web"), [[], [CHECK]]),
    (HealthState("any"), [[], [CHECK]]),
    (GetAutopilot(), [None, AutopilotRow(AutopilotConfig(min_quorum=3), 7, 9)]),
    (Coordinates(), [[], [PLACE]]),
    (CoordinateOf("n1"), [None, PLACE]),
    (SessionInfo("s1"), [None, LivingSession(SESSION, 9_000), LivingSession(Session("s2", "n1"), -1)]),
    (Sessions(), [[], [SESSION]]),
    (
        KvChanges(b"a", True, 7),
        [
            Told([], 9, compacted=True),
            Told(
                [
                    KvChange(8, "set", b"a", KvEntry(b"a", b"", 0, 0, "", 3, 8)),
                    KvChange(9, "delete", b"a", None),
                ],
                9,
            ),
            Told([KvChange(8, "delete-prefix", b"", None)], 9),
        ],
    ),
    (
        ReadTxn((KvOp("get", b"k"), NodeOp("get", NODE))),
        [
            TxnAnswer((), (TxnError(1, "why", "forbidden"),)),
            TxnAnswer((FoundKey(KvEntry(b"k", b"\xff", 0, 0, "", 3, 4)), FoundNode(NODE)), ()),
            TxnAnswer((FoundService(SERVICE), FoundCheck(CHECK)), ()),
        ],
    ),
    (KvRevisions(b"k", 9, 2), [Revisions([], 3, False), Revisions([REVISION], 3, True)]),
    (KvAsOf(b"k", 7), [AsOf([], [], 3), AsOf([REVISION.row], [b"\xff"], 3)]),
]


def test_every_query_is_tried_here() -> None:
    assert {type(query) for query, _ in FOUND} == set(VALUES)


@pytest.mark.parametrize(("query", "values"), FOUND, ids=lambda v: type(v).__name__)
def test_a_read_comes_back_as_the_words_that_were_sent(query: Query, values: list[Any]) -> None:
    for value in values:
        answer = Answer(value, 12, False, 40)
        line = Line()
        told = line.ask(Ask(query, Options()))
        assert decode_call(line.sent[-1][1]).call == Ask(query, Options())
        line.hear(Kind.REPLY, (line.last_id, answer))
        assert told == [answer]
        told = line.ask(Subscribe(query, "", 0))
        line.hear(Kind.EVENT, (line.last_id, answer))
        line.hear(Kind.EVENT, (line.last_id, answer))
        assert told == [answer, answer]


CHUNK = SnapshotChunk(1, 0, 5, "ab", "1.0", 0, b"12345")
REPLIES: list[tuple[Call, Any]] = [
    (WRITE, Applied(9, True)),
    (Forward(KvSet(b"k", b"v"), "", None), Applied(9, False)),
    (FetchSnapshot(5, 1, 0), CHUNK),
    (Join(3), Joined((ME,), 3, "c1")),
    (Status(), TierStatus(ME, (ME,), {"raft": {"term": "1"}})),
    (Report((ME,)), True),
    (Leave("n1"), True),
    (Promise("c", (ME,)), True),
    (Found("c", (ME,)), True),
]


@pytest.mark.parametrize(("call", "reply"), REPLIES, ids=lambda v: type(v).__name__)
def test_every_other_call_has_its_own_reply(call: Call, reply: Any) -> None:
    line = Line()
    told = line.ask(call)
    line.hear(Kind.REPLY, (line.last_id, reply))
    assert told == [reply]
    line.ask(call)
    with pytest.raises(PeerBroke, match=f"undecodable answer to {type(call).__name__}"):
        line.hear(Kind.REPLY, (line.last_id, "nonsense"))


@pytest.mark.parametrize(
    "error",
    [RuleFailed("no"), NoLeader(), NotLeader("srv2"), Busy("full"), Conflict("other"), Unavailable("x")],
)
def test_a_failure_comes_back_as_the_error_it_was(error: GemotError) -> None:
    line = Line()
    told = line.ask(ASK)
    line.hear(Kind.FAILURE, (line.last_id, to_wire(error)))
    assert type(told[0]) is type(error)
    assert told[0].message == error.message


def test_a_bookmark_goes_to_its_subscription() -> None:
    line = Line()
    told = line.ask(Subscribe(KvGet(b"k"), "", 0))
    line.hear(Kind.BOOKMARK, (line.last_id, Bookmark(4, True, 2)))
    assert told == [Bookmark(4, True, 2)]


def test_calls_never_share_an_id_and_answers_may_come_in_any_order() -> None:
    line = Line()
    first, one = line.ask(ASK), line.last_id
    second, two = line.ask(ASK), line.last_id
    assert one != two
    line.hear(Kind.REPLY, (two, Answer(None, 2)))
    line.hear(Kind.REPLY, (one, Answer(None, 1)))
    assert [first[0].index, second[0].index] == [1, 2]


def test_a_cancelled_call_tells_the_server_once_and_hears_nothing_more() -> None:
    line = Line()
    told = line.ask(ASK)
    id = line.last_id
    line.cancel()
    line.cancel()
    assert [decode_cancelled(body) for kind, body in line.sent if kind == Kind.CANCEL] == [Cancelled(id)]
    line.hear(Kind.REPLY, (id, Answer(None, 1)))
    assert told == []


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.CANCEL, Kind.RAFT, Kind.PING, Kind.HELLO])
def test_frames_that_are_not_for_a_client_are_a_broken_peer(kind: Kind) -> None:
    with pytest.raises(PeerBroke, match=f"{kind.name} frame is not for a client"):
        Line().hear(kind, b"")


@pytest.mark.parametrize(
    ("call", "features", "lacking"),
    [
        (Locate(NodeCoordinate("web1", Coordinate())), (), "coordinates"),
        (Ask(Coordinates(), Options()), (), "coordinates"),
        (Subscribe(CoordinateOf("web1"), "", 0), (), "coordinates"),
        (Ask(SessionInfo("s1"), Options()), (COORDINATES,), "sessions"),
        (Subscribe(Sessions(), "", 0), (), "sessions"),
        (Apply(CreateSession(Session("s1", "web1")), "", None), (), "sessions"),
        (Apply(DestroySession("s1"), "", None), (), "sessions"),
        (Forward(RenewSession("s1"), "", None), (), "sessions"),
        (Apply(Txn((KvOp("set", b"a"),)), "", None), (SESSIONS,), "transactions"),
        (Forward(Txn(()), "", None), (SESSIONS,), "transactions"),
        (Ask(ReadTxn((KvOp("get", b"a"),)), Options()), (SESSIONS,), "transactions"),
        (Ask(KvChanges(b"a", True, 0), Options()), (SESSIONS, TXN), "changes"),
        (Ask(KvRevisions(b"a"), Options()), (SESSIONS,), "history"),
        (Ask(KvAsOf(b"a", 1), Options()), (SESSIONS,), "history"),
        (Ask(KvListPage(b"", b"", 1), Options()), (SESSIONS,), "pages"),
        (Subscribe(KvKeysPage(b"", b"", b"", 1), "", 0), (SESSIONS,), "pages"),
        (Apply(KvSet(b"a", b"", ttl_ms=1_000), "", None), (TXN,), "keys that expire"),
        (Forward(Txn((KvOp("set", b"a", ttl_ms=1_000),)), "", None), (TXN,), "keys that expire"),
        (Operate("force-leave", node="web1", forwarded=True), (COORDINATES,), "force-leave"),
    ],
)
def test_what_an_older_release_does_not_know_is_refused_and_costs_no_write_its_outcome(
    call: Call, features: tuple[str, ...], lacking: str
) -> None:
    line = Line(features=features)
    written = line.ask(WRITE)
    sent = len(line.sent)
    (error,) = line.ask(call)
    assert isinstance(error, OlderRelease)
    assert error.message == f"srv1 is of an older release without {lacking}: upgrade it"
    assert (len(line.sent), written, line.closed) == (sent, [], [])


@pytest.mark.parametrize("call", [Operate("transfer"), Ask(Nodes(near="web1"), Options()), WRITE])
def test_what_the_first_release_takes_is_asked_of_it(call: Call) -> None:
    line = Line(features=())
    assert line.ask(call) == []
    assert decode_call(line.sent[-1][1]).call == call


def test_a_call_larger_than_a_server_takes_is_refused_here() -> None:
    line = Line()
    told = line.ask(Apply(KvSet(b"k", bytes(MAX_FRAME_BYTES)), "", None))
    assert told[0].code == "too-large"
    assert line.sent[-1][0] == Kind.HELLO


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [call for call, _ in REPLIES] + [ASK, Subscribe(KvGet(b"k"), "", 0)])
def test_a_broken_line_leaves_writes_unknown_and_all_else_surely_undone(call: Call) -> None:
    line = Line()
    told = line.ask(call)
    line.link.on_closed("reset")
    assert len(told) == 1
    expected = OutcomeUnknown if isinstance(call, Apply | Forward) else Unavailable
    assert type(told[0]) is expected
    assert "reset" in told[0].message
    later = line.ask(call)
    assert type(later[0]) is Unavailable, "what was never sent is surely undone"


@pytest.mark.parametrize("call", [ASK, WRITE])
def test_an_answer_that_cannot_be_read_ends_the_line_and_its_own_call_too(call: Call) -> None:
    line = Line()
    told = line.ask(call)
    with pytest.raises(PeerBroke):
        line.hear(Kind.REPLY, (line.last_id, "rubbish"))
    assert told == []
    line.link.on_closed("what srv1 says cannot be read")
    assert [type(each) for each in told] == [OutcomeUnknown if call is WRITE else Unavailable]


def test_a_ping_goes_out_each_second_however_busy_the_line_is() -> None:
    line = Line()
    for _ in range(5 * PING_EVERY_MS // 500):
        line.timer.pass_ms(500)
        line.hear(Kind.PONG, b"")
        line.link.on_tick()
    assert [kind for kind, _ in line.sent].count(Kind.PING) == 5
    assert line.closed == []


def test_a_server_that_stays_silent_is_given_up() -> None:
    line = Line()
    waited = 0
    while not line.closed:
        line.timer.pass_ms(500)
        waited += 500
        line.link.on_tick()
        assert waited <= SILENT_AFTER_MS
    assert waited == SILENT_AFTER_MS
    assert line.closed == [f"no answer for {SILENT_AFTER_MS} ms"]
