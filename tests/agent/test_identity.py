"""The data directory: what is in its way is told by name, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemot.agent.identity import DataDir, in_the_way
from gemot.server.model.errors import BadRequest
from gemot.server.storage.realdisk import RealDisk


def refusal(path: Path) -> str:
    with pytest.raises(BadRequest) as caught:
        DataDir.open(str(path), RealDisk(sync=False))
    return caught.value.message


def test_what_is_in_the_way_of_the_data_directory_is_named_wherever_it_is(tmp_path: Path) -> None:
    file, nowhere = tmp_path / "file", tmp_path / "link"
    file.write_text("")
    nowhere.symlink_to(tmp_path / "gone")
    way_out = "is not a directory: move it away, or name another directory"
    assert refusal(file) == f"data_dir: {file} {way_out}"
    assert refusal(nowhere) == f"data_dir: {nowhere} {way_out}"
    below = file / "deeper" / "still"
    assert refusal(below) == f"data_dir: {below} cannot be made: {file} {way_out}"
    assert file.read_text() == "", "nothing was done to it"


def test_nothing_is_in_the_way_of_a_directory_that_is_there_or_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for path in (tmp_path / "there", tmp_path / "link", tmp_path / "not" / "yet", Path("not-yet")):
        assert in_the_way(str(path)) == ""
