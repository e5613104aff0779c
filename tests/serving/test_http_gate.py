"""What happens around every request: who may ask, how many at a time, how long, and what is left when it fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from starlette.routing import Route

from serving import bearer, store
from serving.app import create_app
from serving.http_gate import OPEN_FOLDERS, OPEN_PATHS, Gate
from serving.problems import Problem
from serving.reader import Reader
from serving.service_metrics import ServiceMetrics
from tests.serving.faulty_store import Faults
from tests.serving.google_keys import AUDIENCE, EMAIL, GoogleKeys
from tests.serving.service import Client, options, publish, running, until, value_path
from tests.serving.store_contract import prediction

OPEN = {
    "/", "/page/page.css", "/page/page.js", "/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css",
    "/openapi.json", "/health/live", "/health/ready",
}  # fmt: skip
GUARDED = {"/v1/customers/{customer_id}/value", "/v1/customers:lookup", "/v1/generation", "/metrics"}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite://{tmp_path_factory.mktemp('gate')}/serving.db"
    publish(uri, "g1", [prediction("c1")])
    return uri


def routes(node: Any) -> Iterator[tuple[str, str]]:
    """Every path's pattern and method, whichever router it is of."""
    for route in node.routes:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router)
        else:
            assert isinstance(route, Route), f"what is {route}?"
            yield from ((route.path_format, method) for method in route.methods or ())


class TestTokens:
    @pytest.fixture(scope="class")
    def google(self) -> Iterator[GoogleKeys]:
        with GoogleKeys() as google:
            yield google

    @pytest.fixture(scope="class")
    def client(self, uri: str, google: GoogleKeys) -> Iterator[Client]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bearer, "Bearer", partial(bearer.Bearer, keys_url=google.url))
            with running(uri, audience=AUDIENCE, callers=frozenset({EMAIL})) as client:
                yield client

    def test_every_route_is_either_open_on_purpose_or_guarded(self, uri: str) -> None:
        known = {path for path, _ in routes(create_app(options(uri))._inner._others)}
        assert known == OPEN | GUARDED
        assert all(path in OPEN_PATHS or path.startswith(OPEN_FOLDERS) for path in OPEN)

    def test_without_a_token_only_what_is_open_answers(self, uri: str, client: Client) -> None:
        for path, method in routes(create_app(options(uri))._inner._others):
            answer = client.call(method, path.replace("{customer_id}", "c1"))
            if path in OPEN:
                assert (path, method, answer.status) == (path, method, 200)
            else:
                assert (path, method, answer.status) == (path, method, 401)
                assert answer.headers["www-authenticate"].startswith("Bearer ")
                assert answer.code == "unauthenticated"

    @pytest.mark.parametrize(
        "path",
        [
            "/nothing", "//v1/generation", "/v1/generation/", "/V1/generation", "/docs/../v1/generation", "/openapi.json/x",
            "/page/../v1/generation", "/page/%2e%2e/v1/generation", "/health/../v1/generation", "/docs%2f..%2fv1/generation",
            "/%2fv1/generation", "/v1/generation?/docs/", "/v1/generation;/docs/", "/docs%00/../v1/generation",
            "/v1/customers//docs/value", "/v1/customers/%2fdocs%2f/value", "/v1/customers/c1/value?x=/health/",
        ],
    )  # fmt: skip
    def test_no_spelling_of_a_path_leads_around(self, client: Client, path: str) -> None:
        answer = client.get(path)
        assert answer.status in (401, 404)
        assert b"g1" not in answer.body

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
    def test_no_method_leads_around(self, client: Client, method: str) -> None:
        for path in ("/v1/generation", value_path("c1"), "/v1/customers:lookup", "/metrics"):
            assert client.call(method, path).status == 401

    def test_with_a_token_all_is_answered(self, client: Client, google: GoogleKeys) -> None:
        token = google.token()
        for path in ("/v1/generation", value_path("c1"), "/metrics"):
            assert client.get(path, Authorization=f"Bearer {token}").status == 200
        # The Host header says nothing where tokens do.
        answer = client.call("GET", "/v1/generation", [("Authorization", f"Bearer {token}")], host="elsewhere")
        assert answer.status == 200

    def test_with_another_ones_token_nothing_is(self, client: Client, google: GoogleKeys) -> None:
        other = google.token(email="other@x.iam.gserviceaccount.com")
        answer = client.get("/v1/generation", Authorization=f"Bearer {other}")
        assert (answer.status, answer.code) == (403, "forbidden")
        answer = client.get("/v1/generation", Authorization=f"Bearer {google.token(audience='https://else')}")
        assert (answer.status, answer.code) == (401, "unauthenticated")

    def test_the_document_says_that_tokens_are_needed(self, client: Client) -> None:
        document = client.get("/openapi.json").json()
        assert document["security"] == [{"token": []}]
        assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


class TestHosts:
    @pytest.fixture(scope="class")
    def client(self, uri: str) -> Iterator[Client]:
        with running(uri) as client:
            yield client

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.0.0.1:8080", "localhost", "localhost:1", "[::1]", "[::1]:8080", "LocalHost:80"]
    )
    def test_this_machine_is_answered(self, client: Client, host: str) -> None:
        assert client.call("GET", "/v1/generation", host=host).status == 200

    @pytest.mark.parametrize(
        "host",
        [
            None, " ", "evil.com", "evil.com:8080", "127.0.0.1.evil.com", "localhost.evil.com", "evil.com:127.0.0.1",
            "localhost@evil.com", "evil.com#localhost", "[::2]", "[::1].evil.com", "[::1", "0.0.0.0", "127.0.0.2", "localhost:80:80",
            "localhost,evil.com", "1", "2130706433",
        ],
    )  # fmt: skip
    def test_no_other_name_is(self, client: Client, host: str | None) -> None:
        for path in ("/v1/generation", value_path("c1"), "/metrics", "/", "/openapi.json", "/nothing"):
            answer = client.call("GET", path, host=host)
            assert answer.status == 400
            if host is not None:  # HTTP/1.1 without a Host the server itself may refuse
                assert answer.code == "invalid_request"

    def test_two_names_are_none(self, client: Client) -> None:
        for first, second in (("localhost", "evil.com"), ("evil.com", "localhost"), ("localhost", "localhost")):
            answer = client.call("GET", "/v1/generation", [("Host", second)], host=first)
            assert answer.status == 400


class TestOverload:
    def test_more_requests_than_may_be_are_turned_away_and_health_is_not(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        faults = Faults(store.open_store)
        monkeypatch.setattr(store, "open_store", faults.open)
        with running(uri, most_requests=3) as client, faults.hanging():
            answers: list[int] = []
            asking = [threading.Thread(target=lambda: answers.append(client.value("c1").status)) for _ in range(3)]
            for each in asking:
                each.start()
            until(lambda: _is_overloaded(client), "three requests to be under way")
            answer = client.value("c1")
            assert answer.headers["retry-after"] == "1"
            assert client.get("/health/live").status == 200
            assert client.call("GET", "/nothing").code == "overloaded"
            faults.go_on()
            for each in asking:
                each.join()
            assert answers == [200] * 3
            assert client.value("c1").status == 200

    def test_requests_that_failed_count_no_more(self, uri: str) -> None:
        with running(uri, most_requests=1) as client:
            for _ in range(5):
                assert client.value("nobody").status == 404
                assert client.call("GET", "/metrics", host="elsewhere").status == 400
                with client.connect() as connection:
                    connection.sendall(
                        b"POST /v1/customers:lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
                    )
            until(lambda: client.value("c1").status == 200, "those that went away to be forgotten", 5)


def _is_overloaded(client: Client) -> bool:
    answer = client.get("/docs")
    return answer.status == 503 and answer.code == "overloaded"


class Call:
    """One request through a gate around an application of a test's own."""

    def __init__(
        self, inner: Callable[..., Any], path: str = "/v1/generation", seconds: float = 1.0, method: str = "GET"
    ) -> None:
        reader = Reader(lambda: None, 1, 1.0, 1)  # type: ignore[arg-type, return-value]
        self.metrics = ServiceMetrics(reader)
        self.sent: list[Any] = []
        gate = Gate(inner, None, self.metrics, 10, seconds, body_seconds=0.5)
        self.scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", b"localhost")]}
        self.gate, self.raised = gate, self._run(gate)

    def _run(self, gate: Gate) -> BaseException | None:
        async def call() -> None:
            await gate(self.scope, self._receive, self._send)

        try:
            asyncio.run(call())
        except BaseException as error:
            return error
        return None

    async def _receive(self) -> Any:
        await asyncio.sleep(3600)

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    def counted(self, status: int) -> bool:
        return f'status="{status}"}} 1.0' in self.metrics.page().decode()


START = {"type": "http.response.start", "status": 200, "headers": []}


def test_what_fails_before_the_answer_is_a_problem() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("secret")

    call = Call(inner)
    assert (call.raised, call.status, call.counted(500)) == (None, 500, True)
    assert b"secret" not in call.sent[1]["body"] and b"internal_error" in call.sent[1]["body"]


def test_what_fails_within_the_answer_is_not_answered_twice() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        raise ZeroDivisionError

    call = Call(inner)
    assert [message["type"] for message in call.sent] == ["http.response.start"]
    assert call.counted(200)


def test_a_request_ends_in_its_time() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3600)

    call = Call(inner, seconds=0.05)
    assert (call.status, call.counted(503)) == (503, True)
    assert b"no answer within 0.05 s" in call.sent[1]["body"]
    assert (b"retry-after", b"1") in call.sent[0]["headers"]


def test_a_request_with_a_body_has_the_time_for_it_besides() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.3)
        await send(dict(START))

    assert (Call(inner, seconds=0.05, method="POST").status, Call(inner, seconds=0.05).status) == (200, 503)


def test_health_ends_in_its_time_too() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3600)

    assert Call(inner, "/health/ready", 0.05).status == 503


def test_who_is_ended_with_the_service_is_told_to_come_again() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    call = Call(inner)
    assert (call.raised, call.status, call.counted(503)) == (None, 503, True)
    assert (b"retry-after", b"1") in call.sent[0]["headers"]


@pytest.mark.parametrize("error", [Problem("forbidden", "ünï\ncode \U0001f600"), ZeroDivisionError(), TimeoutError()])
def test_problems_are_ascii_and_whole(error: Exception) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise error

    call = Call(inner)
    headers = dict(call.sent[0]["headers"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert int(headers[b"content-length"]) == len(call.sent[1]["body"]) and call.sent[1]["body"].isascii()
    assert headers[b"x-content-type-options"] == b"nosniff" and headers[b"cache-control"] == b"no-store"


def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def main() -> None:
        await Gate(inner, None, None, 0, 0.01, 0.0)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]

    asyncio.run(main())
    assert seen == ["lifespan"]


def test_many_paths_make_few_labels(uri: str) -> None:
    with running(uri) as client:
        for number in range(20):
            client.get(f"/nothing/{number}")
            client.value(f"nobody{number}")
            client.call("PROPFIND", "/")
            client.call("GET", f"/{quote(str(number))}", host="elsewhere")
        page = client.get("/metrics").body.decode()
    counted = [line for line in page.splitlines() if line.startswith("clv_http_requests_total")]
    assert len(counted) <= 4
    assert 'clv_http_requests_total{method="GET",route="none",status="404"} 20.0' in page
    assert 'method="other",route="/"' in page and "nobody" not in page
