"""Simulated servers in calm weather, for tests of what one of them is asked."""

from __future__ import annotations

from simulation.network import CALM
from simulation.node import Node
from simulation.run import SECOND_US, Run


class CalmTier:
    """They have founded their cluster: `leads` leads, the `others` do not."""

    def __init__(self, run: Run) -> None:
        self.run = run
        run.network.weather = CALM
        for node in run.nodes:
            node.start()
        self.pass_s(4)
        self.leads = next(node for node in run.nodes if node.server is not None and node.server.leads)
        self.others = [node for node in run.nodes if node is not self.leads]

    def pass_s(self, seconds: float) -> None:
        self.run.world.run(self.run.world.now_us + int(seconds * SECOND_US))


def flip_in_log(node: Node, text: bytes) -> None:
    """Change one byte of an entry that was synced long ago."""
    folder = f"{node.directory}/log"
    path = f"{folder}/{next(name for name in node.lossy.listdir(folder) if name.endswith('.seg'))}"

    def flip(content: bytearray) -> None:
        content[content.index(text)] ^= 0xFF

    node.lossy.damage(path, flip)
