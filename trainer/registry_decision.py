"""What a gate decided, kept in a file, so that a scheduler which asks twice gets one answer.

{"promoted", "champion", "model", "challenger", "reason", "forced", "figures", "notes", "metrics", "registry"}

promoted    whether this decision made the challenger champion; not where it was champion before
champion    the version to use from here on; null where the registry has none
model       its directory in the registry; null likewise
challenger  the version that was judged; ``metrics`` are those of its own manifest
reason      one line: the figures in words, or why it was not judged
figures     what was compared, as the registry's history keeps it; null where nothing was
notes       what a reader of the figures has to know
registry    where all this holds
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import dataclass
from typing import Any

from transforms import storage
from transforms.errors import UsageError, one_line, rejected

NAMES = frozenset(
    ("promoted", "champion", "model", "challenger", "reason", "forced", "figures", "notes", "metrics", "registry")
)


def absolute(uri: str) -> str:
    """One place has one name, wherever the command was started."""
    return uri.rstrip("/") if "://" in uri else os.path.abspath(uri)


@dataclass(frozen=True)
class DecisionFile:
    """The file of one challenger's gate at one registry; ``registry`` is absolute."""

    uri: str
    registry: str

    def __post_init__(self) -> None:
        if not self.uri or self.uri.endswith("/") or not (storage.is_local(self.uri) or self.uri.startswith("gs://")):
            raise rejected("--decision", self.uri, "a file to write, local or gs://, such as runs/2011-12-10/gate.json")

    def read(self) -> dict[str, Any] | None:
        """What was decided; None where nothing was yet.

        Raises:
          UsageError: the file is of another registry, or no decision at all.
        """
        content = self._content()
        if content is None:
            return None
        decision = parse(content, self.uri)
        self._require("--registry", decision["registry"], self.registry)
        return decision

    def require_challenger(self, decision: dict[str, Any], version: str) -> None:
        """Raises: UsageError where the decision is about another model."""
        self._require("--model", decision["challenger"], version)

    def _require(self, argument: str, found: str, ours: str) -> None:
        if found != ours:
            raise UsageError(
                f"--decision {self.uri!r} is about {argument} {found}, not {ours}: "
                "name another file, or delete it to decide anew"
            )

    def require_writable(self) -> None:
        """By writing a file beside it: a champion must not move for a decision that cannot be kept.

        Raises:
          UsageError: the place does not exist, or may not be written.
        """
        probe = f"{self.uri}.{uuid.uuid4().hex}.probe"
        try:
            storage.compare_and_set(probe, b"", None)
        except (OSError, UsageError) as error:
            why = one_line(str(error), 300)
            raise UsageError(f"--decision {self.uri!r} cannot be written, so nothing was decided: {why}") from error
        filesystem, path = storage.resolve(probe)
        # Who may write and not delete keeps an empty file more.
        with contextlib.suppress(OSError):
            filesystem.delete_file(path)

    def write(self, decision: dict[str, Any], *, replaced: dict[str, Any] | None = None) -> dict[str, Any]:
        """Keeps a decision, all of it or nothing, and returns the one that counts: of two at once, the first."""
        before = None if replaced is None else self._content()
        if storage.compare_and_set(self.uri, _json(decision), before):
            return decision
        first = self.read()
        if first is None:
            raise UsageError(f"--decision {self.uri!r} was deleted while this was decided: run it again")
        self.require_challenger(first, decision["challenger"])
        return first

    def _content(self) -> bytes | None:
        if not storage.exists(self.uri):
            return None
        filesystem, path = storage.resolve(self.uri)
        if not filesystem.get_file_info(path).is_file:
            raise rejected("--decision", self.uri, "a file, not a directory")
        return storage.read_bytes(self.uri)


def parse(content: bytes, where: str) -> dict[str, Any]:
    """Raises: UsageError where the content is not what a gate writes."""
    try:
        decision = json.loads(content)
    except ValueError:
        decision = None
    if not isinstance(decision, dict) or not decision.keys() >= NAMES:
        raise UsageError(
            f"{where} is no decision of trainer.registry promote --decision: name another file, or delete it"
        )
    return decision


def read(uri: str) -> dict[str, Any]:
    """A gate's decision, for whoever goes on from it.

    Raises:
      UsageError: there is none, or the file is something else.
    """
    if not storage.exists(uri):
        raise UsageError(f"{uri} does not exist: trainer.registry promote --decision {uri} makes it")
    return parse(storage.read_bytes(uri), uri)


def _json(decision: dict[str, Any]) -> bytes:
    return json.dumps(decision, indent=2, ensure_ascii=False).encode()
