"""One key as its clients see it: operations, what became of them, and the register that explains them."""

from __future__ import annotations

import enum

import msgspec

ABSENT = None
"""The value of a key that is not there."""

REFUSED = -1
"""No state: the register would not have answered so."""

NEVER = 1 << 62
"""The end of what never ended."""


class Kind(enum.StrEnum):
    GET = "get"
    PUT = "put"
    CAS = "cas"
    DELETE = "delete"
    DELETE_CAS = "delete-cas"


class Outcome(enum.StrEnum):
    """DONE: it was answered. UNKNOWN: it may take effect at any time after its call, or never.

    REFUSED: it is told that it surely was not done and never will be; its value must not be seen.
    """

    DONE = "done"
    UNKNOWN = "unknown"
    REFUSED = "refused"


class Op(msgspec.Struct, frozen=True):
    """One operation of one client on one key.

    `value` is what was read or is to be written; `expected` what a compare compares with: the value that its
    client had seen together with the index that it sent (None: the key is not to be there). `answer` is what
    a compare was told. Times are of any one monotonic clock.
    """

    kind: Kind
    key: bytes
    began: int
    ended: int = NEVER
    value: bytes | None = ABSENT
    expected: bytes | None = ABSENT
    answer: bool = True
    outcome: Outcome = Outcome.DONE
    client: str = ""

    @property
    def writes(self) -> bool:
        return self.kind in (Kind.PUT, Kind.CAS)


Step = tuple[str, int, int, bool]
"""Kind, value, expected value, answer: values as small numbers, 0 for ABSENT."""


def changes_nothing(step: Step) -> bool:
    """A read, or a compare that was told false."""
    return step[0] == "get" or not step[3]


class Register:
    """Steps of one key on numbered values: comparing and hashing numbers is what makes the search quick."""

    def __init__(self) -> None:
        self._numbers: dict[bytes | None, int] = {ABSENT: 0}
        self._values: list[bytes | None] = [ABSENT]

    def _number(self, value: bytes | None) -> int:
        if value not in self._numbers:
            self._numbers[value] = len(self._values)
            self._values.append(value)
        return self._numbers[value]

    def value(self, state: int) -> bytes | None:
        return self._values[state]

    def compile(self, op: Op) -> Step:
        return (str(op.kind), self._number(op.value), self._number(op.expected), op.answer)

    def step(self, state: int, step: Step) -> int:
        """The state after this operation with this answer, or REFUSED.

        A delete of what is not there answers true whatever it compares with, as Consul does.
        """
        kind, value, expected, answer = step
        if kind == "get":
            return state if state == value else REFUSED
        if kind == "put":
            return value
        if kind == "delete":
            return 0
        fits = state == expected or (kind == "delete-cas" and state == 0)
        if fits != answer:
            return REFUSED
        if not answer:
            return state
        return value if kind == "cas" else 0
