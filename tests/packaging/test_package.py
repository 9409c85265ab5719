"""What is in the package, without installing it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

MAINTAINER_SCRIPTS = ("postinst", "prerm", "postrm")


@pytest.fixture(scope="module")
def members(package: Path) -> dict[str, tarfile.TarInfo]:
    with _files(package) as files:
        return {member.name.removeprefix("."): member for member in files}


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder / "all"], check=True)
    return folder / "all"


def _files(package: Path) -> tarfile.TarFile:
    piped = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True)
    return tarfile.open(fileobj=BytesIO(piped.stdout))


def test_every_file_is_roots(members: dict[str, tarfile.TarInfo]) -> None:
    assert {(member.uname, member.gname) for member in members.values()} == {("root", "root")}


def test_nobody_but_root_may_write_and_nothing_grants_rights(members: dict[str, tarfile.TarInfo]) -> None:
    loose = [name for name, m in members.items() if not m.issym() and m.mode & 0o7022]
    assert loose == []


def test_configuration_is_not_for_everybody_and_the_state_directory_is_not_shipped(
    members: dict[str, tarfile.TarInfo],
) -> None:
    assert members["/etc/gemot.d"].mode & 0o7777 == 0o750
    assert members["/etc/gemot.d/gemot.yaml"].mode & 0o7777 == 0o640
    assert not any(name.startswith("/var") for name in members)


def test_files_are_only_where_a_package_may_put_them(members: dict[str, tarfile.TarInfo]) -> None:
    places = re.compile(
        r"/(opt/gemot|etc/gemot\.d|etc/gemot-template\.d|usr/bin/gemot$|usr/lib/(systemd/system|sysusers\.d|"
        r"tmpfiles\.d)/gemot[^/]*$|usr/share/(doc/gemot|man/man[1-8]|bash-completion|zsh|fish)/)"
    )
    strays = [name for name, m in members.items() if not m.isdir() and not places.match(name)]
    assert strays == []


def test_configuration_files_are_known_to_dpkg(unpacked: Path) -> None:
    shipped = [f"/{path.relative_to(unpacked)}" for path in (unpacked / "etc").rglob("*") if path.is_file()]
    assert (unpacked / "DEBIAN/conffiles").read_text().split() == shipped


def test_maintainer_scripts_stop_at_the_first_error(unpacked: Path) -> None:
    for name in MAINTAINER_SCRIPTS:
        path = unpacked / "DEBIAN" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert "\nset -e\n" in path.read_text()
        subprocess.run(["sh", "-n", path], check=True)


def test_checksums_match(unpacked: Path) -> None:
    lines = (unpacked / "DEBIAN/md5sums").read_text().splitlines()
    listed = dict(line.split("  ", 1)[::-1] for line in lines)
    files = {
        str(p.relative_to(unpacked)): p for p in unpacked.rglob("*") if p.is_file() and not p.is_symlink()
    }
    shipped = {name: path for name, path in files.items() if not name.startswith("DEBIAN/")}
    assert listed == {name: hashlib.md5(path.read_bytes()).hexdigest() for name, path in shipped.items()}


def test_the_program_runs_on_the_systems_python_and_nothing_of_the_callers(unpacked: Path) -> None:
    assert os.readlink(unpacked / "usr/bin/gemot") == "/opt/gemot/bin/gemot"
    assert (unpacked / "opt/gemot/bin/gemot").read_text().startswith("#!/opt/gemot/bin/python -I\n")
    interpreter = os.readlink(unpacked / "opt/gemot/bin/python3")
    control = (unpacked / "DEBIAN/control").read_text()
    assert re.search(rf"^Depends: .*\b{re.escape(Path(interpreter).name)}\b", control, re.MULTILINE)
    assert Path(interpreter).parent == Path("/usr/bin")


def test_nothing_tells_where_it_was_built(unpacked: Path) -> None:
    env = unpacked / "opt/gemot"
    ours = [env / "pyvenv.cfg", *env.glob("bin/gemot"), *env.glob("lib/python*/site-packages/gemot*/**/*")]
    build_place = re.compile(rb"/tmp/tmp\.|/stage/")
    assert [
        p for p in ours if p.is_file() and not p.is_symlink() and build_place.search(p.read_bytes())
    ] == []
    assert not list(env.rglob("direct_url.json"))


def test_byte_code_is_there_and_up_to_date(unpacked: Path) -> None:
    """The agent cannot write under /opt: without it every start would compile everything again."""
    sources = list(unpacked.glob("opt/gemot/lib/python*/site-packages/gemot/**/*.py"))
    assert len(sources) > 100
    for source in sources:
        (code,) = (source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        flags, mtime, size = struct.unpack("<3I", code.read_bytes()[4:16])
        assert (flags, mtime, size) == (0, int(source.stat().st_mtime), source.stat().st_size), source


def test_what_was_resolved_is_told(unpacked: Path) -> None:
    versions = dict(
        line.split("==") for line in (unpacked / "usr/share/doc/gemot/versions").read_text().splitlines()
    )
    found = {
        path.name.split("-")[0].lower() for path in unpacked.glob("opt/gemot/lib/python*/**/*.dist-info")
    }
    assert {name.lower().replace("-", "_") for name in versions} == found - {"gemot"}
    assert {"aiohttp", "apsw", "uvloop"} <= set(versions)
