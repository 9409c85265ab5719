"""The tier and gossip in one world: what membership makes of both, whatever befalls servers and hosts.

python tests/simulation/mixed.py --from 1 --seeds 100

The servers are those of `run.py`, each with a member of gossip in its process; beside them are hosts without
a server, with a connection to one of them and gossip. All share one network, so a cut takes both ways; some
cuts take gossip alone. Checked is, beyond everything that `run.py` checks: nobody who lived undisturbed is
ever turned critical, who stays away is, gossip breaks none of its laws, and in the end all is one view.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from gossip.laws import Laws
from simulation.node import Node
from simulation.run import SECOND_US, Run
from simulation.speaking import Host, MixedNode, Speaker
from simulation.swarm import Aim
from simulation.witness import Violation
from support.lossy_vfs import LossyVfs, registered

from gemot.agent.gossip.message import Status
from gemot.agent.gossip.view import Event, Place
from gemot.server.model.catalog import SERF_HEALTH, Register

HOSTS = 4

LOOK_US = 100_000
AT_PEACE_US = 10 * SECOND_US
"""Whoever was not disturbed for so long is heard again by everybody."""

MISSED_US = 40 * SECOND_US
"""Whoever was away for so long has failed: the longest suspicion, a lost connection, an election."""

ONE_VIEW_S = 30

PAUSES_US = (1_000_000, 12_000_000)
REST_US = (1_000_000, 6_000_000)

AIM = Aim(
    faults=(
        "partition",
        "one-way",
        "isolate-leader",
        "deaf-leader",
        "minority",
        "pause-one",
        "pause-leader",
        "kill-one",
        "crash-one",
        "crash-leader",
        "crash-all",
        "long-absence",
        "clog",
        "hand-over",
    ),
    chores=("transfer",),
)
"""Faults of the network and of processes: what gossip and connections are to tell apart."""


class Mixed(Run):
    """A run with gossip and hosts."""

    node_type = MixedNode

    def __init__(self, seed: int, directory: Path, vfs: LossyVfs, aim: Aim = AIM) -> None:
        super().__init__(seed, directory, vfs, aim)
        self.speakers: dict[Place, Speaker] = {}
        self.silenced: set[str] = set()
        """Cut off in gossip, and in nothing else."""

        self.laws = _Laws()
        self.hosts = [Host(self, number) for number in range(1, HOSTS + 1)]
        for node in [*self.nodes, *self.spares]:
            assert isinstance(node, MixedNode)
            node.run = self
        self.world.after_event = self._after_event  # type: ignore[assignment]
        self._disturbed_us: dict[str, int] = {}
        self._away_since_us: dict[str, int] = {}
        self.critical: dict[str, bool] = {}
        self.failures = self.deserved = 0
        self._judged = 0

    def _after_event(self, owner: Node | Host | None) -> None:
        if not isinstance(owner, Host):
            self.invariants.after_event(owner)

    def mute(self, one: str, other: str) -> bool:
        return bool(self.silenced & {one, other})

    def saw(self, speaker: Speaker, event: Event) -> None:
        self.laws.look(speaker, event)  # type: ignore[arg-type]

    def everyone(self) -> list[Node | Host]:
        return [*self.nodes, *self.hosts]

    def begin_hosts(self) -> None:
        for host in self.hosts:
            self.world.at(self.random.randrange(SECOND_US), f"{host.name} start", host.start)
        self._look()

    def go(self) -> Any:
        self.begin_hosts()
        self.world.at(5 * SECOND_US, "hosts are disturbed", self._disturb)
        return super().go()

    # -- faults of hosts, and of gossip alone ------------------------------------------------------------

    def _disturb(self) -> None:
        if self.calm:
            return
        us = self.random.randrange(*PAUSES_US)
        host = self.random.choice(self.hosts)
        match self.random.choice(["crash", "pause", "cut", "mute a host", "mute the leader", "all hosts"]):
            case "crash" if host.up:
                host.crash()
                self.world.at(us, f"{host.name} comes back", lambda: host.up or host.start())
            case "pause" if host.up and not host.paused:
                host.pause()
                self.world.at(us, f"{host.name} goes on", host.resume)
            case "cut":
                others = [each.name for each in self.everyone() if each is not host]
                mend = self.network.partition([[host.name], others], one_way=self.random.random() < 0.3)
                self.world.at(us, f"{host.name} is connected", mend)
            case "mute a host":
                self._mute(host.name, us)
            case "mute the leader" if (leader := self.leader()) is not None:
                self._mute(leader.name, us)
            case "all hosts":
                for each in self.hosts:
                    self._mute(each.name, us)
            case _:
                pass
        self.world.at(self.random.randrange(*REST_US), "hosts are disturbed", self._disturb)

    def _mute(self, name: str, us: int) -> None:
        self.silenced.add(name)
        self.world.at(us, f"{name} gossips again", lambda: self.silenced.discard(name))

    def _calm(self) -> None:
        self.silenced.clear()
        for host in self.hosts:
            host.resume()
            if not host.up:
                host.start()
        super()._calm()

    # -- who was disturbed when ------------------------------------------------------------------------

    def _look(self) -> None:
        now = self.world.now_us
        cut = {name for link in self.network._cut for name in link}
        clogged = {name for link in self.network._clogged for name in link}
        for each in self.everyone():
            if not each.up or each.paused or each.name in cut | clogged:
                self._disturbed_us[each.name] = now
            if each.name in self.silenced:
                self._disturbed_us[f"{each.name} in gossip"] = now
            if each.up:
                self._away_since_us.pop(each.name, None)
            else:
                self._away_since_us.setdefault(each.name, now)
        self._look_for_missed(now)
        self.world.at(LOOK_US, "all are looked at", self._look)

    def _at_peace(self, name: str) -> bool:
        since_us = self._disturbed_us.get(name, -AT_PEACE_US)
        return self.world.now_us - since_us >= AT_PEACE_US

    def _look_for_missed(self, now: int) -> None:
        """A host that is away for so long is critical, unless the leaders had no peace."""
        leader = self.leader()
        if leader is None or now - self._disturbed_us.get(leader.name, -MISSED_US) < MISSED_US:
            return
        for host in self.hosts:
            since_us = self._away_since_us.get(host.name)
            known = host.name in self.critical
            if (
                since_us is not None
                and now - since_us >= MISSED_US
                and known
                and not self.critical[host.name]
            ):
                raise Violation(f"{host.name} is away since {since_us / 1e6:.1f} s and passes still")

    def _effect(self, index: int, command: object, result: object) -> None:
        super()._effect(index, command, result)
        if not isinstance(command, Register) or index <= self._judged:
            return
        self._judged = index
        for check in command.checks:
            if check.check_id == SERF_HEALTH:
                self.critical[check.node] = check.status == "critical"
                if check.status == "critical":
                    self._judge_failure(check.node)

    def _judge_failure(self, name: str) -> None:
        """Who was at peace, and heard by a leader in one way at least, does not fail."""
        self.failures += 1
        one = next((each for each in self.everyone() if each.name == name), None)
        leader = self.leader()
        if one is None or leader is None or not self._at_peace(name) or not self._at_peace(leader.name):
            return
        self.deserved += 1
        by_gossip = self._at_peace(f"{leader.name} in gossip") and self._at_peace(f"{name} in gossip")
        server = one.server if isinstance(one, Host) else leader
        if by_gossip or (isinstance(server, Node) and self._at_peace(server.name)):
            raise Violation(f"{name} lived undisturbed, and {leader.name} turned it critical")

    # -- the end ---------------------------------------------------------------------------------------

    def wrong(self) -> list[str]:
        """What somebody holds that is not so: all living members are alive, in each list and the catalog."""
        living: list[Any] = [each for each in [*self.core, *self.hosts] if each.up]
        views = [
            f"{one.name} holds {other.name} {one.speaker.holds(other.member.id)}"
            for one in living
            for other in living
            if one is not other and one.speaker.holds(other.member.id) is not Status.ALIVE
        ]
        failed = [each.name for each in living if self.critical.get(each.name, True)]
        return [*views, *(f"the catalog holds that {name} has failed" for name in failed)]

    def _settle(self) -> None:
        for _ in range(ONE_VIEW_S):
            if not self.wrong():
                break
            self.world.run(self.world.now_us + SECOND_US)
        else:
            raise Violation(f"no single view in the end: {', '.join(self.wrong())}")
        super()._settle()


class _Laws(Laws):
    """Those of gossip, looked at by hand."""

    def __init__(self) -> None:
        self._last = {}
        self.events = 0


def run_seed(seed: int, directory: Path, vfs: LossyVfs) -> Mixed:
    run = Mixed(seed, directory, vfs)
    try:
        run.go()
    finally:
        run.close()
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    failed = failures = 0
    with registered("gemot-mixed") as vfs:
        for seed in range(options.first, options.first + options.seeds):
            directory = Path(tempfile.mkdtemp(prefix="gemot-mixed-"))
            try:
                run = run_seed(seed, directory, vfs)
            except Violation as error:
                failed += 1
                print(f"seed {seed}: {error}", flush=True)
            else:
                failures += run.failures
            finally:
                shutil.rmtree(directory, ignore_errors=True)
    print(f"{options.seeds - failed} passed, {failed} failed; {failures} times a member turned critical")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
