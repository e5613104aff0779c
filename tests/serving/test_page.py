"""The lookup page as a person meets it: in Chromium, in front of the real service and a real store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Route, expect

from serving.store import open_store
from tests.serving.browser import Scheme, Tab, open_browser
from tests.serving.google_keys import AUDIENCE, EMAIL, GoogleKeys
from tests.serving.page_service import POINTER_SECONDS, Service
from tests.serving.page_tab import (
    CUSTOMERS,
    FIRST,
    MONEY,
    SECOND,
    STRANGE_IDS,
    ask,
    assert_interval,
    customer,
    drawn,
    field,
    figure,
    forecast,
    publish,
    reads_as,
    says,
    shown,
    to,
)  # fmt: skip
from tests.serving.store_contract import AS_OF

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that no test changes."""
    uri = f"sqlite://{tmp_path_factory.mktemp('page')}/serving.db"
    publish(uri, FIRST, [*CUSTOMERS, *drawn(12), *(customer(i, 5.0, 1.0, 4.0, 9.0) for i in STRANGE_IDS)])
    with Service(uri) as service:
        yield service


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """A service of the test's own, which serves ``CUSTOMERS``."""
    uri = f"sqlite://{tmp_path}/serving.db"
    publish(uri, FIRST, CUSTOMERS)
    with Service(uri) as service:
        yield service


OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[OpenTab]:
    """Opens tabs; when the test ends none of them may have anything to complain of."""
    tabs: list[Tab] = []
    with ExitStack() as stack:

        def opened(service: Service, path: str = "/", expected: tuple[int, ...] = (), **how: Any) -> Tab:
            tabs.append(stack.enter_context(Tab.open(browser, service.url, **how)))
            tabs[-1].expected = set(expected)
            tabs[-1].go(path)
            return tabs[-1]

        yield opened
        assert [tab.complaints() for tab in tabs] == [[]] * len(tabs)


@pytest.mark.parametrize("row", [*CUSTOMERS, *drawn(12)], ids=lambda row: row["customer_id"])
def test_a_forecast_reads_as_the_store_holds_it(shared: Service, open_tab: OpenTab, row: dict[str, Any]) -> None:
    tab = open_tab(shared, to(row["customer_id"]))
    shown(tab, row["customer_id"])
    with open_store(shared.uri) as store:
        stored = store.lookup(row["customer_id"])
    assert stored == row | {"generation": FIRST}
    for name in MONEY:
        assert figure(tab, name) == stored[name]
        assert reads_as(field(tab, name), stored[name], 2, always=True), (field(tab, name), stored[name])
    assert figure(tab, "mean") == stored["predicted_value"] and field(tab, "mean") == field(tab, "predicted_value")
    assert figure(tab, "expected_orders") == stored["expected_orders"]
    assert reads_as(field(tab, "expected_orders"), stored["expected_orders"], 2, always=False)
    probability = stored["purchase_probability"]
    assert figure(tab, "purchase_probability") == probability
    if 0.9995 < probability < 1:
        assert field(tab, "purchase_probability") == "above 99.9%"
    else:
        text = field(tab, "purchase_probability")
        assert text.endswith("%") and reads_as(text[:-1], 100 * probability, 1, always=False)
    assert field(tab, "decile") == str(stored["decile"])
    assert tab.page.get_by_text("in the 123 days from 2011-12-10").count() == 2
    assert tab.page.get_by_text("in the orders’ currency").count() == 1
    assert_interval(tab, stored)


def test_the_deciles_in_words(own: Service, open_tab: OpenTab) -> None:
    words = ["most", "second most", "third most", "fourth most", "fifth most"]
    words += [word.replace("most", "least") for word in reversed(words)]
    publish(own.uri, SECOND, [customer(f"c{decile}", 1.0, 0.0, 1.0, 2.0, decile=decile) for decile in range(1, 11)])
    tab = open_tab(own)
    for decile, word in enumerate(words, start=1):
        ask(tab, f"c{decile}")
        shown(tab, f"c{decile}")
        assert field(tab, "decile") == str(decile)
        assert field(tab, "decile_words") == f"the {word} valuable tenth"


def test_the_run_is_there_before_and_beside_a_customer(shared: Service, open_tab: OpenTab) -> None:
    tab = open_tab(shared)
    says(tab, "Type a customer id and press Enter.")
    assert field(tab, "run_title") == "The run being served"
    with open_store(shared.uri) as store:
        current = store.current()
    assert current is not None and current.published_at is not None
    wanted = {
        "generation": FIRST, "as_of": str(AS_OF), "model_version": current.model_version,
        "horizon": f"{current.horizon_days} days", "rows": str(current.content.rows),
        "published_at": f"{current.published_at:%Y-%m-%d %H:%M} UTC",
        "expires_at": f"{current.expires_at:%Y-%m-%d %H:%M} UTC" if current.expires_at else "never",
    }  # fmt: skip
    assert {name: field(tab, name) for name in wanted} == wanted
    ask(tab, "12347")
    shown(tab, "12347")
    wanted |= {"model_version": "m7", "horizon": "123 days"}  # as the row has it
    assert {name: field(tab, name) for name in wanted} == wanted
    assert field(tab, "run_title") == "The run it comes from"


@pytest.mark.parametrize("customer_id", STRANGE_IDS)
def test_strange_ids(shared: Service, open_tab: OpenTab, customer_id: str) -> None:
    tab = open_tab(shared)
    ask(tab, customer_id)
    shown(tab, customer_id)
    assert tab.page.title() == f"{customer_id} · Customer value".strip()
    assert tab.page.url == shared.url + tab.evaluate("id => '/#' + encodeURIComponent(id)", customer_id)
    assert f"/v1/customers/{quote(customer_id, safe=chr(33) + '*()' + chr(39))}/value" in tab.requests()
    assert tab.page.locator("main script, main img").count() == 0
    # The same by a link that somebody sent.
    shown(open_tab(shared, to(customer_id)), customer_id)


@pytest.mark.parametrize("customer_id", ["nobody", "<b>nobody</b>", "12347 ", "..x", "ＨＡＲＤＬＹ"])
def test_an_unknown_customer(shared: Service, open_tab: OpenTab, customer_id: str) -> None:
    tab = open_tab(shared, to("12347"), expected=(404,))
    shown(tab, "12347")
    ask(tab, customer_id)
    refusal = f"There is no prediction for customer “{customer_id}” in the run as of {AS_OF}."
    says(tab, re.compile(f"^{re.escape(refusal)}"))
    assert ("ends with a space" in tab.page.get_by_role("status").inner_text()) == (customer_id != customer_id.strip())
    expect(forecast(tab)).to_be_hidden()
    expect(tab.page.get_by_role("button", name="Try again")).to_be_hidden()
    assert tab.page.locator("main b").count() == 0


@pytest.mark.parametrize("customer_id", [".", ".."])
def test_ids_that_no_address_can_hold(shared: Service, open_tab: OpenTab, customer_id: str) -> None:
    tab = open_tab(shared, to("12347"))
    shown(tab, "12347")
    before = len(tab.requests())
    ask(tab, customer_id)
    says(tab, re.compile("python -m serving.lookup"))
    expect(forecast(tab)).to_be_hidden()
    assert len(tab.requests()) == before


def test_ids_that_no_customer_can_have(shared: Service, open_tab: OpenTab) -> None:
    tab = open_tab(shared, expected=(400, 413, 431))
    ask(tab, "é" * 751)
    says(tab, re.compile("^The service does not accept this as a customer id: .* 1 to 1,500 bytes of UTF-8.$"))
    ask(tab, "x" * 100_000)
    says(tab, "This customer id is too long.")
    expect(tab.page.get_by_role("button", name="Try again")).to_be_hidden()


def test_back_and_forward(shared: Service, open_tab: OpenTab) -> None:
    tab = open_tab(shared)
    says(tab, "Type a customer id and press Enter.")
    for customer_id in ("12347", "heavy tail"):
        ask(tab, customer_id)
        shown(tab, customer_id)
    tab.page.go_back()
    shown(tab, "12347")
    assert tab.page.get_by_label("Customer id").input_value() == "12347"
    tab.page.go_back()
    says(tab, "Type a customer id and press Enter.")
    expect(forecast(tab)).to_be_hidden()
    tab.page.go_forward()
    shown(tab, "12347")
    tab.page.go_forward()
    shown(tab, "heavy tail")


def test_a_newer_request_wins_over_a_slower_older_one(shared: Service, open_tab: OpenTab) -> None:
    tab, held = open_tab(shared), list[Route]()
    says(tab, "Type a customer id and press Enter.")
    tab.page.route("**/v1/customers/12347/value", lambda route: held.append(route))
    ask(tab, "12347")
    says(tab, "Looking up 12347 …")
    expect(tab.page.get_by_role("region", name="Run")).to_have_attribute("aria-busy", "true")
    ask(tab, "sure")
    shown(tab, "sure")
    assert len(held) == 1
    held[0].fulfill(json=CUSTOMERS[0] | {"as_of": str(AS_OF), "generation": FIRST})
    tab.page.wait_for_timeout(200)
    shown(tab, "sure")
    assert figure(tab, "predicted_value") == 1e5 / 3


def test_a_switch_between_the_two_answers_is_not_shown_as_one_run(own: Service, open_tab: OpenTab) -> None:
    tab, held = open_tab(own), list[Route]()
    says(tab, "Type a customer id and press Enter.")
    tab.page.route("**/v1/generation", lambda route: held.append(route), times=1)
    with tab.page.expect_response("**/v1/customers/12347/value"):
        ask(tab, "12347")
    publish(own.uri, SECOND, [customer("12347", 7.0, 1.0, 2.0, 3.0), customer("other", 7.0, 1.0, 2.0, 3.0)])
    tab.page.wait_for_timeout(4000 * POINTER_SECONDS)
    held[0].continue_()
    shown(tab, "12347")
    assert (field(tab, "predicted_value"), field(tab, "generation"), field(tab, "rows")) == ("7.00", SECOND, "2")


@pytest.mark.parametrize(
    ("status", "answer"),
    [(503, {"code": "store_unavailable"}), (200, {"generation": SECOND, "rows": 5, "published_at": "2026-01-01"})],
    ids=["failed", "of another generation"],
)
def test_a_forecast_is_shown_without_what_is_not_known_of_its_run(
    shared: Service, open_tab: OpenTab, status: int, answer: dict[str, Any]
) -> None:
    tab = open_tab(shared, expected=(status,))
    says(tab, "Type a customer id and press Enter.")
    tab.page.route("**/v1/generation", lambda route: route.fulfill(status=status, json=answer))
    ask(tab, "12347")
    shown(tab, "12347")
    assert (field(tab, "generation"), field(tab, "as_of"), field(tab, "model_version")) == (FIRST, str(AS_OF), "m7")
    assert {field(tab, name) for name in ("rows", "published_at", "expires_at")} == {"not known just now"}
    expect(tab.page.get_by_role("button", name="Try again")).to_be_hidden()


def test_a_store_that_goes_away_and_comes_back(own: Service, open_tab: OpenTab) -> None:
    tab = open_tab(own, to("12347"), expected=(503,))
    shown(tab, "12347")
    own.hide_store()
    ask(tab, "12347")
    says(tab, "The service cannot reach its store just now.")
    expect(forecast(tab)).to_be_hidden()
    tab.page.get_by_role("button", name="Try again").click()
    says(tab, "The service cannot reach its store just now.")
    own.bring_store_back()
    tab.page.get_by_role("button", name="Try again").click()
    shown(tab, "12347")
    expect(tab.page.get_by_role("button", name="Try again")).to_be_hidden()


def test_a_service_that_is_away_and_comes_back(own: Service, open_tab: OpenTab) -> None:
    tab = open_tab(own, expected=(0,))
    says(tab, "Type a customer id and press Enter.")
    own.stop()
    ask(tab, "12347")
    says(tab, "The service cannot be reached.")
    own.start()
    tab.page.get_by_role("button", name="Try again").click()
    shown(tab, "12347")


def test_an_answer_of_something_between(shared: Service, open_tab: OpenTab) -> None:
    tab = open_tab(shared, expected=(502,))
    says(tab, "Type a customer id and press Enter.")
    tab.page.route(
        "**/v1/**", lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad gateway")
    )
    ask(tab, "12347")
    says(tab, "The service failed: the answer was HTTP 502.")
    tab.page.unroute("**/v1/**")
    tab.page.get_by_role("button", name="Try again").click()
    shown(tab, "12347")


def test_nothing_is_published_yet(tmp_path: Path, open_tab: OpenTab) -> None:
    uri = f"sqlite://{tmp_path}/serving.db"
    open_store(uri, create=True).close()
    with Service(uri) as service:
        tab = open_tab(service, to("12347"), expected=(404,))
        says(tab, "No forecast is being served: nothing is published, or what was has expired.")
        publish(uri, FIRST, CUSTOMERS)
        tab.page.get_by_role("button", name="Try again").click()
        shown(tab, "12347")


def test_a_token_is_asked_for_and_kept_in_memory_alone(tmp_path: Path, open_tab: OpenTab) -> None:
    uri = f"sqlite://{tmp_path}/serving.db"
    publish(uri, FIRST, CUSTOMERS)
    access = ("--audience", AUDIENCE, "--caller", EMAIL)
    with GoogleKeys() as google, Service(uri, *access, keys_url=google.url) as service:
        tab = open_tab(service, to("12347"), expected=(401, 403))
        token = tab.page.get_by_label("Token")
        says(tab, "The service wants a token.")
        expect(token).to_be_focused()
        expect(token).to_have_attribute("type", "password")
        expect(tab.page.get_by_text("gcloud auth print-identity-token")).to_be_visible()
        expect(tab.page.get_by_role("button", name="Try again")).to_be_hidden()

        def give(text: str) -> None:
            token.fill(text)
            tab.page.keyboard.press("Enter")

        before = len(tab.requests())
        give("not a\u00a0token")
        says(tab, re.compile("^A token has no spaces"))
        assert len(tab.requests()) == before
        give(google.token(audience="https://another.example.com"))
        refusal = f'"https://another.example.com", ask Google for one with the audience {AUDIENCE}.'
        says(tab, re.compile(f"^The service does not accept this token: .*{re.escape(refusal)}$"))
        give(google.token("stranger@example.com"))
        says(tab, re.compile("may not look customers up: stranger@example.com is not among the callers"))
        expect(token).to_be_visible()

        good = google.token()
        give(f"  {good} ")
        shown(tab, "12347")
        assert figure(tab, "predicted_value") == 812.4
        expect(token).to_be_hidden()
        ask(tab, "sure")
        shown(tab, "sure")
        assert token.input_value() == "" and tab.page.context.cookies() == []
        kept = tab.evaluate("[location.href, history.state, {...localStorage}, {...sessionStorage}, document.cookie]")
        assert kept == [service.url + "/#sure", None, {}, {}, ""]
        assert not any(good[:20] in url for url in tab.requests())
        tab.page.reload()
        says(tab, "The service wants a token.")
        expect(forecast(tab)).to_be_hidden()


SIZES = pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("light", 1000, "light"), ("dark", 1000, "dark"), ("phone", 320, "light"), ("phone-dark", 320, "dark")],
)


@SIZES
def test_it_can_be_read(
    shared: Service, open_tab: OpenTab, tmp_path: Path, name: str, width: int, scheme: Scheme
) -> None:
    """Every text has the contrast of WCAG's AA, every mark that of graphics, and nothing is wider than the screen."""
    tab = open_tab(shared, to("12347"), expected=(404,), width=width, scheme=scheme)
    shown(tab, "12347")
    tab.page.screenshot(path=tmp_path / f"page-{name}.png", full_page=True)
    dark = tab.luminance("body") < 0.5
    assert dark == (scheme == "dark")
    looks = tab.texts()
    assert len(looks) > 35 and {"812.40", "Look up", "1K", FIRST} <= {text for text, _ in looks}
    assert [(text, ratio) for text, ratio in looks if ratio < 4.5] == []
    for mark in (".band", ".p50", ".mean"):
        assert tab.contrast(f"svg {mark}", "stroke" if mark == ".p50" else "fill", ".card") >= (
            1.2 if mark == ".band" else 3
        )
    assert tab.contrast("svg .band", "stroke", ".card") >= 3
    assert tab.contrast("svg .p50", "stroke", "svg .band") >= 3 and tab.contrast("svg .mean", "fill", "svg .band") >= 3
    assert tab.contrast("input", "borderTopColor", "body") >= 3
    assert tab.overflowing() == []
    for customer_id in ("bulk", "x" * 300, "y" * 300):
        tab.go(to(customer_id))
        expect(tab.page.get_by_role("status")).to_have_text(re.compile("predicted value|no prediction"))
        assert tab.overflowing() == [], customer_id
    tab.page.screenshot(path=tmp_path / f"page-{name}-unknown.png", full_page=True)


def test_the_keyboard_reaches_everything_and_shows_where_it_is(own: Service, open_tab: OpenTab) -> None:
    tab = open_tab(own, expected=(503,))
    says(tab, "Type a customer id and press Enter.")
    own.hide_store()
    ask(tab, "12347")
    says(tab, "The service cannot reach its store just now.")
    reached = []
    for _ in range(3):
        reached.append(tab.evaluate("document.activeElement.name || document.activeElement.textContent"))
        assert tab.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
        tab.page.keyboard.press("Tab")
    assert reached == ["customer", "Look up", "Try again"]


def test_the_interface_is_described_and_can_be_tried(shared: Service, open_tab: OpenTab, tmp_path: Path) -> None:
    tab = open_tab(shared, "/docs")
    expect(tab.page.locator(".info .title")).to_contain_text("Customer lifetime value")
    operation = tab.page.locator(".opblock", has_text="/v1/customers/{customer_id}/value")
    operation.locator(".opblock-summary").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("customer_id").fill(CUSTOMERS[0]["customer_id"])
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response")
    expect(answer.locator(".response-col_status")).to_contain_text("200")
    expect(answer).to_contain_text(f'"customer_id": "{CUSTOMERS[0]["customer_id"]}"')
    tab.page.screenshot(path=tmp_path / "docs.png", full_page=True)
