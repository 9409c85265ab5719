"""Data on a command line: literally, `-` for the standard input, `@file` for what is in a file."""

from __future__ import annotations

import sys
from pathlib import Path

import click


def read_data(data: str | None) -> bytes:
    if data is None:
        return b""
    if data == "-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_bytes()
        except OSError as error:
            raise click.ClickException(f"{data[1:]}: {error.strerror}") from error
    return data.encode(errors="surrogateescape")
