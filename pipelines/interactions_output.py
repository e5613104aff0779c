"""The directory of an export: whether this command may make it, and one line for a person where it cannot be written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from transforms import storage
from transforms.errors import JobFailed, UsageError, one_line

_MOST_SHOWN = 3  # differences in a message; one may be a file of thousands


@contextlib.contextmanager
def failing_in_one_line(output: str) -> Iterator[None]:
    """Around what writes into the output, or looks into it.

    Raises:
      JobFailed: in place of an OSError: no such bucket, no access, nobody answers, the disk is full.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # of whoever reads what the command prints
    except OSError as error:
        raise JobFailed(f"--output {output!r} cannot be written: {one_line(str(error))}") from error


def prepare(output: str, kind: str, arguments: dict[str, Any]) -> None:
    """Goes before ``storage.begin``: says in words what differs, and lets mended input take a failed export's place.

    An export that did not end is of the same orders or events, even if their files have changed since: there is nothing
    in it to keep. A finished one is of the files as they were.

    Raises:
      UsageError: the directory holds an export with other arguments, or of files that have changed since.
    """
    finished = storage.exists(storage.join(output, storage.MANIFEST))
    marker = storage.join(output, storage.MANIFEST if finished else storage.STARTED)
    if not finished and not storage.exists(marker):
        return
    found = _read(marker)
    if found.get("kind") != kind:
        return  # ``storage.begin`` refuses it
    before, now = found.get("arguments", {}), json.loads(json.dumps(arguments, default=str))
    if finished:
        _require_same(output, "another export", before, now)
        return
    _require_same(output, "a half-finished export with other arguments", before, now | {"files": before.get("files")})
    if before != now:
        # ``begin`` compares the whole of it, and then deletes what is there. The attempt stays the old one's until then.
        storage.write_bytes(marker, json.dumps(found | {"arguments": now}).encode())


def _read(marker: str) -> dict[str, Any]:
    try:
        found = json.loads(storage.read_bytes(marker))
    except ValueError:
        return {}  # ``storage.begin`` says that it is damaged
    return found if isinstance(found, dict) else {}


def _require_same(output: str, what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = differences(before, now)
    if changed:
        more = f"; and {len(changed) - _MOST_SHOWN:,} more" if len(changed) > _MOST_SHOWN else ""
        raise UsageError(
            f"--output {output!r} holds {what} ({'; '.join(changed[:_MOST_SHOWN])}{more}): "
            "delete it, or choose another --output"
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two exports' arguments, as JSON gives them: a text for each, by name."""
    was, is_now = _in_words(before), _in_words(now)
    return [
        f"{name} was {was.get(name, 'none')}, is {is_now.get(name, 'none')}"
        for name in sorted({*was, *is_now})
        if was.get(name) != is_now.get(name)
    ]


def _in_words(arguments: dict[str, Any]) -> dict[str, str]:
    words: dict[str, str] = {}
    for name, value in arguments.items():
        if name == "files":
            words |= {f"file {each['path']}": f"{each['bytes']:,} bytes of {each['modified']}" for each in value or ()}
        elif isinstance(value, dict):
            words |= {f"{name} {key}": repr(each) for key, each in value.items()}
        elif isinstance(value, list):
            words |= {name: ",".join(map(str, value))} if value else {}
        else:
            words[name] = repr(value)
    return words


def counted(counts: dict[str, int]) -> str:
    """``{"no_item": 5000}`` -> ``5,000 no_item``."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"
