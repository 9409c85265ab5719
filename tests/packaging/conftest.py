"""The package, built once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import debian_package


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return debian_package.build(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def installed(package: Path) -> Iterator[Path]:
    """The package on this machine; purged at the end, whatever state it is in."""
    debian_package.require_absent()
    try:
        debian_package.install(package)
        yield package
    finally:
        debian_package.purge()
