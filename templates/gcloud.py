"""Runs gcloud and docker, and says in one line what went wrong."""

from __future__ import annotations

import collections
import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence

from transforms.errors import JobFailed, UsageError, one_line

# A failing command says why in its last lines; those before are its progress.
_LAST_LINES = 8
_WORDS = 4  # "gcloud dataflow flex-template run"


def shown(command: Sequence[str]) -> str:
    """The command as a person types it."""
    return shlex.join(command)


def output(command: Sequence[str]) -> str:
    """Runs a command that is done soon, and asks nobody anything.

    Returns:
      What it printed to stdout.

    Raises:
      UsageError: there is no such program here.
      JobFailed: it ended with an error, which its last lines tell.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise _absent(command, error) from error
    if done.returncode:
        raise _failed(command, done.returncode, (done.stderr or done.stdout).splitlines())
    return done.stdout


def follow(command: Sequence[str]) -> None:
    """Runs a command that takes minutes; what it prints goes to stderr as it comes.

    Raises: as ``output``.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise _absent(command, error) from error
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    with process:
        for line in process.stdout or ():
            print(line, end="", file=sys.stderr, flush=True)
            last.append(line)
    if process.returncode:
        raise _failed(command, process.returncode, last)


def _absent(command: Sequence[str], error: OSError) -> UsageError:
    return UsageError(
        f"{command[0]} cannot be run ({error.strerror}): it has to be installed and in the PATH; --print_only prints the "
        "command for another machine"
    )


def _failed(command: Sequence[str], code: int, lines: Iterable[str]) -> JobFailed:
    words = itertools.takewhile(lambda word: word.replace("-", "").isalpha() and word[0] != "-", command[:_WORDS])
    said = [line for line in lines if line.strip()]
    # gcloud's own mark of where its reasons begin.
    begun = next((number for number, line in enumerate(said) if line.startswith("ERROR:")), -_LAST_LINES)
    return JobFailed(f"{' '.join(words)} ended with {code}: {one_line(' '.join(said[begun:])) or 'it said nothing'}")
