"""The tests' browser: where it comes from, and that a tab hears what a page must not do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.store import open_store
from tests.serving.browser import NAMES, BrowserMissing, Tab, find_chromium, open_browser
from tests.serving.page_service import Service
from tests.serving.page_tab import says


@pytest.mark.browser
def test_the_complaints_of_a_tab_are_heard(tmp_path: Path) -> None:
    """That the page's tests have none means something."""
    uri = f"sqlite://{tmp_path}/serving.db"
    open_store(uri, create=True).close()
    with Service(uri) as service, open_browser() as browser, Tab.open(browser, service.url) as tab:
        tab.expected = {404}
        tab.go("/")
        says(tab, re.compile("nothing is published"))
        assert tab.complaints() == []
        tab.expected = set()
        assert len(tab.complaints()) == 1 and "404" in tab.complaints()[0]
        tab.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "document.title = 'taken'";
              document.body.append(script);
              document.body.setAttribute("style", "color: red");
              fetch("http://127.0.0.1:9/").catch(() => {});
              setTimeout(() => { throw new Error("lost"); });
            }"""
        )
        tab.page.wait_for_timeout(200)
        heard = "\n".join(tab.complaints())
        assert tab.page.title() == "Customer value"
        for complaint in (
            "script-src-elem inline",
            "style-src-attr inline",
            "connect-src http://127.0.0.1:9/",
            "uncaught: lost",
        ):
            assert complaint in heard


def test_where_the_browser_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrowserMissing, match="apt-get install chromium"):
        find_chromium()
    for name in reversed(NAMES):
        (tmp_path / name).touch(mode=0o755)
        assert find_chromium() == str(tmp_path / name)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "nothing"))
    with pytest.raises(BrowserMissing, match=r"CHROMIUM='.*nothing' is not a program"):
        find_chromium()
    monkeypatch.setenv("CHROMIUM", str(tmp_path / NAMES[0]))
    assert find_chromium() == str(tmp_path / NAMES[0])
