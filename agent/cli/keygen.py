"""`gemot keygen`: a key for gossip."""

from __future__ import annotations

import secrets

import click


@click.command(name="keygen")
def command() -> None:
    """Make a key for the encryption of gossip: 32 random bytes, in base64.

    \b
    All agents are to have the same one, as `encrypt` in a file that their user alone can read:
      (umask 077; echo "encrypt: $(gemot keygen)" > /etc/gemot.d/encrypt.yaml)
    """
    from gemot.agent.gossip.keyring import NEW_KEY_BYTES, keygen

    click.echo(keygen(secrets.token_bytes(NEW_KEY_BYTES)))
