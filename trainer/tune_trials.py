"""The finished trials of a search: a file each, written once, so that a search goes on after any crash.

``<--tune_storage>/<study>/study.json`` says what decides a trial's loss, ``trial-0007.json`` what the eighth trial gave. A
trial's file comes into being whole or not at all, and is never replaced: of two processes at the same search the
first to end a trial is believed, and the other goes on from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainer.settings import Settings
from transforms import storage
from transforms.errors import UsageError

# As Optuna names them. PRUNED: stopped early, being worse than half of the others were; FAIL: no finite loss.
COMPLETE, PRUNED, FAIL = "COMPLETE", "PRUNED", "FAIL"


@dataclass(frozen=True)
class Trial:
    """``history``: each epoch's validation loss, None where it was not finite. ``loss``: the best epoch's."""

    number: int
    settings: Settings
    state: str
    loss: float | None
    history: tuple[float | None, ...]
    seconds: float

    @classmethod
    def read(cls, content: bytes) -> Trial:
        """Raises: ValueError, KeyError, TypeError where the content is not what ``encoded`` made."""
        values = json.loads(content)
        return cls(
            int(values["number"]), Settings.of(values["settings"]), str(values["state"]), values["loss"],
            tuple(values["history"]), float(values["seconds"]),
        )  # fmt: skip

    def encoded(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Study:
    """The trials of one search, in a directory named by what decides their losses."""

    directory: str

    @classmethod
    def open(cls, place: str, decides: Mapping[str, Any]) -> Study:
        """The study of a search, begun where it is not there yet.

        Args:
          decides: what a trial's loss depends on besides its settings; another content is another study.
        """
        text = json.dumps(decides, indent=2, sort_keys=True, default=str)
        study = cls(storage.join(place, hashlib.sha256(text.encode()).hexdigest()[:16]))
        if not storage.exists(storage.join(study.directory, "study.json")):
            storage.write_bytes(storage.join(study.directory, "study.json"), text.encode())
        return study

    def trials(self) -> list[Trial]:
        """The finished trials up to the first missing one.

        Raises:
          UsageError: a file is damaged.
        """
        found: list[Trial] = []
        while storage.exists(self._file(len(found))):
            found.append(self._read(len(found)))
        return found

    def add(self, trial: Trial) -> Trial:
        """Keeps a trial, and returns the one that is kept: another process's where that was first."""
        kept = storage.compare_and_set(self._file(trial.number), trial.encoded(), expected=None)
        return trial if kept else self._read(trial.number)

    def _file(self, number: int) -> str:
        return storage.join(self.directory, f"trial-{number:04}.json")

    def _read(self, number: int) -> Trial:
        try:
            trial = Trial.read(storage.read_bytes(self._file(number)))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self._file(number)} is damaged ({error!r}): delete it to run the trial again"
            ) from error
        if trial.number != number:
            raise UsageError(f"{self._file(number)} holds trial {trial.number}: delete it to run the trial again")
        return trial
