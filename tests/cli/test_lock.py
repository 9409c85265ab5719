"""`gemot lock` as a process: what its command gets, exit codes, signals, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.dev_agent import PATIENCE_S, PROGRAM, Shell, dev_agent, until

from gemot.agent.client.lock import LOCK_FLAGS


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that takes short TTLs."""
    folder = tmp_path_factory.mktemp("agent")
    (folder / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    with dev_agent(folder, f"-config-file={folder / 'ttl.json'}") as address:
        until(lambda: "ID" in (put(address, "session/create") or {}), "a session")
        yield address


def put(address: str, path: str, body: bytes = b"") -> Any:
    asked = urllib.request.Request(f"http://{address}/v1/{path}", method="PUT", data=body)
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return None


def get(address: str, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://{address}/v1/{path}", timeout=PATIENCE_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return []


@pytest.fixture(autouse=True)
def nothing_is_left(address: str) -> Iterator[None]:
    """Neither sessions nor keys, however a test's commands ended."""
    before = {row["ID"] for row in get(address, "session/list")}
    yield
    left = [row["Name"] for row in get(address, "session/list") if row["ID"] not in before]
    assert left == []
    assert get(address, "kv/jobs?keys") == []


def lines(folder: Path, name: str = "told") -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def alive(pid: int) -> bool:
    """It runs: it is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_command_knows_the_lock_and_its_fence(gemot: Shell) -> None:
    show = 'env | grep -E "^(CONSUL|GEMOT)_LOCK" | sort; gemot=$(cat); echo "stdin: $gemot"'
    first, second = [gemot("lock", "jobs/env", "sh", "-c", show, stdin=b"not passed") for _ in range(2)]
    told = dict(line.split("=") for line in first.out.splitlines()[:-1])
    assert (told["CONSUL_LOCK_HELD"], told["GEMOT_LOCK_HELD"]) == ("true", "true")
    assert told["GEMOT_LOCK_KEY"] == "jobs/env/.lock"
    assert len(told["GEMOT_LOCK_SESSION"]) == 36
    assert first.out.splitlines()[-1] == "stdin: "
    (later,) = [line for line in second.out.splitlines() if line.startswith("GEMOT_LOCK_FENCE=")]
    assert int(later.partition("=")[2]) > int(told["GEMOT_LOCK_FENCE"]) > 0
    assert (first.code, first.err) == (0, "")


def test_words_are_handed_on_as_they_are(gemot: Shell) -> None:
    done = gemot("lock", "-verbose=false", "jobs/words", "printf", "%s|", "-x", "--try=y", "z z", "$HOME")
    assert done.out == "-x|--try=y|z z|$HOME|"
    assert gemot("lock", "jobs/words", "--", "echo", "--", "-x").out == "-- -x\n"
    assert gemot("lock", "-shell", "jobs/words", "echo $((40 + 2))").out == "42\n"
    assert gemot("lock", "-pass-stdin", "jobs/words", "cat", stdin=b"\x00\xff").raw == b"\x00\xff"


@pytest.mark.parametrize(
    ("flags", "script", "code"),
    [
        ([], "exit 3", 0),
        (["-child-exit-code"], "exit 3", 2),
        (["-child-exit-code"], "exit 0", 0),
        (["-child-exit-code"], "kill -9 $$", 2),
    ],
)
def test_how_the_command_ended_counts_only_when_asked(
    gemot: Shell, flags: list[str], script: str, code: int
) -> None:
    done = gemot("lock", *flags, "jobs/code", "sh", "-c", script)
    assert done.code == code
    assert ("sh ended" in done.err) == (script != "exit 0")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["jobs/x"], "give a prefix and a command"),
        (["jobs/x", "--"], "give a prefix and a command"),
        (["/", "true"], "/: a prefix is more than slashes: gemot lock"),
        ([], "give a prefix and a command"),
        (["-n", "0", "jobs/x", "true"], "-n: 0 holders"),
        (["-ttl=1", "jobs/x", "true"], "-ttl: time: missing unit in duration"),
        (["-try=-1s", "jobs/x", "true"], "-try: must be more than 0"),
        (["-timeout=soon", "jobs/x", "true"], "-timeout: time: invalid duration"),
        (["-ttl=100ms", "jobs/x", "true"], "Invalid Session TTL"),
        (["-ttl=48h", "jobs/x", "true"], "Invalid Session TTL"),
        (["-shell", "jobs/x", "echo", "x"], "-shell takes the command as one text"),
        (["jobs/x", "./no-such-program"], "./no-such-program: cannot be run: No such file or directory"),
        (["jobs/" + "x" * 5000, "true"], "the limit is"),
        (["-http-addr=127.0.0.1:1", "jobs/x", "true"], "cannot reach an agent"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told(gemot: Shell, arguments: list[str], told: str) -> None:
    done = gemot("lock", *arguments)
    assert done.code == 1
    assert told in done.err
    assert "Traceback" not in done.err


def test_a_key_that_is_no_lock_is_refused(gemot: Shell) -> None:
    gemot("kv", "put", "-flags=7", "taken/.lock", "mine")
    done = gemot("lock", "taken", "true")
    assert done.code == 1
    assert "taken/.lock is there and is not a lock" in done.err
    assert gemot("kv", "get", "taken/.lock").out == "mine\n"


def test_who_does_not_get_it_in_time_gives_up(gemot: Shell) -> None:
    with gemot.running("lock", "jobs/busy", "sleep", "600") as holder:
        until(lambda: get(gemot.address, "kv/jobs/busy/.lock"), "the lock")
        for flags in (["-try=300ms"], ["-timeout=300ms"], ["-timeout=1h", "-try", "300ms"]):
            done = gemot("lock", *flags, "jobs/busy", "true")
            assert done.code == 1
            assert "jobs/busy/.lock: not had within 0.3 s" in done.err
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(PATIENCE_S) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_is_interrupted_while_waiting_leaves_nothing(
    gemot: Shell, tmp_path: Path, number: signal.Signals
) -> None:
    other = Shell(gemot.address, tmp_path / "other")
    other.folder.mkdir()
    with gemot.running("lock", "jobs/waited", "sleep", "600") as holder:
        until(lambda: get(gemot.address, "kv/jobs/waited/.lock"), "the lock")
        with other.running("lock", "-verbose", "jobs/waited", "touch", "inside") as waiting:
            holds = f"is held by process {holder.pid} on '{socket.gethostname()}'"
            until(lambda: holds in other.told, "the wait")
            waiting.send_signal(number)
            assert waiting.wait(PATIENCE_S) == 128 + number
        assert get(gemot.address, "kv/jobs/waited?keys") == ["jobs/waited/.lock"]
        assert "Traceback" not in other.told
        holder.send_signal(signal.SIGINT)
        holder.wait(PATIENCE_S)
    assert not (other.folder / "inside").exists()


def test_signals_are_passed_to_the_command_and_its_own_end_counts(gemot: Shell, tmp_path: Path) -> None:
    script = 'trap "echo hup >> told" HUP; trap "echo term >> told; exit 0" TERM; echo up >> told\n'
    script += "while :; do sleep 0.05; done"
    with gemot.running("lock", "jobs/signals", "sh", "-c", script) as holder:
        until(lambda: lines(tmp_path) == ["up"], "the command")
        holder.send_signal(signal.SIGHUP)
        until(lambda: lines(tmp_path) == ["up", "hup"], "the first signal")
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(PATIENCE_S) == 0
    assert lines(tmp_path) == ["up", "hup", "term"]


CLEANS_UP = """
clean() {
    trap "" TERM
    echo term >> told
    while [ ! -e go ]; do sleep 0.02; done
    echo clean >> told
    exit 0
}
trap clean TERM
echo $$ $PPID > pid
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("to", ["all", "guard"])
def test_a_command_has_its_time_to_end_when_a_signal_comes_to_its_guard_too(
    gemot: Shell, tmp_path: Path, to: str
) -> None:
    """As a service manager stops a unit: each of its processes gets SIGTERM."""
    prefix = f"jobs/unit-{to}"
    with gemot.running("lock", "-ttl=60s", "-child-exit-code", prefix, "sh", "-c", CLEANS_UP) as holder:
        until(lambda: lines(tmp_path, "pid"), "the command")
        pid, guard = map(int, lines(tmp_path, "pid")[0].split())
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(guard, number)
        for each in (holder.pid, guard, pid) if to == "all" else (guard,):
            os.kill(each, signal.SIGTERM)
        until(lambda: lines(tmp_path) == ["term"], "the signal")
        assert get(gemot.address, f"kv/{prefix}/.lock"), "it is held until the command has ended"
        (tmp_path / "go").touch()
        assert holder.wait(PATIENCE_S) == 0
    assert lines(tmp_path) == ["term", "clean"]
    assert "gemot lock" not in gemot.told


def test_signals_are_to_the_command_as_to_any_program(gemot: Shell) -> None:
    done = gemot("lock", "jobs/mask", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    told = masks(done.out)
    own = masks(Path("/proc/self/status").read_text())["SigIgn"]
    for each in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and nobody whom it starts
        own &= ~(1 << (each - 1))
    assert (told["SigBlk"], told["SigIgn"]) == (0, own), "what whoever runs this ignores stays so"


def masks(status: str) -> dict[str, int]:
    found = re.findall(r"^(Sig(?:Blk|Ign)):\s*(\w+)$", status, re.MULTILINE)
    return {name: int(mask, 16) for name, mask in found}


@pytest.mark.parametrize("how", ["destroyed", "deleted"])
def test_a_lock_that_is_lost_stops_the_command_and_all_it_began(
    gemot: Shell, tmp_path: Path, how: str
) -> None:
    script = 'trap "echo term >> told" TERM; (trap "" TERM; exec sleep 600) & echo $! > pid\n'
    script += "while :; do sleep 0.05; done"
    with gemot.running("lock", "jobs/lost", "sh", "-c", script) as holder:
        until(lambda: lines(tmp_path, "pid"), "the command")
        (row,) = get(gemot.address, "kv/jobs/lost/.lock")
        if how == "destroyed":
            put(gemot.address, f"session/destroy/{row['Session']}")
        else:
            gemot("kv", "delete", "jobs/lost/.lock")
        assert holder.wait(PATIENCE_S) == 75
    assert lines(tmp_path) == ["term"], "it was asked first"
    until(lambda: not alive(int(lines(tmp_path, "pid")[0])), "the end of what it began")
    assert "jobs/lost/.lock was lost" in gemot.told
    assert "the command was stopped" in gemot.told


def test_what_the_command_leaves_running_ends_before_the_lock_is_given_back(
    gemot: Shell, tmp_path: Path
) -> None:
    done = gemot("lock", "-shell", "jobs/left", "sleep 600 > /dev/null 2>&1 & echo $! > pid")
    assert done.code == 0
    until(lambda: not alive(int(lines(tmp_path, "pid")[0])), "the end of what it left")


@pytest.mark.parametrize(
    ("ttl", "trap"),
    [("10m", ""), ("10s", 'trap "" TERM; ')],
    ids=["at once", "in time though it ignores SIGTERM"],
)
def test_the_command_ends_with_a_holder_that_is_killed(
    gemot: Shell, tmp_path: Path, ttl: str, trap: str
) -> None:
    """With a long TTL no deadline is near: then it is told because nobody is there any more."""
    script = f"{trap}echo $$ > pid; while :; do sleep 0.05; done"
    prefix = f"jobs/killed-{ttl}"
    with gemot.running("lock", f"-ttl={ttl}", prefix, "sh", "-c", script) as holder:
        until(lambda: lines(tmp_path, "pid"), "the command")
        (row,) = get(gemot.address, f"kv/{prefix}/.lock")
        holder.kill()
        holder.wait(PATIENCE_S)
        until(lambda: not alive(int(lines(tmp_path, "pid")[0])), "the end of the command")
    put(gemot.address, f"session/destroy/{row['Session']}")


def test_the_command_ends_with_a_guard_that_is_killed(gemot: Shell, tmp_path: Path) -> None:
    script = "echo $$ $PPID > pid; while :; do sleep 0.05; done"
    with gemot.running("lock", "jobs/unguarded", "sh", "-c", script) as holder:
        until(lambda: lines(tmp_path, "pid"), "the command")
        pid, guard = map(int, lines(tmp_path, "pid")[0].split())
        os.kill(guard, signal.SIGKILL)
        assert holder.wait(PATIENCE_S) == 1
    assert "its guard was killed" in gemot.told
    until(lambda: not alive(pid), "the end of the command")


def test_without_an_agent_the_command_is_stopped_in_time(tmp_path: Path) -> None:
    with dev_agent(tmp_path) as address:
        shell = Shell(address, tmp_path)
        until(lambda: "ID" in (put(address, "session/create") or {}), "a session")
        running = shell.running("lock", "-ttl=10s", "alone", "sh", "-c", "echo > up; exec sleep 600")
        holder = running.__enter__()
        until((tmp_path / "up").exists, "the command")
    try:
        assert holder.wait(PATIENCE_S) == 75
    finally:
        running.__exit__(None, None, None)
    assert "no renewal" in shell.told


def test_an_environment_of_consuls_reaches_it_too(gemot: Shell) -> None:
    """As `consul lock`'s own scripts have it: one command, the agent in the environment."""
    done = gemot(
        "lock",
        "-monitor-retry=5",
        "-name",
        "mine",
        "jobs/c",
        "true",
        GEMOT_HTTP_ADDR="",
        CONSUL_HTTP_ADDR=gemot.address,
    )
    assert (done.code, done.err) == (0, "")


def test_a_client_of_consul_keeps_it_out(gemot: Shell, tmp_path: Path) -> None:
    theirs = put(gemot.address, "session/create", b'{"TTL": "60s"}')["ID"]
    path = f"kv/jobs/theirs/.lock?flags={LOCK_FLAGS}"
    assert put(gemot.address, f"{path}&acquire={theirs}", b"") is True
    try:
        with gemot.running("lock", "-verbose", "jobs/theirs", "touch", "inside") as waiting:
            until(lambda: f"held by session {theirs}" in gemot.told, "the wait")
            assert not (tmp_path / "inside").exists()
            assert put(gemot.address, f"{path}&release={theirs}") is True
            assert waiting.wait(PATIENCE_S) == 0
    finally:
        put(gemot.address, f"session/destroy/{theirs}")
    assert (tmp_path / "inside").exists()


def test_standard_input_of_a_terminal_is_refused(gemot: Shell) -> None:
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [*PROGRAM, "lock", "-pass-stdin", "jobs/x", "cat"],
            stdin=theirs,
            capture_output=True,
            env=gemot.environ,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, b"not a terminal" in done.stderr) == (1, True)
