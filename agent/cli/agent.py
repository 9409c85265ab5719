"""`gemot agent`: reads the configuration, runs the daemon, turns signals into stopping and reloading."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import uvloop

from gemot import __version__
from gemot.agent.config.fault import EXIT_CODE as BAD_CONFIGURATION
from gemot.agent.config.fault import ConfigFaults
from gemot.agent.config.flags import Flags, parse, usage
from gemot.agent.config.load import load
from gemot.agent.config.resolve import listening, resolve
from gemot.agent.config.schema import Config
from gemot.agent.daemon import Daemon
from gemot.agent.http.listen import ListenFailed
from gemot.agent.identity import host_facts
from gemot.agent.logs import Followers, setup
from gemot.agent.notify import Notifier
from gemot.server.model.errors import BadRequest, DiskFailed, GemotError
from gemot.server.storage.disk import Disk
from gemot.server.storage.statefile import CHECKSUM_VFS

log = logging.getLogger("gemot.agent")

DISK_FAILED = 74
STOP_WITHIN_S = 9.0
"""A stop that takes longer is cut off: SIGTERM ends the agent within 10 s."""


@click.command(
    name="agent",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Run the agent: the daemon of this host."""
    flags = parse(arguments)
    if flags.help:
        click.echo(f"Usage: gemot agent [flags]\n\n{usage()}")
        return 0
    return run(flags)


def run(flags: Flags, *, disk: Disk | None = None, vfs: str = CHECKSUM_VFS) -> int:
    """Run an agent in this process until it is told to stop; the exit code."""
    try:
        loaded = load(flags)
        config = resolve(loaded.config, host_facts())
        setup(level=config.log_level, as_json=config.log_json, file=config.log_file)
    except ConfigFaults as error:
        click.echo(error.message, err=True)
        return BAD_CONFIGURATION
    except OSError as error:
        click.echo(f"log_file: {error.filename}: {error.strerror}", err=True)
        return BAD_CONFIGURATION
    for warning in loaded.warnings:
        log.warning("agent: configuration: %s", warning)
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Process(flags, config, disk, vfs).run())


class _Process:
    """One run of the daemon, with the signals of this process."""

    def __init__(self, flags: Flags, config: Config, disk: Disk | None, vfs: str) -> None:
        self._flags = flags
        self._config = config
        self._disk = disk
        self._vfs = vfs
        self._over = asyncio.Event()
        self._error: BaseException | None = None
        self._leave = False

    async def run(self) -> int:
        followers = Followers()
        logging.getLogger().addHandler(followers)
        self._daemon = Daemon(
            config=self._config,
            fatal=self._failed,
            notifier=Notifier.from_environment(),
            followers=followers,
            reread=lambda: resolve(load(self._flags).config, host_facts()),
            stop_soon=self._over.set,
            disk=self._disk,
            vfs=self._vfs,
        )
        _banner(self._config)
        try:
            await self._daemon.start()
        except (ListenFailed, GemotError, OSError) as error:
            click.echo(f"gemot agent: {error}", err=True)
            return _exit_code(error)
        self._catch_signals()
        with _pid_file(self._config.pid_file):
            if self._flags.hint:
                _hint(self._config)
            await self._over.wait()
            await self._stop()
        return _exit_code(self._error)

    async def _stop(self) -> None:
        log.info("agent: stopping")
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                if self._leave:
                    await self._daemon.leave()
                await self._daemon.stop()
        except TimeoutError:
            log.error("agent: did not stop within %g s, cut off", STOP_WITHIN_S)
        except GemotError as error:
            log.warning("agent: could not leave: %s", error)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._asked, self._config.leave_on_terminate)
        loop.add_signal_handler(signal.SIGINT, self._asked, not self._config.skip_leave_on_interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _asked(self, leave: bool) -> None:
        if self._over.is_set():
            # A second signal means: at once.
            sys.exit(1)
        self._leave = leave
        self._over.set()

    def _reload(self) -> None:
        self._reloading = asyncio.get_running_loop().create_task(self._reload_logged())

    async def _reload_logged(self) -> None:
        try:
            await self._daemon.reload()
        except BadRequest as error:
            log.error("agent: configuration not reloaded, all stays as it was: %s", error.message)
        except GemotError as error:
            log.error("agent: configuration not reloaded: %s", error)

    def _failed(self, error: BaseException) -> None:
        self._error = error
        self._over.set()


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, DiskFailed):
        return DISK_FAILED
    return BAD_CONFIGURATION if isinstance(error, ConfigFaults) else 1


@contextlib.contextmanager
def _pid_file(path: str) -> Iterator[None]:
    if not path:
        yield
        return
    Path(path).write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)


def _banner(config: Config) -> None:
    role = "server" if config.server else "client"
    http = ", ".join(f"{host}:{port}" for host, port in listening(config, "http")) or "off"
    dns = ", ".join(f"{host}:{port}" for host, port in listening(config, "dns")) or "off"
    log.info(
        "agent: Gemot %s: node=%s role=%s datacenter=%s",
        __version__,
        config.node_name,
        role,
        config.datacenter,
    )
    log.info("agent: listening: http=%s dns=%s cluster=%s", http, dns, config.advertise_addr)


def _hint(config: Config) -> None:
    dns = listening(config, "dns")
    click.echo("Try in another terminal:")
    click.echo("  .venv/bin/gemot kv put hello world && .venv/bin/gemot kv get hello")
    click.echo(
        f"  dig @{dns[0][0]} -p {dns[0][1]} {config.node_name}.node.consul +short"
        if dns
        else "  gemot status"
    )
