"""The soak of the lookup service: what it holds answers to, and the whole of it on the emulator, half a minute long."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Any

import pytest

from benchmarks import lookup_soak, lookup_soak_checks
from benchmarks.lookup_service import Answer, Service
from benchmarks.lookup_soak_checks import Asked, Checker, History, Shop, etag_of, name_of, number_of
from benchmarks.lookup_soak_parts import Sample, Times, Watcher
from tests.emulators import services

SHOP = Shop(200)
POINTER_SECONDS, STORE_SECONDS = 5.0, 2.0
KNOWN, LEFT_OUT, NOBODY = "12", "21", "nobody-7"  # generation 1 leaves 1, 21, 41, ... out


class Clock:
    """The history's time, which only we turn."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lookup_soak_checks, "monotonic", clock)
    return clock


@pytest.fixture
def history(clock: Clock) -> History:
    """Generation 1 from 1000 on, 2 from 1100 on; the store is away from 1200 to 1210."""
    history = History()
    for number, at in ((1, 1_000.0), (2, 1_100.0)):
        clock.now = at
        with history.switching(number):
            clock.now = at + 0.5
    clock.now = 1_200.0
    with history.outage("refusing"):
        clock.now = 1_210.0
    return history


@pytest.fixture
def checker(history: History) -> Checker:
    return Checker(SHOP, history, POINTER_SECONDS, STORE_SECONDS, POINTER_SECONDS)


def answer(status: int, body: Any, **headers: str) -> Answer:
    lines = [f"HTTP/1.1 {status} x", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return Answer(status, "\r\n".join(lines).encode(), body if isinstance(body, bytes) else json.dumps(body).encode())


def one(number: int, customer_id: str = KNOWN, etag: int | None = None, **changes: Any) -> Answer:
    return answer(200, SHOP.row(number, customer_id) | changes, etag=etag_of(etag or number))


def many(number: int, found: Sequence[str], missing: Sequence[str], other: int | None = None) -> Answer:
    rows = [SHOP.row(number if index or not other else other, each) for index, each in enumerate(found)]
    return answer(200, {"generation": name_of(number), "found": rows, "missing": list(missing)})


def problem(status: int, code: str, detail: str = "", **headers: str) -> Answer:
    body = {"type": "about:blank", "title": "", "status": status, "detail": detail, "code": code}
    return answer(status, body, content_type="application/problem+json", **headers)


def missing(number: int) -> Answer:
    return problem(404, "no_prediction", f"generation {name_of(number)} has no prediction for 'x'")


AWAY = problem(503, "store_unavailable", retry_after="1")
ONE, TOGETHER = Asked([KNOWN]), Asked([KNOWN, NOBODY, "30", LEFT_OUT], together=True)
CACHED = Asked([KNOWN], etags=[etag_of(1)])

RIGHT = {
    "a row": (ONE, one(1), 1_050.0),
    "the new one as soon as it may be there": (ONE, one(2), 1_100.0),
    "the old one for pointer_seconds": (ONE, one(1), 1_105.4),
    "several": (TOGETHER, many(1, [KNOWN, "30"], [NOBODY, LEFT_OUT]), 1_050.0),
    "left out": (Asked([LEFT_OUT]), missing(1), 1_050.0),
    "nobody": (Asked([NOBODY]), missing(2), 1_150.0),
    "not modified": (CACHED, answer(304, b"", etag=etag_of(1)), 1_050.0),
    "modified": (CACHED, one(2), 1_150.0),
    "away": (ONE, AWAY, 1_205.0),
    "just back": (ONE, AWAY, 1_214.9),
}
WRONG = {
    "a value of another generation": (ONE, one(1, predicted_value=2_000_012.0), 1_050.0, "not what was published"),
    "another customer's": (ONE, one(1, "13"), 1_050.0, "not what was published"),
    "a row that the generation leaves out": (Asked([LEFT_OUT]), one(1, LEFT_OUT), 1_050.0, "not what was published"),
    "a tag of another generation": (ONE, one(1, etag=2), 1_050.0, "entity tag"),
    "before it was switched to": (ONE, one(2), 1_090.0, "generation 2 was not current"),
    "too long after it was": (ONE, one(1), 1_106.0, "generation 1 was not current"),
    "never published": (ONE, one(3), 1_150.0, "generation 3 was not current"),
    "two generations": (TOGETHER, many(1, [KNOWN, "30"], [NOBODY, LEFT_OUT], other=2), 1_050.0, "rows found"),
    "one too few": (TOGETHER, many(1, [KNOWN], [NOBODY, LEFT_OUT]), 1_050.0, "rows found"),
    "in another order": (TOGETHER, many(1, ["30", KNOWN], [NOBODY, LEFT_OUT]), 1_050.0, "rows found"),
    "said to be missing": (TOGETHER, many(1, [KNOWN, "30"], [NOBODY, LEFT_OUT, KNOWN]), 1_050.0, "missing"),
    "not said to be missing": (TOGETHER, many(1, [KNOWN, "30"], [NOBODY]), 1_050.0, "missing"),
    "missing, and is there": (ONE, missing(1), 1_050.0, "has a prediction"),
    "missing in a later one": (Asked([NOBODY]), missing(2), 1_050.0, "generation 2 was not current"),
    "nothing published": (ONE, problem(404, "nothing_published"), 1_050.0, "not the problem"),
    "a 304 that nobody asked for": (ONE, answer(304, b"", etag=etag_of(1)), 1_050.0, "304 with"),
    "a 304 of another": (CACHED, answer(304, b"", etag=etag_of(2)), 1_150.0, "304 with"),
    "a 304 too late": (CACHED, answer(304, b"", etag=etag_of(1)), 1_150.0, "generation 1 was not current"),
    "no 304": (CACHED, one(1), 1_050.0, "304 was due"),
    "away for no reason": (ONE, AWAY, 1_050.0, "was not away"),
    "away too long": (ONE, AWAY, 1_216.0, "was not away"),
    "away without a word when to come": (ONE, problem(503, "store_unavailable"), 1_205.0, "Retry-After"),
    "overloaded": (ONE, problem(503, "overloaded", retry_after="1"), 1_205.0, "not the problem"),
    "a failure": (ONE, problem(500, "internal_error"), 1_205.0, "accepted are"),
    "no JSON": (ONE, answer(200, b"<html>"), 1_050.0, "JSONDecodeError"),
}  # fmt: skip


class TestChecker:
    @pytest.mark.parametrize("case", RIGHT)
    def test_what_may_be_is_not_blamed(self, case: str, checker: Checker) -> None:
        asked, given, at = RIGHT[case]
        checker.check(asked, given, at, at + 0.01)
        assert checker.wrong == []
        assert checker.counts[str(given.status)] == 1

    @pytest.mark.parametrize("case", WRONG)
    def test_what_may_not_be_is_named(self, case: str, checker: Checker) -> None:
        asked, given, at, noticed = WRONG[case]
        checker.check(asked, given, at, at + 0.01)
        (wrong,) = checker.wrong
        assert noticed in wrong

    def test_an_answer_that_takes_too_long_is_wrong(self, checker: Checker) -> None:
        checker.check(ONE, AWAY, 1_195.0, 1_205.1)
        assert "took 10.1 s" in checker.wrong[0]

    def test_a_request_during_a_switch_may_be_answered_from_either(self, clock: Clock, history: History) -> None:
        checker = Checker(SHOP, history, POINTER_SECONDS, STORE_SECONDS, POINTER_SECONDS)
        clock.now = 1_300.0
        with history.switching(3):
            for number in (2, 3):
                checker.check(ONE, one(number), 1_300.0, 1_300.2)
        assert checker.wrong == []

    def test_how_stale_answers_were_is_kept(self, checker: Checker) -> None:
        checker.check(ONE, one(1), 1_103.0, 1_103.1)
        assert checker.stale_seconds == pytest.approx(2.5)  # the switch was over at 1100.5


class TestShop:
    def test_the_table_holds_what_is_expected_in_answers(self) -> None:
        rows = SHOP.table(3).to_pylist()
        assert len(rows) == 190 and number_of(name_of(3)) == 3
        for row in rows:
            expected = SHOP.row(3, row["customer_id"])
            assert row | {"as_of": row["as_of"].isoformat(), "generation": name_of(3)} == expected
            assert SHOP.holds(3, row["customer_id"])

    def test_generations_and_customers_never_share_a_value(self) -> None:
        values = [SHOP.row(number, str(index))["predicted_value"] for number in (1, 2, 3) for index in range(200)]
        assert len(set(values)) == len(values)


def test_times_tell_when_the_first_answer_came() -> None:
    times = Times([(1.0, 200, 0.1), (2.0, 503, 0.2), (4.0, 200, 0.3), (5.0, 200, 0.2)])
    assert times.first_success(1.5) == 2.5 and times.first_success(6.0) is None
    assert times.between(1.0, 4.5) == [0.1, 0.3]
    assert times.unavailable(1.0, 4.0) == 1


def test_the_watcher_gives_medians() -> None:
    watcher = Watcher(Service("serving.app"), 1.0)
    watcher.samples = [Sample(at, 100.0 + at, 10, 20) for at in (0, 1, 2, 3, 90)]
    assert watcher.typical(1, 4) == Sample(1, 102.0, 10, 20)
    assert watcher.typical(200, 300).rss_mib == 190.0


class TestCommand:
    def test_help_is_quick(self) -> None:
        command = [sys.executable, "-X", "importtime", "-m", "benchmarks.lookup_soak", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "--minutes 0.5" in done.stdout and "within 24" in done.stdout
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert not imported & {"pyarrow", "numpy", "google", "grpc", "uvicorn", "fastapi"}

    @pytest.mark.parametrize("argument", ["--minutes=0.4", "--minutes=x", "--customers=1", "--connections=0"])
    def test_a_bad_argument_is_one_line(self, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert lookup_soak.main([argument]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert argument.partition("=")[0] in line and "accepted" in line

    def test_without_the_emulator_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(services, "sdk_root", lambda: None)
        assert lookup_soak.main([]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "gcloud components install" in line


@pytest.mark.emulators
class TestOnEmulator:
    def test_half_a_minute_of_all_that_can_happen(self, capsys: pytest.CaptureFixture[str]) -> None:
        began = monotonic()
        code = lookup_soak.main(["--minutes=0.5", "--seed=3"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert monotonic() - began > 30
        result = json.loads(captured.out.splitlines()[-1])
        assert result["aim_met"] and set(result["aim"]) == set(result["ratios"])
        figures = result["figures"]["service"]
        assert figures["switches"] >= 3 and figures["unavailable"] and figures["not_modified"] and figures["not_found"]
        assert figures["rows"] > figures["requests"] > 100
        assert "is refusing" in captured.err and "is hanging" in captured.err

    def test_a_service_that_never_looks_at_the_pointer_again_is_found_out(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Frozen(Service):
            def __init__(self, module: str, *arguments: str, **others: Any) -> None:
                super().__init__("tests.benchmarks.frozen_service", *arguments, **others)

        monkeypatch.setattr(lookup_soak, "Service", Frozen)
        assert lookup_soak.main(["--minutes=0.5"]) == 1
        captured = capsys.readouterr()
        assert "generation 1 was not current then" in captured.err and "wrong_answers is" in captured.err
        assert not json.loads(captured.out.splitlines()[-1])["aim_met"]
