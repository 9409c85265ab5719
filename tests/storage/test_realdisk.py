from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.log_model import batch

from gemot.server.model.errors import DiskFailed, StorageFailed
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.realdisk import RealDisk, RealFile

_ROOT = Path(__file__).parents[2]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_and_files_are_for_their_owner_only(tmp_path: Path) -> None:
    disk = RealDisk()
    disk.makedirs(str(tmp_path / "a/b"))
    disk.open(str(tmp_path / "a/b/c"), create=True).close()
    assert (_mode(tmp_path / "a"), _mode(tmp_path / "a/b"), _mode(tmp_path / "a/b/c")) == (
        0o700,
        0o700,
        0o600,
    )


def test_a_folder_or_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    disk = RealDisk()
    (tmp_path / "a").mkdir(mode=0o755)
    (tmp_path / "a").chmod(0o755)
    (tmp_path / "a/c").touch()
    (tmp_path / "a/c").chmod(0o644)
    disk.makedirs(str(tmp_path / "a"))
    disk.open(str(tmp_path / "a/c")).close()
    assert (_mode(tmp_path / "a"), _mode(tmp_path / "a/c")) == (0o700, 0o600)


def test_bytes_are_read_where_they_were_written_and_reads_end_with_the_file(tmp_path: Path) -> None:
    file = RealDisk().open(str(tmp_path / "f"), create=True)
    file.pwrite(b"abc", 5)
    file.sync()
    assert file.pread(100, 0) == bytes(5) + b"abc"
    file.truncate(6)
    assert (file.size(), file.pread(10, 5), file.pread(10, 6)) == (6, b"a", b"")
    file.close()
    file.close()


def test_a_failure_names_what_was_tried_the_path_and_the_errno(tmp_path: Path) -> None:
    disk = RealDisk()
    missing = str(tmp_path / "missing")
    with pytest.raises(DiskFailed, match=r"cannot open .*/missing: No such file or directory \(ENOENT\)"):
        disk.open(missing)
    with pytest.raises(DiskFailed, match=r"cannot remove .*ENOENT"):
        disk.remove(missing)
    with pytest.raises(DiskFailed, match=r"cannot rename to .*ENOENT"):
        disk.rename(missing, missing + "2")
    with pytest.raises(DiskFailed, match=r"cannot sync the folder .*ENOENT"):
        disk.sync_dir(missing)
    full = RealFile("/dev/full", os.open("/dev/full", os.O_RDWR), True)
    with pytest.raises(DiskFailed, match=r"cannot write /dev/full: No space left on device \(ENOSPC\)"):
        full.pwrite(b"x", 0)


def test_a_sync_asks_the_kernel_and_without_sync_nothing_does() -> None:
    for sync in (True, False):
        readable, writable = os.pipe()
        file = RealFile("pipe", writable, sync)
        if sync:
            with pytest.raises(DiskFailed, match=r"cannot sync pipe: .*EINVAL"):
                file.sync()
        else:
            file.sync()
        file.close()
        os.close(readable)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskFailed, match="ELOOP"):
        RealDisk().open(str(tmp_path / "link"), create=True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_data_directory_has_one_process_at_a_time_and_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    disk, path = RealDisk(), str(tmp_path / "lock")
    held = disk.lock(path)
    with pytest.raises(StorageFailed, match=f"data directory {tmp_path} is in use by pid {os.getpid()}"):
        disk.lock(path)
    held.release()
    disk.lock(path).release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from gemot.server.storage.realdisk import RealDisk\n"
        "lock = RealDisk().lock(sys.argv[1]); print('held', flush=True); time.sleep(600)\n"
    )
    path = str(tmp_path / "lock")
    with _python(script, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(StorageFailed, match=f"in use by pid {process.pid}"):
            RealDisk().lock(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    RealDisk().lock(path).release()


def test_a_log_on_the_real_disk_is_there_after_its_process_was_killed(tmp_path: Path) -> None:
    opened = SegmentLog.open(disk=RealDisk(), directory=str(tmp_path / "log"), segment_bytes=1 << 16)
    for index in range(1, 100):
        opened.log.append(batch(index, [1], 2000))
    opened.log.sync()
    again = SegmentLog.open(
        disk=RealDisk(), directory=str(tmp_path / "log"), segment_bytes=1 << 16,
        durable_index=opened.log.durable_index, durable_hash=opened.log.durable_hash,
    )  # fmt: skip
    assert (again.damage, again.torn, again.log.last_index) == (None, None, 99)


_WRITER = """
import sys
from gemot.server.storage.log import SegmentLog
from support.log_model import batch
from support.lossy_disk import LossyDisk
disk = LossyDisk(sys.argv[1], sync_works=sys.argv[2] == "sync")
log = SegmentLog.open(disk=disk, directory=sys.argv[1] + "/log", segment_bytes=1 << 14).log
index = log.last_index
while True:
    for _ in range(3):
        index += 1
        log.append(batch(index, [1], 300))
    log.sync()
    print(index, flush=True)
"""


@pytest.mark.parametrize("sync", ["sync", "no-sync"])
def test_a_process_killed_on_a_disk_that_forgets_keeps_what_it_said_was_durable(
    tmp_path: Path, sync: str
) -> None:
    """With the planted bug (a sync that does nothing) the same kill loses it: the test can fail."""
    acknowledged = 0
    for _ in range(3):
        with _python(_WRITER, str(tmp_path), sync) as process:
            assert process.stdout is not None
            for _ in range(15):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
            process.wait()
        again = SegmentLog.open(disk=RealDisk(), directory=str(tmp_path / "log"), segment_bytes=1 << 14)
        if sync == "sync":
            assert again.damage is None
            assert again.log.last_index >= acknowledged
        else:
            assert again.log.last_index < acknowledged
        again.log.close()


def _python(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join((str(_ROOT / "src"), str(_ROOT / "tests")))
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
