"""What a registry directory holds: model versions that never change, and one file that says which is champion.

    versions/<model_version>.json    what a version is and where it came from; claims the version, first of all
    models/<model_version>/          its own copy of the model directory; complete once manifest.json is there
    champion.json                    {"moves": [...]}, oldest first; moved by compare-and-set

Whatever is killed in between leaves the champion as it was, and the same command completes the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from transforms import storage
from transforms.errors import JobFailed, UsageError, rejected

Clock = Callable[[], datetime]
PROMOTE, ROLLBACK = "promote", "rollback"
VERSION_ACCEPTED = "a version of letters, digits, '.', '_' and '-', as in a model's manifest"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LINEAGE = (
    "model_version", "model", "horizon_days", "history_days", "training_cutoffs", "evaluation_cutoff", "split",
    "schema_fingerprint", "code_version", "metrics", "verdict",
)  # fmt: skip


MOST_AHEAD = timedelta(days=1)


def utc_now() -> datetime:
    return datetime.now(UTC)


def end_of(day: date) -> datetime:
    """The last instant of a UTC day: moves have microseconds, and no less."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)


class ChampionMoved(JobFailed):
    """Another process moved the champion first; nothing was changed."""

    def __init__(self, version: str, expected: str | None, winner: Move | None) -> None:
        now = f"{winner.described()} is champion now" if winner else "there is no champion now"
        super().__init__(
            f"{version} was not made champion: {now}, not {expected or 'none'} as when this began; run it again"
        )
        self.winner = winner


@dataclass(frozen=True)
class Move:
    """One change of the champion. ``at`` is an ISO 8601 instant in UTC, never before the move's before it."""

    version: str
    previous: str | None
    at: str
    action: str  # PROMOTE or ROLLBACK
    reason: str
    forced: bool  # made champion without the judge's consent
    figures: dict[str, Any] | None  # what was compared, see trainer.registry_challenge; None: nothing was
    notes: list[str]  # what a reader of the figures has to know
    by: str | None
    attempt: str  # tells two moves apart that are alike in all else
    decision: str | None = None  # the file of the gate that made it, see trainer.registry_decision; None: no gate did

    @property
    def instant(self) -> datetime:
        return datetime.fromisoformat(self.at)

    def described(self) -> str:
        return f"{self.version} ({self.action} at {self.at}{f' by {self.by}' if self.by else ''})"


@dataclass(frozen=True)
class Champions:
    """The history of champions as it was read; ``content`` is the file's bytes, None where there is none."""

    moves: tuple[Move, ...]
    content: bytes | None

    @property
    def current(self) -> Move | None:
        return self.moves[-1] if self.moves else None

    @property
    def version(self) -> str | None:
        return self.moves[-1].version if self.moves else None

    def at(self, instant: datetime) -> Move | None:
        """The move that made the champion at an instant, that instant's own included; None before the first."""
        return next((move for move in reversed(self.moves) if move.instant <= instant), None)

    def ended(self, version: str) -> Move | None:
        """The latest move that took the place of a version; None where it is champion, or never was."""
        last = next((move for move in reversed(self.moves) if version in (move.previous, move.version)), None)
        return None if last is None or last.version == version else last

    def before_current(self) -> str | None:
        """What a rollback goes back to: never to a version that was itself rolled back from.

        Promotions stack up; a rollback takes the top off and, to an older one, everything above that.
        """
        stack: list[str] = []
        for move in self.moves:
            if move.action == ROLLBACK:
                stack.pop()
                if move.version in stack:
                    del stack[len(stack) - 1 - stack[::-1].index(move.version) :]
            stack.append(move.version)
        return stack[-2] if len(stack) > 1 else None


def parse_champions(content: bytes | None, where: str) -> Champions:
    """Raises: UsageError where the content is not what ``Registry`` writes."""
    if content is None:
        return Champions((), None)
    try:
        return Champions(tuple(Move(**move) for move in json.loads(content)["moves"]), content)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{where} is damaged: {error}") from error


@dataclass(frozen=True)
class Registry:
    """A registry at a local path or gs://; ``clock`` tells now, in UTC."""

    uri: str
    clock: Clock = utc_now

    def __post_init__(self) -> None:
        if not self.uri or not (storage.is_local(self.uri) or self.uri.startswith("gs://")):
            raise rejected("--registry", self.uri, "a local directory or gs://")

    def model_directory(self, version: str) -> str:
        return storage.join(self.uri, "models", version)

    def _entry_file(self, version: str) -> str:
        if not _VERSION.fullmatch(version):
            raise rejected("model version", version, VERSION_ACCEPTED)
        return storage.join(self.uri, "versions", f"{version}.json")

    @property
    def champion_file(self) -> str:
        return storage.join(self.uri, "champion.json")

    # --- Versions ---------------------------------------------------------------------------------------------------

    def register(self, model: str, by: str | None = None, *, retrained: bool = False) -> dict[str, Any]:
        """Records a finished model directory and copies it; returns its entry. Again, it does nothing.

        With ``retrained``, a training that came to the very model that is registered already is no other content: a
        version follows from its weights. What is registered stays, and the entry returned has this training's lineage.

        Raises:
          UsageError: it is no finished model directory, or the version is registered with other content.
        """
        lineage = _lineage(model)
        version = lineage["model_version"]
        entry = {**lineage, "registered_at": self._now(), "registered_by": by}
        # The entry goes first: it decides which of two directories of one version may be copied.
        if not storage.compare_and_set(self._entry_file(version), _json(entry), None):
            entry = self._entry(version)
            if entry["content_fingerprint"] != lineage["content_fingerprint"]:
                if retrained and self.is_complete(version):
                    return {**entry, **lineage}
                raise UsageError(
                    f"--model {model!r} is version {version} with other content than the one registered from "
                    f"{entry['source']} at {entry['registered_at']}: a version never changes"
                )
        if not self.is_complete(version):
            _copy(model, self.model_directory(version))
        return entry

    def entry(self, version: str) -> dict[str, Any]:
        """What was registered of a version.

        Raises:
          UsageError: it is not registered, or its copy was cut off or is gone.
        """
        if not storage.exists(self._entry_file(version)):
            raise rejected("model version", version, self._known())
        entry = self._entry(version)
        if not self.is_complete(version):
            raise UsageError(
                f"model version {version!r} was cut off while it was copied, or its copy is gone: "
                f"register {entry['source']} again"
            )
        return entry

    def is_complete(self, version: str) -> bool:
        return storage.exists(storage.join(self.model_directory(version), storage.MANIFEST))

    def versions(self) -> list[dict[str, Any]]:
        """The entries of all complete versions, by the time of their registration."""
        found = [os.path.basename(path) for path in storage.list_files(storage.join(self.uri, "versions"), ".json")]
        entries = [self._entry(name.removesuffix(".json")) for name in found]
        complete = [entry for entry in entries if self.is_complete(entry["model_version"])]
        return sorted(complete, key=lambda entry: (entry["registered_at"], entry["model_version"]))

    def _known(self) -> str:
        known = [entry["model_version"] for entry in self.versions()]
        return f"one of {', '.join(known)}" if known else f"a registered version, and {self.uri} has none yet"

    def _entry(self, version: str) -> dict[str, Any]:
        return dict(json.loads(storage.read_bytes(self._entry_file(version))))

    # --- The champion -----------------------------------------------------------------------------------------------

    def champions(self) -> Champions:
        found = storage.exists(self.champion_file)
        return parse_champions(storage.read_bytes(self.champion_file) if found else None, self.champion_file)

    def champion_on(self, day: date) -> Move:
        """The move that made the champion of the end of a UTC day.

        Raises:
          UsageError: there was none, or the day is not over and lies ahead.
        """
        if day > self.clock().astimezone(UTC).date():
            raise rejected("--on", str(day), "a day that has begun (UTC)")
        return self._champion("--on", str(day), end_of(day), lambda first: first.instant.date())

    def champion_at(self, instant: datetime | None = None) -> Move:
        """The move that made the champion of an instant, which knows its zone; None: of now.

        An instant ahead has the champion of now, up to a day: schedulers name the end of a period, and their clocks
        are not ours. Asked again later it may have another one; what is past never has, but for the moment in which a
        move is being written: its instant is taken before the write lands.

        Raises:
          UsageError: there was none, or the instant is more than a day ahead.
        """
        now = self.clock().astimezone(UTC)
        if instant is None:
            return self._champion("--at", now.isoformat(), None, lambda first: first.at)
        if instant - now > MOST_AHEAD:
            raise rejected("--at", instant.isoformat(), f"an instant at most a day ahead of now, {now.isoformat()}")
        return self._champion("--at", instant.isoformat(), instant, lambda first: first.at)

    def _champion(
        self, argument: str, value: str, instant: datetime | None, since: Callable[[Move], object]
    ) -> Move:  # fmt: skip
        champions = self.champions()
        if champions.current is None:
            raise UsageError(f"--registry {self.uri!r} has no champion: python -m trainer.registry promote makes one")
        move = champions.current if instant is None else champions.at(instant)
        if move is None:
            first = champions.moves[0]
            raise rejected(argument, value, f"{since(first)} or later: the first champion is {first.described()}")
        return move

    def move(
        self, seen: Champions, version: str, *, action: str, reason: str, forced: bool = False,
        figures: dict[str, Any] | None = None, notes: Sequence[str] = (), by: str | None = None,
        decision: str | None = None,
    ) -> Move:  # fmt: skip
        """Makes a complete version the champion, if the champion is still the one that was ``seen``.

        Raises:
          ChampionMoved: it is not.
        """
        # Clocks of two machines differ; a history that went back in time would have two champions on one day.
        at = max([self._now(), *(move.at for move in seen.moves[-1:])])
        move = Move(
            version, seen.version, at, action, reason, forced, figures, list(notes), by,
            attempt=uuid.uuid4().hex[:12], decision=decision,
        )  # fmt: skip
        content = _json({"moves": [asdict(each) for each in (*seen.moves, move)]})
        if not storage.compare_and_set(self.champion_file, content, seen.content):
            raise ChampionMoved(version, seen.version, self.champions().current)
        return move

    def require_unmoved(self, seen: Champions, version: str) -> None:
        """For an answer about ``version`` that changes nothing: it holds for the champion that was ``seen``.

        Raises:
          ChampionMoved: there was a move since.
        """
        now = self.champions()
        if now.content != seen.content:
            raise ChampionMoved(version, seen.version, now.current)

    def _now(self) -> str:
        # Always with microseconds, so that the text sorts as the instant does.
        return self.clock().astimezone(UTC).isoformat(timespec="microseconds")


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def _lineage(model: str) -> dict[str, Any]:
    """Where a finished model directory came from: its manifest's facts, and hashes of what it was made from."""
    manifest = storage.read_manifest(model, "model")
    if missing := [name for name in _LINEAGE if name not in manifest]:
        raise UsageError(f"--model {model!r} has a manifest without {missing[0]}: make it anew with trainer.task")
    arguments = dict(manifest["arguments"])
    return {
        **{name: manifest[name] for name in _LINEAGE},
        "source": os.path.abspath(model) if "://" not in model else model,
        "manifest_hash": hashlib.sha256(storage.read_bytes(storage.join(model, storage.MANIFEST))).hexdigest(),
        "content_fingerprint": storage.fingerprint(model, leave_out=(storage.STARTED,)),
        "input_manifests": arguments.pop("input_manifests", {}),
        "parameters": arguments,
    }


def _copy(source: str, target: str) -> None:
    """Copies a finished directory, manifest last.

    Two processes may do so at once, since both copy the same content and a file is replaced as a whole.
    """
    _, root = storage.resolve(source)
    names = [os.path.relpath(path, root) for path in storage.list_files(source)]
    names = [name for name in names if name not in (storage.STARTED, storage.MANIFEST)]
    for name in (*names, storage.MANIFEST):
        storage.write_bytes(storage.join(target, name), storage.read_bytes(storage.join(source, name)))
