"""The Debian package as a test has it: built, installed on this very machine, and taken off again."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
UNITS = Path("/usr/lib/systemd/system")
LEFT_BEHIND = (
    "/opt/gemot",
    "/usr/bin/gemot",
    "/etc/gemot.d",
    "/etc/gemot-template.d",
    "/var/lib/gemot",
    "/var/lib/gemot-template",
    "/var/log/gemot",
    "/run/gemot",
    "/usr/lib/systemd/system/gemot.service",
    "/usr/share/doc/gemot",
)
"""What an installed and used package owns, and a purged one must not leave."""


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """With all its output in the error, should there be one."""
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def build(directory: Path) -> Path:
    """The package of this checkout, quickly compressed."""
    if shutil.which("dpkg-deb") is None:
        raise AssertionError("the package is tested on Debian: dpkg-deb is missing here")
    done = subprocess.run(
        [ROOT / "packaging/build-deb", directory],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"DEB_COMPRESSION": "zstd"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.strip())


def install(package: Path) -> None:
    if os.geteuid() != 0:
        raise AssertionError("the package is tested by installing it: run these tests as root")
    run("dpkg", "--install", str(package))


def require_absent() -> None:
    """The tests purge what they installed, so nothing of somebody else's may be there."""
    there = [path for path in LEFT_BEHIND if os.path.lexists(path)]
    there += ["the user gemot"] if has_user() else []
    assert there == [], f"{', '.join(there)}: on this machine already, and these tests would purge it"


def remove() -> None:
    run("dpkg", "--remove", "gemot")


def purge() -> None:
    run("dpkg", "--purge", "gemot")


def has_user() -> bool:
    try:
        pwd.getpwnam("gemot")
    except KeyError:
        return False
    return True
