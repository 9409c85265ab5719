"""Flags that every command shares which speaks to an agent, and the connection they give."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gemot.agent.cli.waiting import on_terminal
from gemot.agent.client.connection import ClientError, Connection


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -http-addr, -token, -token-file; hands the command its `connection`.

    The environment is asked after the flags: GEMOT_HTTP_ADDR before CONSUL_HTTP_ADDR, and likewise for
    HTTP_TOKEN and HTTP_TOKEN_FILE. Errors of the client end the command with exit code 1. At a terminal
    a line says what a late answer waits for.
    """

    @click.option("--http-addr", default="", help="The agent: host:port, URL or unix:///path.")
    @click.option("--token", default="", help="Token to present.")
    @click.option("--token-file", default="", help="File that holds the token.")
    @functools.wraps(command)
    def wrapped(http_addr: str, token: str, token_file: str, **rest: Any) -> Any:
        address, shown = http_addr or environment("HTTP_ADDR"), token_of(token, token_file)
        try:
            with contextlib.closing(
                Connection(address, token=shown, slow=on_terminal(address, shown))
            ) as connection:
                return command(connection=connection, **rest)
        except ClientError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


def read_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -stale; hands the command `read`, the query parameters it stands for."""

    @click.option("--stale", is_flag=True, help="Let any server answer, even without a leader.")
    @functools.wraps(command)
    def wrapped(stale: bool, **rest: Any) -> Any:
        return command(read={"stale": stale}, **rest)

    return wrapped


def environment(name: str) -> str:
    """GEMOT_<name>, else CONSUL_<name>, else ""."""
    return os.environ.get(f"GEMOT_{name}") or os.environ.get(f"CONSUL_{name}") or ""


def token_of(token: str, token_file: str) -> str:
    """The token of the flags, else of the environment, else "". A line break at its end is not of it."""
    token = token or environment("HTTP_TOKEN").removesuffix("\n")
    path = token_file or environment("HTTP_TOKEN_FILE")
    if token or not path:
        return token
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise click.ClickException(f"-token-file: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.ClickException(f"-token-file: {path}: it is not UTF-8, as a token is") from error


def columns(rows: list[list[str]]) -> str:
    """Rows as plain columns, two spaces apart; the last column is not padded."""
    if not rows:
        return ""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
