"""What the interface promises, over any store; a store's tests subclass ``ApiContract``."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from serving.api_models import LookupAnswer, Prediction, ServedGeneration
from serving.store import open_store
from tests.serving.service import Answer, Client, publish, running, until
from tests.serving.store_contract import batch_of, content_of, prediction

STRANGE = [
    "a/b", "a//b/", "/", "a%2Fb", "a%b", "a b", " ", "  a", "a\nb", "\n", "a\r\nb: c", "\t", "'", '"', "a\"b'c", "\\",
    "😀", "Zoë/名", "-", "--help", "-1", ".", "..", "../x", "a/value", "value", "a?b=c", "a#b", "a;b", "a:lookup", "+",
    "a+b", "\x00", "a\x00b", "\ufffd", "\u202e", "e\u0301", "é", "x" * 1500, "é" * 750, "null", "0", "{}", "*", "__a",
]  # fmt: skip
ROWS = [
    *(prediction(i, float(number)) for number, i in enumerate(STRANGE)),
    *(prediction(f"c{number}", number / 7) for number in range(1000)),
]
BY_ID = {row["customer_id"]: row for row in ROWS}
FIRST = "2011-12-10-0a1b2c3d4e5f"
ETAG = '"THE ONE SENT"'  # stands for it in lists of examples
NOT_IDS = ["", "x" * 1501, "é" * 751]


def as_answered(customer_id: str, generation: str = FIRST) -> dict[str, Any]:
    row = BY_ID[customer_id]
    return row | {"as_of": row["as_of"].isoformat(), "generation": generation}


class ApiContract:
    """Subclasses give ``new_uri``: a store that is empty and made for it."""

    @pytest.fixture(scope="class")
    def new_uri(self) -> Any:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def client(self, new_uri: Any) -> Iterator[Client]:
        """Of a service of ``ROWS`` that no test changes."""
        uri = new_uri()
        publish(uri, FIRST, ROWS)
        with running(uri) as client:
            yield client

    @pytest.fixture
    def own(self, new_uri: Any) -> Iterator[tuple[str, Client]]:
        """A store of the test's own, empty at first, and a service that asks for the pointer each time."""
        uri = new_uri()
        open_store(uri, create=True).close()
        with running(uri, pointer_seconds=0.05) as client:
            yield uri, client

    @pytest.mark.parametrize("customer_id", STRANGE, ids=lambda i: ascii(i[:12]))
    def test_any_id_is_found_by_either_way(self, client: Client, customer_id: str) -> None:
        answer = client.value(customer_id)
        assert (answer.status, answer.json()) == (200, as_answered(customer_id))
        assert client.look_up([customer_id]).json()["found"] == [as_answered(customer_id)]
        assert client.value(f"{customer_id[:700]}-no").code == "no_prediction"

    def test_one_prediction(self, client: Client) -> None:
        answer = client.value("c3")
        assert answer.json() == as_answered("c3")
        Prediction.model_validate_json(answer.body)
        assert list(answer.json()) == list(Prediction.model_fields)
        assert answer.headers["content-type"] == "application/json"
        assert re.fullmatch(rf'"{FIRST}\.1-[0-9a-f]+"', answer.headers["etag"])
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("customer_id", NOT_IDS, ids=["empty", "ascii", "two bytes each"])
    def test_what_cannot_be_an_id(self, client: Client, customer_id: str) -> None:
        for answer in (client.value(customer_id), client.look_up(["c1", customer_id])):
            assert (answer.status, answer.code) == (400, "invalid_request")
            assert "accepted are 1 to 1,500 bytes of UTF-8" in answer.json()["detail"]

    @pytest.mark.parametrize("customer_id", ["__a__", "____", "___", "__", "__\n__"])
    def test_what_datastore_keeps_for_itself_is_nobody_and_harms_nobody(self, client: Client, customer_id: str) -> None:
        assert client.value(customer_id).code == "no_prediction"
        answer = client.look_up(["c1", customer_id])
        assert (answer.json()["found"], answer.json()["missing"]) == ([as_answered("c1")], [customer_id])

    @pytest.mark.parametrize("path", ["%ff", "a%C3", "%ED%A0%80", "c1%80"])
    def test_ids_that_are_no_utf8(self, client: Client, path: str) -> None:
        answer = client.get(f"/v1/customers/{path}/value")
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert "not UTF-8" in answer.json()["detail"]

    def test_a_plus_is_a_plus_and_what_comes_after_a_question_mark_is_not_read(self, client: Client) -> None:
        assert client.get("/v1/customers/a+b/value?c1").json()["customer_id"] == "a+b"
        assert client.get("/v1/customers/c1/value?customer_id=c2").json()["customer_id"] == "c1"

    @pytest.mark.parametrize(
        "wanted",
        [
            ETAG, f"W/{ETAG}", f'"other", {ETAG}', f'{ETAG},"other"', f'  "a" ,\tW/{ETAG} , "b"', "*", " * ",
        ],
    )  # fmt: skip
    def test_what_the_caller_has_already_is_not_sent_again(self, client: Client, wanted: str) -> None:
        etag = client.value("c1").headers["etag"]
        answer = client.value("c1", If_None_Match=wanted.replace(ETAG, etag))
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == etag
        assert answer.headers["cache-control"] == "private, no-cache"

    @pytest.mark.parametrize(
        "wanted", [f'"{FIRST}.2"', f'"{FIRST}"', FIRST, f"{FIRST}.1", '"other"', "", '"*"', ",", f'"x{ETAG[1:]}']
    )
    def test_what_the_caller_has_of_another_generation_is_sent(self, client: Client, wanted: str) -> None:
        assert client.value("c1", If_None_Match=wanted).json() == as_answered("c1")

    def test_who_has_no_prediction_has_none_whatever_the_caller_has_already(self, client: Client) -> None:
        etag = client.value("c1").headers["etag"]
        assert client.value("nobody", If_None_Match=etag).code == "no_prediction"

    def test_nobody_is_unchanged(self, client: Client) -> None:
        assert client.value("nobody", If_None_Match="*").code == "no_prediction"
        assert client.value("nobody", If_None_Match='"other"').code == "no_prediction"

    def test_many_come_in_the_order_asked_each_once(self, client: Client) -> None:
        answer = client.look_up(["c2", "nobody", "c1", "c2", "ghost", "nobody", "c0"])
        assert answer.status == 200
        LookupAnswer.model_validate_json(answer.body)
        assert answer.json() == {
            "generation": FIRST,
            "found": [as_answered(i) for i in ("c2", "c1", "c0")],
            "missing": ["nobody", "ghost"],
        }
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers

    def test_a_thousand(self, client: Client) -> None:
        ids = [f"c{number}" for number in reversed(range(1000))]
        assert [row["customer_id"] for row in client.look_up(ids).json()["found"]] == ids
        assert client.look_up(["nobody"] * 1000).json()["missing"] == ["nobody"]
        answer = client.look_up(["c1"] * 1001)
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert "customer_ids" in answer.json()["detail"] and "1000" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("content", "place"),
        [
            ({"customer_ids": []}, "customer_ids"),
            ({}, "customer_ids"),
            ({"customer_ids": "c1"}, "customer_ids"),
            ({"customer_ids": None}, "customer_ids"),
            ({"customer_ids": {"c1": 1}}, "customer_ids"),
            ({"customer_ids": [1]}, "customer_ids.0"),
            ({"customer_ids": ["c1", None]}, "customer_ids.1"),
            ({"customer_ids": ["c1", ["c2"]]}, "customer_ids.1"),
            ({"customer_ids": [True]}, "customer_ids.0"),
            ({"customer_ids": ["c1"], "more": 1}, "more"),
            ({"customer_ids": ["c1"], "x" * 100_000: 1}, "xxx"),
            ({"customer_ids": ["c1"], "a\nb": 1}, "a"),
            ({"customer_ids": ["c1"], "": 1}, ""),
            ([], "the body"), ("c1", "the body"), (None, "the body"), (1, "the body"),
            (b"", "the body"), (b"{", "the body"), (b"\xff", "the body"), (b'{"customer_ids": ["\xff"]}', ""),
            (b'{"customer_ids": ["\\ud800"]}', ""), (b'{"customer_ids": ["c1"]} x', "the body"),
            (b"[" * 100_000, "the body"), (b'{"customer_ids": [NaN]}', ""), (b"\xef\xbb\xbf{}", ""),
        ],
        ids=lambda value: repr(value)[:24],
    )  # fmt: skip
    def test_other_bodies_are_refused_in_one_line(self, client: Client, content: Any, place: str) -> None:
        answer = client.post("/v1/customers:lookup", content)
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert place in answer.json()["detail"]

    @pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "json"])
    def test_bodies_of_other_types_are_refused(self, client: Client, content_type: str | None) -> None:
        answer = client.post("/v1/customers:lookup", {"customer_ids": ["c1"]}, content_type)
        assert (answer.status, answer.code) == (415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json ;"]
    )
    def test_the_same_type_may_be_written_otherwise(self, client: Client, content_type: str) -> None:
        assert client.post("/v1/customers:lookup", {"customer_ids": ["c1"]}, content_type).status == 200

    def test_what_is_served(self, client: Client) -> None:
        answer = client.get("/v1/generation")
        ServedGeneration.model_validate_json(answer.body)
        assert set(answer.json()) == set(ServedGeneration.model_fields)
        assert {name: answer.json()[name] for name in ("generation", "as_of", "horizon_days", "rows")} == {
            "generation": FIRST, "as_of": "2011-12-10", "horizon_days": 90, "rows": len(ROWS),
        }  # fmt: skip
        assert client.get("/health/ready").json() == {"status": "ready", "generation": FIRST}
        assert client.get("/health/live").json() == {"status": "live"}

    @pytest.mark.parametrize(
        ("path", "accepted"),
        [
            ("/v1/customers/c1/value", "GET"), ("/v1/customers:lookup", "POST"), ("/v1/generation", "GET"),
            ("/health/live", "GET"), ("/health/ready", "GET"), ("/metrics", "GET"), ("/", "GET"),
        ],
    )  # fmt: skip
    def test_other_methods_are_refused(self, client: Client, path: str, accepted: str) -> None:
        methods = {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "HEAD"} - {accepted}
        if accepted == "GET":
            methods -= {"HEAD"}
            head, got = client.call("HEAD", path), client.get(path)
            assert (head.status, head.body) == (200, b"")
            assert head.headers["content-type"] == got.headers["content-type"]
        for method in methods:
            answer = client.call(method, path)
            assert (method, answer.status) == (method, 405)
            assert answer.headers["allow"] == accepted
            assert method == "HEAD" or answer.code == "method_not_allowed"

    @pytest.mark.parametrize(
        "path",
        [
            "/v1", "/v1/", "/v1/customers", "/v1/customers/c1", "/v1/customers/c1/", "/v1/customers/c1/value/",
            "/v1/customers:lookup/", "/V1/generation", "//v1/generation", "/v1//generation", "/health", "/health/",
            "/docs/", "/docs/../v1/generation", "/page/", "/page/../../app.py", "/page/%2e%2e/%2e%2e/app.py", "/redoc",
            "/favicon.ico",
        ],
    )  # fmt: skip
    def test_other_pages_are_none(self, client: Client, path: str) -> None:
        answer = client.get(path)
        assert (answer.status, answer.code) == (404, "no_such_page")

    def test_problems_are_not_kept_by_anybody(self, client: Client) -> None:
        """A 404 may be kept by caches unless told otherwise, and a replay may add the customer at any moment."""
        for answer in (
            client.value("nobody"), client.get("/nothing"), client.call("PUT", "/metrics"), client.value(""),
            client.call("GET", "/metrics", host="elsewhere"), client.post("/v1/customers:lookup", b"{"),
        ):  # fmt: skip
            assert answer.headers.get("cache-control") == "no-store", answer
            assert answer.headers["x-content-type-options"] == "nosniff"

    def test_before_anything_is_published(self, own: tuple[str, Client]) -> None:
        _, client = own
        for answer in (client.value("c1"), client.look_up(["c1"]), client.get("/v1/generation")):
            assert (answer.status, answer.code) == (404, "nothing_published")
        assert client.value("c1", If_None_Match="*").code == "nothing_published"
        assert client.get("/health/ready").json() == {"status": "ready", "generation": None}

    def test_publishes_rollbacks_replays_and_deletions_are_seen(self, own: tuple[str, Client]) -> None:
        uri, client = own

        def served() -> tuple[Any, list[str]]:
            answer = client.look_up(["c1", "c2", "c3"]).json()
            return answer.get("generation"), [row["customer_id"] for row in answer.get("found", [])]

        publish(uri, "g1", [prediction("c1"), prediction("c2")])
        until(lambda: served() == ("g1", ["c1", "c2"]), "the first publish")
        first = client.value("c2").headers["etag"]
        publish(uri, "g2", [prediction("c2", 2.0)])
        until(lambda: served() == ("g2", ["c2"]), "the second")
        assert client.value("c1").code == "no_prediction"
        assert client.value("c2", If_None_Match=first).headers["etag"].startswith('"g2.1-')
        with open_store(uri, create=True) as store:
            mended = [prediction("c3", 3.0)]
            store.add("g2", batch_of(mended))
            assert served() == ("g2", ["c2", "c3"]), "at once"
            store.amend("g2", content_of([prediction("c2", 2.0), *mended]), {})
            store.switch("g1", "g2", {"rollback": "a test"})
            until(lambda: served() == ("g1", ["c1", "c2"]), "the rollback")
            assert client.value("c2").json()["predicted_value"] == 1.0
            store.delete("g2")
            assert served() == ("g1", ["c1", "c2"])
            store.switch("g1", "g1")
            assert client.value("c2", If_None_Match=first).status == 304

    def test_a_deletion_below_a_reader_that_believes_in_it(self, new_uri: Any) -> None:
        uri = new_uri()
        publish(uri, "g1", [prediction("c1"), prediction("c2")])
        with running(uri, pointer_seconds=3600.0) as client:
            assert client.value("c1").json()["generation"] == "g1"
            publish(uri, "g2", [prediction("c1", 2.0), prediction("c2", 2.0)])
            with open_store(uri, create=True) as store:
                store.delete("g1")
            answer = client.look_up(["c1", "c2"]).json()
            assert [(row["generation"], row["predicted_value"]) for row in answer["found"]] == [("g2", 2.0)] * 2
            assert (answer["generation"], answer["missing"]) == ("g2", [])

    def test_a_generation_of_the_same_name_made_anew_is_another(self, new_uri: Any) -> None:
        uri = new_uri()
        publish(uri, "g1", [prediction("c1")])
        publish(uri, "g2", [prediction("c1", 2.0)])
        with open_store(uri, create=True) as store:
            store.switch("g1", "g2")
        with running(uri, pointer_seconds=0.05) as client:
            first = client.value("c1")
            with open_store(uri, create=True) as store:
                store.switch("g2", "g1")
                store.delete("g1")
            publish(uri, "g1", [prediction("c1", 9.0)])
            until(lambda: client.value("c1").json()["predicted_value"] == 9.0, "the new rows")
            again = client.value("c1", If_None_Match=first.headers["etag"])
            assert (again.status, again.headers["etag"] != first.headers["etag"]) == (200, True)


def fresh_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


def checked(answer: Answer, document: dict[str, Any], path: str, method: str) -> None:
    """Holds an answer to the document: its status, its media type, and its content's schema."""
    operation = document["paths"][path][method.lower()]
    described = operation["responses"].get(str(answer.status))
    assert described is not None, f"{method} {path} answers {answer.status}, which is not described"
    if "content" not in described:
        assert answer.body == b""
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in described["content"], f"{method} {path}: {media_type} is not described"
    if media_type.endswith("json"):
        conforms(json.loads(answer.body), described["content"][media_type]["schema"], document)


def conforms(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """As much of JSON Schema as the document uses; anything else in it is an error."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    known = {
        "type", "title", "description", "properties", "required", "items", "format", "nullable", "example", "examples",
        "anyOf", "additionalProperties", "minItems", "maxItems", "minLength",
    }  # fmt: skip
    assert set(schema) <= known, f"this test does not know {set(schema) - known}"
    if value is None and schema.get("nullable"):
        return
    types = {"string": str, "integer": int, "number": int | float, "object": dict, "array": list, "null": type(None)}
    if "type" in schema:
        assert isinstance(value, types[schema["type"]]) and not isinstance(value, bool), (value, schema)
    if schema.get("type") == "object":
        assert set(schema["required"]) <= set(value) <= set(schema["properties"]), (value, schema)
        for name, each in value.items():
            conforms(each, schema["properties"][name], document)
    for each in value if schema.get("type") == "array" else ():
        conforms(each, schema["items"], document)
    if "anyOf" in schema:
        assert any(_does(value, each, document) for each in schema["anyOf"]), (value, schema)


def _does(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> bool:
    try:
        conforms(value, schema, document)
    except AssertionError:
        return False
    return True


def encoded(customer_id: str) -> str:
    return quote(customer_id, safe="")
