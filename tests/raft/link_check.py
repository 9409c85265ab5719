"""Sampled sets of one-way links among five servers, as many as there is time for.

make links                      2,000 graphs, each from three starts
.venv/bin/python tests/raft/link_check.py --graphs 50 --from 17
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)

from support.raft_links import CONFIG, STARTS, every_graph, some_graph, trial


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--graphs", type=int, default=2000)
    options.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    chosen = options.parse_args()
    began, good, slowest, runs = time.process_time(), 0, 0, 0
    graphs = [("123", working, 0) for working in every_graph("123")]
    seeds = range(chosen.first, chosen.first + chosen.graphs)
    graphs.extend(("12345", some_graph("12345", seed), seed) for seed in seeds)
    for ids, working, seed in graphs:
        for start in STARTS:
            outcome = trial(ids, working, start, seed)
            runs += 1
            good += outcome.good
            slowest = max(slowest, outcome.ticks)
    seconds = time.process_time() - began
    print(
        f"64 graphs of three servers and {chosen.graphs:,} of five "
        f"(seeds {seeds.start} to {seeds.stop - 1}), {runs:,} runs, "
        f"{good:,} with a connected majority: a leader within "
        f"{slowest / CONFIG.election_ticks:.1f} election timeouts in each; {seconds:.0f} s of CPU"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
