"""What a Dockerfile says: its instructions, the files it copies from the context, the values of its variables.

Only what ``templates/Dockerfile`` and ``serving/Dockerfile`` use is understood. Anything else is an error, so that nothing is passed over.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_KEYWORDS = {"ARG", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "WORKDIR"}


class NotUnderstood(ValueError):
    """An instruction that cannot be carried out here as Docker would."""


@dataclass(frozen=True)
class Instruction:
    keyword: str
    value: str

    def __str__(self) -> str:
        return f"{self.keyword} {self.value}"


def instructions(text: str) -> list[Instruction]:
    """Raises: NotUnderstood for a keyword that is not one of the few known here."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [Instruction(*line.split(None, 1)) for line in joined.splitlines()]
    for instruction in found:
        if instruction.keyword not in _KEYWORDS:
            raise NotUnderstood(f"{instruction}: not an instruction that is understood here")
    return found


@dataclass(frozen=True)
class Copy:
    """A COPY of files of the context; ``sources`` as written, ``target`` in the image."""

    sources: list[str]
    target: str

    @classmethod
    def parse(cls, instruction: Instruction) -> Copy | None:
        """None for a copy from another image, whose files are not ours.

        Raises:
          NotUnderstood: a flag, a wildcard or a target that is not known here.
        """
        words = shlex.split(instruction.value)
        if words[0].startswith("--from=") and len(words) == 3:
            return None
        *sources, target = words
        if not target.startswith("/") or any(re.search(r"^-|[*?\[]|\.\.", word) for word in words):
            raise NotUnderstood(f"{instruction}: only plain paths of the context, to an absolute path, are understood")
        return cls(sources, target)

    def files(self, context: Path, ignored: Ignored) -> Iterator[tuple[Path, str]]:
        """Each file that is copied, and its path in the image.

        Raises:
          NotUnderstood: a source is not there, or nothing of it may be copied.
        """
        for source in self.sources:
            path, found = context / source, False
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not ignored(file.relative_to(context).as_posix()):
                    yield file, self._target(file, path)
                    found = True
            if not found:
                raise NotUnderstood(f"COPY {source}: there is no such file in the context")

    def _target(self, file: Path, source: Path) -> str:
        if source.is_dir():
            return f"{self.target.rstrip('/')}/{file.relative_to(source).as_posix()}"
        return f"{self.target}{file.name}" if self.target.endswith("/") else self.target


class Ignored:
    """Whether a path of the context is left out, by the lines of a .dockerignore: the last that matches decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        self._rules = [
            (not line.startswith("!"), _pattern(line.lstrip("!").strip("/")))
            for line in lines
            if line and not line.startswith("#")
        ]

    def __call__(self, path: str) -> bool:
        parts = path.split("/")
        names = ["/".join(parts[: end + 1]) for end in range(len(parts))]  # a folder's rule holds for what is in it
        ignored = False
        for leaves_out, pattern in self._rules:
            if any(pattern.fullmatch(name) for name in names):
                ignored = leaves_out
        return ignored


def _pattern(line: str) -> re.Pattern[str]:
    meaning = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", line)
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))


def copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, target)


def declared(instruction: Instruction, given: Mapping[str, str]) -> tuple[str, str]:
    """The name of an ARG and its value in a build that was given these; empty where it was given none, as in Docker.

    Raises:
      NotUnderstood: it has a default.
    """
    if not re.fullmatch(r"\w+", instruction.value):
        raise NotUnderstood(f"{instruction}: a name alone is understood")
    return instruction.value, given.get(instruction.value, "")


def words(instruction: Instruction) -> list[str]:
    """The words of an ENTRYPOINT.

    Raises:
      NotUnderstood: they are for a shell, or none.
    """
    try:
        found = json.loads(instruction.value)
    except ValueError:
        found = None
    if not found or not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise NotUnderstood(f'{instruction}: a list is understood, ["program", "argument"]')
    return found


def user(instruction: Instruction) -> int:
    """The number of a USER.

    Raises:
      NotUnderstood: a name, whose number only the image's own files know, or root.
    """
    if not re.fullmatch(r"[1-9]\d*", instruction.value):
        raise NotUnderstood(f"{instruction}: a number other than root's is understood")
    return int(instruction.value)


def assigned(instruction: Instruction, known: Mapping[str, str]) -> tuple[str, str]:
    """The name and the value that an ENV sets.

    Raises:
      NotUnderstood: more than one at a time, or a variable that has no value.
    """
    words = shlex.split(instruction.value)
    if len(words) != 1 or "=" not in words[0]:
        raise NotUnderstood(f"{instruction}: one NAME=VALUE a line is understood")
    name, _, value = words[0].partition("=")

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise NotUnderstood(f"{instruction}: {match[1]} has no value")
        return known[match[1]]

    return name, re.sub(r"\$\{(\w+)\}", value_of, value)
