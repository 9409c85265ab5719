"""Rendering once: all answers awaited, shown or written, and what is missing named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.fed_servers import FedServers
from support.template_bench import entry

from gemot.agent.template.definition import TemplateDefinition, parse_template
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.once import Rendered, apply, render_once, show
from gemot.agent.views import Views
from gemot.server.model.kv import KvGet


def run(scene: Callable[[FedServers, Views], Awaitable[None]]) -> None:
    async def act() -> None:
        servers = FedServers()
        views = Views(servers=servers, limit=10)
        await asyncio.wait_for(scene(servers, views), 60)
        views.stop()

    asyncio.run(act())


def define(path: Path, contents: str, **keys: object) -> TemplateDefinition:
    return parse_template({"contents": contents, "destination": str(path)} | keys)


def test_everything_is_rendered_when_the_last_answer_comes(tmp_path: Path) -> None:
    async def scene(servers: FedServers, views: Views) -> None:
        definitions = [
            define(tmp_path / "f", "{{ key('x/' ~ key('a')) }}\n", wait="60s"),
            define(tmp_path / "g", "{{ key_or_default('b', '-') }}"),
        ]
        task = asyncio.ensure_future(render_once(definitions, views, 30))
        await asyncio.sleep(0)
        servers.tell(KvGet(b"a"), entry("a", "b"))
        servers.tell(KvGet(b"b"), None)
        servers.tell(KvGet(b"x/b"), entry("x/b", "v"))
        rendered = await task
        assert [one.content for one in rendered] == [b"v\n", b"-"]
        assert show(rendered) == f"> {tmp_path}/f\nv\n> {tmp_path}/g\n-\n".encode()
        assert list(tmp_path.iterdir()) == []

    run(scene)


def test_at_the_timeout_what_is_missing_is_named(tmp_path: Path) -> None:
    async def scene(servers: FedServers, views: Views) -> None:
        servers.tell(KvGet(b"a"), None)
        servers.tell(KvGet(b"c"), entry("c", "1"))
        definitions = [
            define(tmp_path / "f", "{{ key('a') }}{{ key('b') }}"),
            define(tmp_path / "g", "{{ key('c') }}"),
        ]
        with pytest.raises(TemplateFailed) as caught:
            await render_once(definitions, views, 3)
        waits = f"contents of {tmp_path}/f waits for key a (it does not exist), key b (no answer yet)"
        assert caught.value.message == f"not complete after 3 s: {waits}"

    run(scene)


def test_a_fault_ends_it_at_once(tmp_path: Path) -> None:
    async def scene(servers: FedServers, views: Views) -> None:
        definitions = [define(tmp_path / "g", "{{ key('c') }}"), define(tmp_path / "f", "\n{{ nosuch }}")]
        with pytest.raises(TemplateFailed, match="f:2: 'nosuch' is undefined"):
            await render_once(definitions, views, 30)

    run(scene)


def test_applying_writes_what_differs_and_runs_equal_commands_once(tmp_path: Path) -> None:
    async def scene(servers: FedServers, views: Views) -> None:
        command = f"cat {tmp_path}/f {tmp_path}/g >> {tmp_path}/log"
        definitions = [define(tmp_path / name, name, command=command) for name in "fgh"]
        (tmp_path / "h").write_text("h")
        rendered = await render_once(definitions, views, 30)
        assert await apply(rendered) == definitions[:2]
        assert (tmp_path / "log").read_text() == "fg"
        assert await apply(rendered) == []
        assert (tmp_path / "log").read_text() == "fg"

    run(scene)


def test_a_command_that_fails_is_told_with_its_output(tmp_path: Path) -> None:
    definition = define(tmp_path / "f", "x", command="echo why; exit 4")
    with pytest.raises(TemplateFailed, match="it exited with status 4\nwhy"):
        asyncio.run(apply([Rendered(definition, b"x")]))
