"""`gemot template`: renders once, renders for as long as it runs, or only checks."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from gemot.agent.cli.options import environment, token_of
from gemot.agent.client.connection import DEFAULT_ADDRESS
from gemot.agent.config.fault import EXIT_CODE, ConfigFaults
from gemot.agent.config.flags import parse
from gemot.agent.config.load import load_templates
from gemot.agent.duration import parse_duration
from gemot.agent.fields import Mistakes
from gemot.agent.logs import LEVELS, setup
from gemot.agent.notify import Notifier
from gemot.agent.over_http import OverHttp
from gemot.agent.rendering import MAX_VIEWS, Rendering
from gemot.agent.template.definition import TemplateDefinition, check_together, parse_template
from gemot.agent.template.errors import CommandFailed
from gemot.agent.template.once import apply, render_once, show
from gemot.agent.template.render import check_template
from gemot.agent.views import Views
from gemot.server.model.errors import BadRequest, GemotError

COMMAND_FAILED = 2
"""The exit code when what was to be run failed, told from a render that could not be done (1)."""


@click.group(name="template")
def command() -> None:
    """Render configuration files from watched values: keys, services, nodes.

    \b
    See what a template gives, write nothing:
      gemot template render -dry -template=haproxy.j2:/etc/haproxy/haproxy.cfg

    \b
    Render what the directory defines, once, and run the commands:
      gemot template render -config-dir=/etc/gemot-template.d

    \b
    Keep the files rendered (this is what gemot-template.service does):
      gemot template run -config-dir=/etc/gemot-template.d -state-dir=/var/lib/gemot-template

    \b
    A definition, in YAML:
      templates:
        - source: /etc/gemot-template.d/haproxy.j2
          destination: /etc/haproxy/haproxy.cfg
          command: systemctl reload haproxy

    Every field of a definition and every function of a template are in gemot-template(5); in a checkout:
    man -l packaging/man/gemot-template.5
    """


def _agent_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--http-addr", default="", help="The agent: host:port, URL or unix:///path."),
        click.option("--token", default="", help="Token to present."),
        click.option("--token-file", default="", help="File that holds the token."),
    ):
        function = option(function)
    return function


def _source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--config-dir", multiple=True, help="Directory of definitions; may be repeated."),
        click.option("--config-file", multiple=True, help="File of definitions; may be repeated."),
    ):
        function = option(function)
    return function


@command.command()
@_source_options
@click.option("--template", "pairs", multiple=True, help="SOURCE:DESTINATION[:COMMAND]; may be repeated.")
@click.option("--once", is_flag=True, help="Has no effect: render always renders once.")
@click.option("--dry", is_flag=True, help="Print the files; write nothing, run nothing.")
@click.option("--timeout", default="60s", help="How long to wait for missing values (default 60s).")
@_agent_options
def render(
    config_dir: tuple[str, ...],
    config_file: tuple[str, ...],
    pairs: tuple[str, ...],
    once: bool,
    dry: bool,
    timeout: str,
    http_addr: str,
    token: str,
    token_file: str,
) -> int:
    """Render each template once: write the files that differ, run their commands, exit.

    Nothing is written before every template is complete. A template waits for keys and services that do not
    exist yet, up to -timeout; then the exit code is 1, and what is missing is told.

    The exit code is 2 when the files are written and a command failed.
    """
    timeout_s = _seconds(timeout)
    definitions = _definitions(config_dir, config_file, pairs)
    setup(level="WARN", as_json=False, file="")
    agent = _agent(http_addr, token_of(token, token_file))
    try:
        return asyncio.run(_render(agent, definitions, timeout_s, dry))
    except CommandFailed as error:
        click.echo(f"Error: the files are written, but a command failed: {error.message}", err=True)
        return COMMAND_FAILED
    except GemotError as error:
        raise click.ClickException(error.message) from error


async def _render(
    agent: OverHttp, definitions: Sequence[TemplateDefinition], timeout_s: float, dry: bool
) -> int:
    agent.start()
    views = Views(servers=agent, limit=MAX_VIEWS)
    try:
        node = await agent.node_name()
        rendered = await render_once(definitions, views, timeout_s, node=node)
    finally:
        views.stop()
        await agent.stop()
    if dry:
        sys.stdout.buffer.write(show(rendered))
        sys.stdout.buffer.flush()
        return 0
    for definition in await apply(rendered):
        click.echo(f"Wrote {definition.destination}")
    return 0


@command.command()
@_source_options
@click.option("--state-dir", required=True, help="Where it keeps which commands are still owed.")
@click.option("--log-level", default="INFO", help="TRACE, DEBUG, INFO (default), WARN or ERROR.")
@click.option("--log-json", is_flag=True, help="One JSON object a line.")
@_agent_options
def run(
    config_dir: tuple[str, ...],
    config_file: tuple[str, ...],
    state_dir: str,
    log_level: str,
    log_json: bool,
    http_addr: str,
    token: str,
    token_file: str,
) -> int:
    """Keep the files rendered until SIGTERM, over the HTTP API of this host's agent.

    SIGHUP reads the definitions again, all or nothing. A command that failed is tried again, and one that was
    still owed at a crash is run at the next start. The exit code is 78 for definitions that cannot be used.
    """
    level = {"WARNING": "WARN", "ERR": "ERROR"}.get(log_level.upper(), log_level.upper())
    if level not in LEVELS:
        raise click.ClickException(f'-log-level: must be one of {", ".join(LEVELS)}, got "{log_level}"')
    reread = _Reread(config_dir, config_file)
    try:
        definitions = reread()
        setup(level=level, as_json=log_json, file="")
        agent = _agent(http_addr, token_of(token, token_file))
        asyncio.run(_run(definitions, reread, agent, Path(state_dir).absolute()))
    except BadRequest as error:
        click.echo(error.message, err=True)
        return EXIT_CODE
    except GemotError as error:
        raise click.ClickException(error.message) from error
    return 0


async def _run(
    definitions: Sequence[TemplateDefinition], reread: _Reread, agent: OverHttp, state_dir: Path
) -> None:
    rendering = Rendering(
        definitions=definitions,
        reread=reread,
        agent=agent,
        state_dir=state_dir,
        notifier=Notifier.from_environment(),
    )
    await rendering.run()


@command.command()
@_source_options
@click.option("--template", "pairs", multiple=True, help="SOURCE:DESTINATION[:COMMAND]; may be repeated.")
@click.option("--quiet", is_flag=True, help="Print nothing when all is well.")
def validate(
    config_dir: tuple[str, ...], config_file: tuple[str, ...], pairs: tuple[str, ...], quiet: bool
) -> int:
    """Check definitions and compile every template, without an agent; tell every fault.

    The exit code is 78 for what cannot be used.
    """
    definitions = _definitions(config_dir, config_file, pairs)
    if faults := _faults(definitions):
        click.echo("\n".join(faults), err=True)
        return EXIT_CODE
    if not quiet:
        click.echo(f"{len(definitions)} templates are valid")
    return 0


def _faults(definitions: Sequence[TemplateDefinition]) -> list[str]:
    """Everything that keeps them from being used; of those from files there is none any more."""
    faults: list[str] = []
    for definition in definitions:
        try:
            check_template(definition)
        except Mistakes as error:
            faults += (why for _, why in error.found)
    return faults


class _Reread:
    """Reads the definitions where the command line says; again each time it is called."""

    def __init__(self, directories: Sequence[str], files: Sequence[str]) -> None:
        if not directories and not files:
            raise click.ClickException("nothing to render: give -config-dir or -config-file")
        self._arguments = [f"-config-dir={path}" for path in directories]
        self._arguments += [f"-config-file={path}" for path in files]

    def __call__(self) -> tuple[TemplateDefinition, ...]:
        """Raises ConfigFaults."""
        return load_templates(parse(self._arguments)).config.templates


def _definitions(
    directories: Sequence[str], files: Sequence[str], pairs: Sequence[str]
) -> tuple[TemplateDefinition, ...]:
    """From files and from -template; ends the command with the code of a bad configuration."""
    if not (directories or files or pairs):
        raise click.ClickException("nothing to render: give -template, -config-dir or -config-file")
    try:
        found = _Reread(directories, files)() if directories or files else ()
        found += tuple(_parse_pair(text) for text in pairs)
        check_together(found)
    except BadRequest as error:
        text = error.message if isinstance(error, ConfigFaults) else f"-template: {error.message}"
        click.echo(text, err=True)
        raise click.exceptions.Exit(EXIT_CODE) from error
    if not found:
        raise click.ClickException("nothing to render: no template is defined there")
    return found


def _parse_pair(text: str) -> TemplateDefinition:
    """`source:destination[:command]`; relative paths are of the working directory."""
    source, _, rest = text.partition(":")
    destination, _, line = rest.partition(":")
    if not source or not destination:
        raise BadRequest(f'must be SOURCE:DESTINATION[:COMMAND], got "{text[:200]}"')
    raw = {"source": os.path.abspath(source), "destination": os.path.abspath(destination)}
    return parse_template(raw | ({"command": line} if line else {}))


def _agent(http_addr: str, token: str) -> OverHttp:
    try:
        return OverHttp(address=http_addr or environment("HTTP_ADDR") or DEFAULT_ADDRESS, token=token)
    except GemotError as error:
        raise click.ClickException(error.message) from error


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except BadRequest as error:
        raise click.ClickException(f"-timeout: {error.message}") from error
    if not 0 < seconds <= 86_400:
        raise click.ClickException(f"-timeout: must be more than 0s and at most 24h, got {text}")
    return seconds
