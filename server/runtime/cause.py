"""Why the system refused something, in its own words and for people: no `[Errno 111]`, no tuples.

Whoever tells it names what it was about: the path, the address.
"""

from __future__ import annotations

import os
import ssl


def cause_of(error: BaseException) -> str:
    """asyncio puts the address in the place of the words: those of the number are better."""
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
        return str(error)
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)  # resolvers have numbers of their own, below 0


def failure_of(error: BaseException) -> str:
    """The same behind the path, where the error knows one."""
    path = error.filename if isinstance(error, OSError) else None
    return f"{path}: {cause_of(error)}" if path else cause_of(error)
