"""Tokens against real keys, real certificates and a real server of them; only the clock is ours."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.oauth2 import id_token
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from serving import bearer
from serving.bearer import Bearer
from serving.problems import Problem
from tests.serving.google_keys import AUDIENCE, EMAIL, GoogleKeys, Key
from transforms.errors import UsageError


class Clock:
    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def shared(clock: Clock) -> Iterator[GoogleKeys]:
    with GoogleKeys(clock) as google:
        yield google


@pytest.fixture
def google() -> Iterator[tuple[GoogleKeys, Clock]]:
    clock = Clock()
    with GoogleKeys(clock) as google:
        yield google, clock


def check(guard: Bearer, token: str | None, scheme: str = "Bearer ") -> str:
    return asyncio.run(guard.check(None if token is None else scheme + token))


def problem(guard: Bearer, token: str | None, scheme: str = "Bearer ") -> Problem:
    with pytest.raises(Problem) as caught:
        check(guard, token, scheme)
    return caught.value


def part(content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_the_keys_are_where_googles_library_has_them() -> None:
    assert bearer.GOOGLES_KEYS_URL == id_token._GOOGLE_OAUTH2_CERTS_URL
    assert set(bearer.ISSUERS) == set(id_token._GOOGLE_ISSUERS)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_a_good_token_names_its_caller(shared: GoogleKeys, clock: Clock, scheme: str) -> None:
    guard = Bearer(AUDIENCE, frozenset({EMAIL.upper()}), shared.url, clock)
    assert check(guard, shared.token(), scheme) == EMAIL
    assert check(guard, shared.token(iss="accounts.google.com", nbf=int(clock())), scheme) == EMAIL
    assert check(guard, shared.token(EMAIL.title()), scheme) == EMAIL


def test_another_library_agrees_about_the_tokens_of_this_test(shared: GoogleKeys) -> None:
    """What the tests sign is what google-auth's own check of ID tokens accepts, at this machine's time."""
    now = int(time.time())
    claims = id_token.verify_oauth2_token(shared.token(iat=now, exp=now + 60), Fetch(shared.url), AUDIENCE)
    assert claims["email"] == EMAIL


class Fetch:
    """google-auth's transport, sent to the test's server whatever address it is given."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, url: str, **_: Any) -> Any:
        from google.auth.transport.requests import Request

        return Request()(self._url)


BAD: dict[str, tuple[Callable[[GoogleKeys, float], str], str]] = {
    "expired": (lambda google, now: google.token(exp=int(now) - 11), "expired 11 s ago"),
    "not yet valid": (lambda google, now: google.token(iat=int(now) + 60), "not good yet, for 50 s more"),
    "not before": (lambda google, now: google.token(nbf=int(now) + 3600), "not good yet"),
    "no end": (lambda google, now: google.token(exp=None), "from when to when"),
    "no begin": (lambda google, now: google.token(iat=None), "from when to when"),
    "end is text": (lambda google, now: google.token(exp="never"), "from when to when"),
    "end is NaN": (lambda google, now: google.token(exp=float("nan")), "from when to when"),
    "end is infinite": (lambda google, now: google.token(exp=float("inf")), "from when to when"),
    "end is true": (lambda google, now: google.token(exp=True), "from when to when"),
    "another audience": (lambda google, now: google.token(audience='https://"other"'), f"with the audience {AUDIENCE}"),
    "no audience": (lambda google, now: google.token(audience=None), "The token is for null"),
    "list of audiences": (lambda google, now: google.token(aud=[AUDIENCE]), "The token is for ["),
    "another issuer": (lambda google, now: google.token(iss="https://accounts.example.com"), "accounts.example.com"),
    "issuer is an object": (lambda google, now: google.token(iss={"a": 1}), "issued by {"),
    "no issuer": (lambda google, now: google.token(iss=None), "issued by null"),
    "no email": (lambda google, now: google.token(email=None), "includeEmail"),
    "email is a list": (lambda google, now: google.token(email=[EMAIL]), "includeEmail"),  # type: ignore[arg-type]
    "unverified email": (lambda google, now: google.token(email_verified=False), "is not verified"),
    "email verified in words": (lambda google, now: google.token(email_verified="true"), "is not verified"),
    "claims are a list": (lambda google, now: google.signed([1]), "not JSON"),
    "alg none": (
        lambda google, now: f"{part({'alg': 'none', 'kid': 'key0'})}.{part({'email': EMAIL})}.{part(b'x')}",
        "RS256",
    ),
    "alg HS256 with the certificate": (lambda google, now: hs256(google, now), "RS256"),
    "alg ES256": (lambda google, now: google.signed({}, {"alg": "ES256"}), "RS256"),
    "alg is a list": (lambda google, now: google.signed({}, {"alg": ["RS256"]}), "RS256"),
    "no kid": (lambda google, now: f"{part({'alg': 'RS256'})}.{part({})}.{part(b'x')}", "which key"),
    "kid is a list": (
        lambda google, now: f"{part({'alg': 'RS256', 'kid': ['key0']})}.{part({})}.{part(b'x')}",
        "which key",
    ),
    "unknown kid": (lambda google, now: google.signed({}, key=Key("forged")), "No key of Google"),
    "surrogate as kid": (
        lambda google, now: f"{part({'alg': 'RS256', 'kid': chr(0xD800)})}.{part({})}.{part(b'x')}",
        "No key",
    ),
    "another's signature": (lambda google, now: google.signed({}, key=Key(google.keys[-1].key_id)), "signature is not"),
    "claims exchanged": (lambda google, now: exchanged(google), "signature is not"),
    "empty signature": (lambda google, now: google.token().rpartition(".")[0] + ".", "base64url"),
    "two parts": (lambda google, now: google.token().rpartition(".")[0], "base64url"),
    "four parts": (lambda google, now: google.token() + ".AA", "base64url"),
    "padding": (lambda google, now: google.token() + "==", "base64url"),
    "a second spelling of the signature": (lambda google, now: respelled(google.token()), "base64url"),
    "header is not JSON": (lambda google, now: f"{part(b'no')}.{part({})}.{part(b'x')}", "not JSON"),
    "deep JSON": (lambda google, now: f"{part(b'[' * 9000)}.{part({})}.{part(b'x')}", "not JSON"),
    "huge number": (lambda google, now: f"{part(b'9' * 6000)}.{part({})}.{part(b'x')}", "not JSON"),
    "stripped by Cloud Run": (
        lambda google, now: google.token().rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE",
        "send Cloud Run's token as X-Serverless-Authorization and this service's as Authorization",
    ),
    "too long": (lambda google, now: "a" * 16 * 1024, "at most 16384"),
    "not ASCII": (lambda google, now: google.token() + "\u00e9", "base64url"),
    "line break": (lambda google, now: google.token() + "\n", "base64url"),
}


def hs256(google: GoogleKeys, now: float) -> str:
    """The public certificate taken for a shared secret: the well-known confusion of algorithms."""
    import hashlib
    import hmac

    key = google.keys[-1]
    head = f"{part({'alg': 'HS256', 'kid': key.key_id})}.{google.token().split('.')[1]}"
    return f"{head}.{part(hmac.new(key.certificate.encode(), head.encode(), hashlib.sha256).digest())}"


def exchanged(google: GoogleKeys) -> str:
    (header, _, signature), claims = google.token().split("."), google.token("boss@example.com").split(".")[1]
    return f"{header}.{claims}.{signature}"


def respelled(token: str) -> str:
    """The same bytes: the last character of 256 bytes in base64url has four bits that say nothing."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = token[:-1] + letters[letters.index(token[-1]) + 1]
    assert base64.urlsafe_b64decode(other.split(".")[2] + "==") == base64.urlsafe_b64decode(token.split(".")[2] + "==")
    return other


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_unauthenticated(
    shared: GoogleKeys, clock: Clock, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, says = BAD[name]
    token = make(shared, clock())
    guard = Bearer(AUDIENCE, None, shared.url, clock)
    caplog.set_level(logging.DEBUG)
    answer = problem(guard, token)
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert says in answer.detail
    challenge = answer.headers["WWW-Authenticate"]
    assert re.fullmatch(r'Bearer error="invalid_token", error_description="[ !#-\[\]-~]+"', challenge)
    told = answer.detail + challenge + caplog.text
    assert not [
        piece for piece in token.split(".") if len(piece) > 8 and piece != bearer.STRIPPED_SIGNATURE and piece in told
    ]


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpw", "Bearer\ttoken", "token"])
def test_a_header_that_is_no_bearer_token(shared: GoogleKeys, clock: Clock, authorization: str | None) -> None:
    requests = shared.requests
    answer = problem(Bearer(AUDIENCE, None, shared.url, clock), authorization, scheme="")
    assert answer.status == 401 and "Authorization" in answer.detail
    assert shared.requests == requests


def test_a_good_token_of_somebody_else_is_forbidden(shared: GoogleKeys, clock: Clock) -> None:
    guard = Bearer(AUDIENCE, frozenset({EMAIL}), shared.url, clock)
    token = shared.token("stranger@other.iam.gserviceaccount.com")
    for _ in range(2):
        answer = problem(guard, token)
        assert (answer.status, answer.code) == (403, "forbidden")
        assert "stranger@other" in answer.detail
    assert problem(Bearer(AUDIENCE, frozenset(), shared.url, clock), shared.token()).status == 403
    assert check(Bearer(AUDIENCE, None, shared.url, clock), token) == "stranger@other.iam.gserviceaccount.com"


@pytest.mark.parametrize("callers", [frozenset({"front-end"}), frozenset({EMAIL + " "}), frozenset({"@"})])
def test_callers_are_emails(callers: frozenset[str]) -> None:
    with pytest.raises(UsageError, match="the email of a service account"):
        Bearer(AUDIENCE, callers)
    with pytest.raises(UsageError, match="audience ' '"):
        Bearer(" ", None)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[str], str]:
    """One edit: cut, repeat, replace, insert or swap, anywhere in the token."""
    where, length = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    text = draw(st.text(st.characters(max_codepoint=0x2FF), max_size=8))
    kind = draw(st.sampled_from(["cut", "repeat", "replace", "insert", "flip"]))

    def damage(token: str) -> str:
        at = int(where * len(token))
        piece = token[at : at + length]
        middle = {"cut": "", "repeat": piece * 2, "replace": text, "insert": text + piece, "flip": piece[::-1]}[kind]
        return token[:at] + middle + token[at + length :]

    return damage


@pytest.fixture(scope="module")
def guarded(shared: GoogleKeys, clock: Clock) -> tuple[Bearer, str]:
    return Bearer(AUDIENCE, None, shared.url, clock), shared.token()


@settings(max_examples=400)
@given(damages())
@example(lambda token: token + "A")
@example(lambda token: token[:-1])
@example(lambda token: token.replace(".", "..", 1))
def test_a_damaged_token_is_always_unauthenticated(guarded: tuple[Bearer, str], damage: Callable[[str], str]) -> None:
    guard, token = guarded
    damaged = damage(token)
    assume(damaged.strip(" ") != token)
    assert problem(guard, damaged).status == 401


@settings(max_examples=300)
@given(st.text(max_size=300))
def test_any_header_is_answered(guarded: tuple[Bearer, str], header: str) -> None:
    assert problem(guarded[0], header, scheme="").status == 401
    assert problem(guarded[0], header).status == 401


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "iat", "nbf", "email", "email_verified", "sub"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        ),
        min_size=1,
    )
)
def test_strange_claims_under_a_good_signature(
    shared: GoogleKeys, clock: Clock, guarded: tuple[Bearer, str], claims: dict[str, Any]
) -> None:
    """Not even Google's signature makes the check fall over: the caller is named, or 401."""
    now = int(clock())
    usual = {
        "iss": bearer.ISSUERS[0],
        "aud": AUDIENCE,
        "email": EMAIL,
        "email_verified": True,
        "iat": now,
        "exp": now + 9,
    }
    try:
        assert check(guarded[0], shared.signed({**usual, **claims})) == (claims.get("email") or EMAIL).lower()
    except Problem as answer:
        assert answer.status == 401


def test_a_remembered_token_waits_for_nothing(google: tuple[GoogleKeys, Clock]) -> None:
    keys, clock = google
    guard = Bearer(AUDIENCE, frozenset({EMAIL}), keys.url, clock)
    token = keys.token()
    check(guard, token)
    keys.down()
    clock.now += 3599
    coroutine = guard.check("Bearer " + token)
    with pytest.raises(StopIteration) as ended:  # no loop runs here: an await that suspends would come back with None
        coroutine.send(None)
    assert ended.value.value == EMAIL
    begun = time.perf_counter()
    for _ in range(2000):
        with pytest.raises(StopIteration):
            guard.check("Bearer " + token).send(None)
    assert (time.perf_counter() - begun) / 2000 < 500e-6
    clock.now += 11
    assert "expired" in problem(guard, token).detail


def test_a_token_is_not_remembered_past_an_hour_nor_past_its_end(google: tuple[GoogleKeys, Clock]) -> None:
    keys, clock = google
    guard = Bearer(AUDIENCE, None, keys.url, clock)
    short, long = keys.token(exp=int(clock()) + 60), keys.token(exp=int(clock()) + 10**6)
    check(guard, short)
    check(guard, long)
    clock.now += 60 + 9
    check(guard, short)
    clock.now += 1
    assert problem(guard, short).status == 401
    keys.keys = [Key("new")]
    keys.cache_control = "max-age=60"
    clock.now += 3600
    assert check(guard, long) == EMAIL  # the keys are still good, so this is verified again
    clock.now += 20_000
    assert "No key of Google" in problem(guard, long).detail


def test_what_is_remembered_is_bounded(shared: GoogleKeys, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearer, "MAX_REMEMBERED", 3)
    guard = Bearer(AUDIENCE, None, shared.url, clock)
    for number in range(10):
        assert check(guard, shared.token(f"caller{number}@example.com")) == f"caller{number}@example.com"
    assert len(guard._remembered) == 3


def test_one_refresh_for_fifty_who_wait(google: tuple[GoogleKeys, Clock]) -> None:
    keys, clock = google
    keys.delay_seconds = 0.2
    guard = Bearer(AUDIENCE, None, keys.url, clock)

    async def fifty() -> list[str]:
        tokens = [keys.token(f"caller{number}@example.com") for number in range(50)]
        impatient = asyncio.create_task(guard.check("Bearer " + tokens[0]))
        checks = asyncio.gather(*(guard.check("Bearer " + token) for token in tokens))
        await asyncio.sleep(0.05)
        impatient.cancel()
        return await checks

    assert asyncio.run(fifty()) == [f"caller{number}@example.com" for number in range(50)]
    assert keys.requests == 1


def test_a_new_key_is_fetched_and_forged_ones_do_not_hammer(google: tuple[GoogleKeys, Clock]) -> None:
    keys, clock = google
    guard = Bearer(AUDIENCE, None, keys.url, clock)
    old = keys.token()
    check(guard, old)
    clock.now += 100
    keys.rotate()
    assert check(guard, keys.token()) == EMAIL and keys.requests == 2
    assert check(guard, old) == EMAIL
    forger = Key("forged")
    for second in range(120):
        clock.now += 1
        assert problem(guard, keys.signed({"n": second}, key=forger)).status == 401
    assert keys.requests == 4
    keys.rotate()
    clock.now += 60
    assert check(guard, keys.token()) == EMAIL and keys.requests == 5


@pytest.mark.parametrize(
    ("cache_control", "age", "seconds"),
    [
        ("public, max-age=19871, must-revalidate", None, 19_871),
        ("max-age=19871", "19000", 871),
        ("max-age=19871", "nonsense", 19_871),
        ("max-age=1", None, 60),
        ("no-store", None, 60),
        (None, None, 60),
        ("max-age=999999999", None, 86_400),
    ],
)
def test_keys_are_kept_as_long_as_the_answer_says(
    google: tuple[GoogleKeys, Clock], cache_control: str | None, age: str | None, seconds: int
) -> None:
    keys, clock = google
    keys.cache_control, keys.age = cache_control, age
    guard = Bearer(AUDIENCE, None, keys.url, clock)
    check(guard, keys.token())
    clock.now += seconds - 1
    check(guard, keys.token())
    assert keys.requests == 1
    clock.now += 1
    check(guard, keys.token())
    assert keys.requests == 2


def test_no_keys_at_the_start_and_then_some(google: tuple[GoogleKeys, Clock], caplog: pytest.LogCaptureFixture) -> None:
    keys, clock = google
    guard = Bearer(AUDIENCE, None, keys.url, clock)
    keys.down()
    for _ in range(3):
        answer = problem(guard, keys.token())
        assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "keys_unavailable", "5")
    assert caplog.text.count("Google's keys cannot be had") == 1 and "none are kept" in caplog.text
    keys.up()
    clock.now += 5
    assert check(guard, keys.token()) == EMAIL


def test_old_keys_serve_through_an_outage_of_half_a_day(google: tuple[GoogleKeys, Clock]) -> None:
    keys, clock = google
    keys.cache_control = "max-age=3600"
    guard = Bearer(AUDIENCE, None, keys.url, clock)
    check(guard, keys.token())
    keys.down()
    clock.now += 3600 + 12 * 3600 - 1
    assert check(guard, keys.token()) == EMAIL
    unknown = problem(guard, keys.signed({}, key=Key("newer")))
    assert unknown.code == "keys_unavailable"  # Google may have such a key by now
    clock.now += 1
    assert problem(guard, keys.token()).code == "keys_unavailable"
    keys.up()
    clock.now += 60
    assert check(guard, keys.token()) == EMAIL


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (500, None),
        (302, None),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"key0": "no certificate"}'),
        (200, b'{"key0": 1}'),
        (200, b"[" * 100_000),
        (200, b" " * 300_000),
    ],
)
def test_an_answer_that_is_no_keys(
    google: tuple[GoogleKeys, Clock], status: int, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys, clock = google
    guard = Bearer(AUDIENCE, None, keys.url, clock)
    keys.status, keys.answer = status, content
    assert problem(guard, keys.token()).code == "keys_unavailable"
    assert keys.url in caplog.text and len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage() and caplog.records[0].exc_info is None


def test_a_damaged_certificate_does_not_spoil_the_others(google: tuple[GoogleKeys, Clock]) -> None:
    keys, clock = google
    keys.answer = json.dumps({"damaged": "-----BEGIN CERTIFICATE-----", "key0": keys.keys[0].certificate}).encode()
    assert check(Bearer(AUDIENCE, None, keys.url, clock), keys.token()) == EMAIL


def test_a_key_server_that_hangs(google: tuple[GoogleKeys, Clock], monkeypatch: pytest.MonkeyPatch) -> None:
    keys, clock = google
    monkeypatch.setattr(bearer, "FETCH_SECONDS", 0.2)
    keys.delay_seconds = 1.5
    begun = time.monotonic()
    answer = problem(Bearer(AUDIENCE, None, keys.url, clock), keys.token())
    assert answer.code == "keys_unavailable" and time.monotonic() - begun < 1.0  # the loop's end included


def wait_for_fetches() -> None:
    for thread in threading.enumerate():
        if thread.name == "google-keys":
            thread.join(10)
            assert not thread.is_alive()


def test_the_check_works_in_one_loop_after_another(
    google: tuple[GoogleKeys, Clock], caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that ends in the middle of a refresh leaves nothing behind that a later one would wait for."""
    keys, clock = google
    keys.delay_seconds = 1.0
    guard = Bearer(AUDIENCE, None, keys.url, clock)

    async def leave(after_seconds: float) -> None:
        task = asyncio.create_task(guard.check("Bearer " + keys.token()))
        await asyncio.sleep(after_seconds)
        task.cancel()

    for after_seconds in (0.05, 0):
        asyncio.run(leave(after_seconds))
    answer = problem(guard, keys.token())
    assert (answer.code, answer.headers["Retry-After"]) == ("keys_unavailable", "5")
    assert caplog.text.count("the try before is still under way") == 1 and keys.requests == 1
    wait_for_fetches()
    assert problem(guard, keys.token()).code == "keys_unavailable" and keys.requests == 1
    clock.now += 5
    assert check(guard, keys.token()) == EMAIL and keys.requests == 2


class Dripping:
    """A server that never comes to an end, but says a little every 0.1 s: of its headers, or of the body."""

    def __init__(self, what: str) -> None:
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        self._start = b"HTTP/1.1 200 OK\r\n" + (chunked if what == "body" else b"")
        self._drop = b"1\r\n \r\n" if what == "body" else b"a: b\r\n"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            self.connections += 1
            threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(self._start)
            for _ in range(90):  # http.client gives up after a hundred headers
                connection.sendall(self._drop)
                time.sleep(0.1)


TRIES = 5


def try_and_end(url: str, token: str) -> None:
    """As the service runs: tries one after the other, a line with the number of threads after each, and the end."""
    import uvloop

    bearer.FETCH_SECONDS = 0.5  # type: ignore[assignment]
    clock = Clock()
    guard = Bearer(AUDIENCE, None, url, clock)

    async def tries() -> None:
        for _ in range(TRIES):
            with pytest.raises(Problem, match="cannot be had"):
                await guard.check("Bearer " + token)
            print(threading.active_count(), flush=True)
            await asyncio.sleep(0.4)
            clock.now += bearer.RETRY_SECONDS

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(tries())
        print("the loop has ended", flush=True)


@pytest.mark.parametrize(("what", "connections"), [("headers", 1), ("body", TRIES)])
def test_a_key_server_that_drips_holds_neither_the_end_nor_threads(what: str, connections: int) -> None:
    """One that drips its body is given up and asked again; one that drips its headers has one thread, not one for each try."""
    server = Dripping(what)
    token = GoogleKeys(Clock()).token()
    code = "import sys; from tests.serving.test_bearer import try_and_end; try_and_end(*sys.argv[1:])"
    command = [sys.executable, "-c", code, server.url, token]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        threads = [int(child.stdout.readline()) for _ in range(TRIES)]
        assert child.stdout.readline() == "the loop has ended\n"
        assert child.wait(timeout=3) == 0
    assert threads == [2] * TRIES
    assert server.connections == connections
