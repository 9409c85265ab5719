"""`--plant BUG` on a command line: one bug by its name, or `list` for all the names."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

LIST = "list"


def add_plant(parser: argparse.ArgumentParser, bugs: Iterable[str]) -> None:
    """There are too many for the help: it tells how to list them, and so does a refusal."""
    known = sorted(bugs)

    class Plant(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: Any,
            option_string: str | None = None,
        ) -> None:
            if values == LIST:
                print("\n".join(known))
                parser.exit()
            if values not in known:
                near = "".join(f" (did you mean {name}?)" for name in get_close_matches(values, known, n=1))
                parser.error(
                    f"--plant: no bug is named {values[:60]!r}{near}; --plant {LIST} prints the names"
                )
            setattr(namespace, self.dest, values)

    told = f"plant this bug first: the run must fail; {LIST!r} prints the names"
    parser.add_argument("--plant", metavar="BUG", default="", action=Plant, help=told)
