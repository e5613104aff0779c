"""A step as a process: its answer, its lines in the log, its end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration import run_command
from orchestration.run_command import Command, run
from transforms.errors import JobFailed, UsageError

ROOT = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("tests.run_command")
Module = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Writes a module that ``python -m`` finds, and returns its name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def write(code: str) -> str:
        (tmp_path / "said.py").write_text(textwrap.dedent(code))
        return "said"

    return write


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, LOG.name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == LOG.name]


def step(name: str, *arguments: str) -> dict[str, Any]:
    return {"module": name, "arguments": list(arguments)}


def test_the_answer_is_the_last_line(module: Module, lines: Callable[[], list[str]]) -> None:
    name = module("""
        import json, sys
        print("looking")
        print(json.dumps({"arguments": sys.argv[1:], "due": True}))
        print()
    """)
    assert run(step(name, "--on", "2026-11-22", "a b;c"), LOG) == {
        "arguments": ["--on", "2026-11-22", "a b;c"], "due": True
    }  # fmt: skip
    assert lines()[0] == "looking" and len(lines()) == 2


@pytest.mark.parametrize("last", ["", "done", "[1, 2]", "3", "null", '{"due": tru'])
def test_a_command_that_answers_nothing(last: str, module: Module) -> None:
    assert run(step(module(f"print({last!r})")), LOG) == {}


def test_errors_are_told_in_their_order(module: Module, lines: Callable[[], list[str]]) -> None:
    name = module("""
        import sys
        for number in range(1000):
            print(f"line {number}", file=sys.stderr)
        print('{"count": 1000}')
    """)
    assert run(step(name), LOG) == {"count": 1000}
    assert [line for line in lines() if line.startswith("line ")] == [f"line {number}" for number in range(1000)]


def test_lines_are_logged_while_the_command_runs(
    module: Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The command ends only when its line has been seen."""
    seen = tmp_path / "seen"
    name = module(f"""
        import pathlib, sys, time
        print("are you there?", file=sys.stderr)
        for _ in range(600):
            if pathlib.Path({str(seen)!r}).exists():
                print('{{"seen": true}}')
                break
            time.sleep(0.1)
    """)

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "are you there?":
                seen.touch()

    caplog.set_level(logging.INFO, LOG.name)
    handler = Seen()
    LOG.addHandler(handler)
    try:
        assert run(step(name), LOG) == {"seen": True}
    finally:
        LOG.removeHandler(handler)


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("print('error: --on is missing', file=sys.stderr); sys.exit(2)", UsageError, "--on is missing"),
        ("sys.exit(2)", UsageError, "it said nothing"),
        (
            "print('a\\nerror: no quota\\n', file=sys.stderr); sys.exit(1)", JobFailed,
            "-m said ended with 1: no quota",
        ),
        ("raise ValueError('x\\ny')", JobFailed, "-m said ended with 1: y"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", JobFailed, "-m said ended with -9: it said nothing"),
    ],
)  # fmt: skip
def test_how_it_ended(code: str, error: type[Exception], said: str, module: Module) -> None:
    with pytest.raises(error) as caught:
        run(step(module(f"import sys\n{code}")), LOG)
    assert str(caught.value) == said
    assert type(caught.value) is error


def test_a_command_of_ours_with_a_bad_argument() -> None:
    with pytest.raises(UsageError, match=r"--on.*yesterday"):
        run(step("trainer.registry", "champion", "--registry", "nowhere", "--on", "yesterday"), LOG)


def test_our_packages_are_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of Airflow starts in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(UsageError, match="nowhere"):
        run(step("trainer.registry", "champion", "--registry", "nowhere"), LOG)


def test_a_hundred_megabytes_on_both_streams(module: Module) -> None:
    """Neither stream waits for the other, and nothing but the last line is kept."""
    name = module("""
        import sys
        line = "x" * 100_000
        for _ in range(500):
            print(line)
            print(line, file=sys.stderr)
        print('{"done": true}')
    """)
    quiet = logging.getLogger("tests.run_command.quiet")
    quiet.setLevel(logging.WARNING)
    assert run(step(name), quiet) == {"done": True}


def test_bytes_that_are_no_text_are_told_as_far_as_they_are(module: Module, lines: Callable[[], list[str]]) -> None:
    name = module("""
        import sys
        sys.stderr.buffer.write(b"caf\\xe9 \\xc3\\xa9\\n" * 10_000)
        print('{"done": true}')
    """)
    assert run(step(name), LOG) == {"done": True}
    assert "caf\N{REPLACEMENT CHARACTER} é" in lines()


ENDS_WELL = """
    import signal, sys, time
    def called_off(*_):
        print("error: the query was called off", file=sys.stderr)
        sys.exit(1)
    signal.signal(signal.SIGTERM, called_off)
    print("begun", flush=True)
    time.sleep(600)
"""
IS_DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("begun", flush=True)
    time.sleep(600)
"""


class Begun(logging.Handler):
    """Waits for the command's first line."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


@pytest.fixture
def begun(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, LOG.name)
    handler = Begun()
    LOG.addHandler(handler)
    yield handler.event
    LOG.removeHandler(handler)


@pytest.mark.parametrize(
    ("code", "said"), [(ENDS_WELL, "1: the query was called off"), (IS_DEAF, "-9: it said nothing")]
)
def test_a_killed_task_stops_its_command(
    code: str, said: str, module: Module, begun: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow calls on_kill while execute waits: it can call off what it began, but is not waited for without end."""
    monkeypatch.setattr(run_command, "_SECONDS_TO_STOP", 2.0)
    command = Command(module(code), [])
    ended: list[BaseException] = []

    def execute() -> None:
        try:
            command.run(LOG)
        except JobFailed as error:
            ended.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    assert begun.wait(60)
    command.stop()
    thread.join(60)
    assert [str(error) for error in ended] == [f"-m said ended with {said}"]
    command.stop()  # nothing is left to stop


def test_a_command_that_never_began_is_stopped_at_once() -> None:
    Command("orchestration.prepare", []).stop()


def test_a_timeout_ends_the_command(module: Module, begun: threading.Event) -> None:
    """Airflow's execution_timeout raises where the task waits: the command must not go on, nor hold the task back."""
    command = Command(module(ENDS_WELL), [])

    class TaskTimeout(BaseException):
        """As Airflow's: logging, for one, would swallow an Exception."""

    def alarm(*_: Any) -> None:
        raise TaskTimeout

    def ring() -> None:
        begun.wait(60)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, alarm)
    started = time.monotonic()
    try:
        threading.Thread(target=ring).start()
        with pytest.raises(TaskTimeout):
            command.run(LOG)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 30
    assert command._process is not None and command._process.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_worker_that_is_killed_leaves_no_command_behind(module: Module) -> None:
    name = module("""
        import os, time
        print(os.getpid(), flush=True)
        time.sleep(600)
    """)
    worker = subprocess.Popen(
        [sys.executable, "-c", f"""
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
from orchestration.run_command import Command
Command({name!r}, []).run(logging.getLogger())
"""],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    with worker:
        assert worker.stdout
        pid = int(worker.stdout.readline())
        worker.kill()
        until = time.monotonic() + 30
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
            time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
