"""`gemot kv` log, show, diff and rollback as processes, against a server that keeps history by itself."""

from __future__ import annotations

import pytest
from support.dev_agent import Shell, until

from gemot.agent.client.connection import Connection
from gemot.agent.client.history import Changed, History, plan
from gemot.agent.client.kv import Kv


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


def test_more_keys_than_a_transaction_takes_are_refused_and_the_limit_is_named(gemot: Shell) -> None:
    begun(gemot)
    gemot("kv", "put", "many", "x")
    at = index(gemot, "many")
    rows = ",".join(f'{{"key": "many/{n}", "flags": 0, "value": ""}}' for n in range(130))
    assert gemot("kv", "import", "-", stdin=f"[{rows}]".encode()).code == 0
    refused = gemot("kv", "rollback", "-prefix", "many/", f"-to={at}", "-yes")
    assert refused.code == 1
    assert "130 keys are to be changed, a transaction takes 128: give longer prefixes" in refused.err
    assert len(gemot("kv", "get", "-recurse", "many/").out.splitlines()) == 130


def test_a_key_must_be_named(gemot: Shell) -> None:
    for verb, flag in (("rollback", "-to=1"), ("diff", "-from=1")):
        assert "name the key, or give -prefix for all keys" in gemot("kv", verb, flag).err
