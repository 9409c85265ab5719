"""Gemot: the hosts of a cluster agree on configuration, services, locks and leaders.

What it is: one daemon, run on every host (`gemot.agent`), three or five of which also form the Raft
server tier (`gemot.server`); health checks (`gemot.checks`) and a DNS interface (`gemot.dns`).

What it is not: a library to embed. Programs talk to the agent of their own host over HTTP or DNS.
"""

__version__ = "0.1.0"
