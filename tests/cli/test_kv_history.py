"""`gemot kv` log, show, diff and rollback as processes, against a server that keeps history by itself."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from support.dev_agent import PATIENCE_S, Shell, dev_agent, until

from gemot.agent.client.connection import Connection
from gemot.agent.client.entry import Entry
from gemot.agent.client.history import (
    MOST_BYTES,
    MOST_CHANGES,
    Changed,
    History,
    NotTaken,
    left_locked,
    plan,
)
from gemot.agent.client.kv import Kv
from gemot.agent.client.semaphore import SEMAPHORE_FLAGS
from gemot.agent.config.schema import Limits
from gemot.server.model.txn import MAX_OPS


def index(gemot: Shell, key: str) -> int:
    lines = gemot("kv", "get", "-detailed", key).out.splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("ModifyIndex")))


def begun(gemot: Shell) -> None:
    """History begins soon after the server leads."""
    gemot("kv", "put", "history/begun", "x")
    until(lambda: gemot("kv", "log", "history/begun").code == 0, "the beginning of history")


def test_a_key_tells_what_it_was(gemot: Shell) -> None:
    begun(gemot)
    gemot("kv", "put", "was", "one")
    first = index(gemot, "was")
    gemot("kv", "put", "was", "two")
    second = index(gemot, "was")
    gemot("kv", "delete", "was")
    log = gemot("kv", "log", "was")
    assert log.code == 0, log.err
    head, *rows = [line.split() for line in log.out.splitlines()]
    assert head == ["INDEX", "TIME", "WHO", "OP", "SIZE", "VALUE"]
    assert [(row[3], row[4]) for row in rows] == [("delete", "-"), ("set", "3"), ("create", "3")]
    assert all(row[1].startswith("20") and row[1].endswith("Z") for row in rows)
    assert gemot("kv", "show", "was", "-index", str(first)).out == "one\n"
    late = gemot("kv", "show", "was", "-index", rows[0][0])
    assert (late.code, f"No key existed at index {rows[0][0]}: was" in late.err) == (1, True)
    assert "is forgotten: history is kept from" in gemot("kv", "show", "was", "-index", "1").err
    assert f"older ones: -before={second}" in gemot("kv", "log", "was", "-limit=1").err
    assert gemot("kv", "log", "was", f"-before={second}").out.count("create") == 1
    assert len(gemot("kv", "log", "-n", "1", "was").out.splitlines()) == 1 + 1 + 1, "a deletion has its own"


def test_two_states_are_compared_line_by_line(gemot: Shell) -> None:
    begun(gemot)
    gemot("kv", "put", "text/a", "one\ntwo\nthree")
    gemot("kv", "put", "text/b", "-", stdin=bytes(range(256)))
    at = index(gemot, "text/b")
    assert gemot("kv", "diff", "-prefix", "text/", f"-from={at}").code == 0
    gemot("kv", "put", "text/a", "one\n2\nthree")
    gemot("kv", "put", "text/b", "-", stdin=bytes(10))
    gemot("kv", "put", "text/c", "new")
    found = gemot("kv", "diff", "-prefix", "text/", f"-from={at}")
    assert found.code == 2
    assert found.out.splitlines() == [
        f"--- text/a@{at}", "+++ text/a@now", "@@ -1,3 +1,3 @@", " one", "-two", "+2", " three",
        f"text/b differs: 256 bytes at {at}, 10 bytes at now",
        "--- /dev/null", "+++ text/c@now", "@@ -0,0 +1 @@", "+new",
    ]  # fmt: skip
    one = gemot("kv", "diff", "text/a", f"-from={at}", f"-to={index(gemot, 'text/a')}")
    assert (one.code, "-two" in one.out) == (2, True)


def test_a_prefix_goes_back_to_an_index_in_one_transaction_after_its_plan_was_shown(gemot: Shell) -> None:
    begun(gemot)
    for name in ("kept", "changed", "deleted"):
        gemot("kv", "put", f"back/{name}", "old")
    at = index(gemot, "back/deleted")
    gemot("kv", "put", "-flags=7", "back/changed", "new one")
    gemot("kv", "delete", "back/deleted")
    gemot("kv", "put", "back/later", "x")
    planned = gemot("kv", "rollback", "-prefix", "back/", f"-to={at}")
    plan = ["set    back/changed (7 to 3 bytes)", "create back/deleted (3 bytes)", "delete back/later"]
    assert (planned.code, planned.out.splitlines()) == (2, plan)
    assert "Nothing was changed: give -yes" in planned.err
    assert gemot("kv", "get", "back/changed").out == "new one\n"
    done = gemot("kv", "rollback", "-prefix", "back/", f"-to={at}", "-yes")
    assert (done.code, done.out.splitlines()[-1]) == (0, f"Success! Keys as at index {at}: 3 changed")
    assert gemot("kv", "get", "-recurse", "back/").out.splitlines() == [
        "back/changed:old", "back/deleted:old", "back/kept:old",
    ]  # fmt: skip
    assert gemot("kv", "diff", "-prefix", "back/", f"-from={at}").code == 0
    assert "Nothing to do" in gemot("kv", "rollback", "-prefix", "back/", f"-to={at}", "-yes").out


def test_who_holds_a_lock_holds_it_still(gemot: Shell) -> None:
    """A lock that came later was deleted, and its holder's command with it."""
    begun(gemot)
    gemot("kv", "put", "held/early", "1")
    at = index(gemot, "held/early")
    gemot("kv", "put", "held/late", "1")
    with gemot.running("lock", "held", "sleep", "600") as holder:
        until(lambda: gemot("kv", "get", "held/.lock").code == 0, "the lock")
        fence = gemot("kv", "get", "-detailed", "held/.lock").out
        gone = gemot("kv", "rollback", "-prefix", f"-to={at}", "-yes", "held/")
        assert gone.out.splitlines() == [
            "keep   held/.lock (it is locked)",
            "delete held/late",
            f"Success! Keys as at index {at}: 1 changed",
        ]
        assert gemot("kv", "get", "-detailed", "held/.lock").out == fence
        again = gemot("kv", "rollback", "-prefix", f"-to={at}", "-yes", "held/")
        assert again.out.splitlines()[1:] == [f"Nothing more to do: all else is as it was at index {at}"]
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(PATIENCE_S) == 128 + signal.SIGTERM


def test_a_semaphore_that_is_held_stays_as_it_is() -> None:
    """Nobody holds its slots themselves: contenders beside them do."""

    def at(key: str, value: bytes, session: str = "", flags: int = SEMAPHORE_FLAGS) -> Entry:
        return Entry(key, value, flags, 0, session, 0, 0, 0)

    now = {each.key: each for each in (at("s/.lock", b"new"), at("s/a", b"", "a"), at("s/old", b""))}
    assert [change.key for change in plan({}, now)] == ["s/old"]
    assert left_locked({}, now) == ["s/.lock", "s/a"]
    then = {"s/.lock": at("s/.lock", b"old")}
    assert [change.key for change in plan(then, now)] == ["s/old"]
    assert left_locked(then, now) == ["s/.lock", "s/a"]
    free = now | {"s/a": at("s/a", b"")}
    assert [change.key for change in plan(then, free)] == ["s/.lock", "s/a", "s/old"]
    assert left_locked(then, free) == []


def test_a_key_that_expires_goes_back_to_one_that_does(gemot: Shell) -> None:
    begun(gemot)
    gemot("kv", "put", "-ttl=1h", "session/x", "same")
    at = index(gemot, "session/x")
    gemot("kv", "put", "session/x", "same")
    assert gemot("kv", "rollback", "session/x", f"-to={at}", "-yes").code == 0
    connection = Connection(gemot.address)
    entry = Kv(connection).get("session/x")
    connection.close()
    assert entry is not None
    assert (entry.value, entry.ttl) == (b"same", "1h0m0s")


def test_what_was_changed_after_the_plan_is_not_overwritten_and_nothing_else_is_done(gemot: Shell) -> None:
    begun(gemot)
    for name in ("a", "b"):
        gemot("kv", "put", f"race/{name}", "old")
    at = index(gemot, "race/b")
    for name in ("a", "b", "c"):
        gemot("kv", "put", f"race/{name}", "new")
    connection = Connection(gemot.address)
    history = History(connection)
    then, _ = history.as_of("race/", at, recurse=True)
    changes = plan(then, history.now("race/", recurse=True))
    assert [(change.verb, change.key) for change in changes] == [
        ("set", "race/a"), ("set", "race/b"), ("delete", "race/c"),
    ]  # fmt: skip
    gemot("kv", "put", "race/b", "newer")
    with pytest.raises(Changed, match="was changed meanwhile, so nothing was done"):
        history.apply(changes)
    connection.close()
    assert gemot("kv", "get", "-recurse", "race/").out == "race/a:new\nrace/b:newer\nrace/c:new\n"


@contextlib.contextmanager
def of_its_own(folder: Path, **limits: int) -> Iterator[tuple[Shell, Callable[..., None]]]:
    """An agent with these limits, and what reloads it with others."""
    config = folder / "limits.json"

    def write(**limits: int) -> None:
        config.write_text(json.dumps({"limits": limits}))

    def reload(**limits: int) -> None:
        write(**limits)
        done = shell("reload")
        assert done.code == 0, done.err

    write(**limits)
    with dev_agent(folder, f"-config-file={config}") as address:
        shell = Shell(address, folder)
        begun(shell)
        yield shell, reload


def filled(gemot: Shell, prefix: str, count: int, size: int = 0) -> int:
    """So many keys come; the index before them."""
    gemot("kv", "put", f"before/{prefix}", "x")
    at = index(gemot, f"before/{prefix}")
    value = base64.b64encode(bytes(size)).decode()
    for first in range(0, count, 100):
        numbers = range(first, min(first + 100, count))
        rows = [{"key": f"{prefix}/{n:04}", "flags": 0, "value": value} for n in numbers]
        assert gemot("kv", "import", "-", stdin=json.dumps(rows).encode()).code == 0
    return at


def keys(gemot: Shell, prefix: str) -> int:
    return len(gemot("kv", "get", "-recurse", "-keys", f"{prefix}/").out.splitlines())


def test_more_keys_than_a_transaction_takes_go_back_once_the_limit_that_was_named_is_raised(
    tmp_path: Path,
) -> None:
    with of_its_own(tmp_path) as (gemot, reload):
        at = filled(gemot, "many", 500)
        refused = gemot("kv", "rollback", "-prefix", "many/", f"-to={at}", "-yes")
        assert refused.code == 1
        assert refused.err.splitlines()[-1] == (
            "Error: nothing was done, 500 keys are too much for one transaction: Transaction contains too "
            "many operations (500 > 128). Set limits.txn_max_ops of the agent to 500 or more and reload it, "
            "or roll back narrower prefixes one after the other"
        )
        assert keys(gemot, "many") == 500
        reload(txn_max_ops=1000)
        done = gemot("kv", "rollback", "-prefix", "many/", f"-to={at}", "-yes")
        assert (done.code, done.out.splitlines()[-1]) == (0, f"Success! Keys as at index {at}: 500 changed")
        assert keys(gemot, "many") == 0
        again = gemot("kv", "rollback", "-prefix", "many/", f"-to={at}", "-yes")
        assert "Nothing to do" in again.out


def test_more_bytes_or_keys_than_any_setting_takes_are_told_and_nothing_is_done(tmp_path: Path) -> None:
    with of_its_own(tmp_path, txn_max_ops=MOST_CHANGES) as (gemot, _):
        at = filled(gemot, "more", MOST_CHANGES + 1)
        refused = gemot("kv", "rollback", "-prefix", "more/", f"-to={at}", "-yes")
        assert refused.code == 1
        assert (
            "No setting takes so much (limits.txn_max_ops goes up to 1024, and 1025 are needed)"
            in refused.err
        )
        assert keys(gemot, "more") == MOST_CHANGES + 1
        filled(gemot, "large", 10, 100_000)
        at = index(gemot, "large/0009")
        for n in range(10):
            gemot("kv", "delete", f"large/{n:04}")
        refused = gemot("kv", "rollback", "-prefix", "large/", f"-to={at}", "-yes")
        assert refused.code == 1
        found = re.search(
            r"Set limits.txn_max_req_len of the agent to (\d+) or more and reload it", refused.err
        )
        assert found, refused.err
        assert "nothing was done" in refused.err
        assert 1_333_000 < int(found[1]) < 1_336_000
        assert keys(gemot, "large") == 0


def test_what_the_servers_refuse_of_a_plan_is_told_in_their_words_and_not_as_changed(tmp_path: Path) -> None:
    """Here they refuse to answer with so many long keys."""
    with of_its_own(tmp_path, txn_max_ops=400, txn_max_req_len=MOST_BYTES) as (gemot, _):
        connection = Connection(gemot.address)
        then = {key: Entry(key, b"", 0, 0, "", 0, 0, 0) for key in [f"{n:04}" * 1000 for n in range(300)]}
        with pytest.raises(NotTaken, match=r"^nothing was done: the results of this transaction take more"):
            History(connection).apply(plan(then, {}))
        connection.close()
        assert keys(gemot, "0") == 0


def test_the_client_knows_how_far_the_settings_go() -> None:
    limits = {field.name: field.type for field in msgspec.structs.fields(Limits)}
    most = [meta.le for name in ("txn_max_ops", "txn_max_req_len") for meta in limits[name].__metadata__]
    assert most == [MOST_CHANGES, MOST_BYTES]
    assert MOST_CHANGES == MAX_OPS


def test_a_key_must_be_named(gemot: Shell) -> None:
    for verb, flag in (("rollback", "-to=1"), ("diff", "-from=1")):
        assert "name the key, or give -prefix for all keys" in gemot("kv", verb, flag).err
