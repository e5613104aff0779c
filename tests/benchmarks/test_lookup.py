"""The benchmark of the lookup service: its client, how it judges, and the whole run on the emulator."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks import lookup
from benchmarks.harness import OutputsDiffer
from benchmarks.lookup import Figures, Round
from benchmarks.lookup_contestants import CONTESTANTS, FLOOR, MEMORY, RAW, STORE, Target
from benchmarks.lookup_load import Cell, Clients, Load
from benchmarks.lookup_service import HOST, Connection, ConnectionLost, Service, get, post
from tests.emulators import services
from transforms.errors import JobFailed

ONE, HUNDRED = Cell(1, 8), Cell(100, 8)


def a_round(raw: float, store: float, memory: float, hundred: float = 1.0) -> Round:
    """Milliseconds of one customer; of a hundred all take as long, but for what ``hundred`` multiplies store's by."""
    single = {RAW: raw, FLOOR: 0.1, STORE: store, MEMORY: memory}
    return {(each, ONE): Figures(1000 / ms, ms, 2 * ms, 0.1) for each, ms in single.items()} | {
        (each, HUNDRED): Figures(100, 1.0 if each != STORE else hundred, 2, 0.1) for each in CONTESTANTS
    }


class TestVerdict:
    def test_a_ratio_is_of_the_medians_over_the_rounds(self) -> None:
        result = lookup.verdict([a_round(1, 1.2, 0.5), a_round(2, 1.4, 9), a_round(3, 8, 0.7)])
        assert set(result) == {"name", "machine", "figures", "ratios", "aim", "aim_met"}
        assert result["ratios"]["store, 1 id, 8 connections"] == 0.7
        assert result["ratios"]["memory, 1 id, 8 connections"] == 0.35
        assert result["figures"]["raw, 1 id, 8 connections"]["p50_ms"] == 2
        assert set(result["aim"]) == set(result["ratios"])
        assert result["aim_met"]

    @pytest.mark.parametrize("missed", [(1, 1.51, 1), (1, 1, 1.51), (1, 1, 1, 2.01)])
    def test_every_aim_can_be_missed(self, missed: tuple[float, ...], capsys: pytest.CaptureFixture[str]) -> None:
        rounds = [a_round(*missed)]
        result = lookup.verdict(rounds)
        assert not result["aim_met"]
        lookup.print_ratios(rounds, result)
        printed = capsys.readouterr().out
        assert printed.count("missed") == 1 and "1 of 2 aims met" in printed and "2 of 2 aims met" in printed

    def test_percentiles_are_of_sorted_requests(self) -> None:
        load = Load([number / 1000 for number in range(1, 101)], 0.0)
        assert load.percentile(50) == 51 and load.percentile(99) == 100


@contextmanager
def answering(*parts: bytes) -> Iterator[Connection]:
    """A connection to a server that answers whatever comes with these parts, one packet each, and closes."""
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            accepted, _ = server.accept()
            with accepted:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted.recv(10_000)
                for part in parts:
                    accepted.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        connection = Connection(server.getsockname()[1], timeout_seconds=10)
        yield connection
        connection.close()
        thread.join()


class TestConnection:
    def test_an_answer_in_pieces_is_put_together(self) -> None:
        body = b'{"found":[' + b"x" * 300_000 + b"]}"
        whole = b'HTTP/1.1 200 OK\r\nETag: "A.1"\r\nContent-Length: %d\r\nx: y\r\n\r\n' % len(body) + body
        with answering(whole[:7], whole[7:60], whole[60:100_000], whole[100_000:]) as connection:
            answer = connection.ask(get("1"))
        assert (answer.status, answer.body) == (200, body)
        assert answer.header("etag") == '"A.1"' and answer.header("retry-after") is None

    def test_an_answer_without_a_body_ends_with_its_head(self) -> None:
        with answering(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n") as connection:
            assert connection.ask(get("1")).status == 304

    @pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"])
    def test_a_connection_that_ends_too_soon_is_no_answer(self, cut: bytes) -> None:
        with answering(cut) as connection, pytest.raises(ConnectionLost):
            connection.ask(post(["1", "2"]))


class TestOnFloor:
    """Without a store: the load itself."""

    @pytest.fixture(scope="class")
    def floor(self) -> Iterator[Service]:
        with Service("benchmarks.lookup_floor", "--row_bytes", "321", "--rows", "3") as service:
            yield service

    def test_it_answers_as_many_bytes_as_it_is_told(self, floor: Service) -> None:
        connection = Connection(floor.port)
        row = connection.ask(get("12347"))
        many = connection.ask(post(["1", "2", "3"]))
        assert len(row.body) == 321 and set(row.json()) == {"customer_id"}
        assert many.json() == {"generation": "none", "found": [row.json()] * 3, "missing": []}

    def test_every_connection_of_every_process_is_in_use(self, floor: Service) -> None:
        with Clients([str(number) for number in range(200)], processes=2) as clients:
            target, cpu = Target(FLOOR, floor.port, "", "", ""), []
            load = clients.run(target, Cell(3, 5), 0.4, "seed", lambda: cpu.append(floor.cpu_seconds()))
        assert len(load.seconds) / 0.6 < load.requests_per_second < len(load.seconds) / 0.3
        assert load.seconds == sorted(load.seconds) and load.seconds[0] > 0
        assert floor.cpu_seconds() > cpu[0]

    def test_a_wrong_answer_ends_it(self, floor: Service) -> None:
        with Clients(["a b"], processes=1) as clients, pytest.raises(OutputsDiffer, match="answered 400"):
            clients.run(Target(FLOOR, floor.port, "", "", ""), Cell(1, 1), 0.1, "seed", lambda: None)

    def test_a_service_that_does_not_start_says_why(self) -> None:
        with pytest.raises(JobFailed, match=r"--rows.*accepted is a whole number"):
            Service("benchmarks.lookup_floor", "--rows", "0").__enter__()


class TestAsPublished:
    class Fixed(Target):
        """Gives rows by heart."""

        given: dict[str, dict[str, Any]] = {}

        def row(self, customer_id: str) -> dict[str, Any]:
            return self.given[customer_id]

        def rows(self, customer_ids: Any) -> list[dict[str, Any]]:
            return [self.given[each] for each in customer_ids if each in self.given]

    def test_a_changed_row_is_named(self) -> None:
        expected = {each: {"customer_id": each, "decile": 1, "generation": "g"} for each in ("a", "b")}
        target = self.Fixed(STORE, 0, "", "", "")
        target.given.update(expected)
        lookup.assert_as_published(target, expected)
        target.given["b"] = expected["b"] | {"decile": 2}
        with pytest.raises(OutputsDiffer, match="store gives customer b otherwise"):
            lookup.assert_as_published(target, expected)


class TestCommand:
    def test_help_is_quick_and_teaches(self) -> None:
        command = [sys.executable, "-X", "importtime", "-m", "benchmarks.lookup", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "Google Cloud SDK" in done.stdout and "--emulator datastore" in done.stdout
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert not imported & {"pyarrow", "numpy", "google", "grpc", "uvicorn", "fastapi"}

    @pytest.mark.parametrize(
        "argument", ["--customers=99", "--rounds=0", "--seconds=0", "--connections=1,513", "--emulator=bigtable"]
    )
    def test_a_bad_argument_is_one_line(self, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert lookup.main([argument]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert argument.partition("=")[0] in line and "see python -m benchmarks.lookup --help" in line

    def test_without_the_emulator_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(services, "sdk_root", lambda: None)
        assert lookup.main(["--customers=100"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "gcloud components install" in line


@pytest.mark.emulators
@pytest.mark.parametrize("emulator", [lookup.FIRESTORE, lookup.DATASTORE])
def test_all_contestants_agree_and_the_last_line_is_the_agreed_one(
    emulator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--customers=3000", "--rounds=1", "--seconds=0.3", "--connections=1,3", f"--emulator={emulator}"]
    assert lookup.main(arguments) == 0
    captured = capsys.readouterr()
    assert "the rows of 1,000 customers are as published" in captured.err
    result = json.loads(captured.out.splitlines()[-1])
    assert len(result["figures"]) == len(CONTESTANTS) * 4 and len(result["ratios"]) == 8
    for name, figure in result["figures"].items():
        assert 0 < figure["p50_ms"] <= figure["p99_ms"] and figure["requests_per_second"] > 0
        assert (figure["service_cpu_seconds"] > 0) == (not name.startswith(RAW))
    assert result["aim_met"] == all(result["ratios"][name] <= most for name, most in result["aim"].items())
    assert ("missed" in captured.out) == (not result["aim_met"])
