"""Putting a file in place: whole or not at all, and nothing touched when nothing differs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.template_bench import mark

from gemot.agent.template.definition import TemplateDefinition, parse_template
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.swap import resolve_owner, swap, sweep

ROOT = os.geteuid() == 0


def define(path: Path, **keys: object) -> TemplateDefinition:
    return parse_template({"contents": "x", "destination": str(path)} | keys)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(definition: TemplateDefinition, content: bytes = b"new") -> str:
    with pytest.raises(TemplateFailed) as caught:
        swap(definition, content)
    return caught.value.message


def test_a_new_file_is_made_with_its_directories_and_mode_0644(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "f"
    before = os.umask(0o077)
    try:
        assert swap(define(path), b"new") == "written"
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == 0o644
    assert os.listdir(path.parent) == ["f"]


def test_an_existing_file_keeps_its_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o640)
    if ROOT:
        os.chown(path, 12, 34)
    assert swap(define(path), b"new") == "written"
    assert path.read_bytes() == b"new"
    assert mode_of(path) == 0o640
    if ROOT:
        assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_the_definition_decides_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    owner = {"user": 12, "group": 34} if ROOT else {}
    swap(define(path, perms="0600", **owner), b"new")
    assert mode_of(path) == 0o600
    if ROOT:
        assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_equal_bytes_touch_nothing_and_announce_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"same")
    before = mark(path)
    called: list[int] = []
    assert swap(define(path), b"same", before_rename=lambda: called.append(1)) == "same"
    assert mark(path) == before
    assert called == []


def test_equal_bytes_with_another_mode_only_change_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"same")
    before = path.stat()
    called: list[int] = []
    assert swap(define(path, perms="0600"), b"same", before_rename=lambda: called.append(1)) == "owner"
    assert mode_of(path) == 0o600
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert called == []


def test_the_announcement_comes_when_the_new_file_is_whole_and_the_old_one_in_place(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    seen: dict[str, bytes] = {}

    def look() -> None:
        for name in os.listdir(tmp_path):
            seen["old" if name == "f" else "new"] = (tmp_path / name).read_bytes()

    swap(define(path), b"new", before_rename=look)
    assert seen == {"old": b"old", "new": b"new"}


def test_if_the_announcement_fails_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fail() -> None:
        raise TemplateFailed("no")

    with pytest.raises(TemplateFailed, match="no"):
        swap(define(path), b"new", before_rename=fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_backup_holds_the_one_generation_before(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for content in (b"1", b"2", b"3"):
        swap(define(path, backup=True), content)
    assert path.read_bytes() == b"3"
    assert sorted(os.listdir(tmp_path)) == ["f", "f.bak"]
    assert (tmp_path / "f.bak").read_bytes() == b"2"


def _as_link(path: Path) -> None:
    path.with_name("target").write_bytes(b"old")
    path.symlink_to("target")


PLACES: list[tuple[Callable[[Path], Any], str]] = [
    (_as_link, "a symbolic link: name the file it leads to"),
    (lambda path: path.symlink_to("nowhere"), "a symbolic link"),
    (Path.mkdir, "a directory: name a file in it"),
    (os.mkfifo, "a device, pipe or socket"),
]


@pytest.mark.parametrize(("make", "words"), PLACES)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], Any], words: str) -> None:
    path = tmp_path / "f"
    make(path)
    before = (sorted(os.listdir(tmp_path)), path.lstat().st_ino)
    message = refusal(define(path))
    assert words in message
    assert str(path) in message
    assert (sorted(os.listdir(tmp_path)), path.lstat().st_ino) == before


def test_a_missing_directory_is_named_if_it_is_not_to_be_made(tmp_path: Path) -> None:
    message = refusal(define(tmp_path / "a" / "f", create_dest_dirs=False))
    assert f"the directory {tmp_path}/a does not exist" in message


def test_a_file_in_the_way_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert "is a file, not a directory" in refusal(define(tmp_path / "a" / "f"))


@pytest.mark.skipif(not ROOT, reason="only root can become nobody")
def test_a_directory_without_the_right_to_write_is_named_and_the_old_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        message = refusal(define(path))
    finally:
        os.seteuid(0)
    assert "may not write in" in message
    assert message.endswith("the old file is kept")
    assert path.read_bytes() == b"old"


FULL = """
import resource, sys
from pathlib import Path
from gemot.agent.template.definition import parse_template
from gemot.agent.template.swap import swap
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    swap(parse_template({"contents": "x", "destination": sys.argv[1]}), b"n" * 10000)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_write_that_fails_half_way_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        f"TemplateFailed {path}: the new file is larger than this process may write"
    )
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_rendering_works_on_another_file_system_than_that_of_the_data() -> None:
    path = Path(f"/dev/shm/gemot-swap-{os.getpid()}")
    try:
        assert swap(define(path), b"new") == "written"
        assert path.read_bytes() == b"new"
    finally:
        path.unlink(missing_ok=True)


def test_unfinished_files_of_a_crash_are_swept_and_others_stay(tmp_path: Path) -> None:
    stale = ".f.gemot-0123456789abcdef"
    names = {"f", stale, ".f.gemot-short", stale.replace("f", "g", 1), stale.replace("f", "X")}
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    sweep(define(tmp_path / "f"))
    assert set(os.listdir(tmp_path)) == names - {stale}
    sweep(define(tmp_path / "none" / "f"))


def test_a_name_of_the_greatest_length_is_replaced_too(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    swap(define(path), b"1")
    assert swap(define(path), b"2") == "written"
    assert path.read_bytes() == b"2"


def test_an_unknown_user_or_group_is_named() -> None:
    with pytest.raises(TemplateFailed, match="there is no user 'no-such-user'"):
        resolve_owner(define(Path("/x"), user="no-such-user"))
    with pytest.raises(TemplateFailed, match="there is no group 'no-such-group'"):
        resolve_owner(define(Path("/x"), group="no-such-group"))
    assert resolve_owner(define(Path("/x"), user="root", group=7)) == (0, 7)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "f"
    swap(define(path), b"0")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        swap(define(path), str(number).encode())
    (tmp_path / "d").mkdir()
    for _ in range(20):
        refusal(define(tmp_path / "d"))
    assert len(os.listdir("/proc/self/fd")) == before
