"""Installing, upgrading, removing and purging: what stays and what goes."""

from __future__ import annotations

import grp
import os
from pathlib import Path

from support import debian_package
from support.debian_package import LEFT_BEHIND, UNITS, run

SETTINGS = Path("/etc/gemot.d/gemot.yaml")
DATA = Path("/var/lib/gemot/kept")


def facts(path: str) -> tuple[str, str, str]:
    found = Path(path)
    return found.owner(), found.group(), oct(found.stat().st_mode & 0o7777)


def test_a_fresh_installation_is_valid_and_waits_to_be_configured(installed: Path) -> None:
    assert facts("/var/lib/gemot") == ("gemot", "gemot", "0o700")
    assert facts("/etc/gemot.d") == ("root", "gemot", "0o750")
    assert facts(str(SETTINGS)) == ("root", "gemot", "0o640")
    as_gemot = ("setpriv", "--reuid=gemot", "--regid=gemot", "--clear-groups")
    assert "valid" in run(*as_gemot, "/usr/bin/gemot", "validate", "/etc/gemot.d").stdout
    enabled = Path("/etc/systemd/system/multi-user.target.wants/gemot.service")
    assert not os.path.lexists(enabled)


def test_the_installed_units_verify_with_their_manual(installed: Path) -> None:
    units = [str(UNITS / name) for name in ("gemot.service", "gemot-template.service")]
    done = run("systemd-analyze", "verify", *units)
    assert done.stderr == ""


def test_no_installed_file_was_changed_by_using_it(installed: Path) -> None:
    run("/usr/bin/gemot", "version")
    assert run("dpkg", "--verify", "gemot").stdout == ""
    owned = set(run("dpkg", "--listfiles", "gemot").stdout.splitlines())
    assert [path for path in Path("/opt/gemot").rglob("*") if str(path) not in owned] == []


def test_settings_and_data_outlive_upgrade_and_removal_and_end_with_the_purge(installed: Path) -> None:
    SETTINGS.write_text("data_dir: /var/lib/gemot\nserver: true\nbootstrap_expect: 3\n")
    DATA.write_text("x")
    debian_package.install(installed)
    assert "bootstrap_expect: 3" in SETTINGS.read_text()
    assert facts(str(SETTINGS)) == ("root", "gemot", "0o640")

    debian_package.remove()
    assert not os.path.lexists("/opt/gemot")
    assert not os.path.lexists("/usr/bin/gemot")
    assert DATA.read_text() == "x"
    assert "bootstrap_expect: 3" in SETTINGS.read_text()
    assert debian_package.has_user()

    debian_package.purge()
    assert [path for path in LEFT_BEHIND if os.path.lexists(path)] == []
    assert not debian_package.has_user()
    assert "gemot" not in {group.gr_name for group in grp.getgrall()}
