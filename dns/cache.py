"""Replies kept as bytes, several shuffled forms a question, for as long as what they were made of holds.

Keys are whole questions in their simplest spelling (`responder.py`). Not a cache by time: an entry dies when
one of its `Found` does. Bounded in entries and bytes; the entry that was not used for longest goes first
(second chance, so a flood of new questions cannot push out those in use).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemot.dns.catalog import Found
from gemot.dns.reply import Form

FORMS = 16
"""Shuffled forms of one reply; half as many where a form is longer than LONG_FORM_BYTES."""

LONG_FORM_BYTES = 2048

RENEW_EVERY = 17
"""Every so many uses one form is drawn anew, so that in the long run every instance comes first as often.

It has no common factor with FORMS, so that each form has its turn.
"""

_CHOICE_BYTES = 512
"""What one choice of a plan is counted as: its records and what they hold."""

_ENTRY_BYTES = 1024


class Cache:
    """Replies by question. `limit_bytes` counts forms and the plans that make them, roughly."""

    def __init__(self, *, limit_entries: int, limit_bytes: int) -> None:
        self._limit_entries = limit_entries
        self._limit_bytes = limit_bytes
        self._entries: dict[bytes, _Entry] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def get(self, key: bytes) -> Form | None:
        """The next form of the reply, or None if there is no reply that still holds."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        for found in entry.found:
            if not found.live:
                self._drop(key)
                return None
            found.used += 1
        entry.used = True
        if entry.make is None:
            return entry.forms[0]
        return self._next_form(entry)

    def put(
        self, key: bytes, form: Form, found: Sequence[Found], make: Callable[[], Form] | None, choices: int
    ) -> None:
        """Keep a reply. `make` draws another form of it (None: there is only this one)."""
        self._drop(key)
        entry = _Entry(found, form, make)
        entry.size = _ENTRY_BYTES + len(form.tail) + (_CHOICE_BYTES * choices if make is not None else 0)
        if entry.size > self._limit_bytes // 4:
            return
        self._entries[key] = entry
        self._bytes += entry.size
        self._make_room()

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _next_form(self, entry: _Entry) -> Form:
        entry.uses += 1
        forms = entry.forms
        make = entry.make
        assert make is not None
        if len(forms) < entry.most:
            form = make()
            forms.append(form)
            self._bytes += len(form.tail)
            entry.size += len(form.tail)
            self._make_room()
            return form
        at = entry.uses % entry.most
        if entry.uses % RENEW_EVERY == 0:
            form = make()
            change = len(form.tail) - len(forms[at].tail)
            self._bytes += change
            entry.size += change
            forms[at] = form
            return form
        return forms[at]

    def _make_room(self) -> None:
        while len(self._entries) > self._limit_entries or self._bytes > self._limit_bytes:
            key = next(iter(self._entries))
            entry = self._entries.pop(key)
            if entry.used:
                entry.used = False
                self._entries[key] = entry
            else:
                self._bytes -= entry.size

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size


class _Entry:
    __slots__ = ("forms", "found", "make", "most", "size", "used", "uses")

    def __init__(self, found: Sequence[Found], form: Form, make: Callable[[], Form] | None) -> None:
        self.found = tuple(found)
        self.forms = [form]
        self.make = make
        self.most = FORMS if len(form.tail) <= LONG_FORM_BYTES else FORMS // 2
        self.uses = 0
        self.size = 0
        self.used = False
