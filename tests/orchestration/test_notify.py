"""Events: what they say, and that they arrive at those who can be reached, whatever the others do."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import hmac
import http.server
import json
import logging
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestration import notify
from orchestration.notify import Event
from tests.emulators.services import HOST, Datastore, java
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
AT = datetime.datetime(2026, 11, 22, 3, 0, 5, tzinfo=datetime.UTC)
EVENT = Event(
    "failed", "train", "build_train_deploy/2026-11-22", "https://airflow/log", {"rows": 3}, "no\nmemory", at=AT
)


class Receiver:
    """An HTTP server that answers as it is told, one answer after the other, and keeps what it gets."""

    def __init__(self, *answers: int | Callable[[http.server.BaseHTTPRequestHandler], None]) -> None:
        self.answers = list(answers)
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                answer = receiver.answers.pop(0) if receiver.answers else 204
                if callable(answer):
                    answer(self)
                    return
                self.send_response(answer)
                if answer in (301, 302, 303, 307, 308):
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                receiver.got.append((dict(self.headers), b"GET"))
                self.send_error(200)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{HOST}:{self.server.server_port}/hooks/secret"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def cut_off(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Loses the connection before the answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def too_late(handler: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)
    handler.close_connection = True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(notify, "_SECONDS", 0.5)
    monkeypatch.setenv("NO_PROXY", HOST)
    monkeypatch.delenv(notify.SECRET, raising=False)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


# --- The object ------------------------------------------------------------------------------------------------------


def test_an_event_is_one_object_with_these_fields() -> None:
    content = EVENT.content()
    assert content.pop("id") == EVENT.content()["id"]
    assert content == {
        "version": 1, "event": "failed", "at": "2026-11-22T03:00:05Z", "step": "train", "run": "build_train_deploy/2026-11-22",
        "link": "https://airflow/log", "figures": {"rows": 3}, "reason": "no memory",
    }  # fmt: skip


def test_the_id_is_that_of_the_event_however_often_it_is_told() -> None:
    later = AT + datetime.timedelta(hours=5)
    same = [EVENT, replace(EVENT), replace(EVENT, at=later), replace(EVENT, link="https://airflow/log?try=2")]
    assert len({event.content()["id"] for event in same}) == 1
    others = [replace(EVENT, step="gate"), replace(EVENT, figures={}), replace(EVENT, reason="no disk")]
    assert len({event.content()["id"] for event in [EVENT, *others]}) == 4


def test_any_figures_are_json() -> None:
    figures = {
        "nan": float("nan"), "most": float("inf"), "day": datetime.date(2026, 11, 22), "money": decimal.Decimal("1.50"),
        "list": [1, None, {"x": (True, 2.5)}], 7: "é",
    }  # fmt: skip

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    text = json.dumps(replace(EVENT, figures=figures).content())
    assert json.loads(text, parse_constant=refused)["figures"] == {
        "nan": None, "most": None, "day": "2026-11-22", "money": "1.50", "list": [1, None, {"x": [True, 2.5]}], "7": "é",
    }  # fmt: skip


# --- Sinks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    ["", "log", "log:x", "mail:me@shop", "ftp://host/x", "http://", "https:///x", "http://user:password@host/", "http://host:x/",
     "http://host:99999/", "http://host/a b", "http://hóst/", "pubsub://my-project", "pubsub://my-project/", "pubsub://P/topic",
     "pubsub://my-project/goog-topic", "pubsub://my-project/a/b", "pubsub://my-project/ab"],
)  # fmt: skip
def test_what_is_no_sink(uri: str) -> None:
    with pytest.raises(UsageError, match="is not usable: accepted is log:, an http"):
        notify.parse(uri)
    assert notify.send(EVENT, [uri])  # a caller is told, and nothing is raised


def test_a_log_gets_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, notify.__name__):
        assert notify.send(EVENT, ["log:"]) == {}
    (record,) = caplog.records
    assert json.loads(record.getMessage().removeprefix("event ")) == EVENT.content()
    assert "\n" not in record.getMessage()


def test_an_address_gets_the_object_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(200) as receiver:
        assert notify.send(EVENT, [receiver.url, receiver.url]) == {}
        monkeypatch.setenv(notify.SECRET, "geheim")
        assert notify.send(EVENT, [receiver.url]) == {}
    (headers, body), (signed, _) = receiver.got
    assert json.loads(body) == EVENT.content() and headers["content-type"] == "application/json"
    assert notify.SIGNATURE.lower() not in headers
    assert signed[notify.SIGNATURE.lower()] == f"sha256={hmac.new(b'geheim', body, hashlib.sha256).hexdigest()}"


@pytest.mark.parametrize("answer", [500, 503, 429, 408, cut_off, too_late])
def test_what_may_pass_is_tried_again_with_the_same_body(answer: Any) -> None:
    with Receiver(answer, answer, 200) as receiver:
        assert notify.send(EVENT, [receiver.url]) == {}
    assert len(receiver.got) == 3 and len({body for _, body in receiver.got}) == 1


@pytest.mark.parametrize(
    ("answer", "attempts", "said"),
    [
        (503, 3, "it answered 503, attempt 3 of 3"), (404, 1, "it answered 404, attempt 1 of 3"), (401, 1, "401"),
        (302, 1, "it answered 302"), (307, 1, "it answered 307"), (cut_off, 3, "attempt 3 of 3"), (too_late, 3, "timed out"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_a_line_and_the_others_get_it(
    answer: Any, attempts: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver(answer, answer, answer) as failing, Receiver() as other:
        failures = notify.send(EVENT, [failing.url, other.url])
    assert list(failures) == [failing.url] and said in failures[failing.url]
    assert len(failing.got) == attempts and len(other.got) == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING" and said in record.getMessage()
    # Whoever knows such an address may write to it.
    assert "secret" not in record.getMessage()


def test_nobody_listens() -> None:
    uri = f"http://{HOST}:{closed_port()}/"
    assert "ConnectionRefusedError" in notify.send(EVENT, [uri])[uri]


def test_a_sink_that_hangs_does_not_hold_up_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_MOST_SECONDS", 0.3)
    monkeypatch.setattr(notify, "_SECONDS", 60.0)
    with Receiver(too_late) as hanging, Receiver() as other:
        began = time.monotonic()
        failures = notify.send(EVENT, [hanging.url, other.url])
        assert time.monotonic() - began < 1.4
    assert failures == {hanging.url: "no answer within 0.3 s"} and len(other.got) == 1


def test_odd_figures_fail_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __str__(self) -> str:
            raise ValueError("no text")

    assert notify.send(replace(EVENT, figures={"x": Odd()}), ["log:"]) == {"log:": "ValueError('no text')"}


# --- The command -----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestration.notify", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_trying_sinks() -> None:
    with Receiver() as receiver:
        done = command("--sink", "log:", "--sink", receiver.url, "--event", "published", "--reason", "to try it")
    assert (done.returncode, done.stdout) == (0, f"log:: sent\n{receiver.url.rpartition('/hooks')[0]}/...: sent\n")
    ((_, body),) = receiver.got
    assert json.loads(done.stderr.removeprefix("event ")) == json.loads(body)
    assert json.loads(body)["event"] == "published" and json.loads(body)["reason"] == "to try it"


def test_a_sink_that_fails_ends_with_1() -> None:
    with Receiver(404) as receiver:
        done = command("--sink", receiver.url, "--sink", "log:")
    assert done.returncode == 1 and "not sent\nlog:: sent\n" in done.stdout
    assert done.stderr.splitlines()[-1] == "error: 1 of 2 sinks did not take the event: the lines above say why"


def test_an_unusable_sink_ends_with_2_and_sends_nothing() -> None:
    with Receiver() as receiver:
        done = command("--sink", receiver.url, "--sink", "pubsub://x")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not receiver.got


# --- Pub/Sub ---------------------------------------------------------------------------------------------------------


class PubSub(Datastore):
    """Google's emulator of Pub/Sub, part of its SDK."""

    name = "pubsub"
    launcher = "pubsub-emulator/bin/cloud-pubsub-emulator"

    def arguments(self) -> list[str]:
        return [f"--host={HOST}", f"--port={self.port}"]

    def command(self) -> list[str]:
        launcher, _, *arguments = super().command()
        return [launcher, *arguments]

    def settings(self) -> dict[str, str]:
        found = super().settings()
        return {**found, "JAVACMD": str(java()), "JAVA_HOME": "", "PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="module")
def pubsub(emulator_environment: pytest.MonkeyPatch) -> Iterator[PubSub]:
    with PubSub() as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUBSUB_EMULATOR_HOST", service.host)
        yield service


@pytest.mark.emulators
class TestPubSub:
    @pytest.fixture(autouse=True)
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notify, "_SECONDS", 10.0)

    def test_a_message_with_attributes(self, pubsub: PubSub) -> None:
        from google.cloud import pubsub_v1

        topic = f"events-{uuid.uuid4().hex[:8]}"
        path = f"projects/test-project/topics/{topic}"
        with pubsub_v1.SubscriberClient() as subscriber:
            pubsub_v1.PublisherClient().create_topic(name=path)
            subscription = f"projects/test-project/subscriptions/{topic}"
            subscriber.create_subscription(name=subscription, topic=path)
            assert notify.send(EVENT, [f"pubsub://test-project/{topic}"]) == {}
            (received,) = subscriber.pull(subscription=subscription, max_messages=2, timeout=20).received_messages
        assert json.loads(received.message.data) == EVENT.content()
        assert dict(received.message.attributes) == {"event": "failed", "step": "train"}

    def test_a_topic_that_is_not_there(self, pubsub: PubSub) -> None:
        uri = "pubsub://test-project/nobody-made-it"
        failures = notify.send(EVENT, [uri, "log:"])
        assert list(failures) == [uri] and failures[uri].startswith("404 Topic not found")

    def test_nobody_answers(self, pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"{HOST}:{closed_port()}")
        monkeypatch.setattr(notify, "_SECONDS", 0.7)
        uri = "pubsub://test-project/events"
        began = time.monotonic()
        assert list(notify.send(EVENT, [uri])) == [uri]
        assert time.monotonic() - began < 10
