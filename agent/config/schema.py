"""What may be set: one frozen tree, with a default for every value.

Keys are Consul's; where the word here differs from the key (a unit at its end) the key stands in `name=`.
A float is a duration in seconds, written in files as Consul writes it ("10s"). Consul's other keys are in
`known.py`. Ours, which Consul does not have: `templates`, `raft_log_segment_bytes`, `unsafe_no_fsync`,
`limits.disk_reserve_bytes`, `limits.scrub_*`, `http_config.allowed_hosts`, `gossip_label`, and what is
below `snapshot_agent`, `mass_failure` and `kv_history`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

if TYPE_CHECKING:
    from gemot.agent.registration import Registration
    from gemot.agent.template.definition import TemplateDefinition
    from gemot.checks.definition import CheckDefinition
else:  # what reads them is handed in, so that this module needs none of it
    Registration = TemplateDefinition = CheckDefinition = Any

DAY_S = 86_400.0

Port = Annotated[int, Meta(ge=-1, le=65535)]
Seconds = Annotated[float, Meta(ge=0.0, le=365 * DAY_S)]
TtlSeconds = Annotated[int, Meta(ge=0, le=2**31 - 1)]
LogLevel = Literal["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]


class Addresses(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a listener binds when that is not `client_addr`: addresses separated by spaces, or ""."""

    dns: str = ""
    """DNS may face the network (it only reads) while HTTP stays on the host."""
    http: str = ""
    """Anything but loopback opens writes to whoever reaches it."""


class Ports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ports, Consul's numbers. -1 turns a listener off."""

    dns: Port = 8600
    """53 needs a privilege; 8600 does not, and resolvers forward to it."""
    http: Port = 8500
    """Off, only DNS and templates are left to this host's programs."""
    server: Port = 8300
    """RPC and Raft between agents and servers; one number for the whole cluster saves writing it out."""
    serf_lan: Port = 8301
    """Where `retry_join` asks who the servers are."""


class Soa(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times of the zone's SOA record, whole seconds."""

    refresh_s: TtlSeconds = field(default=3600, name="refresh")
    """For secondaries, which this zone does not have; resolvers show it."""
    retry_s: TtlSeconds = field(default=600, name="retry")
    """As `refresh`."""
    expire_s: TtlSeconds = field(default=86400, name="expire")
    """As `refresh`."""
    min_ttl_s: TtlSeconds = field(default=0, name="min_ttl")
    """How long "no such name" may be cached: 0 finds a new service at once, more spares queries."""


class DnsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How names are answered."""

    node_ttl_s: Seconds = field(default=0.0, name="node_ttl")
    """How long resolvers keep a node's address: 0 is always fresh, more takes load off."""
    service_ttl_s: dict[str, Seconds] = field(default_factory=dict, name="service_ttl")
    """The same by service name; "web*" is a prefix and "*" is every service."""
    only_passing: bool = False
    """Leave out instances with warnings too: safer answers, fewer of them."""
    udp_answer_limit: Annotated[int, Meta(ge=0, le=10_000)] = 3
    """Records in one UDP answer: few fit everywhere, many spread load; 0 is as many as fit."""
    a_record_limit: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Address records in any answer, UDP or TCP; 0 is no limit of its own."""
    enable_truncate: bool = False
    """Set TC when records were left out, so that resolvers ask again over TCP: complete, but slower."""
    enable_additional_node_meta_txt: bool = True
    """Node meta as TXT records beside an answer: more to learn, larger replies."""
    soa: Soa = Soa()


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Greatest counts and sizes. Low ones protect the agent, high ones serve bigger hosts."""

    http_max_conns_per_client: Annotated[int, Meta(ge=1, le=100_000)] = 200
    """Connections of one address; each blocking query holds one. Without a limit one host can use up all."""
    rpc_max_conns_per_client: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """The same on the servers' port."""
    rpc_handshake_timeout_s: Annotated[float, Meta(ge=0.1, le=60.0)] = field(
        default=5.0, name="rpc_handshake_timeout"
    )
    """How long a connection may stay silent before its hello."""
    kv_max_value_size: Annotated[int, Meta(ge=1, le=8 * 2**20)] = 524_288
    """Bytes of one value. Every write is kept in the log of every server: large ones hold up all others."""
    txn_max_ops: Annotated[int, Meta(ge=1, le=1024)] = 128
    """Operations of one transaction, and keys of one `gemot kv rollback`. Consul takes 128. All others wait
    while a large one is carried out: 1024 operations hold up the servers for up to a tenth of a second."""
    txn_max_req_len: Annotated[int, Meta(ge=0, le=8 * 2**20)] = 524_288
    """Bytes of the body of a transaction, with its values in base64; `kv_max_value_size` if that is more."""
    disk_reserve_bytes: Annotated[int, Meta(ge=-1, le=2**50)] = -1
    """Bytes kept free on a server's disk for deletes, leaves and repair: before it is touched, writes are
    refused with 503. -1 is what a snapshot, two log segments and the state's log take, and 256 MiB or an
    eighth of the disk at least; 0 keeps none, and a full disk stops the server."""
    scrub_bytes_per_second: Annotated[int, Meta(ge=0, le=2**40)] = 8 * 2**20
    """How fast a server reads through what lies still on its disk (log, snapshots, state) to find damage
    while others still have what is damaged. More finds it sooner and takes the disk's time; 0 never looks."""
    scrub_interval_s: Annotated[float, Meta(ge=1.0, le=DAY_S)] = field(default=DAY_S, name="scrub_interval")
    """From the beginning of one such pass to that of the next."""


class Performance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How quickly the servers act on silence."""

    raft_multiplier: Annotated[int, Meta(ge=1, le=10)] = 1
    """Times heartbeat (150 ms) and election (1 to 2 s): 1 recovers soonest, more forgives slow hosts."""
    rpc_hold_timeout_s: Annotated[float, Meta(ge=0.0, le=60.0)] = field(default=7.0, name="rpc_hold_timeout")
    """How long a request waits for a leader before it fails: long enough to bridge an election."""


class Autopilot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the servers are looked after, until `gemot operator autopilot set-config` says otherwise."""

    cleanup_dead_servers: bool = True
    """Take the vote of a server that is gone for good. Off, each one that dies is removed by hand."""
    last_contact_threshold_s: Annotated[float, Meta(ge=0.001, le=DAY_S)] = field(
        default=0.2, name="last_contact_threshold"
    )
    """How late an answer may be, beyond a heartbeat, before its server counts as unhealthy."""
    max_trailing_logs: Annotated[int, Meta(ge=1, le=100_000_000)] = 250
    """Entries a server may be behind and still count as healthy."""
    min_quorum: Annotated[int, Meta(ge=0, le=99)] = 0
    """Voters that clean-up leaves at least: at the number of servers, none goes before another comes."""
    server_stabilization_time_s: Annotated[float, Meta(ge=0.0, le=DAY_S)] = field(
        default=10.0, name="server_stabilization_time"
    )
    """How long a new server must be healthy before it votes, and a dead one be dead before it is removed."""


class MassFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When so many hosts fail at once that the network is more likely at fault: they stay in service for a
    while, marked in the output of their serfHealth. The servers' values count."""

    percent: Annotated[int, Meta(ge=1, le=100)] = 30
    """More than this share of all hosts is many. Less keeps sooner what cannot be reached; 100 is off."""
    least: Annotated[int, Meta(ge=2, le=1_000_000)] = 5
    """And so many hosts at least: in a small cluster a few that die together are no rare thing."""
    window_s: Annotated[float, Meta(ge=1.0, le=600.0)] = field(default=30.0, name="window")
    """Within this time they count as failing together; shorter than failures take to be seen, none do."""
    hold_s: Annotated[float, Meta(ge=1.0, le=60.0)] = field(default=60.0, name="hold")
    """How long each is kept: long enough to put a switch back, and all that time callers may reach nobody,
    and locks of sessions without a TTL stay with who is gone."""


class KvHistory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of what keys were is kept, for `gemot kv log`, `show`, `diff` and `rollback`. The leader's
    values count."""

    revisions: Annotated[int, Meta(ge=0, le=10_000)] = 64
    """Old revisions of each key that are told; older ones go when there are many. 0 keeps no history, and
    forgets it."""
    keep_s: Annotated[float, Meta(ge=60.0, le=365 * DAY_S)] = field(default=30 * DAY_S, name="keep")
    """How long a revision is kept after it was replaced or deleted, by the leader's wall clock."""
    max_bytes: Annotated[int, Meta(ge=2**20, le=2**36)] = 128 * 2**20
    """What all of them may take, in the state of every server and in each snapshot; the oldest go first."""


class SnapshotAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Snapshots of the whole state, saved to files by whichever server leads."""

    enabled: bool = False
    """Set it on every server: the leader alone does the work. A copy off the host is still yours to make."""
    interval_s: Annotated[float, Meta(ge=1.0, le=365 * DAY_S)] = field(default=3600.0, name="interval")
    """Between two: what may be lost with all servers at once, against reading and packing all that often."""
    retain: Annotated[int, Meta(ge=1, le=100_000)] = 30
    """Files kept in `path`, on each server that led; older ones are removed."""
    path: str = ""
    """The directory for them, absolute, best on another disk than `data_dir`; they hold every key. The
    systemd unit allows /var/lib/gemot alone: a drop-in with ReadWritePaths= adds another place."""
    verify: bool = True
    """Read each back and check all of it before it bears its name: as much work again, and surely whole."""


class GossipLan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast gossip goes. All members are to have the same; other LANs need other numbers rarely."""

    probe_interval_s: Annotated[float, Meta(ge=0.1, le=60.0)] = field(default=1.0, name="probe_interval")
    """Each member asks one other so often whether it lives. Shorter finds failures sooner, and sends more."""
    probe_timeout_s: Annotated[float, Meta(ge=0.01, le=30.0)] = field(default=0.5, name="probe_timeout")
    """How long its answer may take before others try: above the slowest usual way, below `probe_interval`."""
    suspicion_mult: Annotated[int, Meta(ge=2, le=30)] = 4
    """Times `probe_interval` and the logarithm of the members: what a silent member has at least to say that
    it lives. More calls fewer slow hosts dead, and dead ones later."""
    gossip_interval_s: Annotated[float, Meta(ge=0.02, le=10.0)] = field(default=0.2, name="gossip_interval")
    """News goes on so often, to `gossip_nodes` others: shorter spreads sooner; `probe_interval` at most."""
    gossip_nodes: Annotated[int, Meta(ge=1, le=20)] = 3
    """To so many others at a time."""
    retransmit_mult: Annotated[int, Meta(ge=1, le=20)] = 4
    """How often each member passes on one piece of news, times the logarithm of the members: more gets
    through more loss."""


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    response_headers: dict[str, str] = {}
    """Sent with every answer. `Access-Control-Allow-Origin` opens the API to web pages: choose with care."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which browsers may reach the API beside addresses and names without dots: each one more lets
    whoever controls it point it here. ".example.com" is all below that name, "*" turns the guard off."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything an agent is told. Complete after `load`; ready for use after `resolve`."""

    # Who this agent is
    node_name: str = ""
    """The name in the catalog and in DNS; "" is the host's name. Changing it makes a new node."""
    node_id: str = ""
    """A UUID; "" makes one at the first start and keeps it in `data_dir`, which is nearly always right."""
    node_meta: dict[str, str] = {}
    """Labels for filters. Small and rarely changed: every change is a write to the catalog."""
    datacenter: str = "dc1"
    """Part of DNS names; all agents of a cluster share it."""
    tagged_addresses: dict[str, str] = {}
    """Other addresses of this host by purpose ("wan")."""
    data_dir: str = ""
    """State that must survive a restart: on a server the log, so a real disk. "" only with -dev."""
    dev_mode: bool = False
    """One server by itself that forgets everything at exit: for trying out and tests, never to keep data."""

    # The server tier
    server: bool = False
    """Take part in Raft. Three or five in a cluster: more survive more failures, and slow every write."""
    bootstrap: bool = False
    """Elect itself as the only server. On a second server it would make a second cluster: prefer the next."""
    bootstrap_expect: Annotated[int, Meta(ge=0, le=99)] = 0
    """Wait for so many servers before the first election. 3 is usual; unused once there is Raft data."""
    performance: Performance = Performance()
    autopilot: Autopilot = Autopilot()
    mass_failure: MassFailure = MassFailure()
    kv_history: KvHistory = KvHistory()
    raft_snapshot_threshold: Annotated[int, Meta(ge=16, le=100_000_000)] = 16_384
    """Entries between snapshots: fewer make restarts quick, more make snapshots rare."""
    raft_trailing_logs: Annotated[int, Meta(ge=16, le=100_000_000)] = 10_240
    """Entries kept behind a snapshot, so that a server which was away catches up without a whole copy."""
    raft_log_segment_bytes: Annotated[int, Meta(ge=65_536, le=2**30)] = 64 * 2**20
    """Size of a preallocated log file: small ones free disk space sooner, large ones are made less often."""
    snapshot_agent: SnapshotAgent = SnapshotAgent()
    unsafe_no_fsync: bool = False
    """Acknowledge before data is on the disk: faster, and a power cut loses writes. Only with -dev."""

    session_ttl_min_s: Annotated[float, Meta(ge=1.0, le=DAY_S)] = field(default=10.0, name="session_ttl_min")
    """Shortest TTL of a session that this agent takes: shorter ones find dead holders sooner."""
    session_ttl_multiplier: Annotated[int, Meta(ge=1, le=10)] = 1
    """How many of its TTL a session asked of this agent has: 1 keeps the TTL, 2 is what Consul does and
    Patroni counts on. More is safe for any holder, and finds dead ones later. A reload changes it for
    sessions that begin from then on."""

    # Addresses
    bind_addr: str = "0.0.0.0"
    """Where servers and agents are reached by each other."""
    advertise_addr: str = ""
    """What others are told to use; "" is `bind_addr`, or the host's one private IPv4 address."""
    client_addr: str = "127.0.0.1"
    """Where HTTP and DNS listen, several separated by spaces. Beyond loopback every neighbour may write."""
    addresses: Addresses = Addresses()
    ports: Ports = Ports()

    # Joining and leaving
    retry_join: tuple[str, ...] = ()
    """Servers to ask, host[:port], without a port on `ports.serf_lan`; names are looked up anew each time.
    Any one that answers is enough."""
    retry_interval_s: Annotated[float, Meta(ge=0.1, le=DAY_S)] = field(default=30.0, name="retry_interval")
    """Pause between rounds, after half a minute of quick ones: short joins sooner, long is quieter."""
    retry_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Intervals without an answer from anyone before the agent gives up and exits; 0 tries for ever."""
    reconnect_timeout_s: Annotated[float, Meta(ge=8 * 3600.0, le=31 * DAY_S)] = field(
        default=72 * 3600.0, name="reconnect_timeout"
    )
    """How long a failed member is listed, and tried to be reached, before it is forgotten and goes out of the
    catalog. The same on all: longer outlasts a long absence, shorter clears up sooner."""
    advertise_reconnect_timeout_s: Annotated[float, Meta(ge=0.0, le=31 * DAY_S)] = field(
        default=0.0, name="advertise_reconnect_timeout"
    )
    """The same for this host alone, told to all others: for hosts that come and go. Not on servers; 0 is
    what the others have."""
    leave_on_terminate: bool = False
    """SIGTERM leaves the cluster. Off, a restart looks like a short absence and ends no session."""
    skip_leave_on_interrupt: bool = True
    """SIGINT does not leave either; false makes Ctrl-C a goodbye."""
    rejoin_after_leave: bool = False
    """After a leave, too, an agent that is started again joins those that it knew. Off, only `retry_join` is
    asked then; after any other end they are joined in any case."""

    disable_coordinates: bool = False
    """Do not measure where this host stands in the network: `near` puts it last, and `rtt` knows it not."""

    # Gossip
    gossip_lan: GossipLan = GossipLan()
    gossip_label: str = ""
    """A name for this cluster's gossip: who has another label is not heard, sealed or not. So two clusters on
    one network stay two, by whatever mistake an address of one gets into the other."""
    encrypt: str = ""
    """A key for gossip in base64, the same on all (`gemot keygen` makes one). It is kept in
    `serf/local.keyring` below `data_dir` at the first start; from then on that file holds, and
    `gemot keyring` changes it. On a command line every user of this host can read it; where that is so of a
    file, a warning tells it at the start."""
    encrypt_verify_incoming: bool = True
    """Take nothing in clear. Off while encryption is turned on in a running cluster: the last to be set."""
    encrypt_verify_outgoing: bool = True
    """Send nothing in clear. Off until every member has the key."""
    disable_keyring_file: bool = False
    """Keep keys in memory only: `encrypt` holds at every start, and what `gemot keyring` changes is lost."""

    # Services, checks, files
    services: tuple[Registration, ...] = ()
    """Services of this host; the files are their owner, the API cannot keep them removed."""
    checks: tuple[CheckDefinition, ...] = ()
    """Checks of this host or of its services."""
    templates: tuple[TemplateDefinition, ...] = ()
    """Files rendered from the shared state."""
    enable_script_checks: bool = False
    """Consul's wider switch. Here it is the same as the next, and is refused when HTTP leaves loopback."""
    enable_local_script_checks: bool = False
    """Checks in files may run commands, as this agent's user; those registered over HTTP never may."""
    check_update_interval_s: Seconds = field(default=300.0, name="check_update_interval")
    """How long a change of output alone is held back. 0 shows every change and writes it too."""
    check_output_max_size: Annotated[int, Meta(ge=1, le=65_536)] = 4096
    """Bytes of output kept: each change of it is a write replicated to every server."""
    discard_check_output: bool = False
    """Keep no output: fewest writes, and nothing to read when a check fails."""

    # Names
    domain: str = "consul."
    """The DNS zone."""
    alt_domain: str = ""
    """A second zone with the same answers, to move from one to the other."""
    dns_config: DnsConfig = DnsConfig()

    # HTTP
    http_config: HttpConfig = HttpConfig()
    limits: Limits = Limits()
    default_query_time_s: Annotated[float, Meta(ge=1.0, le=DAY_S)] = field(
        default=300.0, name="default_query_time"
    )
    """How long a blocking query waits when it does not say."""
    max_query_time_s: Annotated[float, Meta(ge=1.0, le=DAY_S)] = field(default=600.0, name="max_query_time")
    """The most it may ask for: long waits are cheap, but hold a connection each."""

    # Running
    log_level: LogLevel = "INFO"
    """DEBUG explains decisions and is several times as much."""
    log_json: bool = False
    """One JSON object a line: for machines."""
    log_file: str = ""
    """Also append to this file; "" writes to standard error only."""
    pid_file: str = ""
    """Where the process id is written, for supervisors that want one."""
