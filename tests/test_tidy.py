"""The house rules that a program can hold: direction of imports, purity, bans, sizes, words.

Nobody has to remember them; each rule below says why it is there when it fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("agent", "server", "dns", "checks")
FILE_LINES = 600
FUNCTION_LINES = 70

# What each part may import of ours, by prefix of the module; the longest matching part counts.
ALLOWED: dict[str, tuple[str, ...]] = {
    "checks": ("checks",),
    "dns": ("dns", "server.model"),
    "server": ("server",),
    "server.model": ("server.model",),
    "server.raft": ("server.raft", "server.model.errors"),
    "server.state": ("server.state", "server.model", "server.raft.types"),
    "server.rpc": ("server.rpc", "server.model", "server.raft.types"),
    "agent": ("agent", "server", "dns", "checks"),
    "agent.client": ("agent.client",),
}

PURE = (
    "server/raft",
    "server/state",
    "server/model",
    "server/machine.py",
    "server/pace.py",
    "server/rpc/frame.py",
    "agent/gossip/allowance.py",
    "agent/gossip/awareness.py",
    "agent/gossip/coordinate.py",
    "agent/gossip/events.py",
    "agent/gossip/keyring.py",
    "agent/gossip/lamport.py",
    "agent/gossip/limits.py",
    "agent/gossip/members.py",
    "agent/gossip/message.py",
    "agent/gossip/packet.py",
    "agent/gossip/probing.py",
    "agent/gossip/queue.py",
    "agent/gossip/remembered.py",
    "agent/gossip/replay.py",
    "agent/gossip/rotation.py",
    "agent/gossip/seal.py",
    "agent/gossip/stream.py",
    "agent/gossip/suspicion.py",
    "agent/gossip/swim.py",
    "agent/gossip/timing.py",
    "agent/gossip/turns.py",
    "agent/gossip/view.py",
    "checks/status.py",
    "checks/definition.py",
    "checks/schedule.py",
    "dns/names.py",
    "dns/records.py",
    "dns/reply.py",
    "agent/config/schema.py",
    "agent/config/reload.py",
    "agent/config/resolve.py",
    "agent/config/merge.py",
)
IMPURE = frozenset(
    [
        "asyncio",
        "aiohttp",
        "apsw",
        "psutil",
        "random",
        "select",
        "socket",
        "subprocess",
        "threading",
        "time",
        "concurrent",
        "uvloop",
    ]
)
EVENT_HANDLERS_BAN = frozenset(
    ["asyncio", "threading", "concurrent", "time", "uuid", "uvloop", "aiohttp", "socket"]
)
WORDLESS = ("utils", "common", "helpers", "manager", "misc", "base")


def _sources() -> list[Path]:
    return [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))]


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _module(path: Path) -> str:
    return _relative(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _each(prefixes: tuple[str, ...] = ("",), but: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Each source file under these prefixes, but for those."""
    chosen = [p for p in _sources() if _relative(p).startswith(prefixes) and not _relative(p).startswith(but)]
    return pytest.mark.parametrize("path", chosen, ids=_relative)


@_each()
def test_imports_go_one_way(path: Path) -> None:
    module = _module(path)
    owner = max((part for part in ALLOWED if module == part or module.startswith(part + ".")), key=len)
    for line, name in _imports(_tree(path)):
        inner = name.removeprefix("gemot.")
        if not name.startswith("gemot.") or inner in ("__version__",):
            continue
        if not any(inner == ok or inner.startswith(ok + ".") for ok in ALLOWED[owner]):
            # `from gemot.server import model` names a package on the way to what is allowed.
            if any(ok.startswith(inner + ".") or ok == inner for ok in ALLOWED[owner]):
                continue
            pytest.fail(f"{_relative(path)}:{line}: {owner} may not import {name}: see ARCHITECTURE.md")


def test_the_client_does_not_need_the_daemon() -> None:
    """A cold `gemot kv get` must not import servers, DNS or templates."""
    for path in sorted((ROOT / "agent/client").glob("*.py")):
        heavy = [
            name for _, name in _imports(_tree(path)) if name.split(".")[0] in ("aiohttp", "apsw", "jinja2")
        ]
        assert not heavy, f"{_relative(path)} imports {heavy}"


@_each(PURE)
def test_pure_modules_only_compute(path: Path) -> None:
    found = [(line, name) for line, name in _imports(_tree(path)) if name.split(".")[0] in IMPURE]
    assert not found, f"{_relative(path)}: time, randomness and bytes are handed in, not imported: {found}"


@_each(("server/",), but=("server/runtime/",))
def test_the_tier_runs_as_event_handlers(path: Path) -> None:
    """Outside `server/runtime/` no thread, task, clock or file: the simulator drives the same objects."""
    name = _relative(path)
    tree = _tree(path)
    found = [(line, name) for line, name in _imports(tree) if name.split(".")[0] in EVENT_HANDLERS_BAN]
    assert not found, f"{name}: belongs into server/runtime/: {found}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "open", f"{name}:{node.lineno}: files are opened through the Disk port"
        if isinstance(node, ast.For | ast.comprehension) and _is_set(node.iter):
            pytest.fail(f"{name}: iterating over a set has no order, and order must be the same everywhere")


def _is_set(node: ast.expr) -> bool:
    """It is one by its looks, or made of one: `{*a}.difference(b)`."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    return isinstance(node, ast.Set | ast.SetComp)


@_each()
def test_files_and_functions_fit(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= FILE_LINES, f"{_relative(path)} has {len(lines)} lines: is it still one concept?"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            where = f"{_relative(path)}:{node.lineno}: {node.name}"
            assert length <= FUNCTION_LINES or node.name == "__init__", (
                f"{where} has {length} lines, {FUNCTION_LINES} fit a screen"
            )


@_each()
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(_tree(path)), f"{_relative(path)} has no docstring"
    assert path.stem not in WORDLESS, f"{_relative(path)}: name it for what it holds"


def test_import_direction_is_seen_when_broken() -> None:
    """The rule above can fail: what it looks at is really there."""
    tree = ast.parse("from gemot.agent.views import Views\nimport time\n")
    assert (1, "gemot.agent.views") in list(_imports(tree))
    assert (2, "time") in list(_imports(tree))


@pytest.mark.parametrize(("text", "found"), [("{1}", True), ("{*a}.difference(b)", True), ("[*a]", False)])
def test_sets_are_seen_by_their_looks(text: str, found: bool) -> None:
    assert _is_set(ast.parse(text, mode="eval").body) == found


@pytest.mark.parametrize("folder", ["packaging", "systemd", "tests"])
def test_folders_that_hide_other_packages_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_parts_are_linked_into_the_package() -> None:
    for part in PARTS:
        link = ROOT / "src/gemot" / part
        assert link.is_symlink(), f"{link} is a relative link to ../../{part}"
        assert link.readlink() == Path(f"../../{part}")
