"""`gemot validate`: configuration files, every fault at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gemot.agent.config.schema import Config


@click.command(name="validate")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--quiet", is_flag=True, help="Print nothing when all is well.")
@click.option("--config-format", default="", help="json or yaml, for files whose name does not say.")
def command(paths: tuple[str, ...], quiet: bool, config_format: str) -> int:
    """Check configuration files and directories together, and tell every fault.

    \b
    Before a reload:
      gemot validate /etc/gemot.d && gemot reload

    Nothing is started. Templates are compiled: their sources must be there, and the users they name. The
    agent reads its files by the same rules, at its start and at SIGHUP. The exit code is 78 for a
    configuration that cannot be used.

    What depends on the host, its addresses and directories, is a warning: the configuration may be meant for
    another one.

    The keys are in gemot-config(5), templates in gemot-template(5); in a checkout:
    man -l packaging/man/gemot-config.5
    """
    from gemot.agent.config.fault import EXIT_CODE, ConfigFaults
    from gemot.agent.config.flags import parse
    from gemot.agent.config.load import load

    arguments = [f"-config-file={path}" for path in paths]
    try:
        loaded = load(parse([*arguments, *([f"-config-format={config_format}"] if config_format else [])]))
    except ConfigFaults as error:
        click.echo(f"Config validation failed:\n{error.message}", err=True)
        for warning in error.warnings:
            click.echo(f"Warning: {warning}", err=True)
        return EXIT_CODE
    if not quiet:
        for warning in (*loaded.warnings, *_of_this_host(loaded.config)):
            click.echo(f"Warning: {warning}", err=True)
        click.echo("Configuration is valid!")
    return 0


def _of_this_host(config: Config) -> tuple[str, ...]:
    """What would keep the agent from starting here, and perhaps not where the configuration belongs."""
    from gemot.agent.config.fault import ConfigFaults
    from gemot.agent.config.resolve import listening, resolve
    from gemot.agent.identity import has_address, host_facts, in_the_way

    found: list[str] = []
    if config.data_dir and (why := in_the_way(config.data_dir)):
        found.append(f"data_dir: {why}")
    try:
        resolved = resolve(config, host_facts())
    except ConfigFaults as error:
        found += map(str, error.faults)
    else:
        asked = [("bind_addr", resolved.bind_addr)]
        for family in ("http", "dns"):
            asked += [(family, address) for address, _ in listening(resolved, family)]
        found += [f"{what}: {given} is no address of it" for what, given in asked if not has_address(given)]
    return tuple(f"on this host the agent would not start: {one}" for one in found)
