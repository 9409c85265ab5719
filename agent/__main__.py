"""Where `gemot` and `python -m gemot.agent` enter."""

from __future__ import annotations

import sys

from gemot.agent.cli.main import run


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
