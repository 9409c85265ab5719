"""Templates kept rendered: when a file is written, when its command runs, and what is told meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.fed_servers import FedServers
from support.template_bench import entry, instance, mark, until

from gemot.agent.servers import Subscription
from gemot.agent.template.definition import TemplateDefinition, parse_template
from gemot.agent.template.dependencies import key_of
from gemot.agent.template.runner import TemplateRunner, TemplateStatus
from gemot.agent.views import Views
from gemot.server.model.catalog import HealthService
from gemot.server.model.errors import BadRequest
from gemot.server.model.kv import KvGet, KvList
from gemot.server.model.query import Answer, Query

WEB = HealthService("web", passing=True)


class Bench:
    """A runner over fed servers; every command appends a line to `log`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.servers = FedServers()
        self.views = Views(servers=self.servers, limit=100)
        self.runner = self.make([])

    def make(
        self,
        definitions: list[TemplateDefinition],
        retry_min_s: float = 0.02,
        now: Callable[[], float] = time.monotonic,
    ) -> TemplateRunner:
        self.runner = TemplateRunner(
            definitions=definitions,
            views=self.views,
            data_dir=self.root / "data",
            file_poll_s=0.02,
            retry_min_s=retry_min_s,
            now=now,
        )
        return self.runner

    def define(self, name: str, contents: str, command: str = "", **keys: object) -> TemplateDefinition:
        raw: dict[str, object] = {"contents": contents, "destination": str(self.root / name)}
        return parse_template(raw | ({"command": command} if command else {}) | keys)

    def log_line(self, text: str) -> str:
        return f"echo {text} >> {self.root}/log"

    @property
    def log(self) -> list[str]:
        path = self.root / "log"
        return path.read_text().split() if path.exists() else []

    def read(self, name: str) -> str | None:
        path = self.root / name
        return path.read_text() if path.exists() else None

    def tell(self, key: str, value: str | None) -> None:
        query = KvGet(key.encode())
        known = self.servers.answers.get(key_of(query))
        index = known.index + 1 if known is not None else 1
        self.servers.tell(query, None if value is None else entry(key, value, index), index)

    def status(self, place: int = 0) -> TemplateStatus:
        return self.runner.status()[place]

    async def settled(self, writes: int = 0) -> None:
        """Until every template is rendered, its file written so many times, and no command is owed.

        A file can be seen a moment before its command is owed: the count of writes tells that it is.
        """

        def done() -> bool:
            return all(
                one.rendered_at and one.writes >= writes and not one.pending_command
                for one in self.runner.status()
            )

        await until(done, "the end of the work")


def run(tmp_path: Path, scene: Callable[[Bench], Awaitable[None]]) -> None:
    async def act() -> None:
        bench = Bench(tmp_path)
        try:
            await asyncio.wait_for(scene(bench), 60)
        finally:
            await bench.runner.stop()
            bench.views.stop()
            assert bench.servers.open == []

    asyncio.run(act())


def test_nothing_is_written_until_every_dependency_has_answered(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        text = "{{ key('a') }} {{ key_or_default('b', '-') }} {{ service('web')|length }}"
        await bench.make([bench.define("f", text, bench.log_line("ran"))]).start()
        await until(lambda: len(bench.status().waiting_for) == 3)
        bench.tell("a", "1")
        await until(lambda: len(bench.status().waiting_for) == 2)
        bench.tell("b", None)
        waits = ("service web (no answer yet)",)
        await until(lambda: bench.status().waiting_for == waits)
        assert bench.read("f") is None
        assert bench.log == []
        bench.servers.tell(WEB, [])
        await bench.settled()
        assert bench.read("f") == "1 - 0"
        assert bench.log == ["ran"]

    run(tmp_path, scene)


def test_a_key_that_does_not_exist_holds_the_file_back_and_says_so(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        (tmp_path / "f").write_text("old")
        bench.tell("a", None)
        await bench.make([bench.define("f", "{{ key('a') }}")]).start()
        await until(lambda: bench.status().waiting_for == ("key a (it does not exist)",))
        assert bench.read("f") == "old"
        bench.tell("a", "new")
        await until(lambda: bench.read("f") == "new")
        bench.tell("a", None)
        await until(lambda: bench.status().waiting_for == ("key a (it does not exist)",))
        assert bench.read("f") == "new"

    run(tmp_path, scene)


def test_a_change_is_written_and_the_command_run_and_equal_bytes_do_neither(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "long")
        await bench.make([bench.define("f", "{{ key('a')|length }}", bench.log_line("ran"))]).start()
        await bench.settled()
        before = mark(tmp_path / "f")
        rendered_at = bench.status().rendered_at
        bench.tell("a", "tall")
        await until(lambda: bench.status().rendered_at > rendered_at)
        assert mark(tmp_path / "f") == before
        assert bench.log == ["ran"]
        bench.tell("a", "longer")
        await bench.settled(writes=2)
        assert bench.read("f") == "6"
        assert bench.log == ["ran", "ran"]
        assert bench.status().writes == 2

    run(tmp_path, scene)


def test_a_file_that_is_as_it_should_be_at_the_start_is_left_alone(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        (tmp_path / "f").write_text("1")
        before = mark(tmp_path / "f")
        bench.tell("a", "1")
        await bench.make([bench.define("f", "{{ key('a') }}", bench.log_line("ran"))]).start()
        await bench.settled()
        assert mark(tmp_path / "f") == before
        assert bench.log == []

    run(tmp_path, scene)


def test_what_is_asked_for_no_more_is_watched_no_more(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "b")
        bench.tell("x/b", "1")
        bench.tell("x/c", "2")
        watched: list[object] = []

        class Seen:
            def watch(self, query: Query, callback: Callable[[Answer], None]) -> Subscription:
                watched.append(query)
                subscription = bench.views.watch(query, callback)

                class Given:
                    def cancel(self) -> None:
                        watched.remove(query)
                        subscription.cancel()

                return Given()

        bench.runner = TemplateRunner(
            definitions=[bench.define("f", "{{ key('x/' ~ key('a')) }}")],
            views=Seen(),
            data_dir=tmp_path / "data",
        )
        await bench.runner.start()
        await until(lambda: bench.read("f") == "1")
        assert watched == [KvGet(b"a"), KvGet(b"x/b")]
        bench.tell("a", "c")
        await until(lambda: bench.read("f") == "2")
        assert watched == [KvGet(b"a"), KvGet(b"x/c")]

    run(tmp_path, scene)


def test_equal_commands_run_once_a_pass_after_all_files_are_in_place(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        command = f"cat {tmp_path}/f0 {tmp_path}/f1 {tmp_path}/f2 >> {tmp_path}/log; echo >> {tmp_path}/log"
        bench.tell("a", "1")
        definitions = [bench.define(f"f{n}", "{{ key('a') }}", command) for n in range(3)]
        definitions.append(bench.define("g", "{{ key('a') }}", bench.log_line("other")))
        await bench.make(definitions).start()
        await bench.settled()
        assert bench.log == ["111", "other"]
        bench.tell("a", "2")
        await bench.settled(writes=2)
        assert bench.log == ["111", "other", "222", "other"]

    run(tmp_path, scene)


def test_a_command_that_fails_is_tried_again_until_it_succeeds(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "1")
        command = f"{bench.log_line('try')}; echo broken; test -e {tmp_path}/mended"
        await bench.make([bench.define("f", "{{ key('a') }}", command)]).start()
        await until(lambda: len(bench.log) >= 3)
        status = bench.status()
        assert status.pending_command == ("/bin/sh", "-c", command)
        assert status.command_error == "it exited with status 1: broken"
        assert bench.read("f") == "1"
        (tmp_path / "mended").touch()
        await bench.settled()
        assert os.listdir(tmp_path / "data" / "templates" / "owed") == []

    run(tmp_path, scene)


def test_a_command_that_failed_is_tried_again_after_a_restart_without_any_answer(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "1")
        command = f"{bench.log_line('try')}; test -e {tmp_path}/mended"
        definition = bench.define("f", "{{ key('a') }}", command)
        await bench.make([definition], retry_min_s=1000).start()
        await until(lambda: bench.status().command_error)
        await bench.runner.stop()
        assert bench.log == ["try"]
        (tmp_path / "mended").touch()
        bench.servers.answers.clear()
        bench.views.stop()
        bench.views = Views(servers=bench.servers, limit=10)
        await bench.make([definition]).start()
        await until(lambda: bench.log == ["try", "try"] and not bench.status().pending_command)

    run(tmp_path, scene)


def test_a_changed_command_is_what_runs_for_a_file_whose_command_is_owed(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "1")
        await bench.make([bench.define("f", "{{ key('a') }}", "exit 1")], retry_min_s=1000).start()
        await until(lambda: bench.status().command_error)
        await bench.runner.reload([bench.define("f", "{{ key('a') }}", bench.log_line("mended"))])
        await until(lambda: bench.log == ["mended"])
        await bench.settled()

    run(tmp_path, scene)


def test_a_record_of_a_template_no_longer_configured_runs_nothing(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "1")
        definition = bench.define("f", "{{ key('a') }}", f"{bench.log_line('x')}; exit 1")
        await bench.make([definition], retry_min_s=1000).start()
        await until(lambda: bench.status().command_error)
        await bench.runner.reload([bench.define("g", "{{ key('a') }}")])
        await bench.settled()
        assert os.listdir(tmp_path / "data" / "templates" / "owed") == []
        await bench.runner.reload([definition])
        await bench.settled()
        assert bench.log == ["x"]

    run(tmp_path, scene)


def test_one_templates_failure_does_not_hold_up_another(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "1")
        (tmp_path / "dir").mkdir()
        bad = [
            bench.define("dir", "{{ key('a') }}"),
            bench.define("x", "{{ key('a') }}\n{{ nosuch }}"),
            bench.define("y", "{{ key('a') }}", "exit 3"),
        ]
        await bench.make([*bad, bench.define("f", "{{ key('a') }}")]).start()
        await until(lambda: bench.read("f") == "1" and bench.status(2).command_error)
        assert "the destination is a directory" in bench.status(0).error
        assert "x:2: 'nosuch' is undefined" in bench.status(1).error
        (tmp_path / "dir").rmdir()
        await until(lambda: not bench.status(0).error, "a retry of the file")
        assert bench.read("dir") == "1"

    run(tmp_path, scene)


def test_a_failure_to_record_the_command_keeps_the_old_file(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "templates").write_text("in the way")
        (tmp_path / "f").write_text("old")
        bench.tell("a", "new")
        with pytest.raises(Exception, match="templates/owed: cannot be read"):
            await bench.make([bench.define("f", "{{ key('a') }}", bench.log_line("ran"))]).start()
        (tmp_path / "data" / "templates").unlink()
        await bench.make([bench.define("f", "{{ key('a') }}", bench.log_line("ran"))]).start()
        await bench.settled()
        (tmp_path / "data" / "templates" / "owed").rmdir()
        (tmp_path / "data" / "templates" / "owed").write_text("in the way")
        bench.tell("a", "newer")
        await until(lambda: "its pending command cannot be recorded" in bench.status().error)
        assert bench.read("f") == "new"
        assert bench.log == ["ran"]
        (tmp_path / "data" / "templates" / "owed").unlink()
        await until(lambda: bench.read("f") == "newer")

    run(tmp_path, scene)


def test_a_file_that_could_not_be_replaced_owes_no_command(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        (tmp_path / "f").write_text("old")
        (tmp_path / "f.bak").mkdir()
        bench.tell("a", "new")
        definition = bench.define("f", "{{ key('a') }}", bench.log_line("ran"), backup=True)
        await bench.make([definition]).start()
        await until(lambda: bench.status().error)
        await bench.runner.stop()
        assert bench.read("f") == "old"
        assert os.listdir(tmp_path / "data" / "templates" / "owed") == []
        assert sorted(os.listdir(tmp_path)) == ["data", "f", "f.bak"]
        (tmp_path / "f.bak").rmdir()
        await bench.make([definition]).start()
        await bench.settled()
        assert (bench.read("f"), bench.read("f.bak"), bench.log) == ("new", "old", ["ran"])

    run(tmp_path, scene)


def test_a_broken_template_at_the_start_names_every_fault(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        definitions = [
            bench.define("f", "{% if %}"),
            parse_template({"source": "/no/such.tpl", "destination": f"{tmp_path}/g"}),
            bench.define("h", "x", user="no-such-user"),
        ]
        with pytest.raises(BadRequest) as caught:
            await bench.make(definitions).start()
        for words in ("f:1: Expected", "/no/such.tpl: the template cannot be read", "no-such-user"):
            assert words in caught.value.message

    run(tmp_path, scene)


def test_a_reload_takes_all_or_nothing(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "1")
        bench.tell("b", "2")
        source = tmp_path / "s.tpl"
        source.write_text("one {{ key('a') }}")
        first = parse_template({"source": str(source), "destination": f"{tmp_path}/f"})
        await bench.make([first]).start()
        await bench.settled()
        source.write_text("two {{ key('a') }}")
        with pytest.raises(BadRequest, match="Expected an expression"):
            await bench.runner.reload([first, bench.define("g", "{% if %}")])
        bench.tell("a", "3")
        await until(lambda: bench.read("f") == "one 3")
        await bench.runner.reload([first, bench.define("g", "{{ key('b') }}")])
        await until(lambda: bench.read("f") == "two 3" and bench.read("g") == "2")
        await bench.runner.reload([bench.define("g", "{{ key('b') }}")])
        bench.tell("a", "4")
        bench.tell("b", "5")
        await until(lambda: bench.read("g") == "5")
        assert bench.read("f") == "two 3"

    run(tmp_path, scene)


def test_a_file_dependency_is_read_again_when_it_changes(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        part = tmp_path / "part"
        await bench.make([bench.define("f", f"<{{{{ file('{part}') }}}}>")]).start()
        await until(lambda: bench.status().waiting_for == (f"file {part} (it does not exist)",))
        part.write_text("1")
        await until(lambda: bench.read("f") == "<1>")
        part.with_suffix(".new").write_text("22")
        part.with_suffix(".new").rename(part)
        await until(lambda: bench.read("f") == "<22>")
        part.unlink()
        await until(lambda: bench.status().waiting_for)
        assert bench.read("f") == "<22>"

    run(tmp_path, scene)


def test_a_burst_of_changes_within_the_wait_is_written_once(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "0")
        definition = bench.define("f", "{{ key('a') }}", bench.log_line("ran"), wait="300ms:60s")
        stands_at: list[float] = []
        await bench.make([definition], now=lambda: (stands_at or [time.monotonic()])[0]).start()
        await bench.settled()
        stands_at.append(time.monotonic())  # the burst takes no time, however long the host needs for it
        for number in range(1, 30):
            bench.tell("a", str(number))
            await asyncio.sleep(0)
        assert bench.read("f") == "0"
        stands_at.clear()
        await bench.settled(writes=2)
        assert bench.read("f") == "29"
        assert bench.log == ["ran", "ran"]

    run(tmp_path, scene)


def test_stopping_leaves_a_command_owed_and_ends_it(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.tell("a", "1")
        command = f"{bench.log_line('$$')}; sleep 1000"
        await bench.make([bench.define("f", "{{ key('a') }}", command)]).start()
        await until(lambda: bench.log)
        await bench.runner.stop(grace_s=0.0)
        assert not Path(f"/proc/{bench.log[0]}").exists()
        assert len(os.listdir(tmp_path / "data" / "templates" / "owed")) == 1

    run(tmp_path, scene)


@pytest.mark.parametrize("seed", range(3))
def test_under_random_changes_files_and_commands_end_at_the_last_state(tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    keys = ["a", "b", "c"]

    async def scene(bench: Bench) -> None:
        state: dict[str, str | None] = {key: "0" for key in keys}
        definitions = [
            bench.define(
                f"f{key}",
                f"{{{{ key_or_default('{key}', 'none') }}}}",
                f"cp {tmp_path}/f{key} {tmp_path}/c{key}",
            )
            for key in keys
        ]
        listing = "{% for row in ls('k') %}{{ row.key }}={{ row.value }};{% endfor %}"
        definitions.append(bench.define("all", listing, f"cp {tmp_path}/all {tmp_path}/call"))
        rows: dict[str, str] = {}
        for key in keys:
            bench.tell(key, state[key])
        bench.servers.tell(KvList(b"k/"), [])
        await bench.make(definitions).start()
        for _ in range(60):
            key = random_.choice(keys)
            state[key] = random_.choice([None, "", *map(str, range(5))])
            bench.tell(key, state[key])
            rows[random_.choice("xyz")] = str(random_.randrange(3))
            bench.servers.tell(KvList(b"k/"), [entry(f"k/{name}", rows[name]) for name in sorted(rows)])
            if random_.random() < 0.3:
                await asyncio.sleep(random_.choice([0, 0.01, 0.05]))
        expected = {f"f{key}": state[key] or "none" for key in keys}
        expected["all"] = "".join(f"{name}={rows[name]};" for name in sorted(rows))

        def at_rest() -> bool:
            return all(bench.read(name) == text for name, text in expected.items())

        def copied() -> bool:
            return all(bench.read("c" + name.removeprefix("f")) == text for name, text in expected.items())

        await until(at_rest, f"the last state (seed {seed})")
        await until(copied, f"the commands after the last state (seed {seed})")
        await bench.settled()

    run(tmp_path, scene)


def test_instances_coming_and_going_change_the_file(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        text = "{% for s in service('web') %}server {{ s.address }}:{{ s.port }};\n{% endfor %}"
        bench.servers.tell(WEB, [instance("web", "n1", "1.1.1.1")])
        await bench.make([bench.define("f", text)]).start()
        await until(lambda: bench.read("f") == "server 1.1.1.1:80;\n")
        bench.servers.tell(WEB, [])
        await until(lambda: bench.read("f") == "")

    run(tmp_path, scene)
