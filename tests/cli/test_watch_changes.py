"""`gemot watch` by pushed changes: each once, with what was there before, over restarts and old agents."""

from __future__ import annotations

import json
import os
import signal
from base64 import b64decode
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.dev_agent import PATIENCE_S, Shell, until
from support.older_agent import older_agent
from support.scripted_agent import HEAD, STAY, event, scripted, snapshot

from gemot.agent.client.connection import Connection

STATE = "-state-file=kept"


def recorder(folder: Path, code: int = 0) -> str:
    """A program that appends its standard input to a file, and ends with `code`."""
    program, beside = folder / "record", folder / "record.new"
    beside.write_text(f"#!/bin/sh\ncat >> runs\nexit {code}\n")
    beside.chmod(0o755)
    os.replace(beside, program)  # the one before may be at work
    return str(program)


def told(folder: Path) -> list[Any]:
    """What the runs that are over were told."""
    path = folder / "runs"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def lines(gemot: Shell) -> list[Any]:
    return [json.loads(line) for line in gemot.shown.split("\n")[:-1]]


def text(item: Any) -> str | None:
    return item and b64decode(item["Value"]).decode()


def texts(run: dict[str, Any]) -> list[tuple[str, str, str | None, str | None]]:
    return [(one["Op"], one["Key"], text(one["Old"]), text(one["New"])) for one in run["Changes"]]


def test_each_change_is_a_line_with_what_was_there_before(gemot: Shell) -> None:
    gemot("kv", "put", "lines/a", "1")
    with gemot.running("watch", "-type=keyprefix", "-prefix=lines/", "-f"):
        until(lambda: lines(gemot), "what there is")
        for value in ("2", "3"):
            gemot("kv", "put", "lines/a", value)
        gemot("kv", "put", "other", "1")
        gemot("kv", "put", "lines/b", "1")
        gemot("kv", "delete", "-recurse", "lines/")
        until(lambda: len(lines(gemot)) == 5, "the changes")
    assert [texts(line) for line in lines(gemot)] == [
        [("set", "lines/a", None, "1")],
        [("set", "lines/a", "1", "2")],
        [("set", "lines/a", "2", "3")],
        [("set", "lines/b", None, "1")],
        [("delete", "lines/a", "3", None), ("delete", "lines/b", "1", None)],
    ]
    indexes = [line["Index"] for line in lines(gemot)]
    assert indexes == sorted(set(indexes))


def test_a_command_is_given_the_changes(gemot: Shell, tmp_path: Path) -> None:
    with gemot.running("watch", "-type=key", "-key=given", "-changes", recorder(tmp_path)):
        gemot("kv", "put", "given", "1")
        until(lambda: told(tmp_path), "the first")
        gemot("kv", "put", "given", "2")
        until(lambda: len(told(tmp_path)) == 2, "the second")
    assert [texts(run) for run in told(tmp_path)] == [
        [("set", "given", None, "1")],
        [("set", "given", "1", "2")],
    ]


def test_a_start_tells_nothing_that_was_told_and_what_changed_meanwhile_once(
    gemot: Shell, tmp_path: Path
) -> None:
    watch = ("watch", "-type=key", "-key=start", STATE, recorder(tmp_path))

    def run_until(value: str, *, put: bool) -> None:
        """The watch is ended once it has told this and kept that."""
        before = kept()
        with gemot.running(*watch) as child:
            until(lambda: put or kept() != before, "that it is kept")
            if put:
                gemot("kv", "put", "start", value)
            until(lambda: [text(run) for run in told(tmp_path)][-1:] == [value], "the change")
            until(lambda: kept() != before, "that it is kept")
            child.send_signal(signal.SIGINT)
            child.wait(PATIENCE_S)

    def kept() -> str:
        path = tmp_path / "kept"
        return json.loads(path.read_text())["Told"] if path.exists() else ""

    gemot("kv", "put", "start", "1")
    run_until("1", put=False)
    run_until("2", put=True)
    gemot("kv", "put", "start", "3")
    gemot("kv", "put", "start", "4")
    run_until("4", put=False)
    assert [text(run) for run in told(tmp_path)] == ["1", "2", "4"]
    assert "Value" not in (tmp_path / "kept").read_text()


def test_a_start_tells_all_there_is_though_little_of_it_changed(gemot: Shell, tmp_path: Path) -> None:
    watch = ("watch", "-type=keyprefix", "-prefix=whole/", STATE, recorder(tmp_path))
    for key in ("a", "b"):
        gemot("kv", "put", f"whole/{key}", "1")
    with gemot.running(*watch):
        kept = tmp_path / "kept"
        until(lambda: kept.exists() and json.loads(kept.read_text())["Told"], "that it is kept")
    gemot("kv", "put", "whole/b", "2")
    with gemot.running(*watch):
        until(lambda: len(told(tmp_path)) == 2, "what changed meanwhile")
    assert [[text(item) for item in run] for run in told(tmp_path)] == [["1", "1"], ["1", "2"]]


def test_a_start_by_changes_goes_on_with_each_one(gemot: Shell, tmp_path: Path) -> None:
    watch = ("watch", "-type=keyprefix", "-prefix=resume/", "-changes", STATE, recorder(tmp_path))
    kept = tmp_path / "kept"
    gemot("kv", "put", "resume/a", "1")
    with gemot.running(*watch):
        until(lambda: kept.exists() and json.loads(kept.read_text())["Items"], "that it is kept")
    for value in ("2", "3"):
        gemot("kv", "put", "resume/a", value)
    with gemot.running(*watch):
        until(lambda: sum(len(run["Changes"]) for run in told(tmp_path)) >= 3, "what changed meanwhile")
    assert [change for run in told(tmp_path) for change in texts(run)] == [
        ("set", "resume/a", None, "1"),
        ("set", "resume/a", "1", "2"),
        ("set", "resume/a", "2", "3"),
    ]
    assert kept.stat().st_mode & 0o777 == 0o600


def test_what_failed_is_run_again_until_it_ends_well(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "again", "1")
    with gemot.running("watch", "-type=key", "-key=again", "-retry", STATE, recorder(tmp_path, code=3)):
        until(lambda: len(told(tmp_path)) >= 2, "the second try")
        recorder(tmp_path)
        until(lambda: json.loads((tmp_path / "kept").read_text())["Told"], "that it is kept")
    assert {text(run) for run in told(tmp_path)} == {"1"}
    assert "record ended with exit code 3" in gemot.told


def test_an_agent_without_push_watches_is_asked(gemot: Shell, address: str, tmp_path: Path) -> None:
    gemot("kv", "put", "old/a", "1")
    with older_agent(address) as older:
        old = Shell(older, tmp_path)
        with old.running("watch", "-type=keyprefix", "-prefix=old/", "-f"):
            until(lambda: lines(old), "what there is")
            gemot("kv", "put", "old/a", "2")
            until(lambda: len(lines(old)) == 2, "the change")
            gemot("kv", "delete", "old/a")
            until(lambda: len(lines(old)) == 3, "the end")
        assert old.told.count("no push watches") == 1
    assert [texts(line) for line in lines(gemot)] == [
        [("set", "old/a", None, "1")],
        [("set", "old/a", "1", "2")],
        [("delete", "old/a", "2", None)],
    ]


def test_a_key_that_is_no_text_can_be_watched(gemot: Shell, tmp_path: Path) -> None:
    key = os.fsdecode(b"-key=no/\xff\xfe")
    with gemot.running("watch", "-type=key", key, STATE, recorder(tmp_path)):
        until(lambda: told(tmp_path) == [None], "a run")
        gemot("kv", "put", key.removeprefix("-key="), "1")
        until(lambda: len(told(tmp_path)) == 2, "the change")
    assert text(told(tmp_path)[1]) == "1"


def test_a_prefix_that_is_no_text_is_pushed_each_change(gemot: Shell) -> None:
    """Who asks anew after each change would see the last value of a transaction alone."""
    gemot("kv", "put", "no/é", "0")
    half = os.fsdecode("-prefix=no/é".encode()[:-1])
    with gemot.running("watch", "-type=keyprefix", half, "-f"):
        until(lambda: lines(gemot), "what there is")
        ops = [{"KV": {"Verb": "set", "Key": "no/é", "Value": value}} for value in ("MQ==", "Mg==")]
        with closing(Connection(gemot.address)) as connection:
            connection.request("PUT", "/v1/txn", body=json.dumps(ops).encode())
        until(lambda: len(lines(gemot)) == 2, "the transaction")
    assert texts(lines(gemot)[1]) == [("set", "no/é", "0", "1"), ("set", "no/é", "1", "2")]


def test_changes_that_are_not_known_any_more_are_said_and_what_differs_is_told(tmp_path: Path) -> None:
    gone = event("compacted", '{"Reason":"long ago"}')
    with scripted(HEAD + snapshot(3, a=1, b=2), HEAD + gone + snapshot(9, b=3) + STAY) as agent:
        shell = Shell(agent.address, tmp_path)
        with shell.running("watch", "-type=keyprefix", "-prefix=x", "-f"):
            until(lambda: len(lines(shell)) == 2, "what differs")
    assert [(one["Op"], one["Key"], one["Old"], one["New"]) for one in lines(shell)[1]["Changes"]] == [
        ("delete", "a", 1, None),
        ("set", "b", 2, 3),
    ]
    assert shell.told.count("not each change is known: long ago") == 1


KINDS = {
    "services": ([], "consul"),
    "nodes": ([], "n1"),
    "checks": (["-state=passing"], "n1/serfHealth"),
    "service": (["-service=consul"], "n1/consul"),
    "node": (["-node=n1"], "service/consul"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pushed_or_asked_for_it_is_told_alike(gemot: Shell, tmp_path: Path, kind: str) -> None:
    flags, key = KINDS[kind]
    watch = ("watch", f"-type={kind}", *flags)
    for how in ([], ["-stale"]):
        with gemot.running(*watch, *how, recorder(tmp_path)):
            until(lambda how=how: len(told(tmp_path)) == 1 + len(how), "a run")
    pushed, asked = told(tmp_path)
    assert pushed == asked == json.loads(gemot(*watch).out)
    with gemot.running(*watch, "-f"):
        until(lambda: lines(gemot), "what there is")
    assert key in [one["Key"] for one in lines(gemot)[0]["Changes"]]


def test_a_session_is_watched_until_it_ends(gemot: Shell, address: str, tmp_path: Path) -> None:
    agent = Connection(address)
    id = agent.request("PUT", "/v1/session/create").json()["ID"]
    assert json.loads(gemot("watch", "-type=session", f"-session={id}").out)["ID"] == id
    with gemot.running("watch", "-type=session", f"-session={id}", recorder(tmp_path)):
        until(lambda: told(tmp_path), "the session")
        agent.request("PUT", f"/v1/session/destroy/{id}")
        until(lambda: len(told(tmp_path)) == 2, "its end")
    agent.close()
    assert [run and run["ID"] for run in told(tmp_path)] == [id, None]


MISTAKES = {
    "no command": (["-changes"], "-changes is for COMMAND"),
    "nothing to retry": (["-retry"], "-retry is for COMMAND"),
    "both": (["-f", "true"], "leave COMMAND out"),
    "nothing to gather": (["-debounce=2s"], "-debounce is for what follows"),
    "nothing to keep": ([STATE], "-state-file is for what follows"),
    "no duration": (["-debounce=2", "true"], "-debounce: time: missing unit"),
    "below none": (["-debounce=-2s", "true"], "between 0 and 1h"),
    "no such folder": (["-state-file=none/kept", "true"], "none/kept: No such file or directory"),
    "a folder": (["-state-file=.", "true"], "-state-file: .: "),
    "node": (["-node=x"], "-node has no meaning for -type=nodes"),
}


@pytest.mark.parametrize(("flags", "why"), MISTAKES.values(), ids=MISTAKES.keys())
def test_flags_that_make_no_sense_are_told(gemot: Shell, flags: list[str], why: str) -> None:
    done = gemot("watch", "-type=nodes", *flags)
    assert (done.code, why in done.err, "Traceback" in done.err) == (1, True, False), done.err


FOREIGN = {
    "text": b"my notes\n",
    "empty": b"",
    "no text": b"\xff\xfe",
    "JSON": b"[1]",
    "deep": b"[" * 100_000,
    "later": b'{"Format":2,"Watch":{}}',
    "another watch": b'{"Format":1,"Watch":{"type":"key","key":"a","changes":false}}',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_file_that_is_no_state_of_this_watch_is_left_alone(
    gemot: Shell, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "kept").write_bytes(content)
    done = gemot("watch", "-type=nodes", STATE, recorder(tmp_path))
    assert (done.code, "give another file, or remove it" in done.err) == (1, True), done.err
    assert (tmp_path / "kept").read_bytes() == content
    assert told(tmp_path) == []
