"""The page that describes the interface needs nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.serving.service import Client, publish, running
from tests.serving.store_contract import prediction


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    uri = f"sqlite://{tmp_path_factory.mktemp('docs')}/serving.db"
    publish(uri, "g1", [prediction("c1")])
    with running(uri) as client:
        yield client


@pytest.mark.parametrize("page", ["/docs", "/"])
def test_all_that_a_page_names_is_ours_and_there(client: Client, page: str) -> None:
    answer = client.get(page)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';") and "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    named = re.findall(r'(?:src|href)="([^"]+)"', answer.body.decode())
    files = [each for each in named if not each.startswith(("data:", "#"))]
    assert len(files) >= 2
    for each in files:
        assert "//" not in each, "of elsewhere"
        found = client.get(f"/{each.removeprefix('/')}")
        assert (each, found.status) == (each, 200)
        assert found.headers["x-content-type-options"] == "nosniff"
        expected = {"js": "text/javascript", "css": "text/css"}.get(each.rpartition(".")[2], "text/html")
        assert found.headers["content-type"] == f"{expected}; charset=utf-8"


def test_there_is_no_script_within_a_page(client: Client) -> None:
    """The policy would forbid it."""
    for page in ("/docs", "/"):
        assert re.findall(r"<script(?![^>]*\bsrc=)", client.get(page).body.decode()) == []
        assert re.findall(r"\son\w+=", client.get(page).body.decode()) == []


def test_without_tokens_the_document_asks_for_none(client: Client) -> None:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert "security" not in answer.json() and "securitySchemes" not in answer.json()["components"]
    assert client.get("/openapi.json").body == answer.body


def test_what_may_be_missing_is_said_to_be(client: Client) -> None:
    served = client.get("/openapi.json").json()["components"]["schemas"]["ServedGeneration"]["properties"]
    assert served["expires_at"]["nullable"] is True and served["expires_at"]["type"] == "string"
    assert "nullable" not in served["generation"]
