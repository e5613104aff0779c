"""The lookup page in a tab: customers to look up, what a person does, and what a person then reads."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Locator, expect

from serving.store import open_store
from tests.serving.browser import Tab
from tests.serving.store_contract import fill, prediction

MONEY = ("predicted_value", "value_p10", "value_p50", "value_p90")
FIRST, SECOND = "2011-12-10-0a1b2c3d4e5f", "2011-12-10-5f4e3d2c1b0a"
HALF_PIXEL = 0.5


def customer(customer_id: str, mean: float, p10: float, p50: float, p90: float, **changes: Any) -> dict[str, Any]:
    fixed = {"horizon_days": 123, "model_version": "m7"}
    return prediction(customer_id, mean, value_p10=p10, value_p50=p50, value_p90=p90) | fixed | changes


CUSTOMERS = [
    customer("12347", 812.4, 0.0, 512.3, 2011.5, purchase_probability=0.87, expected_orders=2.4, decile=1),
    customer("nothing", 0.0, 0.0, 0.0, 0.0, purchase_probability=0.0, expected_orders=0.0, decile=10),
    customer("hardly", 0.0041, 0.0, 0.0, 0.0, purchase_probability=1e-7, expected_orders=1e-3, decile=9),
    customer("pennies", 0.37, 0.11, 0.29, 0.83, purchase_probability=0.0314, expected_orders=0.4, decile=8),
    customer("heavy tail", 950.0, 0.0, 0.0, 700.0, purchase_probability=0.4, expected_orders=0.51, decile=2),
    customer("sure", 1e5 / 3, 2e4, 3e4, 5e4, purchase_probability=0.99999, expected_orders=61.25, decile=1),
    customer("bulk", 98765432.105, 1.2e7, 9.1e7, 1.3e8, purchase_probability=0.9951, expected_orders=300.0, decile=1),
]  # fmt: skip
STRANGE_IDS = (
    "a b/c", " begins with a space", "quote\"s 'n' `ticks`", "<script>document.title='taken'</script>",
    "<img src=x onerror=alert(1)>", "Zoë 漢字 🦊", "e\u0301", "עברית", "100%", "%2F", "a?b=c&d#e", "/", "//",
    "../generation", "a+b", "back\\slash", "a;b,c", "${id}", "x" * 300, "main", "value", "hidden",
)  # fmt: skip


def drawn(number: int) -> list[dict[str, Any]]:
    """Customers of every magnitude, their quantiles in order and their mean anywhere."""
    source = np.random.default_rng(7)
    rows = []
    for index in range(number):
        p10, p50, p90, mean = source.lognormal(4, 3, 4) * source.integers(0, 2, 4)
        p10, p50, p90 = sorted((p10, p50, p90))
        figures = {"purchase_probability": source.uniform(), "expected_orders": source.gamma(1.0, 2.0)}
        rows.append(customer(f"d{index}", mean, p10, p50, p90, decile=int(source.integers(1, 11)), **figures))
    return rows


def publish(uri: str, name: str, rows: list[dict[str, Any]]) -> None:
    with open_store(uri, create=True) as store:
        current = store.current()
        fill(store, name, rows)
        store.switch(name, current.name if current else None)


def to(customer_id: str) -> str:
    """The page's address of a customer, encoded by Python."""
    return f"/#{quote(customer_id, safe='')}"


def ask(tab: Tab, customer_id: str) -> None:
    """As a person does: types, and presses Enter."""
    tab.page.get_by_label("Customer id").fill(customer_id)
    tab.page.keyboard.press("Enter")


def forecast(tab: Tab) -> Locator:
    return tab.page.get_by_role("region", name="Forecast")


def shown(tab: Tab, customer_id: str) -> None:
    """Waits for the customer's forecast."""
    expect(forecast(tab).locator("h2 span")).to_have_text(re.compile(f"^{re.escape(customer_id)}$"))
    expect(forecast(tab)).to_have_attribute("aria-busy", "false")


def field(tab: Tab, name: str) -> str:
    return tab.page.locator(f'[data-field="{name}"]').first.inner_text()


def figure(tab: Tab, name: str) -> float:
    """The number that a field carries for programs."""
    return float(tab.page.locator(f'data[data-field="{name}"]').first.get_attribute("value") or "nan")


def says(tab: Tab, text: str | re.Pattern[str]) -> None:
    expect(tab.page.get_by_role("status")).to_have_text(text)


def reads_as(text: str, value: float, places: int, always: bool) -> bool:
    """Whether a person reads ``value`` there: thousands by comma, so many places, and no 0 where it is none."""
    if below := re.fullmatch(r"below (0\.0*1)", text):
        return 0 < value < float(below[1]) and len(below[1]) == places + 2
    pattern = r"\d{1,3}(,\d{3})*" + (rf"\.\d{{{places}}}" if always else rf"(\.\d{{1,{places}}})?")
    near = abs(float(text.replace(",", "")) - value) <= 0.5 * 10**-places * (1 + 1e-9) + abs(value) * 1e-15
    return bool(re.fullmatch(pattern, text)) and near and (float(text.replace(",", "")) > 0 or value == 0)


def assert_interval(tab: Tab, row: dict[str, Any]) -> None:
    """Every mark is where its value belongs on the axis, which starts at 0, and every label of the axis is true."""
    lines: dict[str, Any] = tab.evaluate(
        """() => {
          const svg = document.querySelector("svg[role=img]");
          const box = (element) => { const {left, right} = element.getBoundingClientRect(); return [left, right]; };
          const at = (element) => { const [left, right] = box(element); return (left + right) / 2; };
          const one = (kind) => svg.querySelector(`.${kind}`);
          return { frame: box(svg), axis: box(one("axis")), p50: at(one("p50")), mean: at(one("mean")),
            band: one("band").width.baseVal.value > 0 ? box(one("band")) : null,
            ticks: [...svg.querySelectorAll(".tick")].map(at),
            labels: [...svg.querySelectorAll("text")].map((text) => [text.textContent, ...box(text)]) };
        }"""
    )
    left, right = lines["axis"]
    units = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}
    numbers = [float(text.rstrip("KMB")) * units[text.lstrip("0123456789.")] for text, *_ in lines["labels"]]
    end = numbers[-1]
    assert end > 0 and numbers[0] == 0 and len(numbers) <= 6

    def position(value: float) -> float:
        return left + (right - left) * value / end

    assert lines["frame"] == pytest.approx([left, right], abs=HALF_PIXEL)
    assert lines["ticks"] == pytest.approx([position(number) for number in numbers], abs=HALF_PIXEL)
    assert lines["p50"] == pytest.approx(position(row["value_p50"]), abs=HALF_PIXEL)
    assert lines["mean"] == pytest.approx(position(row["predicted_value"]), abs=HALF_PIXEL)
    if row["value_p90"] > row["value_p10"]:
        # Its edge is drawn half inside, half outside.
        ends = [position(row["value_p10"]), position(row["value_p90"])]
        assert lines["band"] == pytest.approx(ends, abs=2 * HALF_PIXEL)
    assert max(row["value_p90"], row["predicted_value"]) <= end * (1 + 1e-9)
    for (_, _, stop), (_, start, _) in zip(lines["labels"], lines["labels"][1:], strict=False):
        assert stop < start, f"labels overlap: {lines['labels']}"
    # A text's box is as wide as its letters advance, a pixel or so more than what is aligned.
    assert lines["labels"][0][1] >= left - 2 and lines["labels"][-1][2] <= right + 2, lines["labels"]
