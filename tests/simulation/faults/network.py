"""Faults of the network: who cannot hear whom, and for how long."""

from __future__ import annotations

from itertools import combinations

import msgspec
from simulation.node import Node
from simulation.scene import Scene

SHORT_US = (300_000, 3_000_000)
LONG_US = (1_000_000, 8_000_000)
LOOKS, LOOK_US = 200, 5_000


def _names(scene: Scene) -> list[str]:
    names = [node.name for node in scene.nodes]
    scene.random.shuffle(names)
    return names


def partition(scene: Scene) -> None:
    names = _names(scene)
    at = scene.random.randrange(1, len(names))
    scene.last("partition", LONG_US, scene.network.partition([names[:at], names[at:]], one_way=False))


def one_way(scene: Scene) -> None:
    names = _names(scene)
    at = scene.random.randrange(1, len(names))
    scene.last("one-way", LONG_US, scene.network.partition([names[:at], names[at:]], one_way=True))


def minority(scene: Scene) -> None:
    """A minority is cut off, each of it alone."""
    names = _names(scene)
    lonely = [[name] for name in names[: (len(names) - 1) // 2]]
    scene.last("minority", LONG_US, scene.network.partition([*lonely, names[len(lonely) :]], one_way=False))


def ring(scene: Scene) -> None:
    """Each hears only its two neighbours, or with three servers only the one before it."""
    names = _names(scene)
    near = 1 if len(names) == 3 else 2
    links = []
    for at, name in enumerate(names):
        hears = {names[(at + step) % len(names)] for step in ((1,) if near == 1 else (1, -1))}
        links += [(name, other) for other in names if other != name and other not in hears]
    scene.last("ring", SHORT_US, scene.network.cut(links))


def bridge(scene: Scene) -> None:
    """Two halves that meet in one server alone."""
    names = _names(scene)
    half = (len(names) - 1) // 2
    left, right = names[1 : 1 + half], names[1 + half :]
    scene.last("bridge", LONG_US, scene.network.partition([left, right], one_way=False))


def isolate_leader(scene: Scene) -> None:
    leader = scene.leader()
    if leader is not None:
        others = [node.name for node in scene.nodes if node is not leader]
        scene.last("isolate-leader", LONG_US, scene.network.partition([[leader.name], others], one_way=False))


def deaf_leader(scene: Scene) -> None:
    """The others hear it, and it hears nobody."""
    leader = scene.leader()
    if leader is not None:
        links = [(node.name, leader.name) for node in scene.nodes if node is not leader]
        scene.last("deaf-leader", LONG_US, scene.network.cut(links))


def clog(scene: Scene) -> None:
    """What is sent on one link waits, and comes all at once."""
    names = _names(scene)
    scene.last("clog", SHORT_US, scene.network.clog((names[0], names[1])))


def flapping(scene: Scene) -> None:
    """One link goes and comes ten times."""
    a, b = _names(scene)[:2]
    at = 0
    for _ in range(10):
        down = scene.random.randrange(20_000, 400_000)
        scene.world.at(at, "flap", lambda down=down: _flap(scene, a, b, down))  # type: ignore[misc]
        at += down + scene.random.randrange(20_000, 400_000)


def _flap(scene: Scene, a: str, b: str, down_us: int) -> None:
    scene.last("flapping", (down_us, down_us + 1), scene.network.cut([(a, b), (b, a)]))


def one_link(scene: Scene) -> None:
    """Two servers cannot reach each other; everybody else can."""
    a, b = _names(scene)[:2]
    scene.last("one-link", LONG_US, scene.network.cut([(a, b), (b, a)]))


def nobody(scene: Scene) -> None:
    """Every link is cut."""
    names = [node.name for node in scene.nodes]
    links = [link for a, b in combinations(names, 2) for link in ((a, b), (b, a))]
    scene.last("nobody", SHORT_US, scene.network.cut(links))


def storm(scene: Scene) -> None:
    rough = scene.plan.weather
    scene.network.weather = msgspec.structs.replace(rough, loss=0.6)

    def over() -> None:
        if not scene.calm:
            scene.network.weather = rough

    scene.last("storm", SHORT_US, over)


def broken(scene: Scene) -> None:
    """The connections of one server break, as soon as calls are under way on them, and take these along."""
    _break(scene, scene.random.choice(scene.nodes), LOOKS)


def _break(scene: Scene, node: Node, looks: int) -> None:
    mine = [(n, broke) for n in scene.nodes for to, broke in n.calls.values() if node.name in (n.name, to)]
    if mine:
        scene.strike("broken-connections")
        for caller, broke in mine:
            scene.world.at(0, "connection breaks", broke, caller)
    elif looks > 0 and not scene.calm:
        scene.world.at(LOOK_US, "looks for calls", lambda: _break(scene, node, looks - 1))


FAULTS = {
    "partition": partition,
    "one-way": one_way,
    "minority": minority,
    "ring": ring,
    "bridge": bridge,
    "isolate-leader": isolate_leader,
    "deaf-leader": deaf_leader,
    "clog": clog,
    "flapping": flapping,
    "one-link": one_link,
    "nobody": nobody,
    "storm": storm,
    "broken-connections": broken,
}
