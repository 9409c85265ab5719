"""The check of snapshots that the chaos run saved: a right one passes, an old or another state does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulation.register import Kind, Op
from simulation.witness import Effect, Violation
from support.archives import archive_of
from support.one_state import OneState
from support.saved_states import Archive, check_archives

from gemot.server.model.kv import KvDelete, KvSet

KEY, OTHER = b"chaos/1/0", b"chaos/1/1"


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Archive, list[Effect]]:
    """An archive of four writes, asked for at 100, and what they did."""
    (tmp_path / "state").mkdir()
    one = OneState(tmp_path / "state")
    effects = []
    for command in (KvSet(KEY, b"a"), KvSet(OTHER, b"x"), KvDelete(OTHER), KvSet(KEY, b"b")):
        one.apply(command)
        value = command.value if isinstance(command, KvSet) else None
        effects.append(Effect(one.index, "set" if value else "delete", command.key, value, None))
    path = tmp_path / "saved.snap"
    path.write_bytes(archive_of(one, tmp_path / "blobs"))
    one.close()
    return Archive(path, began=100), effects


def test_a_right_archive_passes(saved: tuple[Archive, list[Effect]]) -> None:
    archive, effects = saved
    assert check_archives([archive], effects, [Op(Kind.PUT, KEY, 80, 90, b"b")]) == 1
    later = Effect(effects[-1].index + 1, "set", OTHER, b"later", None)
    assert check_archives([archive], [*effects, later], [Op(Kind.PUT, OTHER, 110, 120, b"later")]) == 1


def test_another_state_is_seen(saved: tuple[Archive, list[Effect]]) -> None:
    archive, effects = saved
    for wrong in (effects[:-1], [*effects[:2], effects[3]]):
        with pytest.raises(Violation, match="is not the state as of"):
            check_archives([archive], wrong, [])


def test_an_old_state_is_seen(saved: tuple[Archive, list[Effect]]) -> None:
    archive, effects = saved
    later = Effect(effects[-1].index + 1, "set", OTHER, b"later", None)
    with pytest.raises(Violation, match="was acknowledged before it was asked for"):
        check_archives([archive], [*effects, later], [Op(Kind.PUT, OTHER, 80, 90, b"later")])
