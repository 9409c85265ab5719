"""`gemot version`."""

from __future__ import annotations

import click

from gemot import __version__


@click.command(name="version")
def command() -> None:
    """Show the version."""
    click.echo(f"Gemot v{__version__}")
