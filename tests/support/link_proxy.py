"""The network between servers, made of loopback proxies: each directed link can be cut or slowed by itself.

A server dials each other one and sends its Raft messages there; answers to calls come back on the same
connection. So there is a proxy for each pair (dialler, dialled), and what goes *from a to b* is the one
direction of the proxy (a, b) and the other direction of (b, a). A cut holds the bytes, as a network does
that drops packets: TCP knows nothing until it gives up, and what was held comes late if the cut heals
before. Nothing is reset by a cut. A link that is *refused* is the other kind of trouble: its connections
break at once, and so does each new one.

Everything runs in one thread with an event loop of its own; the methods may be called from any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from typing import Any

CHUNK = 64 << 10
HELD_CHUNKS = 256
"""What one direction holds at most; then its sender's socket fills up, as it would."""

Pair = tuple[str, str]
Address = tuple[str, int]


class Links:
    """Proxies from all of `addresses` (name to host and port) to all others, on their diallers' hosts.

    `diallers` (name to host) dial as well, and are dialled by nobody: client agents.
    """

    def __init__(self, addresses: dict[str, Address], diallers: dict[str, str] | None = None) -> None:
        self._addresses = addresses
        self._diallers = {name: host for name, (host, _) in addresses.items()} | (diallers or {})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._tasks: dict[asyncio.Task[None], Pair] = {}
        self._refused: set[Pair] = set()
        self._cut: set[Pair] = set()
        self._delay_s: dict[Pair, float] = {}
        self._changed = asyncio.Event()
        self.routes: dict[str, dict[str, Address]] = defaultdict(dict)
        """For each dialler: the address of the other ("host:port") to that of the proxy."""

    def start(self) -> None:
        self._thread.start()
        self._call(self._listen())

    def stop(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def set(
        self,
        cut: Iterable[Pair] = (),
        delay_s: dict[Pair, float] | None = None,
        refused: Iterable[Pair] = (),
    ) -> None:
        """From now on these directions are cut, these are slow, and all others are as they should be.

        What one dials the other on is refused for these pairs.
        """
        pairs, delays, refusals = set(cut), dict(delay_s or {}), set(refused)

        def change() -> None:
            self._cut, self._delay_s, self._refused = pairs, delays, refusals
            self._break(refusals)
            self._changed.set()
            self._changed = asyncio.Event()

        self._loop.call_soon_threadsafe(change)

    def reset(self) -> None:
        """Every connection breaks, once."""
        self._loop.call_soon_threadsafe(lambda: self._break(self._tasks.values()))

    def _break(self, pairs: Iterable[Pair]) -> None:
        broken = set(pairs)
        for task in [task for task, pair in self._tasks.items() if pair in broken]:
            task.cancel()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> None:
        for here, host in self._diallers.items():
            for there, target in self._addresses.items():
                if here != there:
                    await self._listen_for(here, there, host, target)

    async def _listen_for(self, here: str, there: str, host: str, target: Address) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks[task] = (here, there)
            try:
                if (here, there) in self._refused:
                    raise ConnectionError("refused")
                await self._carry(here, there, target, reader, writer)
            except (OSError, asyncio.CancelledError):
                pass  # an end is broken, or the run is over
            finally:
                self._tasks.pop(task, None)
                writer.transport.abort()

        server = await asyncio.start_server(serve, host, 0)
        self._servers.append(server)
        self.routes[here][f"{target[0]}:{target[1]}"] = server.sockets[0].getsockname()[:2]

    async def _carry(
        self,
        here: str,
        there: str,
        target: Address,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """One connection, until both directions are at their end."""
        await self._open(here, there)
        far_reader, far_writer = await asyncio.open_connection(*target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump((here, there), reader, far_writer))
                group.create_task(self._pump((there, here), far_reader, writer))
        except ExceptionGroup as errors:
            raise ConnectionError("one direction broke, and takes the other along") from errors
        finally:
            far_writer.transport.abort()

    async def _pump(self, way: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Bytes one way, in order, each as late as the link was slow when they came. Ends by an error."""
        loop = asyncio.get_running_loop()
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_CHUNKS)

        async def take() -> None:
            while data := await reader.read(CHUNK):
                await held.put((loop.time() + self._delay_s.get(way, 0.0), data))
            await held.put((loop.time(), b""))

        async def give() -> None:
            while True:
                due, data = await held.get()
                if (wait_s := due - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                await self._open(*way)
                if not data:
                    raise ConnectionError("its end")
                writer.write(data)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            group.create_task(give())

    async def _open(self, *way: str) -> None:
        while way in self._cut:
            await self._changed.wait()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(*self._tasks, return_exceptions=True)
