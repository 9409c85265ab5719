"""An agent for the chaos run: `python chaos_agent.py [--no-sync] [--plant BUG] FLAGS`.

Its unsynced bytes are lost when it is killed (`lossy_agent.py`), and where it would dial another server it
dials the proxy that `routes.json` beside its data directory names for that address. Both are done here, not
in the product: nothing it is shipped with knows of them. `--plant` takes the simulator's planted bugs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation.planted import BUGS
from support import lossy_agent

from gemot.agent.config.flags import parse
from gemot.server.runtime.connection import Dialler

Address = tuple[str, int]


def _dial_through(routes: dict[str, Address]) -> None:
    """Each dialler of this process goes by these routes. Joining (8301) is no link, and goes straight."""
    original = Dialler.__init__

    def init(self: Dialler, *, address: Callable[[], Address | None], **parts: Any) -> None:
        def routed() -> Address | None:
            real = address()
            return routes.get(f"{real[0]}:{real[1]}", real) if real is not None else None

        original(self, address=routed, **parts)

    Dialler.__init__ = init  # type: ignore[method-assign]


def main() -> int:
    if "--plant" in sys.argv:
        at = sys.argv.index("--plant")
        BUGS[sys.argv[at + 1]]()
        del sys.argv[at : at + 2]
    flags = parse([argument for argument in sys.argv[1:] if argument != "--no-sync"])
    routes = Path(flags.overrides["data_dir"]).parent / "routes.json"
    if routes.exists():
        _dial_through({real: (host, port) for real, (host, port) in json.loads(routes.read_text()).items()})
    return lossy_agent.main()


if __name__ == "__main__":
    sys.exit(main())
