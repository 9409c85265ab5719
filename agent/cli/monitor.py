"""`gemot monitor`: the agent's log as it is written."""

from __future__ import annotations

import http.client
import sys

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection


@click.command(name="monitor")
@click.option("--log-level", default="INFO", help="TRACE, DEBUG, INFO (default), WARN or ERROR.")
@click.option("--log-json", is_flag=True, help="One JSON object a line.")
@client_options
def command(connection: Connection, log_level: str, log_json: bool) -> int:
    """Follow the agent's log until Ctrl-C, at any level, whatever its own is set to.

    \b
    What it does right now, in detail:
      gemot monitor -log-level=debug
    """
    stream = connection.stream("/v1/agent/monitor", {"loglevel": log_level, "logjson": log_json})
    try:
        while piece := stream.read1(65536):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        return 0
    except (OSError, http.client.HTTPException):
        pass  # cut off in the middle
    finally:
        stream.close()
    raise click.ClickException("the agent ended the stream: it stopped, or the connection broke")
