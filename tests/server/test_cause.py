"""What the system said, for people."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import pytest

from gemot.server.runtime.cause import cause_of, failure_of


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/b"), "No such file or directory"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.1', 8301)"), "No route to host"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("Multiple exceptions: one, two"), "Multiple exceptions: one, two"),
        (ssl.SSLError(1, "certificate verify failed"), str(ssl.SSLError(1, "certificate verify failed"))),
        (ValueError("no number"), "no number"),
        (TimeoutError(), ""),
    ],
)
def test_the_words_of_the_system_without_its_numbers(error: Exception, told: str) -> None:
    assert cause_of(error) == told


def test_a_port_where_nobody_listens_refuses() -> None:
    async def dial() -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    with pytest.raises(OSError, match="Errno") as refused:
        asyncio.run(dial())
    assert cause_of(refused.value) == "Connection refused"


def test_a_path_stands_in_front_where_there_is_one() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/var/lib/gemot/services/web.json")
    assert failure_of(error) == "/var/lib/gemot/services/web.json: No space left on device"
    assert failure_of(OSError(errno.EIO, "Input/output error")) == "Input/output error"
    assert failure_of(ValueError("no disk at all")) == "no disk at all"
