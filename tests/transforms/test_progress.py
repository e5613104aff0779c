"""Progress on a real pseudo-terminal, and none where nobody looks."""

from __future__ import annotations

import os
import pty
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr

import pytest

from transforms import progress


class Terminal:
    """A pseudo-terminal, to redirect stderr to."""

    def __init__(self) -> None:
        self._screen, keyboard = pty.openpty()
        os.set_blocking(self._screen, False)
        self.stderr = os.fdopen(keyboard, "w", encoding="utf8")

    def close(self) -> None:
        self.stderr.close()
        os.close(self._screen)

    def read(self) -> str:
        """Everything drawn since the last reading, without the control sequences."""
        self.stderr.flush()
        drawn = b""
        try:
            while part := os.read(self._screen, 65_536):
                drawn += part
        except BlockingIOError:
            pass
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    screen = Terminal()
    yield screen
    screen.close()


def counts(drawn: str, what: str) -> list[str]:
    """``done/total`` as drawn behind a name, in the order drawn."""
    return [re.sub(r"\s", "", found) for found in re.findall(rf"{what}[^\d\n]*(\d+\s*/\s*(?:\d+|\?))", drawn)]


def test_a_bar_with_counts_for_everything_reported(terminal: Terminal) -> None:
    with redirect_stderr(terminal.stderr), progress.shown("features"):
        progress.advance("lines", 3, 10)
        progress.advance("customers", 2)
        progress.advance("lines", 4, 10)
    drawn = terminal.read()
    assert "features" in drawn
    assert counts(drawn, "lines")[-1] == "7/10"
    assert counts(drawn, "customers")[-1] == "2/?"


def test_inside_another_the_bars_are_the_outer_one_s(terminal: Terminal) -> None:
    with redirect_stderr(terminal.stderr), progress.shown("outer step"):
        progress.advance("lines", 1, 3)
        with progress.shown("inner step"):
            progress.advance("lines", 1, 3)
        progress.advance("lines", 1, 3)  # the inner one's end did not end the outer one
    drawn = terminal.read()
    assert "outer step" in drawn and "inner step" not in drawn
    assert counts(drawn, "lines")[-1] == "3/3"


def test_afterwards_nobody_listens(terminal: Terminal) -> None:
    with redirect_stderr(terminal.stderr):
        with pytest.raises(ZeroDivisionError), progress.shown("features"):
            progress.advance("lines", 1, 2)
            raise ZeroDivisionError
        assert counts(terminal.read(), "lines")
        progress.advance("lines", 1, 2)
        assert not terminal.read()
        with progress.shown("again"):  # a new one draws its own, from nothing
            progress.advance("lines", 1, 2)
    assert counts(terminal.read(), "lines")[-1] == "1/2"


def test_a_file_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    with progress.shown("features"):
        progress.advance("lines", 3, 10)
    printed = capsys.readouterr()
    assert not printed.err and not printed.out


@pytest.mark.parametrize("where", ["outside", "in a file"])
def test_where_nobody_looks_a_report_costs_nothing(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the library that draws is imported; a million reports would be a second at most."""
    monkeypatch.setitem(sys.modules, "rich", None)  # importing it fails

    def reports() -> None:
        for _ in range(1000):
            progress.advance("lines", 1, 1000)

    def in_a_file() -> None:
        with progress.shown("features"):
            reports()

    run: Callable[[], None] = reports if where == "outside" else in_a_file
    run()
