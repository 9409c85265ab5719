"""`gemot election` as processes: who leads, who is told, who resigns, and how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.between import between
from support.dev_agent import PATIENCE_S, Shell, dev_agent, until

LEADS = 'echo "$GEMOT_LOCK_KEY $GEMOT_LOCK_FENCE" >> led; exec sleep 600'


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    with dev_agent(folder, f"-config-file={folder / 'ttl.json'}") as address:
        shell = Shell(address, folder)
        until(lambda: shell("lock", "warm", "true").code == 0, "a session")
        yield address


class Candidate:
    """A `gemot election run` in a folder of its own.

    Its TTL is as long as a host may well stand still: one that loses the lead by that is another test.
    """

    def __init__(self, address: str, folder: Path, key: str, name: str, *flags: str) -> None:
        self.shell = Shell(address, folder / name)
        self.shell.folder.mkdir()
        flags = ("-verbose", "-ttl=10s", f"-name={name}", f"-address={name}:80", *flags)
        self.running = self.shell.running("election", "run", *flags, key, "sh", "-c", LEADS)

    @property
    def terms(self) -> list[int]:
        """The fences under which its command was run."""
        path = self.shell.folder / "led"
        return [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def two(gemot: Shell, folder: Path, key: str) -> Iterator[tuple[Candidate, Candidate]]:
    """The first leads and the second waits."""
    one = Candidate(gemot.address, folder, key, "one")
    with one.running:
        until(lambda: one.terms, "the first")
        other = Candidate(gemot.address, folder, key, "other")
        with other.running:
            until(lambda: "waiting" in other.shell.told, "the second")
            yield one, other


def test_another_one_leads_once_the_leader_has_resigned(gemot: Shell, tmp_path: Path) -> None:
    with two(gemot, tmp_path, "jobs/resigns") as (one, other):
        observer = Shell(gemot.address, tmp_path / "observer")
        observer.folder.mkdir()
        with observer.running("election", "observe", "-json", "jobs/resigns"):
            until(lambda: observer.shown, "who leads")
            done = gemot("election", "resign", "jobs/resigns")
            assert (done.code, done.out) == (0, "one at one:80 has resigned\n")
            until(lambda: other.terms, "the second")
            # A term that is over before an observer has asked again is not told.
            until(lambda: f'"Fence": {other.terms[0]},' in observer.shown, "that it is told")
            told = gemot("election", "observe", "-once", "jobs/resigns")
            assert (told.code, told.out) == (0, f"other at other:80 leads, fence {other.terms[0]}\n")
            again = gemot("election", "resign", "jobs/resigns")
            assert again.out == "other at other:80 has resigned\n", again.err
            until(lambda: len(one.terms) == 2, "the first again")
            until(lambda: f'"Fence": {one.terms[1]},' in observer.shown, "all of it")
        lines = [json.loads(line) for line in observer.shown.splitlines()]
        led = [line["Leader"]["Name"] for line in lines if line["Leader"] and not line["Resigning"]]
        assert led == ["one", "other", "one"]
        assert lines[0] == {
            "Leader": {"Name": "one", "Address": "one:80"},
            "Session": lines[0]["Session"],
            "Fence": one.terms[0],
            "Resigning": False,
        }
        assert "asked to resign; the command was stopped, and the lead is given back" in one.shell.told
        assert one.terms[0] < other.terms[0] < one.terms[1]


def test_a_leader_is_deposed_by_force(gemot: Shell, tmp_path: Path) -> None:
    with two(gemot, tmp_path, "jobs/force") as (one, other):
        done = gemot("election", "resign", "-force", "jobs/force")
        assert (done.code, done.out) == (0, "one at one:80 was deposed\n")
        until(lambda: other.terms, "the second")
        until(lambda: "jobs/force was lost" in one.shell.told, "the first to hear of it")


def test_a_leader_that_does_not_follow_is_told_of(gemot: Shell) -> None:
    """Another program, which holds the key by its session, at first with words of its own."""
    with gemot.running("lock", "jobs/side", "sh", "-c", "echo $GEMOT_LOCK_SESSION > id; exec sleep 600"):
        until(lambda: (gemot.folder / "id").exists() and (gemot.folder / "id").read_text(), "a session")
        session = (gemot.folder / "id").read_text().strip()
        gemot("kv", "put", "-acquire", f"-session={session}", "jobs/opaque", "mine")
        done = gemot("election", "resign", "jobs/opaque")
        assert done.code == 1
        assert "is held by a leader that takes no requests" in done.err
        record = '{"Name": "deaf"}'
        gemot("kv", "put", "-acquire", f"-session={session}", "jobs/opaque", record)
        done = gemot("election", "resign", "-timeout=300ms", "jobs/opaque")
        assert done.code == 1
        assert "jobs/opaque: deaf still leads; -force destroys its session" in done.err
        told = gemot("election", "observe", "-once", "jobs/opaque").out
        assert told.startswith("deaf leads, fence ")
        assert told.endswith(", asked to resign\n")


def test_a_command_that_ends_is_run_again_and_once_with_once(gemot: Shell, tmp_path: Path) -> None:
    flags = ("-child-exit-code", "-once")
    script = "echo $GEMOT_LOCK_FENCE >> led; exit 3"
    assert gemot("election", "run", *flags, "jobs/ends", "sh", "-c", script).code == 2
    assert gemot("election", "run", "-once", "jobs/ends", "sh", "-c", script).code == 0
    with gemot.running("election", "run", "jobs/ends", "sh", "-c", script) as runs:
        until(lambda: len((tmp_path / "led").read_text().split()) >= 4, "two more terms")
        runs.terminate()
        assert runs.wait(PATIENCE_S) in (128 + signal.SIGTERM, 0)
    fences = [int(line) for line in (tmp_path / "led").read_text().split()]
    assert fences == sorted(set(fences))
    assert gemot("kv", "get", "-keys", "jobs/ends").out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_lead_is_given_back_ends_it_with_the_lead_given_back(
    gemot: Shell, tmp_path: Path, number: signal.Signals
) -> None:
    def signal_between(method: str, target: str) -> None:
        if method == "PUT" and "release=" in target:
            runs.send_signal(number)

    with (
        between(gemot.address, signal_between) as address,
        gemot.running("election", "run", "jobs/given", "true", GEMOT_HTTP_ADDR=address) as runs,
    ):
        assert runs.wait(PATIENCE_S) == 128 + number
    assert gemot("kv", "get", "-keys", "jobs/given").out == ""
    assert gemot.told == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_command_and_candidacy(gemot: Shell, tmp_path: Path, number: signal.Signals) -> None:
    one = Candidate(gemot.address, tmp_path, "jobs/ended", "one")
    other = Candidate(gemot.address, tmp_path, "jobs/ended", "other")
    with one.running as leading:
        until(lambda: one.terms, "the first")
        with other.running as waiting:
            until(lambda: "waiting" in other.shell.told, "the second")
            waiting.send_signal(number)
            assert waiting.wait(PATIENCE_S) == 128 + number
        leading.send_signal(number)
        assert leading.wait(PATIENCE_S) == 128 + number
    assert (len(one.terms), other.terms) == (1, [])
    assert gemot("kv", "get", "-keys", "jobs/ended").out == ""


def test_a_signal_to_the_command_alone_ends_no_candidacy(gemot: Shell, tmp_path: Path) -> None:
    script = 'trap "exit 0" HUP; echo $GEMOT_LOCK_FENCE >> led; while :; do sleep 0.02; done'

    def terms() -> int:
        return len((tmp_path / "led").read_text().split()) if (tmp_path / "led").exists() else 0

    with gemot.running("election", "run", "jobs/reloads", "sh", "-c", script) as runs:
        until(lambda: terms() == 1, "the first term")
        runs.send_signal(signal.SIGHUP)
        until(lambda: terms() == 2, "the next")
        runs.terminate()
        assert runs.wait(PATIENCE_S) == 128 + signal.SIGTERM


def test_where_nobody_leads_that_is_told(gemot: Shell) -> None:
    done = gemot("election", "observe", "-once", "jobs/nobody")
    assert (done.code, done.out) == (2, "nobody leads\n")
    done = gemot("election", "resign", "jobs/nobody")
    assert done.code == 1
    assert "jobs/nobody: nobody leads" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "jobs/x"], "give a key and a command: gemot election run jobs/leader"),
        (["run", "/", "true"], "/: a key is more than slashes"),
        (["run", "-ttl=soon", "jobs/x", "true"], "-ttl: time: invalid duration"),
        (["run", f"-name={'n' * 600}", "jobs/x", "true"], "the name of a candidate has at most 512 bytes"),
        (["run", "jobs/x", "./no-such-program"], "./no-such-program: cannot be run"),
        (["run", "-http-addr=127.0.0.1:1", "jobs/x", "true"], "cannot reach an agent"),
        (["observe", "/"], "give the key of an election"),
        (["observe", "-once", "-http-addr=127.0.0.1:1", "jobs/x"], "cannot reach an agent"),
        (["resign", "-timeout=-1s", "jobs/x"], "-timeout: must be more than 0"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told(gemot: Shell, arguments: list[str], told: str) -> None:
    done = gemot("election", *arguments)
    assert done.code == 1
    assert told in done.err
    assert "Traceback" not in done.err
