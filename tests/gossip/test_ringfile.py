"""The file of the ring, as it is found at a start."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from gemot.agent.gossip.keyring import FILE, Key, Keyring
from gemot.agent.gossip.ringfile import RingFile, open_ring

KEY = Key(b"k" * 32)


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o400, False), (0o640, False), (0o644, True), (0o604, True)]
)
def test_a_ring_that_every_user_can_read_is_warned_of_once_with_what_to_do(
    mode: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, path = RingFile(tmp_path), tmp_path / FILE
    file.write(Keyring((KEY,)))
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert open_ring("", file) == Keyring((KEY,))
    told = f"every user of this host can read the keys: chmod 600 {path}: file={path} mode={mode:04o}"
    assert [record.message for record in caplog.records] == ([f"gossip: {told}"] if warned else [])
    assert KEY.text not in caplog.text


def test_what_is_written_here_is_for_this_user_alone_whatever_it_was_before(tmp_path: Path) -> None:
    file, path = RingFile(tmp_path), tmp_path / FILE
    file.write(Keyring((KEY,)))
    path.chmod(0o644)
    file.write(Keyring((KEY, Key(b"o" * 32))))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
