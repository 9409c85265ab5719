"""Faults of disks. Those that change what was written are dealt out by the atlas, to a minority at a time."""

from __future__ import annotations

from collections.abc import Callable

from simulation.node import Node, wal_limit
from simulation.scene import Scene

from gemot.server.storage.segment import segment_names

FOUND_US = (100_000, 4_000_000)
"""When the damage is found at the latest: the host is restarted then."""

STALL_US = (100_000, 1_000_000)
LONG_STALL_US = (1_500_000, 10_000_000)
SLOW_US = (2_000_000, 8_000_000)
FULL_US = (1_000_000, 6_000_000)
FILLS_US = (3_000_000, 12_000_000)
STATE_BYTES = 128 << 10
"""About what a simulated state takes."""

ROOM = (0.3, 0.7, 1.1, 2.0)
"""How much of the reserve is left when a disk fills."""

TRIES = 60


def _victims(scene: Scene) -> list[Node]:
    return [node for node in scene.nodes if scene.atlas.may_damage(node) and not node.paused]


def _victim(scene: Scene) -> Node | None:
    candidates = _victims(scene)
    return scene.random.choice(candidates) if candidates else None


def _damaged(scene: Scene, node: Node, name: str) -> None:
    """Note it, and see to it that it is looked at soon."""
    scene.atlas.damage(node, name)
    scene.strike(name)
    scene.last(name, FOUND_US, lambda: _inspect(scene, node))


def _inspect(scene: Scene, node: Node) -> None:
    """Start it again on this disk, unless it was already, or could not tell what it lost."""
    case = scene.atlas.cases.get(node.name)
    if case is None or node.life != case.life or not node.up:
        return
    if node.forgetful or node.disk.bent is not None:
        node.disk.bent = None
        scene.world.at(500_000, "inspect later", lambda: _inspect(scene, node))
        return
    node.crash()
    node.start_in(scene.random.randrange(50_000, 500_000))


def _flip(scene: Scene, name: str, choose: Callable[[Scene, Node], str | None]) -> None:
    """One bit changes, and it is looked at soon."""
    if (found := flip(scene, name, choose)) is not None:
        _damaged(scene, found[0], name)


def flip(
    scene: Scene, name: str, choose: Callable[[Scene, Node], str | None]
) -> tuple[Node, str, int] | None:
    """One bit of what was written changes, in the file that is chosen: told is where, if anywhere.

    Not in a zero where there is anything else: between the records of a log nobody would ever know.
    """
    node = _victim(scene)
    if node is None:
        return None
    path = choose(scene, node)
    if path is None or (inode := node.lossy.find(path)) is None or not inode.durable:
        return None
    at = 0
    for _ in range(TRIES):
        at = scene.random.randrange(len(inode.durable))
        if inode.durable[at]:
            break
    else:
        others = (i for i in (*range(at, len(inode.durable)), *range(at)) if inode.durable[i])
        at = next(others, at)
    scene.world.tell(f"{name}: a bit of byte {at} of {path}")
    before = bytes([inode.durable[at]])
    node.lossy.decay(path, at, bytes([inode.durable[at] ^ (1 << scene.random.randrange(8))]))
    scene.ledger.note(node, name, path, [inode.alter(before, at)])
    return node, path, at


def _segments(node: Node) -> list[str]:
    folder = f"{node.directory}/log"
    return [f"{folder}/{name}" for _, name in segment_names(node.lossy, folder)]


def sealed(scene: Scene, node: Node) -> str | None:
    paths = _segments(node)[:-1]
    return scene.random.choice(paths) if paths else None


def _active(scene: Scene, node: Node) -> str | None:
    return next(iter(_segments(node)[-1:]), None)


def _snapshot(scene: Scene, node: Node) -> str | None:
    folder = f"{node.directory}/snap"
    names = [name for name in node.lossy.listdir(folder) if name.endswith((".snap", ".json"))]
    return f"{folder}/{scene.random.choice(names)}" if names else None


def snapshot_copy(scene: Scene, node: Node) -> str | None:
    folder = f"{node.directory}/snap"
    names = [name for name in node.lossy.listdir(folder) if name.endswith(".snap")]
    return f"{folder}/{scene.random.choice(names)}" if names else None


def state_file(_scene: Scene, node: Node) -> str | None:
    return f"{node.directory}/state.db"


def flip_sealed(scene: Scene) -> None:
    _flip(scene, "flip-sealed", sealed)


def flip_active(scene: Scene) -> None:
    _flip(scene, "flip-active", _active)


def flip_meta_a(scene: Scene) -> None:
    _flip(scene, "flip-meta-a", lambda _, node: f"{node.directory}/meta-a")


def flip_meta_b(scene: Scene) -> None:
    _flip(scene, "flip-meta-b", lambda _, node: f"{node.directory}/meta-b")


def flip_snapshot(scene: Scene) -> None:
    _flip(scene, "flip-snapshot", _snapshot)


def flip_state(scene: Scene) -> None:
    _flip(scene, "flip-state", state_file)


def flip_wal(scene: Scene) -> None:
    _flip(scene, "flip-wal", lambda _, node: f"{node.directory}/state.db-wal")


def stale_meta(scene: Scene) -> None:
    """One copy of the vote file is as it was some while ago."""
    copies = [(node, path, old) for node in _victims(scene) for path, old in _former_metas(scene, node)]
    if not copies:
        return
    node, path, old = scene.random.choice(copies)
    inode = node.lossy.find(path)
    assert inode is not None

    def go_back(content: bytearray) -> None:
        content[:] = old

    before = bytes(inode.durable)
    node.lossy.damage(path, go_back)
    scene.ledger.note(node, "stale-meta", path, [inode.alter(before, 0)])
    _damaged(scene, node, "stale-meta")


def _former_metas(scene: Scene, node: Node) -> list[tuple[str, bytes]]:
    """Its copies of the vote file that once were otherwise than they are, and how they were."""
    paths = [f"{node.directory}/{name}" for name in ("meta-a", "meta-b")]
    return [
        (path, old)
        for path in paths
        if (inode := node.lossy.find(path)) is not None
        for old in scene.old_metas.get(path, ())
        if old != bytes(inode.durable)
    ]


def _bend(scene: Scene, kind: str, part: str) -> None:
    """The next write of that part is lost, or goes to another place of its file, and nobody is told."""
    node = _victim(scene)
    if node is None:
        return
    name = f"{kind}-write" if part == "log" else f"{kind}-write-{part}"
    node.disk.bent = (kind, part)
    scene.atlas.damage(node, name)
    scene.last(name, FOUND_US, lambda: _inspect(scene, node))


def _fail(scene: Scene, action: str, part: str) -> None:
    """The next such call fails with EIO, once."""
    node = scene.random.choice(scene.nodes)
    if node.up and node.name not in scene.atlas.cases:
        node.disk.errors[action, part] = f"eio-{action}-{part}"


def _full(scene: Scene, name: str, parts: tuple[str, ...]) -> None:
    """No file of these parts can grow, for a while. It strikes when one wants to."""
    node = scene.random.choice(scene.nodes)
    if not node.up or node.name in scene.atlas.cases:
        return
    for part in parts:
        node.disk.full[part] = name

    def over() -> None:
        for part in parts:
            node.disk.full.pop(part, None)

    scene.last(name, FULL_US, over, counted=False)


def fills(scene: Scene) -> None:
    """One server's disk has little room left, or all have: that is measured, and writes beyond it fail."""
    nodes = scene.nodes if scene.random.random() < 0.5 else [scene.random.choice(scene.nodes)]
    for node in nodes:
        if node.up and node.name not in scene.atlas.cases:
            _fill(scene, node)


def _fill(scene: Scene, node: Node) -> None:
    reserve = 2 * scene.plan.segment_bytes + STATE_BYTES + wal_limit(scene.plan.server)
    node.disk.limit(int(reserve * scene.random.choice(ROOM)))
    scene.last("disk-fills", FILLS_US, node.disk.unlimit)


def sync_stall(scene: Scene) -> None:
    _stall(scene, "sync-stall", STALL_US)


def sync_stall_long(scene: Scene) -> None:
    """Longer than an election."""
    _stall(scene, "sync-stall-long", LONG_STALL_US)


def stall_leader(scene: Scene) -> None:
    _stall(scene, "sync-stall-leader", LONG_STALL_US, scene.leader())


def _stall(scene: Scene, name: str, us: tuple[int, int], node: Node | None = None) -> None:
    node = node or scene.random.choice(scene.nodes)
    length = scene.random.randrange(*us)
    node.disk.stalled_until_us = scene.world.now_us + length
    scene.last(name, (length, length + 1), lambda: None)


def slow_disk(scene: Scene) -> None:
    """Everything takes ten to a hundred times as long."""
    node = scene.random.choice(scene.nodes)
    node.disk.slow = scene.random.randrange(10, 100)

    def over() -> None:
        node.disk.slow = 1

    scene.last("slow-disk", SLOW_US, over)


def _eio(action: str, part: str) -> tuple[str, Callable[[Scene], None]]:
    return f"eio-{action}-{part}", lambda scene: _fail(scene, action, part)


FAULTS: dict[str, Callable[[Scene], None]] = {
    "flip-sealed": flip_sealed,
    "flip-active": flip_active,
    "flip-meta-a": flip_meta_a,
    "flip-meta-b": flip_meta_b,
    "flip-snapshot": flip_snapshot,
    "flip-state": flip_state,
    "flip-wal": flip_wal,
    "stale-meta": stale_meta,
    "lost-write": lambda scene: _bend(scene, "lost", "log"),
    "misdirected-write": lambda scene: _bend(scene, "misdirected", "log"),
    "lost-write-meta": lambda scene: _bend(scene, "lost", "meta"),
    "lost-write-state": lambda scene: _bend(scene, "lost", "state"),
    "lost-write-snap": lambda scene: _bend(scene, "lost", "snap"),
    "misdirected-write-state": lambda scene: _bend(scene, "misdirected", "state"),
    "sync-stall": sync_stall,
    "sync-stall-long": sync_stall_long,
    "sync-stall-leader": stall_leader,
    "slow-disk": slow_disk,
    "enospc-log": lambda scene: _full(scene, "enospc-log", ("log", "meta")),
    "enospc-state": lambda scene: _full(scene, "enospc-state", ("state", "snap")),
    **dict(_eio(action, part) for action in ("write", "sync") for part in ("log", "meta", "state", "snap")),
    "disk-fills": fills,
    **dict(_eio("read", part) for part in ("log", "meta", "state", "snap")),
}
