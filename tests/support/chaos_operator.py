"""The operator of a cluster in trouble: sees who votes, gives orders, replaces servers that lost their disks.

A wiped server comes back in one of two forms. With a *new id* nobody has to do a thing: it joins as a
learner, the old id is dead and goes, the new one gets a vote. With its *old id*, kept elsewhere, it must be
refused: what it acknowledged is lost with its disk. Only once its peer was removed by hand it may join.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from support.cluster import Agent, Cluster
from support.reach import Reach
from support.saved_states import Archive

from gemot.agent.client.connection import CannotConnect, ClientError, Refused
from gemot.agent.client.snapshot import Snapshot

LOOK_EVERY_S = 0.5
ASK_S = 3.0
ORDER_S = 20.0
REFUSAL = "must not vote again under its old id"

ORDERS = ("transfer-leader", "remove-peer", "leave", "save-snapshot")


class Lost(msgspec.Struct):
    """A server whose disk is gone, and the id it had."""

    server: Agent
    old: str
    keeps_id: bool
    refused: bool = False


class Operator(threading.Thread):
    """Looks until it is ended; `error` tells what must never be."""

    def __init__(self, cluster: Cluster, reach: Reach, folder: Path) -> None:
        super().__init__(name="operator", daemon=True)
        self._cluster = cluster
        self._reach = reach
        self._folder = folder
        self._lost: list[Lost] = []
        self._over = threading.Event()
        self.refusals = 0
        """How often a wiped server was seen to be refused under its old id."""
        self.replaced = 0
        """Wiped servers that vote again."""
        self.obeyed: Counter[str] = Counter()
        """Orders that were told to be done."""
        self.refused: list[str] = []
        """What was said of the others: in the middle of a fault any order may fail."""
        self.archives: list[Archive] = []
        """Snapshots that were saved whole."""
        self.error = ""

    def run(self) -> None:
        try:
            while not self._over.wait(LOOK_EVERY_S):
                self._look()
        except Exception as error:
            self.error = f"the operator: {error!r}"
            raise

    def end(self) -> None:
        self._over.set()
        self.join(60)
        assert not self.is_alive(), "the operator hangs"

    # -- what there is to see ------------------------------------------------------------------------

    def whole(self) -> bool:
        """Every server votes and is well, as the leader sees it now: a minority may lose its disks."""
        if self._lost:
            return False
        try:
            health = self._ask("/v1/operator/autopilot/health")
        except ClientError:
            return False
        names = {server["Name"] for server in health["Servers"] if server["Voter"] and server["Healthy"]}
        return bool(health["Healthy"]) and names == {server.name for server in self._cluster.servers}

    def _look(self) -> None:
        try:
            found = self._ask("/v1/operator/raft/configuration")["Servers"]
        except ClientError:
            return
        voters = {str(one["ID"]) for one in found if one["Voter"]}
        names = {node_id(server): server.name for server in self._cluster.servers}
        self._reach.voters({names.get(id, id) for id in voters})
        for lost in list(self._lost):
            if self._is_replaced(lost, voters):
                self._lost.remove(lost)
                self.replaced += 1
                self._reach.up(lost.server.name)

    def _ask(self, path: str) -> Any:
        """What the first server that answers says. Raises ClientError."""
        last: ClientError = CannotConnect("no server runs")
        for server in self._cluster.servers:
            try:
                with closing(server.connect(ASK_S)) as connection:
                    return connection.request("GET", path).json()
            except ClientError as error:
                last = error
        raise last

    # -- lost disks ----------------------------------------------------------------------------------

    def lost(self, server: Agent, old: str, *, keeps_id: bool) -> None:
        """This server begins again with nothing but, perhaps, its id."""
        self._lost.append(Lost(server, old, keeps_id))

    def _is_replaced(self, lost: Lost, voters: set[str]) -> bool:
        """It votes again, as somebody new; does what is to be done for that."""
        try:
            stats = lost.server.stats()
        except ClientError:
            return False
        if REFUSAL in stats["tier"]["waiting"]:
            if not lost.keeps_id:
                raise AssertionError(f"{lost.server.name} is refused, and has a new id")
            self.refusals += not lost.refused
            lost.refused = True
            try:
                self._order("DELETE", "/v1/operator/raft/peer", but=lost.server, id=lost.old)
            except ClientError as error:
                self.refused.append(f"remove the wiped peer {lost.server.name}: {error}")
            return False
        fed = int(stats["raft"]["applied_index"]) > 0 and not stats["tier"]["waiting"]
        gone = lost.keeps_id or lost.old not in voters
        return fed and gone and node_id(lost.server) in voters

    # -- orders --------------------------------------------------------------------------------------

    def order(self, what: str, draw: int) -> Callable[[], None]:
        """Give this order now, from a thread of its own; what is returned waits for its end."""
        chance = random.Random(draw)
        server = chance.choice(self._cluster.servers)
        do = {
            "transfer-leader": lambda: self._transfer(chance),
            "remove-peer": lambda: self._order("DELETE", "/v1/operator/raft/peer", id=node_id(server)),
            "leave": lambda: self._leave(server),
            "save-snapshot": lambda: self._save(chance.choice(self._cluster.agents)),
        }[what]

        def give() -> None:
            try:
                do()
                self.obeyed[what] += 1
            except ClientError as error:
                self.refused.append(f"{what}: {error}")
            except Exception as error:
                self.error = f"{what} of {server.name}: {error!r}"

        thread = threading.Thread(target=give, name=what, daemon=True)
        thread.start()

        def ended() -> None:
            thread.join(3 * ORDER_S)
            assert not thread.is_alive(), f"{what} hangs"

        return ended

    def _transfer(self, chance: random.Random) -> None:
        to = chance.choice([None, *(node_id(server) for server in self._cluster.servers)])
        self._order("POST", "/v1/operator/raft/transfer-leader", id=to)

    def _leave(self, server: Agent) -> None:
        """It gives back its vote and ends, and comes again; whoever may not go stays."""
        self._reach.down(server.name)
        try:
            with closing(server.connect(ORDER_S)) as connection:
                connection.request("PUT", "/v1/agent/leave")
            code = server.wait(ORDER_S)
            assert code == 0, f"it left with exit code {code}"
        except Refused:
            self._reach.up(server.name)
            raise
        except ClientError:
            server.kill()
            self._start(server)
            raise
        self._start(server)

    def _start(self, server: Agent) -> None:
        server.start()
        self._reach.up(server.name)

    def _save(self, agent: Agent) -> None:
        path, began = self._folder / f"saved-{len(self.archives)}.snap", time.monotonic_ns()
        with closing(agent.connect(ORDER_S)) as connection, path.open("wb") as file:
            Snapshot(connection).save(file)
        self.archives.append(Archive(path, began))

    def _order(self, method: str, path: str, *, but: Agent | None = None, **params: str | None) -> None:
        """To any server but that one: it sends it on to whoever leads."""
        server = random.choice([one for one in self._cluster.servers if one.running and one is not but])
        with closing(server.connect(ORDER_S)) as connection:
            connection.request(method, path, params=params)


def node_id(server: Agent) -> str:
    """As its data directory has it; "" while there is none."""
    try:
        return (server.directory / "data" / "node-id").read_text().strip()
    except FileNotFoundError:
        return ""
