"""`gemot agent`: reads the configuration, runs the daemon, turns signals into stopping and reloading."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import shutil
import signal
import sys
import threading
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
from gemot.server.model.errors import BadRequest, Corrupt, DiskFailed, GemotError, RuleFailed
from gemot.server.storage.disk import Disk
from gemot.server.storage.sqlite import CHECKSUM_VFS

log = logging.getLogger("gemot.agent")

DISK_FAILED = 74
STOP_WITHIN_S = 8.0
"""A stop that takes longer goes on without what it waited for."""

CUT_OFF_S = 9.5
"""So long after the signal the process ends whatever its threads still do: SIGTERM takes 10 s at most."""

GARBAGE_OBJECTS = 10_000
"""So many new ones make the collector look for cycles. Python's 700 are made by two dozen reads that wait:
with 5,000 of them it looked at everything several times a write, which took 0.2 s of the write itself."""

_PAGES = """Files set the same and more: gemot-config(5) has every key, gemot-template(5) templates.
gemot validate checks them. In a checkout: man -l packaging/man/gemot-config.5"""

_DISK_ERRNOS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


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
        click.echo(f"Usage: gemot agent [flags]\n\n{usage()}\n\n{_PAGES}")
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
        for warning in error.warnings:
            click.echo(f"Warning: {warning}", err=True)
        return BAD_CONFIGURATION
    except OSError as error:
        click.echo(f"log_file: {error.filename}: {error.strerror}", err=True)
        return BAD_CONFIGURATION
    for warning in loaded.warnings:
        log.warning("agent: configuration: %s", warning)
    # A reload asked for before there is anything to reload must not end the process.
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Process(flags, config, disk, vfs).run())
    except KeyboardInterrupt:
        click.echo("gemot agent: interrupted while starting", err=True)
        return 1


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
        _say_who(self._config)
        try:
            await self._start()
        except (ListenFailed, GemotError, OSError) as error:
            return _told(error)
        except asyncio.CancelledError:
            if not self._over.is_set():
                raise  # SIGINT, which ends it with an error
            return 0
        _say_where(self._config)
        self._catch_signals()
        try:
            _write_pid(self._config.pid_file)
        except OSError as error:
            click.echo(f"pid_file: {error.filename}: {error.strerror}", err=True)
            self._error = ConfigFaults("")
            self._over.set()
        if self._flags.hint and not self._over.is_set():
            _hint(self._config)
        await self._over.wait()
        await self._stop()
        _remove_pid(self._config.pid_file)
        return _told(self._error)

    async def _start(self) -> None:
        """SIGTERM meanwhile cancels it where it awaits: raised anywhere, it would leave things half made.

        Where it blocks the loop for long, as in reading a long log, the process is cut off instead.
        """
        loop = asyncio.get_running_loop()
        starting = loop.create_task(self._daemon.start())

        def end() -> None:
            if self._over.is_set():
                self._end_at_once("asked a second time: ends at once")
            self._leave = starting.done() and self._config.leave_on_terminate
            self._over.set()
            starting.cancel()

        def asked(_number: int, _frame: object) -> None:
            self._cut_off_in_time()
            loop.call_soon_threadsafe(end)

        signal.signal(signal.SIGTERM, asked)
        await starting

    async def _stop(self) -> None:
        log.info("agent: stopping")
        self._cut_off_in_time()
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                if self._leave:
                    await self._say_goodbye()
                await self._daemon.stop(failed=self._error is not None)
        except TimeoutError:
            self._end_at_once("did not stop in time, cut off")

    async def _say_goodbye(self) -> None:
        try:
            async with asyncio.timeout(STOP_WITHIN_S / 2):
                await self._daemon.leave()
        except TimeoutError:
            log.warning("agent: could not leave: no answer in %g s", STOP_WITHIN_S / 2)
        except GemotError as error:
            log.warning("agent: could not leave: %s", error)

    def _cut_off_in_time(self) -> None:
        """A thread does it, because what hangs may be the loop, or a thread the interpreter waits for."""
        timer = threading.Timer(CUT_OFF_S, self._end_at_once, ("did not stop in time, cut off",))
        timer.daemon = True
        timer.start()

    def _end_at_once(self, why: str) -> None:
        """What was acknowledged is safe without a tidy end; only the caller's patience is spared."""
        log.error("agent: %s", why)
        _remove_pid(self._config.pid_file)
        logging.shutdown()
        os._exit(_exit_code(self._error) or 1)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._asked, self._config.leave_on_terminate)
        loop.add_signal_handler(signal.SIGINT, self._asked, not self._config.skip_leave_on_interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _asked(self, leave: bool) -> None:
        if self._over.is_set():
            self._end_at_once("asked a second time: ends at once")
        self._leave = leave
        self._over.set()

    def _reload(self) -> None:
        self._reloading = asyncio.get_running_loop().create_task(self._reload_logged())

    async def _reload_logged(self) -> None:
        try:
            await self._daemon.reload()
        except (GemotError, OSError) as error:
            log.error("agent: configuration not reloaded, all stays as it was: %s", error)

    def _failed(self, error: BaseException) -> None:
        """The first failure is the cause, what comes after it may be a consequence."""
        self._error = self._error or error
        self._over.set()


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, DiskFailed | Corrupt):
        return DISK_FAILED
    if isinstance(error, OSError):
        return DISK_FAILED if error.errno in _DISK_ERRNOS else 1
    # What the parts refuse at the start is what the configuration asked of them.
    return BAD_CONFIGURATION if isinstance(error, BadRequest | RuleFailed) else 1


def _told(error: BaseException | None) -> int:
    """Say last what ended the process, where whoever started it looks; the exit code."""
    code = _exit_code(error)
    if error is not None and str(error):
        click.echo(f"gemot agent: {error}", err=True)
    if code == DISK_FAILED:
        click.echo(
            "gemot agent: stopped, so that nothing is acknowledged that this disk may have lost: look after "
            "the disk, then start the agent again",
            err=True,
        )
    return code


def _write_pid(path: str) -> None:
    if path:
        Path(path).write_text(f"{os.getpid()}\n")


def _remove_pid(path: str) -> None:
    """Take the file away if it is still this process's."""
    with contextlib.suppress(OSError):
        if path and Path(path).read_text() == f"{os.getpid()}\n":
            Path(path).unlink()


def _say_who(config: Config) -> None:
    role = "server" if config.server else "client"
    log.info(
        "agent: Gemot %s: node=%s role=%s datacenter=%s",
        __version__,
        config.node_name,
        role,
        config.datacenter,
    )


def _say_where(config: Config) -> None:
    """Once it is so."""
    http = ", ".join(f"{host}:{port}" for host, port in listening(config, "http")) or "off"
    dns = ", ".join(f"{host}:{port}" for host, port in listening(config, "dns")) or "off"
    log.info("agent: listening: http=%s dns=%s cluster=%s", http, dns, config.advertise_addr)


def _hint(config: Config) -> None:
    """Three lines that work when they are copied as they stand."""
    gemot = sys.argv[0] if Path(sys.argv[0]).name == "gemot" else "gemot"
    http, dns = listening(config, "http"), listening(config, "dns")
    where = "" if ("127.0.0.1", 8500) in http else f" -http-addr={_reached(http[0])}" if http else ""
    click.echo("Try in another terminal:")
    click.echo(f"  {gemot} kv put{where} hello world && {gemot} kv get{where} hello")
    dig = _dig()
    if dns and dig:
        name = f"{config.node_name}.node.{config.domain.rstrip('.')}"
        host, port = _reached(dns[0]).rsplit(":", 1)
        click.echo(f"  {dig} @{host.strip('[]')} -p {port} {name} +short")
    else:
        register = f"{gemot} services register{where} -name=web -port=80"
        click.echo(f"  {register} && {gemot} why service{where} web")


def _dig() -> str:
    """How dig is called here: Debian has it only when asked for, `make tools` puts one into the checkout."""
    if shutil.which("dig"):
        return "dig"
    fetched = Path(sys.argv[0]).parent.parent.parent / ".tools/bin/dig"
    return str(fetched) if os.access(fetched, os.X_OK) else ""


def _reached(address: tuple[str, int]) -> str:
    """Where this host reaches a listener of its own."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
