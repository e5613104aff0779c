"""A real Chromium for tests of pages, and a tab that remembers everything a page must not do.

with open_browser() as browser, Tab.open(browser, "http://127.0.0.1:8080") as tab:
    tab.go("/#12347")
    ... tab.page is Playwright's page ...
    assert tab.complaints() == []
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
PATIENCE_MS = 20_000  # a busy machine's worst; what is waited for is usually there in 50 ms
# Chromium itself says this of every answer from 400 on; no page can keep it from doing so.
_HTTP_STATUS = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")
_NO_ANSWER = "Failed to load resource: net::ERR_CONNECTION_REFUSED"
_REPORT_VIOLATIONS = """document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP violation: ${event.violatedDirective} ${event.blockedURI}`));"""
# Colours as the browser computed them, and WCAG's arithmetic on them.
_COLOURS = """
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const luminance = (text) => {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [red, green, blue] = channels(text).map((c) => linear(c / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ratio = (one, other) => {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const ground = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return (channels(colour)[3] ?? 1) === 0 ? ground(element.parentElement) : colour;
};
const painted = (element) => element.closest("svg") ? getComputedStyle(element).fill : ground(element);
"""

Scheme = Literal["light", "dark"]


class BrowserMissing(RuntimeError):
    """There is no Chromium to test with; the text says what to install."""


def find_chromium() -> str:
    """The program that ``CHROMIUM`` names, or else the path's."""
    if named := os.environ.get("CHROMIUM"):
        if found := shutil.which(named):
            return found
        raise BrowserMissing(f"CHROMIUM={named!r} is not a program: name one of Chromium's or Chrome's, or unset it")
    for name in NAMES:
        if found := shutil.which(name):
            return found
    raise BrowserMissing(
        f"no Chromium in the path ({', '.join(NAMES)}): install one (Debian: apt-get install chromium), or name one in "
        "CHROMIUM"
    )


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Raises BrowserMissing where there is none. Its profile is a new temporary directory."""
    executable = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One page in a context of its own: no cookie, storage or cache of any other.

    Attributes:
      page: Playwright's.
      expected: statuses from 400 on that a test provokes; 0 for a connection that is refused.
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.page, self.origin = page, origin
        self.expected: set[int] = set()
        self._errors: list[str] = []
        self._urls: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(_REPORT_VIOLATIONS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self._errors.append(f"uncaught: {error}"))
        page.on("request", self._asked)

    @classmethod
    @contextmanager
    def open(
        cls, browser: Browser, origin: str, width: int = 1000, height: int = 800, scheme: Scheme = "light"
    ) -> Iterator[Self]:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        try:
            yield cls(context.new_page(), origin)
        finally:
            context.close()

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._errors.append(message.text)

    def _asked(self, request: Request) -> None:
        self._urls.append(request.url)

    def go(self, path: str) -> None:
        self.page.goto(self.origin + path)

    def requests(self) -> list[str]:
        """The URLs the page asked for, as the service's own paths; in full where they are another's."""
        return [url.removeprefix(self.origin) for url in self._urls if urlsplit(url).scheme != "data"]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, uncaught exceptions, CSP violations, requests beyond the origin."""
        return [text for text in self._errors if not self._is_expected(text)] + [
            f"asked another origin: {url}" for url in self.requests() if not url.startswith("/")
        ]

    def _is_expected(self, text: str) -> bool:
        if found := _HTTP_STATUS.match(text):
            return int(found[1]) in self.expected
        return text.startswith(_NO_ANSWER) and 0 in self.expected

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def luminance(self, selector: str) -> float:
        """Of the ground of an element: 0 for black, 1 for white."""
        script = f"(selector) => {{ {_COLOURS} return luminance(ground(document.querySelector(selector))); }}"
        return float(self.evaluate(script, selector))

    def contrast(self, selector: str, style: str, against: str) -> float:
        """WCAG's ratio (1 to 21) of an element's computed style to what another element is painted with."""
        script = f"""([selector, style, against]) => {{ {_COLOURS}
          const colour = getComputedStyle(document.querySelector(selector))[style];
          return ratio(colour, painted(document.querySelector(against))); }}"""
        return float(self.evaluate(script, [selector, style, against]))

    def texts(self) -> list[tuple[str, float]]:
        """Every text that can be seen, with its contrast to the ground behind it."""
        script = f"""() => {{ {_COLOURS}
          const found = [];
          const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) {{
            const element = walker.currentNode.parentElement, style = getComputedStyle(element);
            if (!walker.currentNode.data.trim() || !element.checkVisibility() || style.clipPath !== "none") continue;
            const inside = element.closest("svg");
            const behind = ground(inside ?? element);
            found.push([walker.currentNode.data.trim(), ratio(inside ? style.fill : style.color, behind)]);
          }}
          return found; }}"""
        return [(text, float(ratio)) for text, ratio in self.evaluate(script)]

    def overflowing(self) -> list[str]:
        """The elements that reach beyond the screen's sides; scrolling sideways would be needed."""
        script = """() => {
          const wide = document.documentElement.scrollWidth > innerWidth ? ["the document"] : [];
          for (const element of document.body.querySelectorAll("*")) {
            const { left, right } = element.getBoundingClientRect();
            const beyond = left < -0.5 || right > innerWidth + 0.5;
            if (beyond && element.checkVisibility()) wide.push(element.outerHTML.slice(0, 80));
          }
          return wide; }"""
        return list(self.evaluate(script))
