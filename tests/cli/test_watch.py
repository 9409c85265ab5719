"""`gemot watch`: once without a command; with one, run at each change of content and no oftener."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from pathlib import Path

import pytest
from support.dev_agent import PATIENCE_S, PROGRAM, Shell, dev_agent, free_ports, until

from gemot.agent.client.watch import back_off_s, event_index


def recorder(folder: Path) -> str:
    """A program that appends index, and each line of its standard input and its arguments, to a file."""
    program = folder / "record"
    program.write_text('#!/bin/sh\nprintf "%s " "$CONSUL_INDEX" "$@" >> runs\ncat >> runs\n')
    program.chmod(0o755)
    return str(program)


def runs(folder: Path) -> list[str]:
    """Those that are over: a line that has no end yet is still being written."""
    path = folder / "runs"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_without_a_command_it_prints_once(gemot: Shell) -> None:
    gemot("kv", "put", "watched/a", "1")
    entry = json.loads(gemot("watch", "-type=key", "-key=watched/a").out)
    assert base64.b64decode(entry["Value"]) == b"1"
    assert json.loads(gemot("watch", "-type", "key", "-key", "watched/none").out) is None
    assert [row["Key"] for row in json.loads(gemot("watch", "-type=keyprefix", "-prefix=watched/").out)] == [
        "watched/a"
    ]
    assert json.loads(gemot("watch", "-type=keyprefix", "-prefix=none/").out) == []
    assert "consul" in json.loads(gemot("watch", "-type=services").out)
    assert [row["Node"] for row in json.loads(gemot("watch", "-type=nodes").out)] == ["n1"]
    found = json.loads(gemot("watch", "-type=service", "-service=consul", "-passingonly=true").out)
    assert found[0]["Service"]["Service"] == "consul"
    checks = json.loads(gemot("watch", "-type=checks", "-state=passing").out)
    assert "serfHealth" in [check["CheckID"] for check in checks]
    assert json.loads(gemot("watch", "-type=checks", "-service=consul").out) == []


def test_a_command_is_run_now_and_at_each_change(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "follow", "1")
    with gemot.running("watch", "-type=key", "-key=follow", recorder(tmp_path), "-x", "--type=y", "z z"):
        until(lambda: len(runs(tmp_path)) == 1, "the first run")
        gemot("kv", "put", "follow", "1")  # the same content
        gemot("kv", "put", "other", "1")
        gemot("kv", "put", "follow", "2")
        until(lambda: len(runs(tmp_path)) == 2, "the run after a change")
        gemot("kv", "delete", "follow")
        until(lambda: len(runs(tmp_path)) == 3, "the run after the end")
    told = [line.partition(" -x --type=y z z ") for line in runs(tmp_path)]
    indexes = [int(index) for index, _, _ in told]
    values = [json.loads(text) for _, _, text in told]
    assert indexes == sorted(set(indexes))
    assert [value and base64.b64decode(value["Value"]) for value in values] == [b"1", b"2", None]


def test_the_command_is_run_without_a_shell_unless_asked(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "shell", "1")
    with gemot.running("watch", "-type=key", "-key=shell", recorder(tmp_path), "$HOME; `id`"):
        until(lambda: runs(tmp_path), "a run")
    assert "$HOME; `id`" in runs(tmp_path)[0]
    with gemot.running(
        "watch", "-type=key", "-key=shell", "-shell", 'echo "shell $CONSUL_INDEX" >> by-shell'
    ):
        until(lambda: (tmp_path / "by-shell").exists(), "a run by the shell")
    assert (tmp_path / "by-shell").read_text().startswith("shell ")


def test_a_command_that_fails_is_told_and_the_watch_goes_on(gemot: Shell) -> None:
    gemot("kv", "put", "failing", "1")
    with gemot.running("watch", "-type=key", "-key=failing", "sh", "-c", "exit 3"):
        until(lambda: "exit code 3" in gemot.told, "the failure")
        gemot("kv", "put", "failing", "2")
        until(lambda: gemot.told.count("exit code 3") == 2, "the second failure")


def test_a_command_that_is_not_there_ends_the_watch(gemot: Shell) -> None:
    ended = gemot("watch", "-type=nodes", "./no-such-program")
    assert ended.code == 1
    assert "cannot run ./no-such-program" in ended.err


def test_ctrl_c_ends_a_watch_without_a_traceback(gemot: Shell, tmp_path: Path) -> None:
    with gemot.running("watch", "-type=nodes", recorder(tmp_path)) as child:
        until(lambda: runs(tmp_path), "a run")
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE_S) == 130
    assert "Traceback" not in gemot.told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_runs_ends_with_the_watch(
    gemot: Shell, tmp_path: Path, number: signal.Signals
) -> None:
    """It is asked first, and what it began ends with it, deaf or not."""
    script = '(trap "" TERM; exec sleep 600) & echo $! > deaf; trap "echo term > told; exit 0" TERM\n'
    script += "echo $$ > pid; while :; do sleep 0.05; done"
    with gemot.running("watch", "-type=nodes", "sh", "-c", script) as watch:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the command")
        watch.send_signal(number)
        assert watch.wait(PATIENCE_S) == (130 if number == signal.SIGINT else -number)
    assert (tmp_path / "told").read_text() == "term\n"
    for name in ("pid", "deaf"):
        pid = int((tmp_path / name).read_text())
        until(lambda pid=pid: not runs_still(pid), f"the end of {name}")


def test_a_command_that_is_deaf_is_killed_with_the_watch(gemot: Shell, tmp_path: Path) -> None:
    script = 'trap "" TERM; echo $$ > pid; while :; do sleep 0.05; done'
    with gemot.running("watch", "-type=nodes", "sh", "-c", script) as watch:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the command")
        watch.terminate()
        assert watch.wait(PATIENCE_S) == -signal.SIGTERM
    until(lambda: not runs_still(int((tmp_path / "pid").read_text())), "the end of the command")


def runs_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # a zombie has none
    except OSError:
        return False


def test_a_watch_waits_for_an_agent_that_is_away(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    shell = Shell(f"127.0.0.1:{port}", tmp_path)
    with shell.running("watch", "-type=nodes", recorder(tmp_path)) as child:
        until(lambda: "again in " in shell.told, "the first failure")
        with dev_agent(tmp_path, at=shell.address):
            until(lambda: runs(tmp_path), "a run")
        assert child.poll() is None


def test_delays_grow_with_the_square_of_the_failures_up_to_three_minutes() -> None:
    assert [back_off_s(failures) for failures in (1, 2, 3, 6, 7, 10**6)] == [5, 20, 45, 180, 180, 180]


def test_a_refusal_ends_a_watch(gemot: Shell) -> None:
    ended = gemot("watch", "-type=key", "-key=" + "k" * 5000, "true")
    assert ended.code == 1
    assert "Traceback" not in ended.err


def test_a_pipe_that_ends_early_ends_the_watch_without_a_word(gemot: Shell) -> None:
    line = f"{' '.join(PROGRAM)} watch -type=nodes | true"
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=gemot.environ, capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_events_are_told_once_and_only_those_of_the_name(gemot: Shell, tmp_path: Path) -> None:
    assert gemot("event", "-name=watched", "before").out.startswith("Event ID: ")
    with gemot.running("watch", "-type=event", "-name=watched", recorder(tmp_path)):
        until(lambda: len(runs(tmp_path)) == 1, "what there was")
        gemot("event", "-name=watched", "first")
        until(lambda: len(runs(tmp_path)) == 2, "the run after an event")
        gemot("event", "-name=other")
        gemot("event", "-name", "watched", "-node", "^nobody$")
        gemot("event", "-name=watched")
        until(lambda: len(runs(tmp_path)) == 3, "the run after the last")
    told = [json.loads(line.partition(" ")[2]) for line in runs(tmp_path)]
    assert [[one["Payload"] and base64.b64decode(one["Payload"]) for one in run] for run in told] == [
        [b"before"],
        [b"first"],
        [None],
    ]
    listed = json.loads(gemot("watch", "-type=event", "-name=watched").out)
    assert [one["ID"] for one in listed] == [one["ID"] for run in told for one in run]
    assert [int(line.partition(" ")[0]) for line in runs(tmp_path)] == [
        event_index(one["ID"]) for one in listed
    ]
    assert json.loads(gemot("watch", "-type=event", "-name=none").out) == []


def test_an_event_that_cannot_be_fired_says_why(gemot: Shell) -> None:
    for flags, why in [
        ([], "-name is missing"),
        (["-name=x", "-tag=v1"], "give that too"),
        (["-name=x", "-node=("], "Invalid node filter"),
        (["-name=x", "y" * 600], "the limit is 512"),
    ]:
        done = gemot("event", *flags)
        assert (done.code, why in done.err) == (1, True), done.err
