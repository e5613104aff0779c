"""The rules for labels, held against those of BigQuery's and Dataflow's documentation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import labels
from transforms.errors import UsageError


def test_pairs_become_labels() -> None:
    assert labels.checked(map(labels.pair, ["team=crm", " empty=", "mass=1_3-kg"])) == {
        "team": "crm", "empty": "", "mass": "1_3-kg",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["Team=crm", "team=CRM", "1=x", "team", "=x", "", "a=b=c", "ä=x", "team=" + "x" * 64])
def test_what_breaks_the_rules_is_named_with_what_does_not(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        labels.checked([labels.pair(text)])
    assert str(raised.value) == f"--labels {text!r} is not usable: accepted is {labels.ACCEPTED}"


@pytest.mark.parametrize("again", ["c", "b"])
def test_a_key_is_said_once(again: str) -> None:
    with pytest.raises(UsageError, match=rf"^--labels 'a=b and a={again}' is not usable: accepted is each key once$"):
        labels.checked([("a", "b"), ("x", "y"), ("a", again)])


@given(st.text(max_size=80))
def test_any_text_makes_a_value(text: str) -> None:
    value = labels.value(text)
    assert re.fullmatch(r"[a-z0-9_-]{0,63}", value)
    assert labels.checked([("key", value)]) == {"key": value}
