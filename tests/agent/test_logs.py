"""Log lines for people: the part that speaks is named once."""

from __future__ import annotations

import logging

import pytest

from gemot.agent.logs import PlainLines


@pytest.mark.parametrize(
    ("logger", "message", "shown"),
    [
        ("gemot.agent", "agent: Consul agent running!", "agent: Consul agent running!"),
        ("gemot.agent.sync", "sync: the catalog differs", "agent.sync: the catalog differs"),
        ("gemot.agent.template.runner", "template: wrote /etc/x", "agent.template: wrote /etc/x"),
        ("gemot.dns.tcp", "dns: too many connections", "dns: too many connections"),
        ("gemot.rpc", "10.0.0.1:8300 refused", "rpc: 10.0.0.1:8300 refused"),
        ("asyncio", "slow: 3 s", "asyncio: slow: 3 s"),
    ],
)
def test_a_line_names_its_part_once(logger: str, message: str, shown: str) -> None:
    record = logging.LogRecord(logger, logging.WARNING, "", 0, message, (), None)
    assert PlainLines().format(record).partition("[WARN]  ")[2] == shown


def test_what_others_sent_begins_no_line_of_its_own_and_colours_no_terminal() -> None:
    message = "café\nx [ERROR] agent: forged \x1b[31m\u2028"
    record = logging.LogRecord("gemot.dns", logging.WARNING, "", 0, message, (), None)
    shown = PlainLines().format(record).partition("[WARN]  ")[2]
    assert shown == r"dns: café\nx [ERROR] agent: forged \x1b[31m\u2028"
