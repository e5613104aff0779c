"""Thresholds: the shipped file, what a person's file changes, and that a mistake in one is named."""

from __future__ import annotations

import pytest

from transforms import schema, skew_thresholds
from transforms.errors import UsageError
from transforms.skew_thresholds import Limit


def written(tmp_path, text):
    (tmp_path / "skew.toml").write_text(text)
    return str(tmp_path / "skew.toml")


def test_the_shipped_thresholds_cover_every_measure():
    thresholds = skew_thresholds.read()
    assert thresholds.default.keys() == set(skew_thresholds.METRICS)
    assert all(limit.warn is not None for limit in thresholds.default.values())
    never = {metric for metric, limit in thresholds.default.items() if limit.fail is None}
    assert never == {"rows_gained", "mean"}, "shops grow"
    assert thresholds.of("order_value_mean", "mean").fail is not None
    assert thresholds.of("value_total", "divergence") == thresholds.default["divergence"]
    assert thresholds.of("age_days", "divergence") == Limit(warn=0.5)
    trends = [column.name for column in schema.FEATURES if "trend" in column.name]
    assert len(trends) == 8
    assert all(thresholds.of(name, "divergence").fail is None for name in trends)


def test_a_file_states_only_what_it_changes(tmp_path):
    uri = written(tmp_path, """
        [default]
        divergence = { warn = 0.2, fail = 0.9 }
        rows_gained = {}
        [[exception]]
        features = ["orders", "age_days"]
        divergence = { fail = 1 }
    """)  # fmt: skip
    shipped, thresholds = skew_thresholds.read(), skew_thresholds.read(uri)
    assert thresholds.of("value_total", "divergence") == Limit(0.2, 0.9)
    assert thresholds.of("customers", "rows_gained") == Limit()
    assert thresholds.of("orders", "divergence") == thresholds.of("age_days", "divergence") == Limit(None, 1.0)
    assert thresholds.of("days_since_last", "divergence") == shipped.of("days_since_last", "divergence")
    assert thresholds.of("orders", "missing") == shipped.of("orders", "missing")


def test_levels():
    limit = Limit(0.1, 0.3)
    assert [limit.level(value) for value in (0, 0.1, 0.11, 0.3, 0.31)] == ["ok", "ok", "warn", "warn", "fail"]
    assert (Limit().level(9), Limit(warn=1).level(9), Limit(fail=1).level(9)) == ("ok", "warn", "fail")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[default", "is not TOML"),
        ("[defaults]", "defaults = {} is not known: accepted is default, exception"),
        ("default = 3", "default = 3 is not usable: accepted is a table [default]"),
        ("[default]\ndiverge = {}", "default.diverge = {} is not known: accepted is rows_lost,"),
        ("[default]\nzeros = 0.1", "default.zeros = 0.1 is not usable: accepted is a table such as"),
        ("[default]\nzeros = { worn = 1 }", "default.zeros.worn = 1 is not known: accepted is warn, fail"),
        ("[default]\nzeros = { warn = '1' }", "default.zeros.warn = '1' is not usable: accepted is a number"),
        ("[default]\nzeros = { warn = true }", "default.zeros.warn = True is not usable"),
        ("[default]\nzeros = { warn = nan }", "default.zeros.warn = nan is not usable"),
        ("[default]\nzeros = { fail = -1 }", "default.zeros.fail = -1 is not usable"),
        ("[default]\nzeros = { warn = 2, fail = 1 }", "default.zeros.warn = 2.0 is not usable: accepted is at most fail, 1"),
        ("exception = 1", "exception = 1 is not usable: accepted is tables [[exception]]"),
        ("[exception]\nfeatures = ['orders']", "is not usable: accepted is tables [[exception]]"),
        ("[[exception]]\nzeros = {}", "exception.features = None is not usable: accepted is a list of names"),
        ("[[exception]]\nfeatures = 'orders'", "exception.features = 'orders' is not usable"),
        ("[[exception]]\nfeatures = ['order']", "exception.features = 'order' is not usable: accepted is one of lines,"),
        ("[[exception]]\nfeatures = [['a']]", "exception.features = ['a'] is not usable"),
        ("[[exception]]\nfeatures = ['future_value']", "exception.features = 'future_value' is not usable"),
        ("[[exception]]\nfeatures = ['orders']\nrows_lost = {}", "exception.rows_lost = {} is not known"),
        ("[[exception]]\nfeatures = ['orders']\ncategories = {}", "exception for orders: categories = {} is not known"),
        ("[[exception]]\nfeatures = ['orders']\nmean = {}", "exception for orders: mean = {} is not known"),
        ("[[exception]]\nfeatures = ['country']\nzeros = {}", "exception for country: zeros = {} is not known"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(text, expected, tmp_path):
    uri = written(tmp_path, text)
    with pytest.raises(UsageError) as error:
        skew_thresholds.read(uri)
    assert str(error.value).startswith(uri)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="does not exist: accepted is a TOML file"):
        skew_thresholds.read(str(tmp_path / "none.toml"))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "skew.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        skew_thresholds.read(str(tmp_path / "skew.toml"))
