"""Begins the seeds of `test_simulation.py` with the session, and ends them with it."""

from __future__ import annotations

import pytest
from support.seeds_beside import SeedsBeside

_running = pytest.StashKey[SeedsBeside]()


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any("seeds_beside" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        session.config.stash[_running] = SeedsBeside()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (seeds := session.config.stash.get(_running, None)) is not None:
        seeds.stop()


@pytest.fixture(scope="session")
def seeds_beside(pytestconfig: pytest.Config) -> SeedsBeside:
    return pytestconfig.stash[_running]
