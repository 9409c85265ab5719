"""One real agent in dev mode, by its configuration file: started, signalled, ended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.cluster import Agent, free_ports, wait_for

PATIENCE_S = 30.0
"""Bound of every wait: only a hang reaches it."""

DEV = [sys.executable, "-P", "-m", "gemot.agent", "agent", "-dev"]
CLIENT = DEV[:-1]


def an_agent(folder: Path, *, program: list[str] | None = None, **config: Any) -> Agent:
    """Not started yet. It listens on loopback, on ports that were free just now."""
    own = {"node_name": "n1", "bind_addr": "127.0.0.1", "ports": free_ports("127.0.0.1")}
    given = own | config
    return Agent(
        name=given["node_name"],
        host="127.0.0.1",
        directory=folder / given["node_name"],
        ports=given["ports"],
        config=given,
        program=program or DEV,
    )


@contextlib.contextmanager
def running(folder: Path, *, program: list[str] | None = None, **config: Any) -> Iterator[Agent]:
    """An agent that has a leader, until the end."""
    with ended(an_agent(folder, program=program, **config)) as agent:
        agent.start()
        until(agent, lambda: agent.get("/v1/status/leader") != "", "a leader")
        yield agent


@contextlib.contextmanager
def ended(agent: Agent) -> Iterator[Agent]:
    """Ends the agent if the test did not."""
    try:
        yield agent
    finally:
        if agent.running:
            try:
                agent.stop()
            except subprocess.TimeoutExpired:
                agent.kill()


def until(agent: Agent, condition: Any, what: str) -> Any:
    """Wait for a true value; what the agent logged is told when it does not come."""

    def looked() -> Any:
        assert agent.running, f"the agent ended:\n{agent.tail()}"
        return condition() or None

    return wait_for(looked, PATIENCE_S, what, [agent])


def logged(agent: Agent, text: str, times: int = 1) -> None:
    until(agent, lambda: agent.tail(400).count(text) >= times, f"{text!r} in the log")
