"""`gemot services`: registers and deregisters services of this host, from files or flags."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection
from gemot.agent.client.path import escape

if TYPE_CHECKING:
    from gemot.agent.config.document import Form

_FORMS: dict[str, Form] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
_STANZAS = ("service", "services")


@click.group(name="services")
def command() -> None:
    """Register or deregister services of this host.

    \b
    A service, and its check, from a file:
      gemot services register web.yaml

    \b
    where web.yaml is
      service:
        name: web
        port: 80
        check: {http: "http://localhost/", interval: 10s}

    They stay registered until they are deregistered, also across restarts of the agent. Services that come
    with the host belong into the agent's configuration instead.
    """


@command.command()
@click.argument("files", nargs=-1, metavar="[FILE...]")
@click.option("--name", default="", help="Name of the service.")
@click.option("--id", "service_id", default="", help="Its id on this host (default: the name).")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Its port.")
@click.option("--address", default="", help="Its address (default: the node's).")
@click.option("--tag", multiple=True, help="A tag; may be repeated.")
@click.option("--meta", multiple=True, help="A pair of metadata, key=value; may be repeated.")
@client_options
def register(
    connection: Connection,
    files: tuple[str, ...],
    name: str,
    service_id: str,
    port: int,
    address: str,
    tag: tuple[str, ...],
    meta: tuple[str, ...],
) -> None:
    """Register a service given by flags, or each one in the FILEs (JSON or YAML; - is standard input).

    \b
    Without a file:
      gemot services register -name=web -port=80 -tag=v2 -meta=team=shop

    Every file is looked at before the first service is registered.
    """
    by_flags = any((name, service_id, port, address, tag, meta))
    if bool(files) == by_flags:
        raise click.ClickException("give either files or flags (-name at least) that say what to register")
    if by_flags:
        if not name:
            raise click.ClickException("-name is missing: a service needs one")
        flags: dict[str, Any] = {"name": name, "id": service_id, "port": port, "address": address}
        given = [flags | {"tags": list(tag), "meta": dict(_pair(text) for text in meta)}]
        _check("the flags", given)
    else:
        given = _read_files(files)
    for service in given:
        body = json.dumps(service, ensure_ascii=False).encode("utf-8", "surrogatepass")
        connection.request("PUT", "/v1/agent/service/register", body=body)
        click.echo(f"Registered service: {_value(service, 'name')}")


@command.command()
@click.argument("files", nargs=-1, metavar="[FILE...]")
@click.option("--id", "service_id", default="", help="Id of the service on this host.")
@client_options
def deregister(connection: Connection, files: tuple[str, ...], service_id: str) -> None:
    """Deregister the service with an id, or those in the FILEs that registered them.

    \b
    Take web away again:
      gemot services deregister -id=web
    """
    if bool(files) == bool(service_id):
        raise click.ClickException("give either -id or the files whose services to deregister")
    ids = [service_id] if service_id else [_id(service) for service in _read_files(files)]
    for one in ids:
        connection.request("PUT", f"/v1/agent/service/deregister/{escape(one)}")
        click.echo(f"Deregistered service: {one}")


def _read_files(files: tuple[str, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for file in files:
        services = _read_file(file)
        _check(file, services)
        found += services
    return found


def _read_file(file: str) -> list[dict[str, Any]]:
    """The stanzas `service` and `services` of one file, as the configuration has them."""
    from gemot.agent.config import document

    form = _form(file)
    try:
        document_of = document.parse(_read(file, document.MAX_BYTES), form)
    except document.Unreadable as error:
        raise click.ClickException("\n".join(f"{file}: {one}" for one in error.messages)) from error
    found: list[dict[str, Any]] = []
    for key, value in document_of.items():
        if key.lower() not in _STANZAS:
            raise click.ClickException(f'{file}: {key}: only the keys "service" and "services" are read here')
        for stanza in value if isinstance(value, list) else [value]:
            if not isinstance(stanza, dict):
                raise click.ClickException(f"{file}: {key}: a service is a map of its fields")
            found.append(stanza)
    if not found:
        raise click.ClickException(f'{file}: holds no service: write it under "service" or "services"')
    return found


def _read(file: str, limit: int) -> bytes:
    try:
        if file == "-":
            return sys.stdin.buffer.read(limit + 1)
        with Path(file).open("rb") as opened:
            return opened.read(limit + 1)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{file}: {getattr(error, 'strerror', None) or error}") from error


def _form(file: str) -> Form:
    """YAML is a superset of JSON as it is written here, so standard input is read as YAML."""
    suffix = Path(file).suffix.lower()
    if file == "-":
        return "yaml"
    if suffix == ".hcl":
        raise click.ClickException(
            f"{file}: HCL comes in a later release: write it as JSON or YAML (same keys)"
        )
    if suffix not in _FORMS:
        raise click.ClickException(f"{file}: the name must end in .json, .yaml or .yml")
    return _FORMS[suffix]


def _check(source: str, services: list[dict[str, Any]]) -> None:
    """Refuse what the agent would refuse, before anything is registered. The agent judges scripts itself."""
    from gemot.agent.fields import Mistakes
    from gemot.agent.registration import Policy, parse_service

    faults: list[str] = []
    for number, service in enumerate(services):
        where = f"{source}: services[{number}]" if len(services) > 1 else source
        try:
            parse_service(service, from_config=True, policy=Policy(scripts=True))
        except Mistakes as error:
            faults += (f"{where}: {path}: {why}" if path else f"{where}: {why}" for path, why in error.found)
    if faults:
        raise click.ClickException("\n".join(faults))


def _pair(text: str) -> tuple[str, str]:
    key, mark, value = text.partition("=")
    if not mark or not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", key):
        raise click.ClickException(f'-meta: must be key=value with a key of A-Z a-z 0-9 _ -, got "{text}"')
    return key, value


def _id(service: dict[str, Any]) -> str:
    return _value(service, "id") or _value(service, "name")


def _value(service: dict[str, Any], wanted: str) -> str:
    """A field under any spelling of its name (`ID`, `id`)."""
    found = next((value for key, value in service.items() if key.lower() == wanted), None)
    return str(found or "")
