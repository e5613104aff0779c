"""Requests as nobody should send them, drawn from a seed: what benchmarks.lookup_malformed sends."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from benchmarks.lookup_service import get, post, request

Draw = random.Random
_LOOKUP = "/v1/customers:lookup"
_JSON = "Content-Type: application/json\r\n"
_METHODS = (
    "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "M-SEARCH", "get", "PRI", "GETGET", "G\0T", "HEAD",
    "", "X" * 5_000,
)  # fmt: skip
_TARGETS = (
    "*", "http://elsewhere.example/v1/generation", "//v1/customers/1/value", "/v1/customers//value", "/v1/../../etc/passwd",
    "/v1/customers/1/value?" + "a=b&" * 500, "/page/../app.py", "/page/%2e%2e/app.py", "/docs/", "", "/#", "/v1/customers/1/value#x",
    "/v1/customers/\x01/value", "/v1/customers/a b/value", "/v1/customers/\u00e9/value", "/metrics/x", "/health/none",
)  # fmt: skip
_ESCAPES = (
    "%", "%f", "%zz", "%00", "%ff%fe", "%c0%af", "%ed%a0%80", "%u0041", "%2", "%0d%0a", "%25zz", "%2F", "%2e%2e%2f", "%f4%90%80%80",
    "%ef%bf%bd", "__x__", "%5f%5fx%5f%5f", "%e2%80%ae",
)  # fmt: skip
_TYPES = (
    "", "Content-Type:\r\n", "Content-Type: text/plain\r\n", "Content-Type: application/json; charset=utf-16\r\n",
    "Content-Type: multipart/form-data; boundary=x\r\n", "Content-Type: application/x-www-form-urlencoded\r\n",
    "Content-Type: \xff\r\n", "Content-Type: application/json\r\nContent-Type: text/html\r\n", "Content-Encoding: gzip\r\n",
)  # fmt: skip
_LENGTHS = (
    "-1",
    "+5",
    "0x10",
    "5, 6",
    "",
    " ",
    "1e3",
    "99999999999999999999999",
    "18446744073709551616",
    "2147483648",
    "007",
    "\u0665",
)
_CHUNKS = (
    b"-1\r\nabc\r\n", b"zz\r\n", b"FFFFFFFFFFFFFFFFF\r\nx", b"7fffffffffffffff\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n",
    b"5;" + b"x" * 60_000 + b"\r\nabcde\r\n0\r\n\r\n", b"0\r\nTrailer: " + b"y" * 40_000 + b"\r\n\r\n", b"\r\n\r\n", b"1\n{\n0\n\n",
    b"2\r\n{}\r\n0\r\nHost: elsewhere.example\r\n\r\n",
)  # fmt: skip
_HEADERS = (
    "no colon here\r\n", ": no name\r\n", "Name : space\r\n", " folded\r\n", "X\0Y: z\r\n", "X: a\0b\r\n", "X: \x7f\x80\xff\r\n",
    "Host: elsewhere.example\r\n", "Host:\r\n", "Host: localhost:99999999\r\n", "Host: [::1\r\n", "Expect: 100-continue\r\n", "Expect: nonsense\r\n",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\n",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAAA\r\n", "If-None-Match: ,,,W/\r\n", "If-None-Match: *\r\n",
    "Connection: close, keep-alive\r\n", "Accept: \xe9\r\n", "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\n", "Range: bytes=0-0\r\n",
    "Authorization: Bearer " + "x" * 9_000 + "\r\n", "Cookie: " + "c=d; " * 8_000 + "\r\n", "X: y\r\n" * 5_000, "X: y\n", "\r",
)  # fmt: skip
_BODIES = (
    b"", b"null", b"[]", b"{}", b"0", b'"x"', b"{", b'{"customer_ids":', b'{"customer_ids":[}', b'{"customer_ids":["1",]}', b'{"customer_ids":[]}',
    b'{"customer_ids":null}', b'{"customer_ids":"1"}', b'{"customer_ids":[1]}', b'{"customer_ids":[null]}', b'{"customer_ids":[[]]}',
    b'{"customer_ids":[""]}', b'{"customer_ids":["\\ud800"]}', b'{"customer_ids":["\\u0000"]}', b'{"customer_ids":["1"],"customer_ids":["2"]}',
    b'{"customer_ids":["1"],"x":NaN}', b'{"customer_ids":{"0":"1"}}', b'{"customer_ids":[1e999]}', b'{"customer_ids":[' + b"9" * 50_000 + b"]}",
    b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b'{"customer_ids":["\xff"]}', b'{"customer_ids":["\xed\xa0\x80"]}', b"\x00" * 500, b"{}{}", b"<xml/>",
)  # fmt: skip


def malformed(draw: Draw) -> bytes:
    """What is sent on one connection."""
    return draw.choice(_KINDS)(draw)


def _noise(draw: Draw) -> bytes:
    return draw.randbytes(draw.choice((1, 10, 200, 5_000)))


def _mutated(draw: Draw) -> bytes:
    """A good request with a few bytes changed, left out, repeated or put in."""
    sent = bytearray(
        draw.choice((get("12"), post(["1", "2", "3"]), request("GET", "/health/ready"), request("GET", "/metrics")))
    )
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(sent))
        change = draw.randrange(4)
        if change == 0:
            sent[at] = draw.randrange(256)
        elif change == 1:
            del sent[at : at + draw.randint(1, 4)]
        elif change == 2:
            sent[at:at] = draw.randbytes(draw.randint(1, 4))
        else:
            sent[at:at] = sent[at : at + draw.randint(1, 40)]
        if not sent:
            break
    return bytes(sent)


def _cut(draw: Draw) -> bytes:
    whole = draw.choice((get("12"), post(["1", "2", "3"])))
    return whole[: draw.randrange(len(whole))]


def _method(draw: Draw) -> bytes:
    return request(draw.choice(_METHODS), draw.choice(("/v1/customers/1/value", _LOOKUP, "/", "/health/live")))


def _target(draw: Draw) -> bytes:
    return request("GET", draw.choice(_TARGETS))


def _escapes(draw: Draw) -> bytes:
    parts = draw.choices((*_ESCAPES, "1", "x", "/"), k=draw.randint(1, 5))
    return request("GET", f"/v1/customers/{''.join(parts)}/value")


def _long_id(draw: Draw) -> bytes:
    size = draw.choice((1_500, 1_501, 5_000, 32_000, 33_000, 200_000))
    if draw.random() < 0.5:
        return request("GET", f"/v1/customers/{draw.choice(('a', '%c3%a9'))[:size] * (size // 6)}/value")
    return post(["b" * size, "1"])


def _many_ids(draw: Draw) -> bytes:
    return post([str(number) for number in range(draw.choice((1_000, 1_001, 20_000)))])


def _body(draw: Draw) -> bytes:
    return _posted(draw.choice(_BODIES), _JSON)


def _deep(draw: Draw) -> bytes:
    opened = draw.choice((b"[", b'{"customer_ids":', b'{"a":', b'[{"a":'))
    return _posted(opened * draw.choice((100, 5_000, 100_000)), _JSON)


def _type(draw: Draw) -> bytes:
    return _posted(b'{"customer_ids":["1"]}', draw.choice(_TYPES))


def _length(draw: Draw) -> bytes:
    body, lines = b'{"customer_ids":["1"]}', f"{_JSON}Content-Length: {draw.choice(_LENGTHS)}\r\n"
    if draw.random() < 0.3:
        lines += f"Content-Length: {len(body)}\r\n"
    return request("POST", _LOOKUP, lines, body)


def _wrong_length(draw: Draw) -> bytes:
    """More than announced, which begins a request that is none, or less, which never comes."""
    body = b'{"customer_ids":["1"]}'
    return request("POST", _LOOKUP, f"{_JSON}Content-Length: {len(body) + draw.choice((-9, -1, 1, 9))}\r\n", body)


def _large(draw: Draw) -> bytes:
    """More than is taken, announced or not."""
    body = json.dumps({"customer_ids": ["c" * 1_000] * draw.choice((2_000, 2_500))}).encode()
    if draw.random() < 0.5:
        return _posted(body, _JSON)
    return request(
        "POST", _LOOKUP, f"{_JSON}Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    )


def _chunks(draw: Draw) -> bytes:
    lines = draw.choice(
        ("Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: chunked, x\r\n")
    )
    if draw.random() < 0.3:
        lines += "Content-Length: 5\r\n"
    return request("POST", _LOOKUP, _JSON + lines, b"".join(draw.choices(_CHUNKS, k=draw.randint(1, 3))))


def _headers(draw: Draw) -> bytes:
    return get("12", "".join(draw.choices(_HEADERS, k=draw.randint(1, 3))))


def _version(draw: Draw) -> bytes:
    version = draw.choice(
        ("HTTP/9.9", "HTTP/1.0", "HTTP/0.9", "HTTP/1.1 x", "HTTP/1", "http/1.1", "", "HTTP/2.0", "RTSP/1.0")
    )
    return get("12").replace(b"HTTP/1.1", version.encode(), 1)


def _pipelined(draw: Draw) -> bytes:
    """Many at once, the last of them broken; more than the service lets wait."""
    return get("12") * draw.choice((2, 30, 400)) + _mutated(draw)


def _posted(body: bytes, headers: str) -> bytes:
    return request("POST", _LOOKUP, f"{headers}Content-Length: {len(body)}\r\n", body)


_KINDS: tuple[Callable[[Draw], bytes], ...] = (
    _noise, _mutated, _mutated, _mutated, _cut, _method, _target, _escapes, _long_id, _many_ids, _body, _body, _deep, _type, _length,
    _wrong_length, _large, _chunks, _headers, _headers, _version, _pipelined,
)  # fmt: skip
