"""What every benchmark shares: the machine, a measured subprocess, the table and the closing JSON line."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transforms import cli

ROOT = Path(__file__).resolve().parent.parent

# Beam's in-process runner works on one bundle at a time; these hold the libraries below it to one
# thread as well. OMP_NUM_THREADS also sizes Arrow's pool and, with the next two, NumPy's BLAS.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
# Short beside the seconds a contestant holds its peak, long beside the 0.1 ms one look costs.
_LOOK_SECONDS = 0.02
_MEGABYTE = 1 << 20


class OutputsDiffer(Exception):
    """Two contestants did not do the same work, so that no figure means anything; names the first difference."""


def exit_code(benchmark: Callable[[], Any]) -> int:
    """Runs a benchmark's command: as ``transforms.cli.exit_code``, and 1 where the outputs differ."""
    try:
        return cli.exit_code(benchmark)
    except OutputsDiffer as difference:
        print(f"error: the outputs differ, so there are no figures: {difference}", file=sys.stderr)
        return 1


@dataclass(frozen=True)
class Measurement:
    """What one command cost, with all its descendants.

    ``cpu_seconds`` is user + system time; ``peak_rss_mb`` the largest sum of resident memory over
    the process tree at one moment, in MiB.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_rss_mb: float

    @classmethod
    def typical(cls, runs: Sequence[Measurement]) -> Measurement:
        """Median times, and the largest peak: memory that is needed once is needed."""
        return cls(
            round(statistics.median(run.cpu_seconds for run in runs), 2),
            round(statistics.median(run.wall_seconds for run in runs), 2),
            round(max(run.peak_rss_mb for run in runs), 1),
        )


def measure(command: Sequence[str], environment: Mapping[str, str] = ONE_THREAD) -> Measurement:
    """Runs ``python COMMAND`` from the repository's root, to its end, and returns what it cost.

    Args:
      command: what follows the interpreter, such as ``["-m", "pipelines.features", ...]``.
      environment: variables set on top of this process's own.

    Raises:
      RuntimeError: the command failed; the message ends with the last lines it wrote.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        peak = 0
        while True:
            # wait4 and not wait: only it tells the CPU time of this child and of the children it waited for.
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, _tree_peak(process.pid))
            time.sleep(_LOOK_SECONDS)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            tail = "\n".join(output.read().decode(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    return Measurement(usage.ru_utime + usage.ru_stime, wall, peak / _MEGABYTE)


def _tree_peak(root: int) -> int:
    """Bytes of resident memory of a process tree.

    The root counts with its high-water mark, which no look can miss. ``ru_maxrss`` is of no use
    here: Linux carries the launching process's memory through fork and exec into it. A child between
    fork and exec still shares the root's memory, which would count twice: its command line tells.
    """
    command = _command_line(root)
    others = (pid for pid in _tree(root) if pid != root and _command_line(pid) != command)
    return _status_bytes(root, "VmHWM:") + sum(_status_bytes(pid, "VmRSS:") for pid in others)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from _tree(int(child))
    except OSError:
        return  # it ended between two looks


def _status_bytes(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Where the figures come from: processor, cores, memory, Python and the versions of ``packages``."""
    from importlib.metadata import version

    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].split(":", 1)[1].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
    }


def print_table(rows: Mapping[str, Measurement]) -> None:
    """One line a contestant."""
    width = max(map(len, rows))
    print(f"{'':{width}}  {'CPU s':>9}  {'wall s':>9}  {'peak MiB':>9}")
    for name, row in rows.items():
        print(f"{name:{width}}  {row.cpu_seconds:9.2f}  {row.wall_seconds:9.2f}  {row.peak_rss_mb:9.1f}")


def verdict(
    name: str,
    packages: Sequence[str],
    figures: Mapping[str, Any],
    ratios: Mapping[str, float],
    aim: Mapping[str, float],
    *,
    at_least: bool = False,
) -> dict[str, Any]:
    """The benchmark's result.

    Args:
      figures: contestant -> what it cost, a dataclass such as ``Measurement``.
      aim: name of a ratio -> the most it may be, or the least with ``at_least``.
    """
    return {
        "name": name,
        "machine": machine(packages),
        "figures": {contestant: asdict(measured) for contestant, measured in figures.items()},
        "ratios": {ratio: round(value, 3) for ratio, value in ratios.items()},
        "aim": dict(aim),
        "aim_met": all(ratios[name] >= end if at_least else ratios[name] <= end for name, end in aim.items()),
    }


def print_verdict(result: Mapping[str, Any]) -> None:
    """The ratios for people, then, as the last line, one JSON object for programs."""
    for ratio, value in result["ratios"].items():
        most = result["aim"].get(ratio)
        print(f"{ratio}: {value}" + (f" (aim: at most {most})" if most is not None else ""))
    print(json.dumps(result))
