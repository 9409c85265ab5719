"""A bounded model check of the core: every state that can be reached within bounds, and every law in each.

    make model                      the campaign: a million states
    .venv/bin/python tests/raft/model_check.py --states 30000 --only steady,reads

What is explored is the real code, from several beginnings that real steps have led to, breadth first: loss,
doubling, reordering and delay of messages by choice, crashes that lose what was not saved, slow disks, time
that passes or does not. What is not: snapshots, repair and handovers (scripts and the simulator have those),
more than three servers, and anything beyond the bounds below.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)

from support.raft_scopes import SCOPES, check


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--states", type=int, default=1_000_000, help="in all, shared by the beginnings")
    options.add_argument("--only", default=",".join(SCOPES), help="beginnings, with commas")
    chosen = options.parse_args()
    names = chosen.only.split(",")
    states, began = 0, time.process_time()
    for place, name in enumerate(names):
        start = time.process_time()
        model, result = check(name, (chosen.states - states) // (len(names) - place))
        seconds = time.process_time() - start
        states += result.states
        ends = "complete" if result.complete else "stopped at the limit"
        print(
            f"{name:9} {result.states:9,} states, depth {result.depth}, {ends}; "
            f"{len(model.views):,} servers, {len(model.messages):,} messages; {seconds:.1f} s",
            flush=True,
        )
        if result.violation:
            print(result.violation)
            return 1
    seconds = time.process_time() - began
    print(f"{states:,} states and no law broken, {seconds:.0f} s of CPU, {states / seconds:,.0f} states/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
