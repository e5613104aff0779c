"""Scratch space of a step, inside its output: one attempt's own, gone before the manifest is written.

Named by the attempt, so that one which is overtaken does not clear what the next one works with.
"""

from __future__ import annotations

import os

from transforms import storage

_BUCKETS, _TEMP = "_buckets", "_temp"
_BEAM_TEMP = "beam-temp-"  # begins the names of folders in which Beam's sink of dead letters writes


def buckets(output: str, attempt: str) -> str:
    """A directory for orders on their way."""
    return _directory(output, _BUCKETS, attempt)


def temp(output: str, attempt: str) -> str:
    """A directory for the workers of this attempt, wherever the output is."""
    return _directory(output, _TEMP, attempt)


def clear(output: str, attempt: str) -> None:
    for name in (_BUCKETS, _TEMP):
        storage.delete_directory(_directory(output, name, attempt))


def clear_all(output: str) -> None:
    """That of every attempt, for the last step: where it comes first, no other attempt can finish."""
    root = storage.resolve(output)[1]
    folders = {os.path.dirname(os.path.relpath(path, root)) for path in storage.list_files(output)}
    for folder in sorted(folders):
        for depth, name in enumerate(names := folder.split("/"), 1):
            if name.startswith(_BEAM_TEMP) or (depth == 1 and name.startswith((_BUCKETS, _TEMP))):
                storage.delete_directory(storage.join(output, *names[:depth]))
                break


def _directory(output: str, name: str, attempt: str) -> str:
    return storage.join(output, f"{name}-{attempt}" if attempt else name)
