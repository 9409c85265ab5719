"""The row of the autopilot configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.one_state import OneState

from gemot.server.model.autopilot import AutopilotConfig, AutopilotRow, GetAutopilot, SetAutopilot

FIRST, SECOND = AutopilotConfig(min_quorum=3), AutopilotConfig(cleanup_dead_servers=False)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    one = OneState(tmp_path)
    yield one
    one.close()


def test_it_is_absent_until_it_is_set_and_then_kept(one: OneState) -> None:
    assert one.read(GetAutopilot()) == (None, 1)
    one.skip(4)
    assert one.touched(SetAutopilot(FIRST)) == (("autopilot", b""),)
    assert one.read(GetAutopilot()) == (AutopilotRow(FIRST, 5, 5), 5)
    one.result(SetAutopilot(SECOND))
    one.reopen()
    assert one.value(GetAutopilot()) == AutopilotRow(SECOND, 5, 6)
    one.state.verify()


@pytest.mark.parametrize(("cas", "wanted"), [(None, True), (1, True), (0, False), (7, False)])
def test_with_cas_only_the_row_that_was_seen_is_changed(one: OneState, cas: int | None, wanted: bool) -> None:
    one.result(SetAutopilot(FIRST, cas=0))
    before = one.state.state_hash
    assert one.result(SetAutopilot(SECOND, cas=cas)) is wanted
    assert one.value(GetAutopilot()).config == (SECOND if wanted else FIRST)
    assert one.state.state_hash != before, "the applied index is part of it"
    one.state.verify()
