"""What the lookup service answers where it has no prediction to give: problem details as RFC 9457 has them."""

from __future__ import annotations

import json
from collections.abc import Mapping

MEDIA_TYPE = "application/problem+json"
# One a status, but for 404 and 503, where a caller does different things about them.
TITLES = {
    "invalid_request": (400, "The request is not one of this API"),
    "unauthenticated": (401, "A valid token is needed"),
    "forbidden": (403, "This caller may not look customers up"),
    "no_prediction": (404, "No prediction for this customer"),
    "nothing_published": (404, "No predictions are being served"),
    "no_such_page": (404, "There is no such page"),
    "method_not_allowed": (405, "This page does not take this method"),
    "too_slow": (408, "The request did not arrive in time"),
    "too_large": (413, "The request is too large"),
    "unsupported_media_type": (415, "The body is not JSON"),
    "head_too_large": (431, "The head of the request is too large"),
    "internal_error": (500, "The service failed"),
    "overloaded": (503, "Too many requests at once"),
    "store_unavailable": (503, "The store does not answer"),
    "keys_unavailable": (503, "Google's public keys cannot be had"),
}


class Problem(Exception):
    """An answer that is not 200; the handler of the application makes the response of it.

    Args:
      code: one of ``TITLES``; a caller's program may decide by it.
      detail: one sentence for a person: which value, what is accepted.
    """

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.title = TITLES[code]
        self.code, self.detail, self.headers = code, detail, dict(headers or {})

    def body(self) -> bytes:
        content = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        # ASCII, so that lone surrogates of a request can be quoted back.
        return json.dumps(content).encode()
