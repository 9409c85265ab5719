"""`gemot kv`: get, put, delete, export, import; `history.py` has log, show, diff and rollback."""

from __future__ import annotations

import base64
import json
import shlex
from typing import Any

import click

from gemot.agent.cli.given import read_data
from gemot.agent.cli.history import diff, log, rollback, show
from gemot.agent.cli.options import client_options, read_options
from gemot.agent.client.connection import Connection
from gemot.agent.client.entry import Entry
from gemot.agent.client.kv import Kv


@click.group(name="kv")
def command() -> None:
    """Read and write configuration: keys and values that every host sees alike."""


for _of_history in (log, show, diff, rollback):
    command.add_command(_of_history)


@command.command()
@click.argument("key", default="")
@click.option("--recurse", is_flag=True, help="Every key that begins with KEY, as key:value lines.")
@click.option("--keys", "only_keys", is_flag=True, help="Names only.")
@click.option("--separator", default="/", help="Where -keys cuts names (default /).")
@click.option("--limit", type=int, help="With -recurse or -keys: at most so many.")
@click.option("--after", default="", help="With -limit: those behind this key; a page tells it at its end.")
@click.option("--detailed", is_flag=True, help="Indexes, flags, session and fence too.")
@click.option("--base64", "as_base64", is_flag=True, help="Print values in base64.")
@client_options
@read_options
def get(
    connection: Connection,
    read: dict[str, Any],
    key: str,
    recurse: bool,
    only_keys: bool,
    separator: str,
    limit: int | None,
    after: str,
    detailed: bool,
    as_base64: bool,
) -> None:
    """Print the value of KEY.

    A long list comes in pages with -limit: the line behind one, on standard error, says how to go on.
    """
    kv = Kv(connection)
    if after and limit is None:
        raise click.ClickException("-after is for pages: give -limit too")
    if only_keys:
        if limit is None:
            names, following = kv.keys(key, separator, **read), ""
        else:
            names, following = kv.page_of_keys(key, limit, after, separator, **read)
        for name in names:
            click.echo(name)
        _tell_more(following)
    elif recurse:
        if limit is None:
            entries, following = kv.tree(key, **read), ""
        else:
            entries, following = kv.page(key, limit, after, **read)
        for entry in entries:
            _print(entry, detailed, as_base64, alone=False)
        _tell_more(following)
    else:
        if limit is not None:
            raise click.ClickException("-limit is for lists: give -recurse or -keys too")
        if not key:
            raise click.ClickException("name the key to get, or give -recurse or -keys")
        found = kv.get(key, **read)
        if found is None:
            raise click.ClickException(f"No key exists at: {key}")
        _print(found, detailed, as_base64, alone=True)


@command.command()
@click.argument("key")
@click.argument("data", required=False)
@click.option("--cas", is_flag=True, help="Write only if the key's index still is -modify-index.")
@click.option("--modify-index", type=int, default=0, help="For -cas; 0 means: only if the key is new.")
@click.option("--flags", type=int, default=None, help="A number of your own kept with the value.")
@click.option("--base64", "as_base64", is_flag=True, help="DATA is in base64.")
@click.option("--acquire", is_flag=True, help="Take the lock of KEY for -session.")
@click.option("--release", is_flag=True, help="Give the lock of KEY up for -session.")
@click.option("--session", default="", help="Session id for -acquire and -release.")
@click.option("--ttl", help="The key deletes itself so long after this write: 30s, 24h. Without, it stays.")
@client_options
def put(
    connection: Connection,
    key: str,
    data: str | None,
    cas: bool,
    modify_index: int,
    flags: int | None,
    as_base64: bool,
    acquire: bool,
    release: bool,
    session: str,
    ttl: str | None,
) -> None:
    """Write DATA to KEY. DATA may be @FILE, or - for standard input.

    With -ttl the key is deleted when that time has passed without another write: what a job wrote to say that
    it lives goes when the job does. Each write sets the time anew; one without -ttl makes the key stay.
    """
    if (acquire or release) and not session:
        raise click.ClickException("-acquire and -release need -session")
    value = read_data(data)
    params = {
        "cas": modify_index if cas else None,
        "flags": flags,
        "acquire": session if acquire else None,
        "release": session if release else None,
        "ttl": ttl,
    }
    if not Kv(connection).put(key, base64.b64decode(value) if as_base64 else value, **params):
        raise click.ClickException(f"did not write to {key}: {_refused(cas, acquire)}")
    click.echo(f"Success! Data written to: {key}")


@command.command()
@click.argument("key", default="")
@click.option("--recurse", is_flag=True, help="Delete every key that begins with KEY.")
@click.option("--cas", is_flag=True, help="Delete only if the key's index still is -modify-index.")
@click.option("--modify-index", type=int, default=0, help="For -cas.")
@client_options
def delete(connection: Connection, key: str, recurse: bool, cas: bool, modify_index: int) -> None:
    """Delete KEY."""
    if not key and not recurse:
        raise click.ClickException("name the key to delete")
    params = {"recurse": recurse, "cas": modify_index if cas else None}
    if not Kv(connection).delete(key, **params):
        raise click.ClickException(f"did not delete {key}: its index is not {modify_index} any more")
    click.echo(f"Success! Deleted {'keys with prefix' if recurse else 'key'}: {key}")


@command.command(name="export")
@click.argument("prefix", default="")
@client_options
@read_options
def export(connection: Connection, read: dict[str, Any], prefix: str) -> None:
    """Print every key that begins with PREFIX as JSON, for `gemot kv import`.

    More than 64 MiB is not exported at once: give longer prefixes, one after the other. All there is, the
    catalog too, is kept by `gemot snapshot save`.
    """
    rows = [
        {
            "key": entry.key,
            "flags": entry.flags,
            "value": base64.b64encode(entry.value).decode(),
            **({"ttl": entry.ttl} if entry.ttl else {}),
        }
        for entry in Kv(connection).tree(prefix, **read)
    ]
    click.echo(json.dumps(rows, indent=4, ensure_ascii=False))


@command.command(name="import")
@click.argument("data")
@click.option("--prefix", default="", help="Put before every key.")
@client_options
def import_(connection: Connection, data: str, prefix: str) -> None:
    """Write every key of an export. DATA is the JSON, @FILE, or - for standard input."""
    kv = Kv(connection)
    for key, flags, value, ttl in _read_export(read_data(data)):
        name = prefix + key
        kv.put(name, value, flags=flags, ttl=ttl)
        click.echo(f"Imported: {name}")


def _read_export(text: bytes) -> list[tuple[str, int, bytes, str | None]]:
    """Every row is looked at before the first is written."""
    try:
        rows = json.loads(text)
        return [
            (str(row["key"]), int(row.get("flags", 0)), base64.b64decode(row["value"]), row.get("ttl"))
            for row in rows
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise click.ClickException(
            f'not an export: want a JSON list of {{"key", "flags", "value" in base64}} ({error!r})'
        ) from error


def _refused(cas: bool, acquire: bool) -> str:
    if cas:
        return "its index is not -modify-index any more (see gemot kv get -detailed)"
    return "another session holds its lock" if acquire else "this session does not hold its lock"


def _tell_more(following: str) -> None:
    if following:
        click.echo(f"More: -after={_quoted(following)}", err=True)


def _quoted(key: str) -> str:
    """For a shell; bytes that no terminal shows as bash and zsh take them."""
    if key.isprintable():
        return shlex.quote(key)
    plain = (char if char.isprintable() and char not in "\\'" else _escaped(char) for char in key)
    return f"$'{''.join(plain)}'"


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def _print(entry: Entry, detailed: bool, as_base64: bool, *, alone: bool) -> None:
    value = base64.b64encode(entry.value) if as_base64 else entry.value
    if detailed:
        rows = {
            "CreateIndex": entry.create_index,
            **({"Fence": entry.fence} if entry.fence else {}),
            "Flags": entry.flags,
            "Key": entry.key,
            "LockIndex": entry.lock_index,
            "ModifyIndex": entry.modify_index,
            "Session": entry.session or "-",
            **({"TTL": entry.ttl} if entry.ttl else {}),
            **({"Expires in": entry.expires_in} if entry.expires_in else {}),
        }
        for name, shown in rows.items():
            click.echo(f"{name:<17}{shown}")
        click.echo(b"Value            " + value)
        click.echo("") if not alone else None
    else:
        click.echo(value if alone else entry.key.encode() + b":" + value)
