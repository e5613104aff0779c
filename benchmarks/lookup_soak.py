"""Ten minutes of load on the lookup service while generations come and go and the store fails.

    python -m benchmarks.lookup_soak --minutes 10
    python -m benchmarks.lookup_soak --minutes 0.5 --connections 4 --seed 7

Starts the Firestore emulator of the Google Cloud SDK, a proxy before it that can fail, and the service before that. A
few connections ask without a pause: for one customer, for 100, for customers whom nobody knows, with If-None-Match.
Meanwhile generations are published, rolled back, deleted and expired, and the store is away twice: once it refuses
connections, once it takes calls and does not answer them. The publisher reaches it even then.

Every answer is checked:

  - all rows of one answer are those that one generation was published with, and nobody is missing who is in it;
  - that generation was current between the request, less --pointer_seconds of the service, and the answer;
  - 304 comes with the entity tag that was sent, 200 with another;
  - 503 comes while the store is away, or for as long as coming back may take, with Retry-After, as a problem;
  - nothing else comes, and no answer later than the service's own limit;

and of the process: it answers again within --pointer_seconds of the store's return (3.5 s at least), its memory stays within {memory}
MiB of what it was when warm, its threads and open files are as many.

Both seconds of the service are shortened with --minutes below 1, so that everything still happens. Latencies include
the proxy and the checks, which share the cores. Exit code 1 when a check fails; the last line is one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from benchmarks.lookup_service import Service
from benchmarks.lookup_soak_checks import Checker, History, Shop
from benchmarks.lookup_soak_proxy import ProxyProcess
from transforms.cli import ArgumentParser, number, whole_number
from transforms.errors import JobFailed, UsageError

if TYPE_CHECKING:
    from benchmarks.lookup_soak_parts import Caller

NAME = "lookup_soak"
PACKAGES = ("fastapi", "google-cloud-datastore", "grpcio", "protobuf", "uvicorn", "uvloop")
PROJECT = "test-project"
POINTER_SECONDS, STORE_SECONDS = 5.0, 2.0  # the service's defaults
# gRPC may wait 2.4 s before it connects anew; only a shortened pointer_seconds is less.
RECONNECT_SECONDS = 3.5
# A leak of 40 bytes a request is more in ten minutes. What is not one: rows of two generations at once while answers of
# the old one are under way (2 x ROWS_KEPT x 700 bytes = 7 MiB), and what the allocators of ten threads keep.
MOST_GROWTH_MIB = 24.0
# gRPC's own threads and sockets come and go with its connections.
MOST_THREADS_MORE, MOST_FILES_MORE = 4, 4
# Outages begin at these parts of the time, and last so many times pointer_seconds: what is remembered no longer helps.
OUTAGES = {"refusing": 0.3, "hanging": 0.6}
_OUTAGE_POINTERS = 2.0
# What is compared of the process: when warm, and at the end.
_WARM, _END = (0.15, 0.28), (0.9, 1.0)
_TELLINGS = 10  # progress lines
_SHOWN = 10  # wrong answers


@dataclass(frozen=True)
class SoakOptions:
    minutes: float
    customers: int
    connections: int
    seed: int

    @classmethod
    def parse(cls, argv: list[str] | None) -> SoakOptions:
        description = (__doc__ or "").format(memory=f"{MOST_GROWTH_MIB:g}")
        parser = ArgumentParser("python -m benchmarks.lookup_soak", description=description)
        parser.add_argument("--minutes", type=number(0.5, 1440, "minutes"), default=10.0, help="of load, from 0.5")
        parser.add_argument(
            "--customers", type=whole_number(200), default=2_000,
            help="in each generation; the service remembers half as many",
        )  # fmt: skip
        parser.add_argument("--connections", type=whole_number(1, 64), default=6, help="that ask at once")
        parser.add_argument("--seed", type=whole_number(0), default=1, help="same seed, same requests")
        return cls(**vars(parser.parse_args(argv)))

    @property
    def seconds(self) -> float:
        return 60 * self.minutes

    @property
    def scale(self) -> float:
        """Of the service's two times: all of 1 from a minute on, half of it in half a minute."""
        return min(1.0, self.minutes)

    @property
    def pointer_seconds(self) -> float:
        return POINTER_SECONDS * self.scale

    @property
    def store_seconds(self) -> float:
        return STORE_SECONDS * self.scale

    @property
    def pause_seconds(self) -> float:
        """Between two changes. The emulator gets slower with each entity that was ever in it: some 100 are enough."""
        return max(self.pointer_seconds / 2, self.seconds / 120)

    @property
    def recovery_seconds(self) -> float:
        """Within which the service answers again."""
        return max(self.pointer_seconds, RECONNECT_SECONDS)


@dataclass(frozen=True)
class Figures:
    """What happened. Times are in ms or seconds; the process's figures are medians when warm and at the end."""

    requests: int
    rows: int
    switches: int
    not_modified: int
    not_found: int
    unavailable: int
    p50_ms: float
    p99_ms: float
    stale_seconds: float
    warm_rss_mib: float
    end_rss_mib: float
    warm_threads: int
    end_threads: int
    warm_files: int
    end_files: int


def main(argv: list[str] | None = None) -> int:
    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints progress, the table and the JSON line, and returns what the line says.

    Raises:
      JobFailed: a check failed.
      UsageError: an unusable argument, or the emulator is not installed.
    """
    from unittest import mock

    from tests.emulators import services

    options = SoakOptions.parse(argv)
    try:
        with (
            services.FirestoreInDatastoreMode() as emulator,
            mock.patch.dict(os.environ, DATASTORE_EMULATOR_HOST=emulator.host),  # the publisher's way
            ProxyProcess(emulator.host, options.seed) as proxy,
        ):
            soak = Soak(options, proxy)
            soak.run()
    except services.EmulatorError as error:
        raise UsageError(str(error)) from error
    result = soak.verdict()
    soak.print_table(result)
    print(json.dumps(result))
    if not result["aim_met"]:
        raise JobFailed("; ".join(soak.failures(result)))
    return result


class Soak:
    """One run: the service, who asks it, who publishes, who looks at it."""

    def __init__(self, options: SoakOptions, proxy: ProxyProcess) -> None:
        self._options, self._proxy = options, proxy
        self._history = History()
        self._shop = Shop(options.customers)
        self.checker = Checker(
            self._shop, self._history, options.pointer_seconds, options.store_seconds, options.recovery_seconds
        )

    def run(self) -> None:
        """Raises: JobFailed when the service, or what surrounds it, could not go on."""
        from benchmarks.lookup_soak_parts import Publisher, Times, Watcher

        options = self._options
        self._times = Times()
        publisher = Publisher(f"datastore://{PROJECT}", self._shop, self._history, options.pause_seconds)
        publisher.publish_first()
        with self._service() as service:
            self._watcher = Watcher(service, options.seconds / 300)
            parts = [*self._callers(service), publisher, self._watcher]
            self._began = time.monotonic()
            for part in parts:
                part.start()
            try:
                self._pass_time()
            finally:
                for part in parts:
                    part.ended.set()
            for part in parts:
                part.finish()
            self._hold_to_log(service)

    def _service(self) -> Service:
        options = self._options
        arguments = [
            "--serving", f"datastore://{PROJECT}", "--no_auth", "--port", "0",
            "--rows_kept", str(options.customers // 2), "--pointer_seconds", f"{options.pointer_seconds:g}",
            "--store_seconds", f"{options.store_seconds:g}",
        ]  # fmt: skip
        return Service("serving.app", *arguments, environment={"DATASTORE_EMULATOR_HOST": self._proxy.host})

    def _callers(self, service: Service) -> list[Caller]:
        from benchmarks.lookup_soak_parts import Caller

        options = self._options
        return [
            Caller(number, options.seed, service.port, self._shop, self.checker, self._times)
            for number in range(options.connections)
        ]

    def _pass_time(self) -> None:
        """Tells how it goes and has the store go away, at the times they are due."""
        seconds = self._options.seconds
        due = [(seconds * number / _TELLINGS, self._tell) for number in range(1, _TELLINGS + 1)]
        due += [(seconds * OUTAGES["refusing"], self._refuse), (seconds * OUTAGES["hanging"], self._hang)]
        for at, happens in sorted(due, key=lambda each: each[0]):
            time.sleep(max(0.0, self._began + at - time.monotonic()))
            happens()

    def _refuse(self) -> None:
        with self._outage("refusing"), self._proxy.refusing():
            time.sleep(self._outage_seconds)

    def _hang(self) -> None:
        """Calls are answered when the service has given them up, so that none holds a thread of the proxy for long."""
        late = 1.5 * self._options.store_seconds
        with self._outage("hanging"), self._proxy.hanging(late):
            time.sleep(self._outage_seconds)

    @property
    def _outage_seconds(self) -> float:
        return _OUTAGE_POINTERS * self._options.pointer_seconds

    @contextlib.contextmanager
    def _outage(self, kind: str) -> Iterator[None]:
        _progress(f"{self._at():6.1f} s  the store is {kind} for {self._outage_seconds:g} s")
        with self._history.outage(kind):
            yield
        _progress(f"{self._at():6.1f} s  the store is back")

    def _tell(self) -> None:
        now, checker = time.monotonic(), self.checker
        took = self._times.between(now - self._options.seconds / _TELLINGS, now)
        sample = self._watcher.samples[-1]
        _progress(
            f"{self._at():6.1f} s  {len(took):7,} answers of 200, p50 {_ms(took, 50):.2f} ms, p99 {_ms(took, 99):.2f} ms; "
            f"{self._history.switches} switches; {sample.rss_mib:.0f} MiB, {sample.threads} threads, "
            f"{sample.open_files} files; {len(checker.wrong)} wrong"
        )

    def _at(self) -> float:
        return time.monotonic() - self._began

    def _hold_to_log(self, service: Service) -> None:
        if not service.runs():
            self.checker.note("the service has ended")
        if "Traceback" in service.log():
            self.checker.note(f"the log has a traceback: {service.log()[-2000:]}")

    def _recovery(self, span: Any) -> float:
        """Seconds from the store's return to the first answer of 200; the rest of the time where none came."""
        first = self._times.first_success(span.until)
        return first if first is not None else self._began + self._options.seconds - span.until

    def verdict(self) -> dict[str, Any]:
        """The benchmark's result: its ratios are what was counted or measured, each beside the most that it may be."""
        figures, outages = self._figures(), self._history.outages
        for span in outages:
            if not self._times.unavailable(span.since, span.until or span.since):
                self.checker.note(f"no answer of 503 came while the store was {span.what}: nothing was tried")
        if figures.not_modified == 0 or figures.not_found == 0 or figures.switches < 3:
            self.checker.note("too little happened: 304, 404 and three switches have to occur")
        measured = {
            "wrong_answers": float(len(self.checker.wrong)),
            "recovery_seconds": max(map(self._recovery, outages)),
            "rss_growth_mib": figures.end_rss_mib - figures.warm_rss_mib,
            "threads_more": float(figures.end_threads - figures.warm_threads),
            "files_more": float(figures.end_files - figures.warm_files),
        }
        return harness.verdict(NAME, PACKAGES, {"service": figures}, measured, self._aim())

    def _aim(self) -> dict[str, float]:
        return {
            "wrong_answers": 0, "recovery_seconds": self._options.recovery_seconds,
            "rss_growth_mib": MOST_GROWTH_MIB, "threads_more": MOST_THREADS_MORE, "files_more": MOST_FILES_MORE,
        }  # fmt: skip

    def _figures(self) -> Figures:
        began, seconds, counts = self._began, self._options.seconds, self.checker.counts
        warm, end = (self._watcher.typical(began + a * seconds, began + b * seconds) for a, b in (_WARM, _END))
        took = self._times.between(began, began + seconds)
        return Figures(
            requests=len(self._times.answers), rows=counts["rows"], switches=self._history.switches,
            not_modified=counts["304"], not_found=counts["404"], unavailable=counts["503"],
            p50_ms=round(_ms(took, 50), 3), p99_ms=round(_ms(took, 99), 3),
            stale_seconds=round(self.checker.stale_seconds, 3),
            warm_rss_mib=round(warm.rss_mib, 1), end_rss_mib=round(end.rss_mib, 1),
            warm_threads=warm.threads, end_threads=end.threads, warm_files=warm.open_files, end_files=end.open_files,
        )  # fmt: skip

    def failures(self, result: Mapping[str, Any]) -> list[str]:
        """What is above its aim, in words; the wrong answers go to stderr, the first of them."""
        for wrong in self.checker.wrong[:_SHOWN]:
            _progress(f"wrong: {wrong}")
        return [
            f"{name} is {value:g}, accepted is at most {result['aim'][name]:g}"
            for name, value in result["ratios"].items()
            if value > result["aim"][name]
        ]

    def print_table(self, result: Mapping[str, Any]) -> None:
        """One line a figure, then one a check."""
        for name, value in result["figures"]["service"].items():
            print(f"{name:16}  {value:>12,}")
        for name, value in result["ratios"].items():
            most = result["aim"][name]
            print(f"{name:16}  {value:12,.2f}  (at most {most:g}: {'kept' if value <= most else 'BROKEN'})")


def _ms(sorted_seconds: list[float], percent: float) -> float:
    if not sorted_seconds:
        return 0.0
    return 1000 * sorted_seconds[min(int(len(sorted_seconds) * percent / 100), len(sorted_seconds) - 1)]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
