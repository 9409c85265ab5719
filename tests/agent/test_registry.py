"""Registrations on a real directory: they survive a restart, and a damaged file takes nothing with it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http_agent import run
from support.local_bench import Clock, check, local_state, service

from gemot.agent.local import LocalState
from gemot.agent.registry import NotSaved, Registry
from gemot.agent.saved import Saved, TtlState

WEB = service(
    "web",
    Tags=["a"],
    Port=80,
    Address="10.0.0.1",
    Meta={"k": "v"},
    Weights={"Passing": 3, "Warning": 2},
    Token="secret",
    EnableTagOverride=True,
)


async def _open(directory: Path) -> tuple[Registry, Saved]:
    registry = Registry(data_dir=directory)
    return registry, registry.load()


async def _fill(directory: Path) -> None:
    registry, _ = await _open(directory)
    registry.save_service(WEB)
    registry.save_service(service("db/1 ü"))
    registry.save_check(check("c", HTTP="http://a/", Interval="10s", Header={"A": ["b"]}))
    registry.save_ttl("t", TtlState("warning", "so so", 1e9))
    await registry.close()


def load(directory: Path) -> Saved:
    async def work() -> Saved:
        registry, saved = await _open(directory)
        await registry.close()
        return saved

    return asyncio.run(work())


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_what_was_saved_is_loaded_again(tmp_path: Path) -> None:
    run(_fill(tmp_path))
    saved = load(tmp_path)
    assert {one.service.id: one for one in saved.services} == {"web": WEB, "db/1 ü": service("db/1 ü")}
    assert saved.checks == (check("c", HTTP="http://a/", Interval="10s", Header={"A": ["b"]}),)
    assert saved.ttls == {"t": TtlState("warning", "so so", 1e9)}


def test_files_are_for_the_agent_alone_and_nothing_is_left_beside(tmp_path: Path) -> None:
    run(_fill(tmp_path))
    assert len(files(tmp_path)) == 4
    for path in files(tmp_path):
        assert path.suffix == ".json"
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "services").stat().st_mode & 0o777 == 0o700


def test_removing_removes_the_file(tmp_path: Path) -> None:
    async def work() -> None:
        registry, _ = await _open(tmp_path)
        registry.save_service(WEB)
        registry.save_check(check("c"))
        registry.remove_service("web")
        await registry.flush()
        registry.remove_check("c")
        registry.remove_ttl("never was")
        await registry.close()

    run(work())
    assert files(tmp_path) == []


def test_the_last_of_many_saves_holds(tmp_path: Path) -> None:
    async def work() -> None:
        registry, _ = await _open(tmp_path)
        for port in range(1, 200):
            registry.save_service(service("web", Port=port))
            if port % 7 == 0:
                await asyncio.sleep(0)
        await registry.flush()

    run(work())
    assert [one.service.port for one in load(tmp_path).services] == [199]


def test_a_flush_does_not_wait_for_what_others_save_after_it(tmp_path: Path) -> None:
    async def work() -> None:
        registry, _ = await _open(tmp_path)
        ports = iter(range(1, 65536))
        going = True

        async def keep_saving() -> None:
            while going:
                registry.save_service(service("busy", Port=next(ports)))
                await asyncio.sleep(0)

        busy = asyncio.create_task(keep_saving())
        await asyncio.sleep(0.01)
        registry.save_service(WEB)
        async with asyncio.timeout(20):
            await registry.flush()
        assert any(b"secret" in path.read_bytes() for path in files(tmp_path) if path.suffix == ".json")
        going = False
        await busy
        await registry.close()

    run(work())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\0" * len(data),
        lambda data: data + data,
        lambda data: b"[]",
        lambda data: b"null",
        lambda data: b"[" * 100_000,
        lambda data: b"\xff\xfe{}",
        lambda data: json.dumps({**json.loads(data), "format": 2}).encode(),
        lambda data: json.dumps({"format": 1}).encode(),
        lambda data: json.dumps({"format": 1, "service": {}, "check": {}, "state": {}}).encode(),
        lambda data: b'{"format":1,"service":{"id":7,"service":"web"},"check":{"type":1},"state":4}',
    ],
    ids=range(12),
)
def test_a_damaged_file_is_kept_aside_and_the_rest_loads(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    run(_fill(tmp_path))
    for folder in ("services", "checks", "checks/state"):
        path = min((tmp_path / folder).glob("*.json"))
        path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        saved = load(tmp_path)
    assert (len(saved.services), saved.checks, saved.ttls) == (1, (), {})
    assert len([path for path in files(tmp_path) if path.suffix == ".damaged"]) == 3
    assert caplog.text.count("cannot be read") == 3
    assert load(tmp_path) == saved  # and the second start has nothing more to say
    assert caplog.text.count("cannot be read") == 3


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    run(_fill(tmp_path))
    path = min((tmp_path / "services").glob("*.json"))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    assert len(load(tmp_path).services) == 1


def test_a_half_written_file_of_a_crash_is_swept_away(tmp_path: Path) -> None:
    run(_fill(tmp_path))
    (tmp_path / "services" / "abc.tmp").write_text('{"form')
    assert len(load(tmp_path).services) == 2
    assert not (tmp_path / "services" / "abc.tmp").exists()


def test_a_file_cannot_make_a_check_a_configured_one(tmp_path: Path) -> None:
    run(_fill(tmp_path))
    (path,) = (tmp_path / "checks").glob("*.json")
    content = json.loads(path.read_text())
    content["check"].update(type="script", args=["/bin/true"], from_config=True)
    path.write_text(json.dumps(content))
    (loaded,) = load(tmp_path).checks
    assert not loaded.from_config


def test_a_file_of_an_older_release_without_newer_fields_loads(tmp_path: Path) -> None:
    run(_fill(tmp_path))
    for path in (tmp_path / "services").glob("*.json"):
        content = json.loads(path.read_text())
        content["service"] = {"id": content["service"]["id"], "service": "x", "of_the_future": 1}
        path.write_text(json.dumps(content))
    assert {one.service.service for one in load(tmp_path).services} == {"x"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_disk_that_refuses_is_told_to_the_caller(tmp_path: Path) -> None:
    async def work() -> None:
        registry, _ = await _open(tmp_path)
        (tmp_path / "services").chmod(0o500)
        registry.save_service(WEB)
        with pytest.raises(NotSaved, match="will not survive a restart"):
            await registry.flush()
        (tmp_path / "services").chmod(0o700)
        registry.save_service(WEB)
        await registry.close()

    run(work())
    assert len(load(tmp_path).services) == 1


def test_a_folder_in_the_way_is_told_to_the_caller(tmp_path: Path) -> None:
    async def work() -> None:
        registry, _ = await _open(tmp_path)
        registry.save_service(WEB)
        await registry.flush()
        (path,) = (tmp_path / "services").iterdir()
        path.unlink()
        path.mkdir()
        (path / "x").touch()
        registry.save_service(WEB)
        with pytest.raises(NotSaved):
            await registry.flush()
        await registry.flush()  # told once
        await registry.close()

    run(work())


def test_a_ttl_state_that_was_not_kept_is_no_fault_of_the_next_registration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is refused a registration that was saved; and a check pushed each second fills no log."""

    async def work() -> None:
        registry, _ = await _open(tmp_path)
        states = tmp_path / "checks" / "state"
        states.rmdir()
        for number in range(3):
            registry.save_ttl("t", TtlState("passing", str(number), 1e9))
            await registry.flush()
        registry.save_service(WEB)
        await registry.flush()
        states.mkdir()
        registry.save_ttl("t", TtlState("passing", "again", 1e9))
        await registry.close()

    run(work())
    assert len(load(tmp_path).services) == 1
    assert load(tmp_path).ttls["t"].output == "again"
    assert all("TTL checks may be critical" in message for message in caplog.messages)
    assert len(caplog.messages) == 1


def _restarted(directory: Path, clock: Clock) -> LocalState:
    local = local_state(Registry(data_dir=directory), clock)
    local.restore()
    return local


def test_a_whole_agent_comes_back_as_it_was(tmp_path: Path) -> None:
    clock = Clock()

    async def before() -> LocalState:
        registry = Registry(data_dir=tmp_path)
        registry.load()
        local = local_state(registry, clock)
        local.add_service(service("web", Checks=[{"TTL": "10s"}, {"HTTP": "http://a/", "Interval": "1s"}]))
        local.add_check(check("c"))
        local.maintain_service("web", enable=True, reason="upgrade")
        local.check_states.update_ttl("service:web:1", "passing", "fine")
        await registry.close()
        return local

    local = asyncio.run(before())
    clock.move(3)
    again = _restarted(tmp_path, clock)
    assert again.services() == local.services()
    assert again.checks() == local.checks()


@given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable()))
def test_any_id_has_a_file_of_its_own(name: str) -> None:
    from gemot.agent.registry import _path

    path = _path(Path("/data"), name)
    assert path.parent == Path("/data")
    assert len(path.name) < 64
