"""An address that cannot be listened on: who has it is told, and nobody else."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from gemot.agent.http.listen import Address, ListenFailed, open_socket

_LISTEN = "import socket, sys, time; s = socket.create_server((sys.argv[1], int(sys.argv[2]))); print(); "
_LISTEN += "sys.stdout.flush(); time.sleep(60)"


def test_another_address_with_the_same_port_is_not_taken_for_the_holder() -> None:
    """The one that is named would be stopped."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = ("127.0.0.2", taken.getsockname()[1])
        command = [sys.executable, "-c", _LISTEN, *map(str, address)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            with pytest.raises(ListenFailed, match=rf"in use by pid {other.pid} \("):
                open_socket(Address(*address))
            other.kill()
