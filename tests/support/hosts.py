"""Hosts on one machine: each a network namespace with a stack, ports and a cable of its own, on one switch.

A cable that is pulled (`cut`) resets no connection and sends no ICMP: packets are lost, as those of a host
without power are. It needs Linux and the right to make namespaces: root, or `unshare -rn` around it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.switch import mac

NETWORK = "10.77.0"
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
HERE = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """One namespace with `eth0`, whose other end is `cable`. Raises OSError where none can be made."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.address = f"{NETWORK}.{number}"
        with _back_home():
            _check(_libc.unshare(CLONE_NEWNET))
            self._namespace = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
            self.cable = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(self.cable, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
            orders = [
                "link set lo up",
                f"link set eth0 address {mac(number)}",
                f"address add {self.address}/24 dev eth0",
                "link set eth0 up",
            ]
            told = "\n".join(orders)
            made = subprocess.run(
                ["ip", "-batch", "-"], input=told, text=True, capture_output=True, check=False
            )
            if made.returncode:
                raise OSError(f"ip: {made.stderr.strip()}")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets made and processes started in here are this host's; this thread alone is there."""
        with _back_home():
            _check(_libc.setns(self._namespace, CLONE_NEWNET))
            yield

    def close(self) -> None:
        os.close(self.cable)
        os.close(self._namespace)


class Lan:
    """So many hosts, and the switch between them."""

    def __init__(self, count: int) -> None:
        self.hosts: list[Host] = []
        try:
            for number in range(1, count + 1):
                self.hosts.append(Host(number))
        except OSError:
            self._close()
            raise
        cables = [host.cable for host in self.hosts]
        self._switch = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("switch.py"))]
            + [f"{host.number}={host.cable}" for host in self.hosts],
            pass_fds=cables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def cut(self, host: Host) -> None:
        self._order("cut", host.number)

    def join(self, host: Host) -> None:
        self._order("join", host.number)

    def mute(self, host: Host, port: int) -> None:
        """Nothing of this port passes to or from it any more; of one port of a host at a time."""
        self._order("mute", host.number, port)

    def unmute(self, host: Host) -> None:
        self._order("unmute", host.number)

    def weather(self, *, loss: float, delay_ms: float) -> None:
        """From now on, on each way between two hosts."""
        self._order("weather", loss, delay_ms)

    def _order(self, *words: object) -> None:
        assert self._switch.stdin is not None
        assert self._switch.stdout is not None
        print(*words, file=self._switch.stdin, flush=True)
        assert self._switch.stdout.readline() == "done\n", "the switch runs, and does what it is told"

    def stop(self) -> None:
        self._switch.communicate("")
        self._close()

    def _close(self) -> None:
        for host in self.hosts:
            host.close()


def why_none() -> str:
    """Why no host can be made here, "" if one can."""
    try:
        Host(1).close()
    except (OSError, AttributeError) as error:
        return f"no network namespaces here: {error}"
    return ""


def as_root(command: Sequence[str]) -> list[str]:
    """This command with the right to make hosts: in a user namespace, for one who has it not."""
    return list(command) if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net", *command]


@contextlib.contextmanager
def _back_home() -> Iterator[None]:
    home = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _check(_libc.setns(home, CLONE_NEWNET))
        os.close(home)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
