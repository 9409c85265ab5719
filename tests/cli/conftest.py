"""One agent for all tests of the command line; each test has a folder and keys of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dev_agent import Shell, dev_agent


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dev_agent(tmp_path_factory.mktemp("agent")) as address:
        yield address


@pytest.fixture
def gemot(address: str, tmp_path: Path) -> Shell:
    return Shell(address, tmp_path)
