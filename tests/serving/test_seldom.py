"""A flooded log: one line of each kind in a while, and none forgotten."""

from __future__ import annotations

import io
import logging

from serving.seldom import Seldom


def test_of_a_flood_one_line_of_each_kind_is_written_and_the_others_are_counted() -> None:
    now, written = [100.0], io.StringIO()
    log = logging.Logger("test")
    log.addHandler(logging.StreamHandler(written))
    log.addFilter(Seldom(10.0, lambda: now[0]))
    for second in range(25):
        now[0] = 100.0 + second
        log.warning("the store failed: %s", second)
        log.warning("overloaded")
    assert written.getvalue().splitlines() == [
        "the store failed: 0", "overloaded",
        "the store failed: 10 (9 more of its kind since the last)", "overloaded (9 more of its kind since the last)",
        "the store failed: 20 (9 more of its kind since the last)", "overloaded (9 more of its kind since the last)",
    ]  # fmt: skip
