"""Problem details: what a caller's program may rely on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api_models import ProblemDetails
from serving.problems import TITLES, Problem


@pytest.mark.parametrize("code", TITLES)
def test_every_code_has_its_status_and_title(code: str) -> None:
    problem = Problem(code, "why", {"retry-after": "1"})
    content = json.loads(problem.body())
    ProblemDetails.model_validate(content, strict=True)
    assert content == {
        "type": "about:blank", "title": TITLES[code][1], "status": TITLES[code][0], "detail": "why", "code": code,
    }  # fmt: skip
    assert 400 <= problem.status < 600
    assert (str(problem), problem.headers) == ("why", {"retry-after": "1"})


@given(detail=st.text(st.characters()))
def test_any_detail_can_be_sent(detail: str) -> None:
    body = Problem("invalid_request", detail + "\ud800").body()
    assert body.isascii() and json.loads(body)["detail"] == detail + "\ud800"


def test_other_codes_are_defects() -> None:
    with pytest.raises(KeyError):
        Problem("no_such_code", "why")
