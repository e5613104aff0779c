"""What every command line shares: how it parses, how it explains itself, and how it ends."""

from __future__ import annotations

import argparse
import difflib
import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from transforms.errors import JobFailed, UsageError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the examples of a description as written, and shows the defaults there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # Nobody needs to be told that the default of "give me files" is no file.
        return action.help if action.default in (None, []) else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line, without the usage of all the others around it."""

    def __init__(self, prog: str, **others: Any) -> None:
        super().__init__(prog, formatter_class=HelpFormatter, allow_abbrev=False, **others)
        self.given: Sequence[str] = ()

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        self.given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises UsageError. A mistyped flag is often why another one is missing: it is named too."""
        flags = [argument.split("=", 1)[0] for argument in self.given if argument.startswith("--")]
        for flag in flags:
            alike = difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.8)
            if flag not in self._option_string_actions and alike:
                message += f"; did {flag} mean {alike[0]}?"
        raise UsageError(f"{message} (see {self.prog} --help)")


MOST_SEED = 2**31 - 1  # what every library that is seeded takes
# What a person at the machine has to mend; any other OSError is a defect and keeps its traceback.
_FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argument's type: a whole number between the bounds."""
    accepted = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is a whole number {accepted}")
        return int(text)

    return parse


def number(least: float, most: float, unit: str) -> Callable[[str], float]:
    """An argument's type: a number of ``unit`` (such as "seconds") between the bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted are {unit} from {least:g} to {most:g}")
        return value

    return parse


def say(line: str) -> None:
    """A line about progress, on stderr and at once: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def exit_code(command: Callable[[], Any]) -> int:
    """Runs a command: 0 when its output is complete, 2 with one line on stderr for a bad argument.

    1 when a job failed (or the failure's own code), or the disk is full or may not be written, 130 when interrupted, 141 when nobody reads its output.
    """
    try:
        command()
        sys.stdout.flush()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except JobFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return 141
    except OSError as error:
        if error.errno not in _FULL_OR_FORBIDDEN:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
