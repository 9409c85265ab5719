"""Some commands wait until every server's release knows them."""

from __future__ import annotations

import pytest

from gemot.server.features import Features
from gemot.server.model.command import Command
from gemot.server.model.errors import Busy
from gemot.server.model.kv import KvSet
from gemot.server.model.session import CreateSession, Session
from gemot.server.model.txn import KvOp, Txn
from gemot.server.rpc.message import COORDINATES, EXPIRY, FEATURES, SESSIONS, TXN

BEGIN = CreateSession(Session("s1", "web1"))


@pytest.fixture
def features() -> Features:
    """Voters, and peers to which the log is sent: most are both."""
    servers = ("id1", "id2", "id3", "id2", "id3")
    return Features(me="id1", servers=lambda: servers, begun=lambda feature: False)


def test_one_that_has_said_nothing_knows_nothing(features: Features) -> None:
    assert features.without(SESSIONS) == ("id2", "id3")
    features.hear("id2", FEATURES)
    assert features.without(SESSIONS) == ("id3",)
    features.hear("id3", (COORDINATES,))
    assert features.without(SESSIONS) == ("id3",)
    assert features.without(COORDINATES) == ()


def test_no_session_begins_before_all_know_sessions_and_who_does_not_is_named(features: Features) -> None:
    features.hear("id2", FEATURES)
    refused = features.refuse(BEGIN, {"id3": "srv3"}.__getitem__)
    assert isinstance(refused, Busy)
    assert refused.message == (
        "sessions wait until every server has said that its release knows them, and these have not: srv3; "
        "upgrade them, or start or remove those that are down"
    )
    assert features.refuse(KvSet(b"a", b""), str) is None
    features.hear("id3", FEATURES)
    assert features.refuse(BEGIN, str) is None


def test_no_transaction_is_written_before_all_know_them_either(features: Features) -> None:
    command = Txn((KvOp("set", b"a"),))
    features.hear("id2", FEATURES)
    features.hear("id3", tuple([known for known in FEATURES if known != TXN]))
    refused = features.refuse(command, str)
    assert isinstance(refused, Busy)
    assert refused.message == (
        "transactions wait until every server has said that its release knows them, and these have not: id3; "
        "upgrade them, or start or remove those that are down"
    )
    assert features.refuse(BEGIN, str) is None
    features.hear("id3", FEATURES)
    assert features.refuse(command, str) is None


def test_one_that_went_back_to_an_older_release_is_waited_for_again(features: Features) -> None:
    for server in ("id2", "id3", "stranger"):
        features.hear(server, FEATURES)
    features.hear("id2", ())
    features.hear("stranger", ())
    assert features.without(SESSIONS) == ("id2",)


def test_where_the_log_has_had_a_session_nobody_is_waited_for() -> None:
    """One server is down, and the others have just begun: a majority goes on."""
    features = Features(
        me="id1", servers=lambda: ("id1", "id2", "id3"), begun=lambda feature: feature == SESSIONS
    )
    assert features.refuse(BEGIN, str) is None
    assert features.without(COORDINATES) == ("id2", "id3")


@pytest.mark.parametrize("write", [KvSet(b"a", b"", ttl_ms=1_000), Txn((KvOp("set", b"a", ttl_ms=1_000),))])
def test_no_key_that_expires_is_written_before_all_know_it(features: Features, write: Command) -> None:
    features.hear("id2", FEATURES)
    features.hear("id3", tuple([known for known in FEATURES if known != EXPIRY]))
    refused = features.refuse(write, str)
    assert isinstance(refused, Busy)
    assert refused.message.startswith("keys that expire wait until every server has said")
    features.hear("id3", FEATURES)
    assert features.refuse(write, str) is None
