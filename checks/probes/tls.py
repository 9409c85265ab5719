"""TLS settings of probes: the system's roots, or no verification where a check asks for that."""

from __future__ import annotations

import functools
import ssl


@functools.cache
def context(*, verify: bool) -> ssl.SSLContext:
    """One context for all probes of a kind: reading the system's roots takes milliseconds."""
    made = ssl.create_default_context()
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made
