"""What the service manager hears."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gemot.agent.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(5)
    return sock


def test_ready_and_status_arrive_and_an_unchanged_status_is_not_repeated(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.ready()
    notifier.status("leader srv1")
    notifier.status("leader srv1")
    notifier.stopping()
    heard = [manager.recv(1024).decode() for _ in range(3)]
    manager.close()
    assert heard == ["READY=1", "STATUS=leader srv1", "STOPPING=1"]


def test_a_reload_tells_its_time(manager: socket.socket) -> None:
    Notifier(manager.getsockname()).reloading()
    text = manager.recv(1024).decode()
    manager.close()
    assert text.startswith("RELOADING=1\nMONOTONIC_USEC=")


def test_a_manager_that_does_not_read_holds_nothing_up_and_is_told_the_newest_later(
    manager: socket.socket,
) -> None:
    notifier = Notifier(manager.getsockname())
    queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
    for _ in range(2 * queue):
        notifier.alive()  # blocked for good, were it to wait
    notifier.ready()
    notifier.status("an old one")
    notifier.reloading()
    notifier.ready()
    notifier.status("the newest")
    taken = [manager.recv(1024).decode() for _ in range(queue)]
    assert taken == ["WATCHDOG=1"] * queue
    notifier.status("the newest")
    heard = [manager.recv(1024).decode().partition("\n")[0] for _ in range(4)]
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1024)
    manager.close()
    assert heard == ["WATCHDOG=1", "RELOADING=1", "READY=1", "STATUS=the newest"]


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    Notifier("").ready()
    Notifier(str(tmp_path / "nobody")).alive()


def test_the_watchdog_is_only_for_the_process_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier.from_environment().watchdog_s == 5.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier.from_environment().watchdog_s == 0.0
