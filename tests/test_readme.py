"""The README is true: its tour is followed line by line, and what it shows is what is seen.

Every `sh` block of the tour is run by a shell, in order; the `text` block behind it must be its output, but
for figures and spaces. Comments in the README say what happens elsewhere than in the second terminal. Only
places are exchanged: addresses, `.cluster` and /tmp, so that nothing else on this host is in the way.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
PATIENCE_S = 60.0
BIN = str(Path(sys.executable).parent)

# A probe under way when the web server is killed says this instead, until the status changes again.
REFUSED = "dial tcp 127.0.0.5:8000: connect: connection refused"
CUT_OFF = re.compile(r"connection reset by peer$|Server disconnected$|timed out after \S+$", re.MULTILINE)

_BLOCK = re.compile(r"(?:<!-- ([^\n]*) -->\n)?```(sh|text)\n(.*?)```|<!-- (press enter) -->\n", re.DOTALL)


class Step(NamedTuple):
    """`where` is the comment before it; `shown` what the README says is printed, None if nothing."""

    where: str
    command: str
    shown: str | None


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    mark = title.split()[0]
    rest = README.split(f"\n{title}\n", 1)[1]
    return re.split(rf"\n#{{2,{len(mark)}}} ", rest)[0]


def steps(text: str) -> list[Step]:
    found: list[Step] = []
    for where, kind, body, enter in _BLOCK.findall(text):
        if enter:
            found.append(Step(enter, "", None))
        elif kind == "sh" or where:
            found.append(Step(where, body if kind == "sh" else "", body if kind == "text" else None))
        else:
            found[-1] = found[-1]._replace(shown=body)
    return found


def likeness(text: str) -> list[str]:
    """What must agree: the lines, but for figures, spacing and their order (any server may lead or fail)."""
    text = CUT_OFF.sub(REFUSED, text)
    return sorted(" ".join(re.sub(r"\d+(\.\d+)?", "0", line).split()) for line in text.strip().splitlines())


class Terminals:
    """The reader's three: the first runs agent or cluster, the second a shell, the third waits or writes."""

    def __init__(self, folder: Path, network: str) -> None:
        self.folder = folder
        self.network = network
        self._first: subprocess.Popen[bytes] | None = None
        self._third: subprocess.Popen[bytes] | None = None
        self._variables: dict[str, str] = {}

    def follow(self, step: Step) -> None:
        if step.where == "third terminal":
            self._third = self._start(self._placed(step.command), "third")
            self._await(lambda: self._third_shows(step.shown or ""), step.command)
        elif step.where == "third terminal shows":
            self._await(lambda: self._third_shows(step.shown or ""), "the third terminal")
            self._end(self._third)
        elif step.where == "press enter":
            assert self._first is not None
            assert self._first.stdin is not None
            self._first.stdin.write(b"\n")
            self._first.stdin.flush()
        elif step.command == "make run\n":
            flags = f"-node=vm -bind={self.network}.1 -client={self.network}.1"
            self._variables["GEMOT_HTTP_ADDR"] = f"{self.network}.1:8500"
            self._run_first(f"exec {BIN}/gemot agent -dev -hint {flags}", "Try in another terminal")
        elif step.command == "make cluster\n":
            flags = f"--folder {self.folder / 'cluster'} --network {self.network}"
            script = ROOT / "tests/support/demo_cluster.py"
            self._run_first(f"exec {sys.executable} {script} {flags}", "Ctrl-C stops everything")
        else:
            self._in_second(step)

    def close_first(self) -> int:
        """Ctrl-C; its exit code."""
        assert self._first is not None
        self._first.send_signal(signal.SIGINT)
        self._first.communicate(timeout=PATIENCE_S)
        return self._first.returncode

    def close(self) -> None:
        self._end(self._third)
        if self._first is not None and self._first.poll() is None:
            self.close_first()

    def _in_second(self, step: Step) -> None:
        """Run it; again until it shows what it should, where what it tells needs time to come about."""
        export = re.fullmatch(r"export (\w+)=(\S+)", step.command.splitlines()[0])
        if export:
            self._variables[export[1]] = self._placed(export[2])

        def agrees() -> bool:
            done = self._start(self._placed(step.command), "second", wait=True)
            self._last = (self.folder / "second").read_text()
            assert done.returncode == 0 or step.shown is not None, f"{step.command}: {self._last}"
            return step.shown is None or likeness(self._last) == likeness(self._placed(step.shown))

        waits = "kv" not in step.command  # what was written is read at once
        if waits:
            self._await(agrees, step.command)
        else:
            assert agrees(), f"{step.command}\nshows\n{self._last}"

    def _third_shows(self, shown: str) -> bool:
        self._last = (self.folder / "third").read_text()
        return set(likeness(self._placed(shown))) <= set(likeness(self._last))

    def _await(self, condition: object, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        assert callable(condition)
        while not condition():
            assert time.monotonic() < deadline, f"{what}\nshows only\n{self._last}"
            time.sleep(0.1)

    def _run_first(self, command: str, until: str) -> None:
        self._first = self._start(command, "first")
        self._last = ""

        def ready() -> bool:
            self._last = (self.folder / "first").read_text()
            assert self._first is not None
            assert self._first.poll() is None, self._last
            return until in self._last

        self._await(ready, command)

    def _start(self, command: str, name: str, *, wait: bool = False) -> subprocess.Popen[bytes]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GEMOT", "CONSUL"))}
        with (self.folder / name).open("wb") as shown:
            child = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE if name == "first" else subprocess.DEVNULL,
                stdout=shown,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=kept | self._variables,
                start_new_session=True,
            )
        if wait:
            child.wait(PATIENCE_S)
        return child

    def _end(self, child: subprocess.Popen[bytes] | None) -> None:
        """Ctrl-C in its terminal: to all that runs there."""
        if child is not None and child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGINT)
            child.wait(PATIENCE_S)

    def _placed(self, text: str) -> str:
        text = text.replace("/tmp/", f"{self.folder}/").replace(".cluster/", f"{self.folder}/cluster/")
        return text.replace("127.0.0.", f"{self.network}.").replace(".venv/bin/", f"{BIN}/")


@contextlib.contextmanager
def terminals(folder: Path, network: str) -> Iterator[Terminals]:
    opened = Terminals(folder, network)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("title", "network"),
    [("### One agent", "127.0.71"), ("### A cluster", "127.0.72")],
    ids=["agent", "cluster"],
)
def test_the_tour_shows_what_it_says(title: str, network: str, tmp_path: Path) -> None:
    followed = steps(section(title))
    assert len(followed) > 5
    with terminals(tmp_path, network) as reader:
        for step in followed:
            reader.follow(step)
        assert reader.close_first() == 0, "Ctrl-C stops it cleanly"


def test_the_make_targets_it_names_are_what_the_tour_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in sorted({word for word in re.findall(r"\bmake ([a-z]+)\b", section("## Two commands"))}):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} is not there"
    assert "\n\t$(BIN)/gemot agent -dev -hint\n" in makefile
    assert "$(BIN)/python tests/support/demo_cluster.py\n" in makefile


def test_the_configurations_it_shows_are_valid(tmp_path: Path) -> None:
    server, client = re.findall(r"```yaml\n(.*?)```", section("## On real hosts"), re.DOTALL)
    (template,) = re.findall(r"```jinja\n(.*?)```", section("## On real hosts"), re.DOTALL)
    (tmp_path / "upstream.conf.j2").write_text(template)
    client = client.replace("/etc/gemot.d/", f"{tmp_path}/")
    shared = "".join(
        f"{line}\n" for line in server.splitlines() if "data_dir" in line or "retry_join" in line
    )
    for name, text in (("server", server), ("client", shared + client)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        told = subprocess.run(
            [f"{BIN}/gemot", "validate", str(file)], capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stdout + told.stderr
        warnings = [line for line in told.stderr.splitlines() if "on this host" not in line]
        assert not warnings, told.stderr


def test_a_wrong_output_is_seen() -> None:
    """Figures may differ, words may not."""
    assert likeness("held 1.4 s: new leader srv2\n") == likeness("held 2.25 s:  new leader srv1")
    assert likeness(f'Get "http://127.0.0.5:8000/": {REFUSED}\n') == likeness(
        'Get "http://127.0.0.5:8000/": connection reset by peer\n'
    )
    assert likeness("web on web1 is in the answers") != likeness("web on web1 is left out")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    named += re.findall(r"`((?:agent|server|dns|checks|tests|packaging|systemd|bench|src)/[\w./-]*)`", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing, f"{page} names what is not there: {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_every_heading_a_page_links_to_is_there(page: str) -> None:
    for path, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", (ROOT / page).read_text()):
        text = (ROOT / (path or page)).read_text()
        titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert heading in anchors, f"{page} links to {path}#{heading}"
