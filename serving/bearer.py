"""Who calls: Google's ID tokens, verified here.

A caller sends ``Authorization: Bearer TOKEN``. The token is good when one of Google's keys signed it, it is in its time, it is
for this service (``aud``), Google issued it, it carries a verified ``email``, and that email is among the callers. The list of
callers is what admits somebody. The audience alone seldom is enough: any service account of any project in the world can ask
Google for a token with any audience.

On Cloud Run: where its own IAM check reads ``Authorization``, it takes the signature out of the token before the service sees
it (``SIGNATURE_REMOVED_BY_GOOGLE`` stands in its place), so that nothing can be verified here. With both checks in use a
caller sends Cloud Run's token as ``X-Serverless-Authorization``, which Cloud Run then reads instead, and this service's as
``Authorization``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeGuard

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import load_pem_x509_certificate
from google.auth import crypt, jwt

from serving.problems import Problem
from transforms.errors import one_line, rejected

GOOGLES_KEYS_URL = "https://www.googleapis.com/oauth2/v1/certs"
ISSUERS = ("accounts.google.com", "https://accounts.google.com")
STRIPPED_SIGNATURE = "SIGNATURE_REMOVED_BY_GOOGLE"
# Google's ID tokens have about 1 KiB.
MAX_TOKEN_CHARACTERS = 16 * 1024
# Between Google's clocks and ours.
CLOCK_SKEW_SECONDS = 10
# Google's tokens live an hour. None is taken on trust for longer, whatever its `exp` says.
MAX_REMEMBERED_SECONDS = 3600
# About 250 bytes each.
MAX_REMEMBERED = 10_000
MIN_KEYS_SECONDS, MAX_KEYS_SECONDS = 60, 86_400
# Google publishes a key well before it signs with it and withdraws it well after. Half a day gives a person the time to open
# the way to Google again; a key Google takes back in that time is still honoured here.
STALE_KEYS_SECONDS = 12 * 3600
# Anybody can make up a key id; this is how often that reaches Google.
REFRESH_SECONDS = 60
# With no usable keys every caller waits for the next try.
RETRY_SECONDS = 5
FETCH_SECONDS = 5
MAX_KEYS_BYTES = 256 * 1024

# Numbers of claims beyond this are no times.
_END_OF_TIME = 10**12
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_logger = logging.getLogger(__name__)

_Fetched: TypeAlias = tuple[dict[str, crypt.RSAVerifier], float]


class Bearer:
    """The check of one service.

    Args:
      audience: what a token has to be for (``aud``), usually the service's own URL.
      callers: emails of who may call. None admits every account that has a token for this audience, which is everybody with a
        Google Cloud project: for a service that something else guards already.
      keys_url: where Google publishes the certificates of its keys, as JSON of key id to PEM.
      clock: seconds since the epoch.

    Raises:
      UsageError: an empty audience, or a caller that is no email.
    """

    def __init__(
        self,
        audience: str,
        callers: frozenset[str] | None,
        keys_url: str = GOOGLES_KEYS_URL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not audience.strip():
            raise rejected("audience", audience, "what callers ask a token for, usually the URL of this service")
        for caller in callers or ():
            if "@" not in caller.strip("@") or caller != caller.strip():
                raise rejected("caller", caller, "the email of a service account or a user")
        self._audience, self._clock = audience, clock
        self._callers = None if callers is None else frozenset(caller.lower() for caller in callers)
        self._keys = _Keys(keys_url, clock)
        self._remembered: dict[bytes, tuple[str, float]] = {}

    async def check(self, authorization: str | None) -> str:
        """The caller's email, in lower case. A token seen before is answered without waiting for anything.

        Args:
          authorization: the header's value, None where there is none.

        Raises:
          Problem: unauthenticated (401), forbidden (403: a good token of somebody who is not among the callers),
            keys_unavailable (503, with Retry-After).
        """
        token = _token(authorization)
        digest = hashlib.sha256(token.encode()).digest()
        email, until = self._remembered.get(digest, ("", 0.0))
        if until <= self._clock():
            email, until = await self._verify(token)
            self._remember(digest, email, until)
        if self._callers is not None and email not in self._callers:
            raise Problem("forbidden", f"{email} is not among the callers of this service")
        return email

    def _remember(self, digest: bytes, email: str, until: float) -> None:
        self._remembered.pop(digest, None)
        while len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = email, until

    async def _verify(self, token: str) -> tuple[str, float]:
        """The email, and until when the token may be remembered."""
        key_id = _key_id(token)
        claims = _signed_claims(token, await self._keys.key(key_id))
        now = self._clock()
        expires = _check_times(claims, now)
        _check_issue(claims, self._audience)
        return _verified_email(claims), min(expires, now + MAX_REMEMBERED_SECONDS)


def _unauthenticated(detail: str) -> Problem:
    # RFC 6750 has no quotes, backslashes or letters beyond ASCII in the description.
    description = re.sub(r"[^ !#-\[\]-~]", "'", detail)
    return Problem(
        "unauthenticated",
        detail,
        {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{description}"'},
    )


def _token(authorization: str | None) -> str:
    """The token of the header, if it has the shape of one."""
    if authorization is None:
        raise _unauthenticated("No Authorization header: send Authorization: Bearer with a Google ID token")
    if len(authorization) > MAX_TOKEN_CHARACTERS:
        raise _unauthenticated(
            f"The Authorization header has {len(authorization)} characters, at most {MAX_TOKEN_CHARACTERS} are read"
        )
    scheme, _, token = authorization.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise _unauthenticated("The Authorization header is not Bearer followed by a Google ID token")
    if token.endswith("." + STRIPPED_SIGNATURE):
        raise _unauthenticated(
            "Cloud Run's own check took the signature out of this token (SIGNATURE_REMOVED_BY_GOOGLE): send Cloud Run's token as "
            "X-Serverless-Authorization and this service's as Authorization"
        )
    if not _TOKEN.fullmatch(token) or not _is_canonical(token.rpartition(".")[2]):
        raise _unauthenticated(
            "The token is not three parts of base64url with dots between: a Google ID token is needed"
        )
    return token


def _is_canonical(part: str) -> bool:
    """Whether this is the one spelling of its bytes, so that no second token can be made of a good one."""
    try:
        return base64.urlsafe_b64encode(_decoded(part)).decode().rstrip("=") == part
    except ValueError:
        return False


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _key_id(token: str) -> str:
    try:
        header = jwt.decode_header(token)
    except (ValueError, RecursionError):
        raise _unauthenticated("The token's header or claims are not JSON: a Google ID token is needed") from None
    if header.get("alg") != "RS256":
        raise _unauthenticated("The token is not signed with RS256, as Google's ID tokens are")
    key_id = header.get("kid")
    if not isinstance(key_id, str) or not key_id:
        raise _unauthenticated("The token does not say which key signed it (kid), as Google's ID tokens do")
    return key_id


def _signed_claims(token: str, key: crypt.RSAVerifier) -> Mapping[str, Any]:
    signed, _, signature = token.rpartition(".")
    if not key.verify(signed.encode(), _decoded(signature)):
        raise _unauthenticated("The token's signature is not that of the key it names")
    # jwt.decode would compare the times with the machine's clock, not with ours: _check_times does.
    return jwt.decode(token, verify=False)


def _check_times(claims: Mapping[str, Any], now: float) -> float:
    """When the token ends, our clock's inexactness included."""
    issued, expires = claims.get("iat"), claims.get("exp")
    begins = claims.get("nbf", issued)
    if not _is_time(issued) or not _is_time(expires) or not _is_time(begins):
        raise _unauthenticated("The token does not say from when to when it is good (iat, exp)")
    early = max(issued, begins) - CLOCK_SKEW_SECONDS - now
    if early > 0:
        raise _unauthenticated(f"The token is not good yet, for {_seconds(early)} more: is a clock wrong?")
    end = float(expires) + CLOCK_SKEW_SECONDS
    if end <= now:
        raise _unauthenticated(f"The token expired {_seconds(now - expires)} ago: ask Google for a new one")
    return end


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _END_OF_TIME


def _seconds(seconds: float) -> str:
    return f"{math.ceil(seconds)} s"


def _check_issue(claims: Mapping[str, Any], audience: str) -> None:
    if claims.get("iss") not in ISSUERS:
        raise _unauthenticated(f"The token was issued by {_quoted(claims.get('iss'))}, accepted is {ISSUERS[1]}")
    if claims.get("aud") != audience:
        raise _unauthenticated(
            f"The token is for {_quoted(claims.get('aud'))}, ask Google for one with the audience {audience}"
        )


def _verified_email(claims: Mapping[str, Any]) -> str:
    email = claims.get("email")
    if not isinstance(email, str) or not email:
        raise _unauthenticated(
            "The token has no email: ask for one with it (includeEmail of the IAM Credentials API, format=full of the metadata "
            "server, --include-email of gcloud)"
        )
    if claims.get("email_verified") is not True:
        raise _unauthenticated(f"The email of the token, {_quoted(email)}, is not verified")
    return email.lower()


def _quoted(value: Any) -> str:
    return one_line(json.dumps(value), 120)


class _Keys:
    """Google's keys, kept as long as Google says."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url, self._clock = url, clock
        self._kept: dict[str, crypt.RSAVerifier] = {}
        self._fresh_until = self._next_try = -math.inf
        self._refresh: asyncio.Task[None] | None = None
        self._under_way = threading.Lock()

    async def key(self, key_id: str) -> crypt.RSAVerifier:
        """The key of this id.

        Raises:
          Problem: keys_unavailable, or unauthenticated: Google has no such key.
        """
        if key_id not in self._kept or self._fresh_until <= self._clock():
            await self._refreshed()
        now = self._clock()
        usable = now < self._fresh_until + STALE_KEYS_SECONDS
        if usable and key_id in self._kept:
            return self._kept[key_id]
        if now < self._fresh_until:
            raise _unauthenticated("No key of Google has the id the token names: a Google ID token is needed")
        raise Problem(
            "keys_unavailable",
            "Google's public keys, which tokens are checked with, cannot be had at the moment",
            {"Retry-After": str(max(1, math.ceil(self._next_try - now)))},
        )

    async def _refreshed(self) -> None:
        """One refresh for all who wait; none where the last try is too recent."""
        # A task that its loop's end cancelled before it began is done, and has not put itself away.
        if self._refresh is None or self._refresh.done():
            if self._clock() < self._next_try:
                return
            self._refresh = asyncio.get_running_loop().create_task(self._fetch())
        # A caller that goes away must not end the refresh of the others.
        await asyncio.shield(self._refresh)

    async def _fetch(self) -> None:
        began = self._clock()
        try:
            keys, seconds = await asyncio.wait_for(self._begun(), FETCH_SECONDS)
        except Exception as error:
            usable = self._clock() < self._fresh_until + STALE_KEYS_SECONDS
            self._next_try = self._clock() + (REFRESH_SECONDS if usable else RETRY_SECONDS)
            reason = one_line(f"{type(error).__name__}: {error}")
            _logger.warning("Google's keys cannot be had from %s (%s); %s", self._url, reason, _with_what(usable))
        else:
            self._kept = keys
            self._fresh_until, self._next_try = began + seconds, began + REFRESH_SECONDS
        finally:
            self._refresh = None

    def _begun(self) -> asyncio.Future[_Fetched]:
        """A fetch in a thread of its own: neither the loop's end nor the process's waits for one that a slow server holds.

        Raises:
          TimeoutError: the one before is still under way. More of them would each leave a thread.
        """
        if not self._under_way.acquire(blocking=False):
            raise TimeoutError("the try before is still under way")
        loop = asyncio.get_running_loop()
        fetched: asyncio.Future[_Fetched] = loop.create_future()
        thread = threading.Thread(target=self._work, args=(loop, fetched), name="google-keys", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._under_way.release()
            raise
        return fetched

    def _work(self, loop: asyncio.AbstractEventLoop, fetched: asyncio.Future[_Fetched]) -> None:
        settle: Callable[[], None]
        try:
            settle = partial(_settle, fetched.set_result, _fetch(self._url), fetched)
        except Exception as error:
            settle = partial(_settle, fetched.set_exception, error, fetched)
        finally:
            self._under_way.release()
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle)


def _settle(how: Callable[[Any], None], what: Any, fetched: asyncio.Future[_Fetched]) -> None:
    if not fetched.done():
        how(what)


def _with_what(usable: bool) -> str:
    return f"the ones kept are used up to {STALE_KEYS_SECONDS // 3600} h past their end" if usable else "none are kept"


def _fetch(url: str) -> _Fetched:
    """The keys by id, and how many seconds they are good.

    Raises:
      Exception: no answer, not a whole one in FETCH_SECONDS, or not one of keys. A server that drips its headers is given up
        only when it ends them: the timeout of requests is that of one read.
    """
    import requests

    deadline = time.monotonic() + FETCH_SECONDS
    with requests.get(url, timeout=FETCH_SECONDS, allow_redirects=False, stream=True) as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        content = b""
        # iter_content would wait for a whole piece, however slowly it comes.
        while piece := response.raw.read1(16 * 1024, decode_content=True):
            content += piece
            if time.monotonic() > deadline:
                raise TimeoutError(f"not whole after {FETCH_SECONDS} s")
            if len(content) > MAX_KEYS_BYTES:
                raise ValueError(f"more than {MAX_KEYS_BYTES} bytes")
        return _usable(json.loads(content)), _good_seconds(response.headers)


def _usable(certificates: Any) -> dict[str, crypt.RSAVerifier]:
    """The keys of those certificates that are sound: one that is not must not take the others away."""
    if not isinstance(certificates, dict):
        raise ValueError("not a JSON object of key id to certificate")
    keys = {key_id: _public_key(pem) for key_id, pem in certificates.items()}
    usable = {key_id: crypt.RSAVerifier(key) for key_id, key in keys.items() if key is not None}
    if not usable:
        raise ValueError("no RSA certificate among the answer's values")
    return usable


def _public_key(pem: Any) -> RSAPublicKey | None:
    try:
        key = load_pem_x509_certificate(str(pem).encode()).public_key()
    except ValueError:
        return None
    return key if isinstance(key, RSAPublicKey) else None


def _good_seconds(headers: Mapping[str, str]) -> float:
    """What is left of the answer's max-age, within our bounds."""
    stated = re.search(r"max-age\s*=\s*\"?(\d{1,9})", headers.get("Cache-Control", ""), re.IGNORECASE)
    age = headers.get("Age", "0")
    seconds = int(stated.group(1)) - (int(age) if age.isascii() and age.isdigit() else 0) if stated else 0
    return min(max(seconds, MIN_KEYS_SECONDS), MAX_KEYS_SECONDS)
