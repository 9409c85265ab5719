"""The units as files: systemd takes them, they are narrow, and they agree with the program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.as_unit import read_unit
from support.debian_package import ROOT

from gemot.agent.cli import agent
from gemot.agent.config import fault

AGENT = ROOT / "systemd/gemot.service"
TEMPLATE = ROOT / "systemd/gemot-template.service"
MOST_EXPOSED = 3.0


def exposure(unit: Path) -> float:
    """The overall exposure by `systemd-analyze security`: 0 is none, 10 is all."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        check=True,
        capture_output=True,
        text=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if "Overall exposure level" in line]
    return float(line.partition(": ")[2].split()[0])


def verify(*units: Path) -> str:
    """What `systemd-analyze verify` finds fault with."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    return done.stderr or (f"exit {done.returncode}" if done.returncode else "")


@pytest.fixture
def here(tmp_path: Path) -> tuple[Path, Path]:
    """Copies whose program is there, whether or not the package is installed."""
    agent_unit, template = tmp_path / AGENT.name, tmp_path / TEMPLATE.name
    for source, copy in ((AGENT, agent_unit), (TEMPLATE, template)):
        copy.write_text(source.read_text().replace("/usr/bin/gemot", "/bin/true"))
    return agent_unit, template


def test_systemd_finds_no_fault_with_them(here: tuple[Path, Path]) -> None:
    assert verify(*here) == ""


def test_a_misspelt_directive_would_be_found(here: tuple[Path, Path]) -> None:
    unit = here[0]
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHoem="))
    assert "ProtectHoem" in verify(unit)


def test_the_agent_is_exposed_little() -> None:
    assert exposure(AGENT) <= MOST_EXPOSED


def test_templates_may_do_more_but_not_much() -> None:
    assert exposure(TEMPLATE) <= MOST_EXPOSED


def test_exposure_is_seen_when_rights_are_given_back(tmp_path: Path) -> None:
    loose = tmp_path / AGENT.name
    kept = [
        line for line in AGENT.read_text().splitlines() if not line.startswith(("SystemCall", "Cap", "Prot"))
    ]
    loose.write_text("\n".join(kept))
    assert exposure(loose) > MOST_EXPOSED


def test_a_failed_disk_and_a_bad_configuration_are_not_tried_again() -> None:
    unit = read_unit(AGENT)
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == [f"{agent.DISK_FAILED} {fault.EXIT_CODE}"]
    assert str(fault.EXIT_CODE) in read_unit(TEMPLATE)["RestartPreventExitStatus"][0].split()


def test_systemd_waits_longer_than_a_stop_takes() -> None:
    assert float(read_unit(AGENT)["TimeoutStopSec"][0]) > agent.STOP_WITHIN_S
    assert agent.STOP_WITHIN_S < 10


@pytest.mark.parametrize("path", [AGENT, TEMPLATE])
def test_a_reload_validates_what_a_start_reads(path: Path) -> None:
    unit = read_unit(path)
    (folder,) = [word for word in unit["ExecStart"][0].split() if word.startswith("-config-dir=")]
    judge, hang_up = unit["ExecReload"]
    assert "validate" in judge.split()
    assert folder.removeprefix("-config-dir=") in judge
    assert hang_up == "/bin/kill -HUP $MAINPID"


def test_only_the_template_service_may_write_under_etc() -> None:
    assert read_unit(TEMPLATE)["ReadWritePaths"] == ["/etc"]
    assert "ReadWritePaths" not in read_unit(AGENT)
    assert read_unit(AGENT)["User"] == ["gemot"]


def test_boot_and_package_make_the_same_user_and_directories(tmp_path: Path) -> None:
    """systemd's own tools read the shipped files, under a root of their own."""
    (tmp_path / "etc").mkdir()
    for tool, name in (("sysusers", "gemot.sysusers"), ("tmpfiles", "gemot.tmpfiles")):
        action = ["--create"] if tool == "tmpfiles" else []
        text = (ROOT / "systemd" / name).read_bytes()
        subprocess.run([f"systemd-{tool}", f"--root={tmp_path}", *action, "-"], input=text, check=True)
    assert "gemot:" in (tmp_path / "etc/passwd").read_text()
    modes = {name: (tmp_path / name).stat().st_mode & 0o7777 for name in ("etc/gemot.d", "var/lib/gemot")}
    assert modes == {"etc/gemot.d": 0o750, "var/lib/gemot": 0o700}
    postinst = (ROOT / "packaging/debian/postinst").read_text()
    for name, mode in modes.items():
        assert f"make_directory /{name} {mode:04o} " in postinst
