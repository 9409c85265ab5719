"""What one without the key can send to a live agent whose gossip is sealed, and what each piece comes to.

make gossip-fuzz-live PACKETS=1000000
.venv/bin/python tests/gossip/fuzz_sealed.py --datagrams 1000000 --campaign      keeps it in RESULTS.md

All that the others say to the agent passes a wire on which everything is recorded (`support/wire.py`). It is
shown to the agent again, whole, cut off, with bits flipped, as what it is not; beside that random bytes, good
words sealed with another key or for another label, and words in clear. One turn is two thousand datagrams of
one kind, or forty connections: the agent must have dropped each, counted it in its metric by a reason that
fits the kind, answered none, and hold the same members as before. In between it is pinged, under the key. In
the end it must do what `fuzz_live.py` asks of it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)

from gossip.fuzz import STRANGERS, some_stream_word, some_word, spoiled
from gossip.fuzz_live import ALIVE, PATIENCE_S, Prey, assert_it_goes_on
from gossip.record import keep
from support.cluster import Agent, Cluster, wait_for
from support.wire import Wire

from gemot.agent.gossip import packet, stream
from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.seal import NONCE_BYTES, Purpose, Seal

KEY = Key(b"k" * 32)
LABEL = "blue"
DATAGRAMS_A_TURN = 2_000
DATAGRAMS_A_CONNECTION = 50
BETWEEN_PINGS = 50
COUNTED_S = 60.0
RECORDED = 8
"""Datagrams each way, from when on there is enough to begin with."""

MOST_GROWTH_MIB = 48
"""Fifty bytes kept of each datagram of a million take as much."""

WIRE_HOST = "127.0.3.101"

FRONT = frozenset({"stranger", "too_old", "too_new", "truncated", "wrong_label", "unsealed"})
"""What the beginning of an envelope can be taken for."""

SPOILED = FRONT | {"no_key_fits"}
ON_STREAM = SPOILED | {"malformed", "broken_off"}


class Kind(NamedTuple):
    """What is sent, and what it may be dropped for."""

    make: Callable[[Stranger], bytes]
    why: frozenset[str]


class Stranger:
    """Has heard all that was on the wire, knows the label, and has no key."""

    def __init__(self, seed: int, wire: Wire) -> None:
        self.random = random.Random(seed)
        self.wire = wire
        self._seals = {
            (purpose, name): Seal(
                purpose=purpose, label=label, sender="x", wall_ms=int(time.time() * 1000), ring=ring
            )
            for purpose in Purpose
            for name, label, ring in (
                ("another key", LABEL, STRANGERS),
                ("another label", "red", Keyring([KEY])),
                ("in clear", LABEL, None),
            )
        }

    def random_bytes(self) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 2, 7, 100, 1_400, 1_400]))

    def random_inside(self) -> bytes:
        """Behind a front that is right."""
        return self.genuine[: 2 + len(LABEL)] + self.random.randbytes(self.random.randint(1, 1_300))

    @property
    def genuine(self) -> bytes:
        return self.random.choice(self.wire.datagrams)

    @property
    def own(self) -> bytes:
        """What the agent itself has said."""
        return self.random.choice(self.wire.answers)

    @property
    def question(self) -> bytes:
        return self.random.choice(self.wire.questions)

    @property
    def envelope(self) -> bytes:
        """Of a question."""
        return self.question[1 + stream.LENGTH_BYTES :]

    def cut(self, data: bytes) -> bytes:
        return data[: self.random.randrange(1, len(data))]

    def flipped(self, data: bytes) -> bytes:
        """Distinct bits, so it is never what it was."""
        bits = self.random.sample(range(8 * len(data)), self.random.choice([1, 1, 1, 2, 8]))
        changed = int.from_bytes(data, "big")
        for bit in bits:
            changed ^= 1 << bit
        return changed.to_bytes(len(data), "big")

    def sealed(self, purpose: Purpose, how: str) -> bytes:
        r = self.random
        words = packet.pack([packet.word_bytes(some_word(r)) for _ in range(r.randint(1, 6))], 1 << 20)
        body = words if purpose is Purpose.DATAGRAM else stream.word_bytes(some_stream_word(r))
        return self._seals[purpose, how].seal(body, r.randbytes(NONCE_BYTES))


def framed(envelope: bytes) -> bytes:
    return stream.GREETING + stream.frame(envelope)


def _some(*why: str) -> frozenset[str]:
    return frozenset(why)


DATAGRAMS = {
    "random bytes": Kind(Stranger.random_bytes, FRONT),
    "random bytes behind the label": Kind(Stranger.random_inside, _some("no_key_fits", "truncated")),
    "replayed": Kind(lambda s: s.genuine, _some("replayed")),
    "its own, sent back": Kind(lambda s: s.own, _some("reflected")),
    "cut off": Kind(lambda s: s.cut(s.genuine), _some("no_key_fits", "truncated")),
    "bits flipped": Kind(lambda s: s.flipped(s.genuine), SPOILED),
    "spoiled": Kind(lambda s: spoiled(s.random, s.genuine), SPOILED | {"replayed"}),
    "two in one": Kind(lambda s: s.genuine + s.genuine, _some("no_key_fits")),
    "a frame as a datagram": Kind(lambda s: s.envelope, _some("no_key_fits")),
    "another key": Kind(lambda s: s.sealed(Purpose.DATAGRAM, "another key"), _some("no_key_fits")),
    "another label": Kind(lambda s: s.sealed(Purpose.DATAGRAM, "another label"), _some("wrong_label")),
    "in clear": Kind(lambda s: s.sealed(Purpose.DATAGRAM, "in clear"), _some("unsealed")),
}
CONNECTIONS = {
    "random bytes": Kind(lambda s: s.random_bytes() or b"\0", ON_STREAM),
    "replayed": Kind(lambda s: s.question, _some("replayed")),
    "cut off": Kind(lambda s: s.cut(s.question), _some("broken_off")),
    "cut off, with that length": Kind(lambda s: framed(s.cut(s.envelope)), _some("no_key_fits", "truncated")),
    "bits flipped": Kind(lambda s: s.flipped(s.question), ON_STREAM),
    "spoiled": Kind(lambda s: spoiled(s.random, s.question) or b"\0", ON_STREAM | {"replayed"}),
    "a datagram as a frame": Kind(lambda s: framed(s.genuine), _some("no_key_fits")),
    "another key": Kind(lambda s: framed(s.sealed(Purpose.FRAME, "another key")), _some("no_key_fits")),
    "another label": Kind(lambda s: framed(s.sealed(Purpose.FRAME, "another label")), _some("wrong_label")),
    "in clear": Kind(lambda s: framed(s.sealed(Purpose.FRAME, "in clear")), _some("unsealed")),
}


class Fire:
    """The stranger's two guns, and what became of each kind."""

    def __init__(self, prey: Prey, stranger: Stranger, by: str) -> None:
        self._prey = prey
        self._stranger = stranger
        self._by = by
        self._pings = 0
        self._gun = socket.socket(type=socket.SOCK_DGRAM)
        self._gun.bind((prey.agent.host, 0))
        self.members = held_by(prey.agent)
        self.sent: Counter[str] = Counter()
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def close(self) -> None:
        self._gun.close()

    def datagrams(self, name: str, count: int) -> None:
        """A kind's turn."""
        kind = DATAGRAMS[name]
        with self._counted(f"datagrams: {name}", kind, count):
            for number in range(1, count + 1):
                self._gun.sendto(kind.make(self._stranger), self._prey.place)
                if number % BETWEEN_PINGS == 0 or number == count:
                    self._pings += 1
                    self._prey.await_answer(self._pings, self._by)

    def connections(self, name: str, count: int) -> None:
        kind = CONNECTIONS[name]
        with self._counted(f"connections: {name}", kind, count):
            for _ in range(count):
                data = kind.make(self._stranger)
                answer = self._ask(data)
                assert not answer, f"{name}: {data.hex()} was answered: {answer.hex()}"

    def _ask(self, data: bytes) -> bytes:
        """All that comes back until the agent hangs up."""
        answer = b""
        made = socket.create_connection(self._prey.place, PATIENCE_S)
        with made, contextlib.suppress(ConnectionError):  # it may hang up at the first byte
            made.sendall(data)
            made.shutdown(socket.SHUT_WR)
            while piece := made.recv(65_536):
                answer += piece
        return answer

    @contextlib.contextmanager
    def _counted(self, name: str, kind: Kind, count: int) -> Iterator[None]:
        before = self._prey.dropped()
        yield
        # Figures are brought up to date each so often. What comes too much spoils the next turn's count.
        what = f"{count} {name} are counted after {dict(before)}"
        enough = lambda: (now := self._prey.dropped() - before).total() >= count and now  # noqa: E731
        dropped: Counter[str] = wait_for(enough, COUNTED_S, what, [self._prey.agent])
        self.sent[name] += count
        self.dropped[name] += dropped
        assert dropped.total() == count, f"{count} {name}, and counted are {dict(dropped)}"
        assert set(dropped) <= kind.why, f"{name}, and counted are {dict(dropped)}"
        assert held_by(self._prey.agent) == self.members, f"{name}: {held_by(self._prey.agent)}"


def held_by(agent: Agent) -> list[dict[str, Any]]:
    """All that it holds of its members, but whether they live."""
    listed = agent.get("/v1/agent/members")
    return sorted(({**one, "Status": 0} for one in listed), key=lambda one: str(one["Name"]))


def fire(gun: Fire, datagrams: int, tell: Callable[[int], None]) -> None:
    """A turn of each kind, over and over: so many datagrams, and a connection to each fifty of them."""
    sent = 0
    a_turn = min(DATAGRAMS_A_TURN, max(BETWEEN_PINGS, datagrams // len(DATAGRAMS)))
    connections = list(CONNECTIONS)
    for turn in range(-(-datagrams // a_turn)):
        count = min(a_turn, datagrams - sent)
        gun.datagrams(list(DATAGRAMS)[turn % len(DATAGRAMS)], count)
        gun.connections(connections[turn % len(connections)], max(1, count // DATAGRAMS_A_CONNECTION))
        sent += count
        if turn % 50 == 49:
            tell(sent)


def record(cluster: Cluster, prey: Prey, wire: Wire) -> None:
    """Wait until the others have said something to it, by datagram and by exchange."""
    others = [agent for agent in cluster.agents if agent.running and agent is not prey.agent]
    place = f"{WIRE_HOST}:{prey.place[1]}"

    def enough() -> bool:
        for agent in others:
            agent.put(f"/v1/agent/join/{place}")
        return min(len(wire.datagrams), len(wire.answers), len(wire.questions)) >= RECORDED

    wait_for(enough, PATIENCE_S, "enough is recorded", others)


def live(cluster: Cluster, wire: Wire, options: argparse.Namespace) -> tuple[str, list[list[str]]]:
    """What came of it, in a sentence and as a table. Raises AssertionError for what must not be."""
    *old, new = cluster.agents
    for agent in old:
        agent.start()
    wait_for(cluster.leader, PATIENCE_S, "a leader", old)
    prey: Prey = wait_for(lambda: Prey(old[1], Keyring([KEY]), LABEL), PATIENCE_S, "it answers", old)
    wait_for(lambda: all(prey.lists(agent, ALIVE) for agent in old), PATIENCE_S, "all are alive", old)
    record(cluster, prey, wire)
    began, resident, already = time.monotonic(), prey.memory_mib(), prey.dropped()
    assert not already.total(), f"at peace it has dropped {dict(already)}"
    by = old[-1].get("/v1/agent/self")["Config"]["NodeID"]
    gun = Fire(prey, Stranger(options.seed, wire), by)
    fire(gun, options.datagrams, lambda sent: print(f"{sent:,}: {prey.memory_mib():.0f} MiB", flush=True))
    took_s, after, peak = time.monotonic() - began, prey.memory_mib(), prey.memory_mib("VmHWM")
    gun.close()
    assert_it_goes_on(prey, old, new, kill=options.kill)
    prey.close()
    assert after - resident < MOST_GROWTH_MIB, f"it has {after - resident:.0f} MiB more than before"
    rate = sum(gun.sent.values()) / took_s
    told = f"{resident:.0f} MiB before, {after:.0f} after, {peak:.0f} at most; {rate:,.0f} a second."
    rows = [["what", "sent", "dropped as"]]
    for name, sent in sorted(gun.sent.items(), key=lambda each: each[0].split(":")[0], reverse=True):
        why = ", ".join(f"{why} {count:,}" for why, count in gun.dropped[name].most_common())
        rows.append([name, f"{sent:,}", why])
    return told, rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datagrams", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-kill", action="store_false", dest="kill", help="let the old member live")
    parser.add_argument("--campaign", action="store_true", help="keep it in RESULTS.md")
    options = parser.parse_args()
    began = time.monotonic()
    sealed = {"encrypt": KEY.text, "gossip_label": LABEL}
    with tempfile.TemporaryDirectory(prefix="gemot-fuzz-") as folder:
        cluster = Cluster(Path(folder), servers=1, clients=3, network="127.0.3", config=sealed)
        agent = cluster.agents[1]
        agent.write_config(advertise_addr=WIRE_HOST)
        wire = Wire((WIRE_HOST, agent.ports["serf_lan"]), (agent.host, agent.ports["serf_lan"]))
        wire.start()
        try:
            told, rows = live(cluster, wire, options)
        finally:
            cluster.stop()
            wire.stop()
    for name, sent, why in rows:
        print(f"{name:<42}{sent:>10}  {why}")
    print(told)
    if options.campaign:
        text = (
            "Fired at a live client agent with `encrypt` and `gossip_label`, by one who hears the wire and "
        )
        text += "has no key. Each piece was counted by the agent's metric for what is said here and not "
        text += (
            "answered; its members stayed the same throughout. It then took in a new member, and missed an "
        )
        text += f"old one that was killed. {told}"
        keep("fuzz, live, sealed", text, rows, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
