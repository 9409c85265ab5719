"""`gemot kv` log, show, diff, rollback: what keys were, and how to have them back."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

import click

from gemot.agent.cli.options import client_options, columns, read_options
from gemot.agent.client.connection import Connection
from gemot.agent.client.entry import Entry
from gemot.agent.client.history import Change, History, left_locked, plan

_SHOWN_BYTES = 24
_DIFF_BYTES = 1 << 20
"""Larger values are compared by their sizes alone."""


def of_prefix(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--prefix", is_flag=True, help="KEY is a prefix: every key that begins with it.")(
        command
    )


@click.command()
@click.argument("key")
@click.option("--limit", "--n", type=click.IntRange(1, 1000), default=20, help="Lines at most (default 20).")
@click.option("--before", type=click.IntRange(0), default=0, help="Only what began before this index.")
@client_options
@read_options
def log(connection: Connection, read: dict[str, Any], key: str, limit: int, before: int) -> None:
    """List the revisions of KEY, newest first.

    Each line: the index, the time by the leader's clock, who wrote (- if nobody said), what was done, the
    bytes of the value and how it begins. The time is for people: clocks can be wrong, indexes cannot.
    """
    found, more = History(connection).log(key, limit=limit, before=before, **read)
    if not found and not before:
        raise click.ClickException(f"No history of the key: {key}")
    rows = [["INDEX", "TIME", "WHO", "OP", "SIZE", "VALUE"]]
    for one in found:
        if one.deleted:
            rows.append([str(one.until), one.end_time or "-", one.end_accessor or "-", "delete", "-", ""])
        value, index = one.entry.value, str(one.entry.modify_index)
        rows.append([index, one.time or "-", one.accessor or "-", one.op, str(len(value)), _begins(value)])
    click.echo(columns(rows))
    if more:
        click.echo(f"older ones: -before={found[-1].entry.modify_index}", err=True)


@click.command()
@click.argument("key")
@click.option("--index", type=click.IntRange(1), required=True, help="The index to look at.")
@client_options
@read_options
def show(connection: Connection, read: dict[str, Any], key: str, index: int) -> None:
    """Print the value that KEY had at an index."""
    then, gone = History(connection).as_of(key, index, recurse=False, **read)
    if gone:
        raise click.ClickException(_forgotten(gone, index))
    if key.lstrip("/") not in then:
        raise click.ClickException(f"No key existed at index {index}: {key}")
    click.echo(then[key.lstrip("/")].value)


@click.command()
@click.argument("key", default="")
@of_prefix
@click.option("--from", "from_", type=click.IntRange(1), required=True, help="The earlier index.")
@click.option("--to", type=click.IntRange(1), default=None, help="The later index; without it, now.")
@client_options
@read_options
def diff(
    connection: Connection, read: dict[str, Any], key: str, prefix: bool, from_: int, to: int | None
) -> None:
    """Compare KEY at two indexes, line by line; of what is no text, the sizes.

    The exit code is 0 where nothing differs and 2 where something does.
    """
    _require_key(key, prefix)
    history = History(connection)
    then, gone = history.as_of(key, from_, recurse=prefix, **read)
    gone_later: list[str] = []
    if to is None:
        later = history.now(key, recurse=prefix, **read)
    else:
        later, gone_later = history.as_of(key, to, recurse=prefix, **read)
    if gone or gone_later:
        raise click.ClickException(_forgotten(gone or gone_later, from_ if gone else to or 0))
    if not prefix and not then and not later:
        raise click.ClickException(
            f"No key existed at index {from_}, nor {f'at {to}' if to else 'now'}: {key}"
        )
    lines = [
        line
        for name in sorted(then.keys() | later.keys())
        for line in _compared(name, then.get(name), later.get(name), str(from_), str(to or "now"))
    ]
    for line in lines:
        click.echo(line)
    if lines:
        raise click.exceptions.Exit(2)


@click.command()
@click.argument("key", default="")
@of_prefix
@click.option("--to", type=click.IntRange(1), required=True, help="The index to go back to.")
@click.option("--yes", is_flag=True, help="Do it. Without this the plan is printed, and nothing is changed.")
@client_options
def rollback(connection: Connection, key: str, prefix: bool, to: int, yes: bool) -> None:
    """Give KEY the value, the flags and the TTL that it had at an index.

    Keys that came later are deleted, deleted ones are made again, all in one transaction, or nothing. It has
    as many keys and bytes as the agent takes (limits.txn_max_ops: 128 by default; limits.txn_max_req_len).
    What somebody changes between plan and transaction is not overwritten: then nothing is done. Who holds a
    lock still holds it: a locked key may get another value, and is not deleted. A TTL begins anew. History
    goes on: a rollback can be rolled back.

    The exit code is 2 where there is something to do and -yes is not given.
    """
    _require_key(key, prefix)
    history = History(connection)
    then, gone = history.as_of(key, to, recurse=prefix)
    if gone:
        raise click.ClickException(_forgotten(gone, to))
    now = history.now(key, recurse=prefix)
    changes = plan(then, now)
    kept = left_locked(then, now)
    for locked in kept:
        click.echo(f"keep   {locked} (it is locked)")
    if not changes:
        told = "Nothing more to do: all else" if kept else "Nothing to do: all"
        click.echo(f"{told} is as it was at index {to}")
        return
    if odd := [change.key for change in changes if "\ufffd" in change.key]:
        raise click.ClickException(f"{odd[0]}: a key that is not UTF-8 cannot be named in a transaction")
    for change in changes:
        click.echo(_planned(change))
    if not yes:
        click.echo("Nothing was changed: give -yes to do it", err=True)
        raise click.exceptions.Exit(2)
    history.apply(changes)
    click.echo(f"Success! Keys as at index {to}: {len(changes)} changed")


def _require_key(key: str, prefix: bool) -> None:
    if not key and not prefix:
        raise click.ClickException("name the key, or give -prefix for all keys")


def _forgotten(gone: list[str], index: int) -> str:
    more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
    return (
        f"how these were at index {index} is forgotten: {', '.join(gone[:3])}{more}; they were written more "
        "often since than kv_history.revisions keeps"
    )


def _planned(change: Change) -> str:
    if change.verb == "delete":
        return f"delete {change.key}"
    lives = f", for {change.ttl} from then on" if change.ttl else ""
    if change.before is None:
        return f"create {change.key} ({len(change.value)} bytes{lives})"
    return f"set    {change.key} ({len(change.before)} to {len(change.value)} bytes{lives})"


def _compared(name: str, then: Entry | None, later: Entry | None, at: str, to: str) -> Iterator[str]:
    old, new = then.value if then else b"", later.value if later else b""
    if then is not None and later is not None and old == new:
        if then.flags != later.flags:
            yield f"Flags of {name} differ: {then.flags} and {later.flags}"
        return
    a, b = _lines(old), _lines(new)
    heads = (f"{name}@{at}" if then else "/dev/null", f"{name}@{to}" if later else "/dev/null")
    if a is None or b is None or not (a or b):
        sizes = [f"{len(value)} bytes" if there else "absent" for there, value in ((then, old), (later, new))]
        yield f"{name} differs: {sizes[0]} at {at}, {sizes[1]} at {to}"
        return
    yield from difflib.unified_diff(a, b, *heads, lineterm="")


def _lines(value: bytes) -> list[str] | None:
    """None for what is no text, or is too long."""
    if len(value) > _DIFF_BYTES or b"\0" in value:
        return None
    try:
        return value.decode().split("\n") if value else []
    except UnicodeDecodeError:
        return None


def _begins(value: bytes) -> str:
    text = value[:_SHOWN_BYTES].decode("utf-8", "replace")
    shown = "".join(each if each.isprintable() else "." for each in text)
    return shown + ("..." if len(value) > _SHOWN_BYTES else "")
