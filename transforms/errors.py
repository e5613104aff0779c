"""The one error a person is meant to read, and how a command ends on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class UsageError(ValueError):
    """A wrong argument or unusable input; the message is one line: what, which value, what is accepted."""


def rejected(argument: str, value: Any, accepted: str) -> UsageError:
    return UsageError(f"{argument} {value!r} is not usable: accepted is {accepted}")


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line, without the usage of all the others around it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def exit_code(command: Callable[[], Any]) -> int:
    """Runs a command: 0 when its output is complete, 2 with one line on stderr for a bad argument."""
    try:
        command()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
