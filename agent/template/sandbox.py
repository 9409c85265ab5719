"""The Jinja2 environment in which templates run: what they may reach, and how large anything may grow.

Jinja2's own sandbox keeps underscore attributes away. This one goes further, since a single call in C
(`"x" * 10**12`, `"{:>999999999}".format(1)`) can neither be interrupted nor leaves the event loop its turn:
methods of plain values come from short lists, and every operation that can multiply a text or a list checks
the size of the result before it is made. What merely takes long in Python is ended by `render.py`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import msgspec
from jinja2 import BaseLoader, Environment, StrictUndefined, Undefined, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.pending import Pending

MAX_OUTPUT_BYTES = 16 * 1024 * 1024
MAX_TEXT = MAX_OUTPUT_BYTES
"""Longest text, in characters, that any step may make."""

MAX_ITEMS = 1_000_000
"""Longest list that `+` or `*` may make, and the widest `batch`."""

MAX_NUMBER_BITS = 4096
MAX_EXPONENT = 4096
MAX_PRECISION = 30

_TEXT_METHODS = (
    "capitalize casefold count endswith find index isalnum isalpha isdecimal isdigit isspace islower isupper "
    "lower lstrip partition removeprefix removesuffix rfind rindex rpartition rsplit rstrip split splitlines "
    "startswith strip swapcase title upper"
)
TEXT_METHODS = frozenset(_TEXT_METHODS.split())
BOUNDED_TEXT_METHODS = frozenset(("join", "replace"))
MAP_METHODS = frozenset(("get", "items", "keys", "values"))
LIST_METHODS = frozenset(("index", "count"))

_KEPT_FILTERS = (
    "abs attr capitalize count d default dictsort first float groupby int items last length list lower map "
    "max min reject rejectattr reverse select selectattr sort title trim truncate unique upper urlencode "
    "wordcount"
)
KEPT_FILTERS = frozenset(_KEPT_FILTERS.split())
NO_LOADING = (
    "include, import and extends are not available, a template is one file; file(path) reads another one "
    "as text"
)
KEPT_GLOBALS = ("range", "dict", "namespace", "cycler", "joiner")


def make_environment(
    *,
    filters: Mapping[str, Callable[..., Any]],
    strict: bool = True,
    left_delimiter: str = "{{",
    right_delimiter: str = "}}",
) -> BoundedEnvironment:
    """The environment of one template. `strict` makes the use of an unknown name or field an error."""
    environment = BoundedEnvironment(
        variable_start_string=left_delimiter,
        variable_end_string=right_delimiter,
        keep_trailing_newline=True,
        autoescape=False,
        undefined=StrictUndefined if strict else Undefined,
        finalize=_finalize,
        optimized=False,  # the optimizer would evaluate constant parts, hostile ones too, while compiling
        loader=_NoLoader(),
        cache_size=0,
    )
    environment.filters = (
        {name: FILTERS[name] for name in sorted(KEPT_FILTERS)} | _BOUNDED_FILTERS | dict(filters)
    )
    environment.globals = {name: environment.globals[name] for name in KEPT_GLOBALS}
    return environment


class _BoundedCode(CodeGenerator):
    """Jinja2's compiler, with `~` made a call that can be bounded."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat_values((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _NoLoader(BaseLoader):
    def get_source(self, environment: Environment, template: str) -> NoReturn:
        raise TemplateFailed(f"{template!r} cannot be loaded: {NO_LOADING}")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Inherits because Jinja2 is extended by inheritance alone."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    code_generator_class = _BoundedCode

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What the compiled template joins its buffers with (macros, set blocks, captured bodies)."""
        parts = list(parts)
        check_length(sum(map(len, parts)))
        return "".join(parts)

    @staticmethod
    def concat_values(values: Iterable[object]) -> str:
        return BoundedEnvironment.concat([to_text(value) for value in values])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _BINARY_CHECKS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not super().is_safe_attribute(obj, attr, value):
            return False
        for kind, allowed in _METHODS:
            if isinstance(obj, kind):
                return attr in allowed
        return True

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute not in MAP_METHODS and attribute in obj:
            return obj[attribute]  # `data.copy` means the entry, as no other `copy` can be reached
        return super().getattr(obj, attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            name = getattr(__obj, "__name__", "")
            if name in BOUNDED_TEXT_METHODS:
                return _BOUNDED_FILTERS_ON_TEXT[name](owner, *args, **kwargs)
            if name not in TEXT_METHODS:
                raise TemplateFailed(f"text.{name}() is not available in templates")
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> None:
        """No `format`: a width in it takes any amount of memory. Its lookup is then refused like others."""


_METHODS: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (str, TEXT_METHODS | BOUNDED_TEXT_METHODS),
    (dict, MAP_METHODS),
    ((list, tuple), LIST_METHODS),
    ((int, float, bytes, complex, set, frozenset), frozenset()),
)


def check_length(length: int) -> None:
    if length > MAX_TEXT:
        raise TemplateFailed(f"a text of {length} characters is made, the limit is {MAX_TEXT}")


def check_count(count: int) -> None:
    if count > MAX_ITEMS:
        raise TemplateFailed(f"a list of {count} items is made, the limit is {MAX_ITEMS}")


def to_text(value: object) -> str:
    """`str(value)`, refused when nested lists and maps would make it pass the limit."""
    if isinstance(value, str):
        return value
    check_nested(value)
    return str(value)


def check_nested(value: object) -> None:
    """Refuse a value whose text would be too long: lists may hold one other list a million times over.

    Something undefined inside it raises what its use alone would raise.
    """
    left = MAX_TEXT
    seen = 0
    stack = [value]
    while stack:
        item = stack.pop()
        seen += 1
        if isinstance(item, str):
            left -= len(item) + 2
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack += item
        elif isinstance(item, msgspec.Struct):
            stack += (getattr(item, name) for name in item.__struct_fields__)
        elif isinstance(item, Undefined):
            left -= len(str(item))
        else:
            left -= 8
        check_length(MAX_TEXT - left)
        check_count(max(seen, len(stack)))


@pass_context
def _finalize(context: Context, value: object) -> object:
    """What stands in the output for a value: nothing for None, as a template's author expects of a file.

    It takes the context for one reason: Jinja2 then leaves constants to be printed for the evaluation.
    """
    if isinstance(value, Pending):
        return ""  # so that one evaluation finds as many open questions as it can
    if isinstance(value, Undefined):
        return value
    return "" if value is None else to_text(value)


def _check_add(left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        check_length(len(left) + len(right))
    elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        check_count(len(left) + len(right))
    _check_numbers(left, right)


def _check_multiply(left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(many, (str, bytes)):
            check_length(len(many) * times)
        elif isinstance(times, int) and isinstance(many, (list, tuple)):
            check_count(len(many) * times)
    _check_numbers(left, right)


def _check_power(left: Any, right: Any) -> None:
    _check_numbers(left, right)
    if isinstance(right, int) and isinstance(left, int) and left.bit_length() * abs(right) > MAX_EXPONENT:
        raise TemplateFailed("** makes a number of too many digits")


def _check_modulo(left: Any, right: Any) -> None:
    if isinstance(left, (str, bytes)):
        raise TemplateFailed("% on text (formatting) is not available in templates: join texts with ~")
    _check_numbers(left, right)


def _check_numbers(*values: Any) -> None:
    for value in values:
        if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
            raise TemplateFailed(f"a number of more than {MAX_NUMBER_BITS} bits is used")


_BINARY_CHECKS: dict[str, Callable[[Any, Any], None]] = {
    "+": _check_add,
    "-": _check_numbers,
    "*": _check_multiply,
    "/": _check_numbers,
    "//": _check_numbers,
    "%": _check_modulo,
    "**": _check_power,
}


def _replace(text: object, old: str, new: str, count: int | None = None) -> str:
    text, old, new = to_text(text), to_text(old), to_text(new)
    times = text.count(old)
    if count is not None and count >= 0:
        times = min(times, count)
    check_length(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, times)


def _join_items(separator: str, items: Iterable[object]) -> str:
    parts = []
    length = 0
    for item in items:
        parts.append(to_text(item))
        length += len(parts[-1]) + len(separator)
        check_length(length)
    return separator.join(parts)


def _join(items: Iterable[object], separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        items = [_field(item, attribute) for item in items]
    return _join_items(to_text(separator), items)


def _field(item: Any, path: str) -> Any:
    """A field by name, or by names with dots between; never one that starts with an underscore."""
    for name in to_text(path).split("."):
        if name.startswith("_"):
            raise TemplateFailed(f"field {name!r} is not available in templates")
        item = item.get(name, "") if isinstance(item, dict) else getattr(item, name, "")
    return "" if callable(item) else item


def _indent(text: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = to_text(text)
    pad = width if isinstance(width, str) else " " * min(max(width, 0), 1000)
    lines = text.split("\n")
    check_length(len(text) + len(lines) * len(pad))
    padded = [pad + line if line or blank else line for line in lines]
    if not first:
        padded[0] = lines[0]
    return "\n".join(padded)


def _batch(items: Iterable[object], width: int, fill: object = None) -> list[list[object]]:
    """Rows of `width` items; the last one is filled up if `fill` is given."""
    _check_width("batch", width)
    whole = list(items)
    rows = [whole[start : start + width] for start in range(0, len(whole), width)]
    if rows and fill is not None:
        rows[-1] += [fill] * (width - len(rows[-1]))
    return rows


def _check_width(name: str, width: object) -> None:
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= MAX_ITEMS:
        raise TemplateFailed(f"{name}: the width must be a number from 1 to {MAX_ITEMS}")


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not isinstance(precision, int) or abs(precision) > MAX_PRECISION:
        raise TemplateFailed(f"round: the precision must be a number from 0 to {MAX_PRECISION}")
    rounded: float = FILTERS["round"](value, precision, method)
    return rounded


def _sum(items: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
    total = start
    for item in items:
        value = item if attribute is None else _field(item, attribute)
        if not isinstance(value, (int, float)):
            raise TemplateFailed(f"sum: only numbers can be summed, found {type(value).__name__}")
        _check_numbers(total, value)
        total += value
    return total


def _base_name(path: object) -> str:
    return posixpath.basename(to_text(path))


_BOUNDED_FILTERS: dict[str, Callable[..., Any]] = {
    "basename": _base_name,
    "batch": _batch,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "string": to_text,
    "sum": _sum,
}
_BOUNDED_FILTERS_ON_TEXT: dict[str, Callable[..., str]] = {"join": _join_items, "replace": _replace}
