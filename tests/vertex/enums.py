"""The numbers of Vertex AI's enums: Google's clients send those, and the discovery document has the names alone."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def numbers(names: Sequence[str]) -> Mapping[int, str]:
    """Number -> name of the enum that has all of these names.

    Raises:
      LookupError: the client library has none.
    """
    return _numbers(frozenset(names))


@functools.cache
def _numbers(names: frozenset[str]) -> Mapping[int, str]:
    for each in _enums():
        if names <= set(each.__members__):
            return {int(member.value): name for name, member in each.__members__.items()}
    raise LookupError(f"no enum of google.cloud.aiplatform_v1 has {sorted(names)}")


@functools.cache
def _enums() -> list[Any]:
    from google.cloud.aiplatform_v1 import types

    return sorted(set(_inside(types)), key=lambda each: (len(each.__members__), each.__qualname__))


def _inside(owner: Any) -> Iterator[Any]:
    for name in dir(owner):
        found = getattr(owner, name, None) if name[:1].isupper() else None
        if isinstance(found, type) and issubclass(found, enum.Enum):
            yield found
        elif isinstance(found, type) and hasattr(found, "pb") and found is not owner:
            yield from _inside(found)
