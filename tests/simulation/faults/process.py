"""Faults of processes and hosts: they stop, hang, and come back at the worst of moments."""

from __future__ import annotations

from simulation.node import Node
from simulation.scene import Scene

SOON_US = (50_000, 3_000_000)
AWAY_US = (8_000_000, 20_000_000)
PAUSE_US = (200_000, 8_000_000)


def _crash(scene: Scene, node: Node | None, name: str, away_us: tuple[int, int] = SOON_US) -> None:
    """It loses its power, and comes back within that time."""
    if node is not None and scene.may_crash(node):
        scene.crash(node, name, scene.random.randrange(*away_us))


def crash_one(scene: Scene) -> None:
    _crash(scene, scene.random.choice(scene.nodes), "crash-one")


def crash_leader(scene: Scene) -> None:
    _crash(scene, scene.leader(), "crash-leader")


def crash_all(scene: Scene) -> None:
    """All that may: a server whose amnesia nobody could notice is spared."""
    for node in scene.nodes:
        _crash(scene, node, "crash-all")


def long_absence(scene: Scene) -> None:
    """It misses so much that it needs a snapshot. A cluster that all must found would wait for it."""
    away_us = AWAY_US if scene.atlas.founded else SOON_US
    _crash(scene, scene.random.choice(scene.nodes), "long-absence", away_us)


def kill_one(scene: Scene) -> None:
    """The process dies and the host lives: what was written and not synced can still be read."""
    node = scene.random.choice(scene.nodes)
    if scene.may_crash(node):
        scene.crash(node, "kill-one", scene.random.randrange(*SOON_US), keep_pages=True)


def rolling_restart(scene: Scene) -> None:
    """One after the other, as an upgrade does."""
    for at, node in enumerate(scene.nodes):
        scene.world.at(at * 2_000_000, "restart in turn", lambda node=node: _restart(scene, node))  # type: ignore[misc]


def _restart(scene: Scene, node: Node) -> None:
    if not scene.calm and scene.may_crash(node):
        scene.crash(node, "rolling-restart", 200_000, keep_pages=True)


def crash_loop(scene: Scene) -> None:
    """It comes up and goes down again, six times."""
    _loop(scene, scene.random.choice(scene.nodes), 6)


def _loop(scene: Scene, node: Node, left: int) -> None:
    if left == 0 or scene.calm or node.gone:
        return
    if scene.may_crash(node):
        scene.crash(node, "crash-loop", scene.random.randrange(20_000, 300_000))
    scene.world.at(
        scene.random.randrange(320_000, 900_000), "crash loop", lambda: _loop(scene, node, left - 1)
    )


def crash_in_start(scene: Scene) -> None:
    """It crashes, and the power goes again while it opens its data."""
    node = scene.random.choice(scene.nodes)
    if scene.may_crash(node) and node.name not in scene.atlas.cases:
        node.crash()
        node.disk.cut_power_in(scene.random.randrange(12), "crash-in-start")
        node.start_in(scene.random.randrange(*SOON_US))


def crash_at_write(scene: Scene) -> None:
    """The power goes in the middle of some write or sync."""
    node = scene.random.choice(scene.nodes)
    if scene.may_crash(node) and node.name not in scene.atlas.cases:
        node.disk.cut_power_in(scene.random.randrange(60), "crash-at-write")


def crash_in_install(scene: Scene) -> None:
    """One is away for so long that it needs a snapshot, and crashes again while it takes it in."""
    scene.armed["install"] = "crash-in-install"
    long_absence(scene)


def crash_in_snapshot(scene: Scene) -> None:
    scene.armed["snapshot"] = "crash-in-snapshot"


def crash_in_checkpoint(scene: Scene) -> None:
    scene.armed["checkpoint"] = "crash-in-checkpoint"


def crash_in_staging(scene: Scene) -> None:
    """One of those that are to have the blob of a restore crashes while it makes it durable."""
    scene.armed["stage"] = "crash-in-staging"


def crash_in_restore(scene: Scene) -> None:
    """One crashes while the blob becomes its state."""
    scene.armed["restore"] = "crash-in-restore"


def _pause(scene: Scene, node: Node | None, name: str) -> None:
    if node is not None and node.up and not node.paused:
        node.pause()
        life = node.life
        scene.last(name, PAUSE_US, lambda: node.resume() if node.life == life else None)


def pause_one(scene: Scene) -> None:
    _pause(scene, scene.random.choice(scene.nodes), "pause-one")


def pause_leader(scene: Scene) -> None:
    _pause(scene, scene.leader(), "pause-leader")


def pause_follower(scene: Scene) -> None:
    """One that does not lead: the leader has to do without it, and to catch it up."""
    followers = [node for node in scene.nodes if node.server is not None and not node.server.leads]
    _pause(scene, scene.random.choice(followers) if followers else None, "pause-follower")


def pause_majority(scene: Scene) -> None:
    """More than half of them hang, from the same moment on."""
    for node in scene.random.sample(scene.nodes, len(scene.nodes) // 2 + 1):
        _pause(scene, node, "pause-majority")


def hand_over(scene: Scene) -> None:
    """The leader hands its office over, as it does before it stops."""
    leader = scene.leader()
    if leader is not None:
        scene.strike("hand-over")
        leader.ask(
            f"{leader.name} hands over",
            lambda server: server.replica.transfer(None) if server.leads else None,
        )


FAULTS = {
    "crash-one": crash_one,
    "crash-leader": crash_leader,
    "crash-all": crash_all,
    "long-absence": long_absence,
    "kill-one": kill_one,
    "rolling-restart": rolling_restart,
    "crash-loop": crash_loop,
    "crash-in-start": crash_in_start,
    "crash-at-write": crash_at_write,
    "crash-in-install": crash_in_install,
    "crash-in-snapshot": crash_in_snapshot,
    "crash-in-checkpoint": crash_in_checkpoint,
    "crash-in-staging": crash_in_staging,
    "crash-in-restore": crash_in_restore,
    "pause-one": pause_one,
    "pause-leader": pause_leader,
    "pause-follower": pause_follower,
    "pause-majority": pause_majority,
    "hand-over": hand_over,
}
