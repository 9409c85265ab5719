"""Configuration written into a directory and loaded from it, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemot.agent.config.fault import ConfigFaults
from gemot.agent.config.flags import parse
from gemot.agent.config.load import Loaded, load


def write(folder: Path, **files: object) -> Path:
    """`web_json={...}` becomes web.json. Text and bytes are written as they are, all else as JSON."""
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        path = folder / f"{stem}.{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(0o640)
    return folder


def loaded(folder: Path, *argv: str) -> Loaded:
    return load(parse(["-config-dir", str(folder), *argv]))


def faults_of(folder: Path, *argv: str) -> list[str]:
    """A line for each mistake, with the folder taken out of it."""
    with pytest.raises(ConfigFaults) as caught:
        loaded(folder, *argv)
    assert caught.value.message.splitlines() == [str(fault) for fault in caught.value.faults]
    return [line.replace(f"{folder}/", "") for line in caught.value.message.splitlines()]


def one_file(folder: Path, raw: dict[str, Any], *argv: str) -> Loaded:
    return loaded(write(folder, agent_json={"data_dir": "/var/lib/gemot"} | raw), *argv)
