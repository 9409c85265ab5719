"""`gemot semaphore`: runs a command while it holds one of some slots, on so many hosts at a time."""

from __future__ import annotations

from typing import Any

import click

from gemot.agent.cli.flags_first import FlagsFirst
from gemot.agent.cli.held import job_options, key_and_child
from gemot.agent.cli.lock import run_under
from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection
from gemot.agent.client.semaphore import MAX_LIMIT, Semaphore


@click.command(name="semaphore", cls=FlagsFirst)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="PREFIX COMMAND...")
@click.option("--n", "limit", required=True, type=int, help="How many may hold a slot at once: 1 to 4096.")
@click.option(
    "--try", "patience", default="", metavar="DURATION", help="Give up when not had by then: 5s, 1m."
)
@click.option("--timeout", default="", metavar="DURATION", help="The same as -try; the shorter one counts.")
@click.option("--child-exit-code", is_flag=True, help="End with 2 when COMMAND fails.")
@click.option("--name", default="", help="Name of the session, for whoever lists them.")
@job_options
@client_options
def command(connection: Connection, words: tuple[str, ...], make_job: Any, limit: int, **flags: Any) -> int:
    """Run COMMAND while holding one of N slots of PREFIX/.lock; wait for a slot first.

    \b
    At most three hosts build their index at once; the others wait:
      gemot semaphore -n 3 jobs/index ./build-index
    Only if a slot is free:
      gemot semaphore -n 3 -try=5s jobs/index ./build-index

    All who use a prefix give the same N; whoever gives another one is refused. All give the same -ttl as
    well, which nobody checks: who waits takes out a dead holder after a -ttl of its own, and with a shorter
    one than the holder's it may be in while the holder still believes that it is.

    `consul lock -n` and Consul's libraries count as holders here, and these there. Who waits has no turn: a
    slot that is free goes to whoever is there first. With -n 1 it is a semaphore with one slot, which is not
    what gemot lock takes.

    COMMAND is run, and ended in time, as by gemot lock, where a -ttl above 70s counts as 70s; who waits takes
    out a dead holder after the whole -ttl. The same is in COMMAND's environment. GEMOT_LOCK_KEY is
    this holder's own key there, PREFIX/SESSION, and GEMOT_LOCK_FENCE the fence of that key: a write of a key
    with ?lock=$GEMOT_LOCK_KEY&fence=$GEMOT_LOCK_FENCE is done only while the slot is held, so that a host
    that slept writes no more. As a number the fence orders nothing: N holders have one each, side by side.

    \b
    Exit codes:
      0    COMMAND has run (it may have failed: see -child-exit-code)
      1    no slot was had, or COMMAND could not be run
      2    COMMAND failed, with -child-exit-code
      75   the slot was lost while COMMAND ran, and COMMAND was stopped
      128+N  gemot was sent signal N: it waited no longer, or COMMAND ended by it
    """
    example = "gemot semaphore -n 3 jobs/index ./build-index"
    prefix, child = key_and_child(words, what="a prefix", example=example)
    if not 1 <= limit <= MAX_LIMIT:
        raise click.ClickException(f"-n: {limit} slots: must be from 1 to {MAX_LIMIT}")
    job = make_job("gemot semaphore", child, flags["name"])
    return run_under(Semaphore(prefix, limit, delay_s=job.ttl_s), connection, job, flags)
