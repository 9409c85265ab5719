"""How a cluster begins: once, with all its servers, whatever is lost or crashes on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.members import server

from gemot.server.bootstrap import Bootstrap, Pledge
from gemot.server.directory import Directory
from gemot.server.model.errors import BadRequest, Conflict, GemotError, Unavailable
from gemot.server.rpc.message import Call, Found, Join, Joined, Member, Promise


class Host:
    """One server's part; pledges and Raft data survive a crash, all else does not."""

    def __init__(self, scene: Scene, member: Member, expect: int) -> None:
        self.scene = scene
        self.member = member
        self.expect = expect
        self.pledge: Pledge | None = None
        self.voters: tuple[str, ...] = ()
        self.cluster = ""
        self.keeping: list[tuple[Pledge, Callable[[], None]]] = []
        self.up = False
        self.hearsay: list[Member] = []
        self.start()

    def start(self) -> None:
        self.up = True
        self.keeping = []
        self.directory = Directory(self.member)
        self.bootstrap = Bootstrap(
            me=self.member,
            expect=self.expect,
            pledge=self.pledge,
            has_data=lambda: bool(self.voters),
            has_leader=lambda: False,
            is_known=lambda member: self.directory.get(member.id) is not None,
            mint_cluster=self.scene.mint,
            call=lambda to, call, done: self.scene.call(self, to, call, done),
            keep=lambda pledge, done: self.keeping.append((pledge, done)),
            begin=self._begin,
            hearsay=lambda: tuple(self.hearsay),
        )

    def crash(self) -> None:
        self.up = False

    def meet(self, *members: Member) -> None:
        for member in members:
            self.directory.hint(member)
            self.bootstrap.rumoured(member)

    def keep(self) -> None:
        """The pledges under way become durable."""
        keeping, self.keeping = self.keeping, []
        for pledge, done in keeping:
            self.pledge = pledge
            done()

    def _begin(self, cluster: str, voters: tuple[Member, ...], _first: bool) -> None:
        assert not self.voters, "a cluster begins once"
        self.cluster = cluster
        self.voters = tuple(sorted(v.id for v in voters))

    def handle(self, sender: Member, call: Call, done: Callable[[Any], None]) -> None:
        if isinstance(call, Promise):
            self.bootstrap.on_promise(call.cluster, sender.id, call.voters, done)
        elif isinstance(call, Found):
            self.bootstrap.on_found(call.cluster, call.voters, done)
        else:
            assert isinstance(call, Join)
            if sender.role == "server":
                self.bootstrap.found(sender, call.expect, "")
            done(Joined((self.member,), self.expect, self.cluster))


class Scene:
    """Servers and the calls between them; `allow` may lose any of them."""

    def __init__(self, count: int = 3, expect: int = 3, **others: int) -> None:
        self.minted = 0
        self.greet = False
        """Do callers and called learn where the other is? They do; most tests tell them before."""

        self.steps = 0
        self.allow: Callable[[Host, Host, Call], bool] = lambda sender, to, call: True
        self.calls: list[Callable[[], None]] = []
        self.hosts = [Host(self, server(n), others.get(f"srv{n}", expect)) for n in range(1, count + 1)]
        self.meet_all()

    def meet_all(self) -> None:
        for host in self.hosts:
            host.meet(*(other.member for other in self.hosts if other is not host))

    def mint(self) -> str:
        self.minted += 1
        return f"cluster{self.minted}"

    def call(self, sender: Host, to: Member, call: Call, done: Callable[[Any], None]) -> None:
        target = next((h for h in self.hosts if h.member.id == to.id), None)
        boot = sender.bootstrap

        def answered(result: Any) -> None:
            if sender.up and sender.bootstrap is boot:
                done(result)

        def deliver() -> None:
            if target is None or not target.up or not self.allow(sender, target, call):
                answered(Unavailable("unreachable"))
            else:
                if self.greet:
                    target.directory.learn(sender.member)
                    sender.directory.learn(target.member)
                target.handle(sender.member, call, lambda r: self.calls.append(lambda: answered(r)))

        self.calls.append(deliver)

    def step(self) -> bool:
        """One thing happens: a pledge is kept or a message arrives."""
        self.steps += 1
        for host in self.hosts:
            if host.up and host.keeping:
                host.keep()
                return True
        if self.calls:
            self.calls.pop(0)()
            return True
        return False

    def run(self, ticks: int = 6) -> None:
        for _ in range(ticks):
            for host in self.hosts:
                if host.up:
                    host.bootstrap.on_tick()
            while self.step():
                pass

    def begun(self) -> list[str]:
        return [host.cluster for host in self.hosts]


def test_all_servers_begin_one_cluster_with_the_same_voters() -> None:
    scene = Scene()
    scene.run()
    assert scene.begun() == ["cluster1"] * 3
    assert {host.voters for host in scene.hosts} == {tuple(h.member.id for h in scene.hosts)}


def test_servers_that_were_merely_heard_of_begin_once_they_have_answered() -> None:
    """Nobody was told of anybody; and one of them was invented, by whoever can speak in gossip."""
    scene = Scene(count=0)
    scene.greet = True
    members = [server(n) for n in range(1, 4)]
    scene.hosts = [Host(scene, member, 3) for member in members]
    invented = server(9, id="00000000-0000-4000-8000-000000000000")
    for host in scene.hosts:
        host.hearsay = [invented, *(member for member in members if member is not host.member)]
    scene.run()
    assert {host.cluster for host in scene.hosts} == {"cluster1"}
    assert {host.voters for host in scene.hosts} == {tuple(sorted(member.id for member in members))}


def test_servers_that_answer_more_slowly_than_they_are_asked_begin_all_the_same() -> None:
    """Each message is under way for longer than a tick, so each answer comes when it was asked for again."""
    scene = Scene()
    under_way: list[list[Callable[[], None]]] = [[]]
    for _ in range(30):
        for host in scene.hosts:
            host.bootstrap.on_tick()
        under_way.append(scene.calls)
        scene.calls = []
        for arrive in under_way.pop(0):
            arrive()
        for host in scene.hosts:
            host.keep()
    assert scene.begun() == ["cluster1"] * 3


def test_a_lone_server_begins_by_itself() -> None:
    scene = Scene(1, expect=1)
    scene.run(1)
    assert scene.begun() == ["cluster1"]


def test_nobody_begins_before_all_are_there() -> None:
    scene = Scene(3)
    scene.hosts[2].crash()
    scene.run()
    assert scene.begun() == [""] * 3
    assert all(host.pledge is None for host in scene.hosts), "and nobody has promised anything"
    assert "srv3: unreachable" in scene.hosts[0].bootstrap.waiting_for
    scene.hosts[2].start()
    scene.meet_all()
    scene.run()
    assert scene.begun() == ["cluster1"] * 3


@pytest.mark.parametrize("founder", [1, 2, 3])
def test_servers_that_are_to_join_later_are_not_waited_for(founder: int) -> None:
    """They may ask to join before the first has begun, and it may hear of them before it asks them."""
    scene = Scene(3, expect=0, **{f"srv{founder}": 1})
    scene.run(1)
    assert [h.voters for h in scene.hosts if h.voters] == [(server(founder).id,)]


def test_a_server_that_expects_another_number_is_not_counted_until_it_is_made_equal() -> None:
    scene = Scene(3, srv2=5)
    scene.run()
    assert scene.begun() == [""] * 3
    assert "srv2 has bootstrap_expect 5, this server 3" in scene.hosts[0].bootstrap.waiting_for
    assert "have 2 of 3 (srv1, srv3)" in scene.hosts[0].bootstrap.waiting_for
    scene.hosts[1].expect = 3
    scene.hosts[1].start()
    scene.run(12)
    assert len(scene.hosts[1].voters) == 3
    assert scene.begun() == ["cluster1"] * 3


def test_what_is_waited_for_is_told() -> None:
    host = Scene(1, expect=3).hosts[0]
    assert host.bootstrap.waiting_for == "Waiting for servers: have 1 of 3 (srv1)"
    host.bootstrap.found(server(2), 5, "")
    assert "srv2 has bootstrap_expect 5, this server 3: make them equal" in host.bootstrap.waiting_for


def test_who_comes_too_late_is_told_whose_cluster_there_is() -> None:
    host = Scene(1, expect=3).hosts[0]
    host.bootstrap.found(server(2), 3, "c9")
    assert "srv2 belongs to cluster c9 already" in host.bootstrap.waiting_for


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("at", range(1, 24))
def test_a_crash_at_any_point_delays_the_beginning_and_breaks_nothing(number: int, at: int) -> None:
    """One server crashes after `at` steps, loses what was not durable, and starts again."""
    scene = Scene()
    victim = scene.hosts[number]
    for _ in range(12):
        for host in scene.hosts:
            if host.up:
                host.bootstrap.on_tick()
        while scene.step():
            if scene.steps == at:
                victim.crash()
        if not victim.up:
            victim.start()
            scene.meet_all()
    assert len(set(scene.begun())) == 1
    assert scene.begun()[0]
    assert len({host.voters for host in scene.hosts}) == 1


def test_a_founder_that_lost_the_beginning_begins_when_it_hears_one_that_did_not() -> None:
    """The others may need its vote: it does not wait for a leader to hand it the first entry."""
    scene = Scene()
    proposer, *others = scene.hosts
    scene.run(2)
    proposer.crash()
    proposer.cluster, proposer.voters = "", ()
    proposer.start()
    assert not proposer.bootstrap.founded("another cluster")
    assert proposer.voters == ()
    assert proposer.bootstrap.founded(others[0].cluster)
    assert proposer.voters == others[0].voters
    assert proposer.bootstrap.founded(others[0].cluster), "and only once: it has its data now"


def test_a_server_that_promised_nothing_belongs_to_no_cluster_that_speaks_to_it() -> None:
    host = Scene(1, expect=3).hosts[0]
    assert not host.bootstrap.founded("c9")
    assert host.voters == ()


@pytest.mark.parametrize("lost", [Promise, Found, Join])
def test_a_message_that_is_lost_is_sent_again(lost: type) -> None:
    scene = Scene()
    left = 3

    def allow(_sender: Host, _to: Host, call: Call) -> bool:
        nonlocal left
        if isinstance(call, lost) and left:
            left -= 1
            return False
        return True

    scene.allow = allow
    scene.run(10)
    assert left == 0
    assert len(set(scene.begun())) == 1
    assert scene.begun()[0]


def _told(ask: Callable[[Callable[[Any], None]], None]) -> list[Any]:
    told: list[Any] = []
    ask(told.append)
    return told


def _members(*numbers: int) -> tuple[Member, ...]:
    return tuple(server(n) for n in numbers)


def test_a_second_promise_is_refused_even_before_the_first_is_durable() -> None:
    host = Scene(3).hosts[2]
    boot, voters = host.bootstrap, _members(1, 2, 3)
    first = _told(lambda done: boot.on_promise("x", server(1).id, voters, done))
    again = _told(lambda done: boot.on_promise("x", server(1).id, voters, done))
    other = _told(lambda done: boot.on_promise("y", server(2).id, voters, done))
    assert first == again == [], "nothing is said before it is durable"
    assert isinstance(other[0], Conflict)
    assert "srv3 has promised cluster x" in other[0].message
    assert f"not y (proposed by {server(2).id})" in other[0].message
    host.keep()
    assert first == again == [True]
    assert host.pledge is not None
    assert host.pledge.cluster == "x"


def test_a_server_with_data_refuses_naming_itself() -> None:
    scene = Scene()
    scene.run()
    host = scene.hosts[0]
    told = _told(lambda done: host.bootstrap.on_promise("other", server(2).id, _members(1, 2), done))
    assert isinstance(told[0], Conflict)
    assert told[0].message.startswith("srv1 has ")
    assert host.cluster == "cluster1"


def test_a_server_that_joined_has_promised_nothing_and_refuses_too() -> None:
    host = Scene(3).hosts[2]
    host.voters = (server(1).id, server(2).id)
    told = _told(lambda done: host.bootstrap.on_promise("x", server(1).id, _members(1, 2, 3), done))
    assert isinstance(told[0], Conflict)
    assert "srv3 has Raft data already" in told[0].message
    assert host.keeping == []


@pytest.mark.parametrize("voters", [(), _members(1, 2), _members(3, 3)])
def test_voters_that_cannot_be_are_not_promised(voters: tuple[Member, ...]) -> None:
    host = Scene(3).hosts[2]
    told = _told(lambda done: host.bootstrap.on_promise("x", server(1).id, voters, done))
    assert isinstance(told[0], BadRequest)
    assert host.keeping == []


@pytest.mark.parametrize(("cluster", "voters"), [("x", ()), ("x", _members(2, 3)), ("y", _members(1, 2, 3))])
def test_only_what_was_promised_is_begun(cluster: str, voters: tuple[Member, ...]) -> None:
    host = Scene(3).hosts[2]
    _told(lambda done: host.bootstrap.on_promise("x", server(1).id, _members(1, 2, 3), done))
    host.keep()
    told = _told(lambda done: host.bootstrap.on_found(cluster, voters, done))
    assert isinstance(told[0], GemotError)
    assert host.voters == ()


def test_a_server_wiped_before_the_beginning_does_not_count_twice() -> None:
    """Its old id is met second hand; nobody answers for it, and its address is another's now."""
    scene = Scene(3)
    old = server(4, rpc=server(2).rpc, name="srv2")
    scene.hosts[0].meet(old)
    scene.run(2)
    assert scene.begun() == [""] * 3
    # The new srv2 is heard first hand, at the address of the old one.
    scene.hosts[0].directory.learn(server(2))
    scene.run()
    assert scene.begun() == ["cluster1"] * 3
    assert old.id not in scene.hosts[0].voters
    scene.hosts[0].directory.hint(old)
    assert scene.hosts[0].directory.get(old.id) is None, "hearsay does not bring it back"
