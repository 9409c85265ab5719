"""The numbers of what stands on disk, and the error for a number that is too new.

A number grows when an older release could misread what a newer one writes; every number up to the
present one stays readable (`tests/golden/` keeps a directory of each, and of what was added since).
"""

from __future__ import annotations

from gemot.server.model.errors import StorageFailed

LOG_FORMAT = 1
META_FORMAT = 1
SNAPSHOT_FORMAT = 1


class NewerFormat(StorageFailed):
    """A newer release wrote this; nothing is damaged."""

    code = "newer-format"


def check_format(path: str, found: int, known: int) -> None:
    if found > known:
        raise NewerFormat(
            f"{path} was written by a newer release (format {found}, this release knows up to {known}): "
            f"start that release again, or restore a backup made by this one"
        )
