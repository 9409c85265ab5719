"""Where `gemot` and `python -m gemot.agent` enter."""

from __future__ import annotations

import os
import sys

from gemot.agent.cli.main import run


def main() -> None:
    _open_what_is_closed()
    sys.exit(run(sys.argv[1:]))


def _open_what_is_closed() -> None:
    """Standard files that whoever started this has closed (`>&-`), for Python has None in their place.

    A socket or a pipe would get their numbers, and commands that are run would write to it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


if __name__ == "__main__":
    main()
