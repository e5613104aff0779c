"""The service model's patterns are Java's: what they mean, in Python's re."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator

# What Python's re has no name for. A category is expanded into ranges inside the class it stands in.
_PROPERTY = re.compile(r"\\p\{(\w+)\}")


def _runs(category: str) -> Iterator[tuple[int, int]]:
    first = None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code)).startswith(category)
        if inside and first is None:
            first = code
        elif not inside and first is not None:
            yield first, code - 1
            first = None


@functools.cache
def _ranges(name: str) -> str:
    if name == "ASCII":
        return r"\x00-\x7f"
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in _runs(name))


def translated(pattern: str) -> str:
    """The pattern in Python's terms, without the anchors: the service holds it against the whole value."""
    whole = pattern.removeprefix("^")
    if whole.endswith("$") and not whole.endswith("\\$"):
        whole = whole[:-1]

    def expand(found: re.Match[str]) -> str:
        before = whole[: found.start()]
        in_class = before.rfind("[") > before.rfind("]")
        return _ranges(found[1]) if in_class else f"[{_ranges(found[1])}]"

    return _PROPERTY.sub(expand, whole)


@functools.cache
def whole_match(pattern: str) -> Callable[[str], object]:
    """A function that is true of the values the whole of which has the pattern."""
    return re.compile(translated(pattern), re.ASCII).fullmatch
