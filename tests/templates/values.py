"""Parameters as people give them: the least that makes a launch of each template, and usable and unusable values."""

from __future__ import annotations

LEAST: dict[str, dict[str, str]] = {
    "publish": {
        "predictions": "gs://shop/predictions/2011-12-10",
        "serving": "datastore://my-project",
        "dead_letters": "gs://shop/dead_letters",
    },
    "features": {
        "orders": "gs://shop/orders/*.parquet",
        "cutoff": "2011-08-08",
        "horizon_days": "90",
        "output": "gs://shop/features/2011-08-08",
    },
    "predict": {
        "orders": "bigquery://my-project.shop.orders",
        "model": "gs://shop/models/m1",
        "output": "gs://shop/predictions/2011-12-10",
    },
    "interactions": {
        "orders": "gs://shop/orders/*.parquet",
        "output": "s3://shop/interactions/2011-12-10",
    },
}

_DIRECTORY = (
    [
        "gs://shop/a",
        "gs://shop/a/",
        "gs://shop",
        "gs://my.shop-1_x/with space/é",
        "gs://shop/a%2Fb",
        "gs://shop/100%/a=b",
    ],
    [
        "",
        "work/a",
        "gs://",
        "gs://Shop/a",
        "gs://s/a",
        "s3://shop/a",
        "/gs://shop/a",
        "gs:///a",
        "datastore://shop",
        "gs://shop/dead#x",
        "gs://shop#x/a",
        "gs://shop/a?x",
        "gs://shop/*/a",
        "gs://shop/[1]",
        "gs://shop/a]",
        "gs://shop/a\tb",
        "gs://shop/a\nb",
        "gs://shop/\x7f",
        "gs://shop/\x85",
        "gs://anonymous@shop/a",
    ],
)
_FILE = (
    ["gs://shop/a.toml", "gs://shop/a/b c.sql", "gs://shop/ä%20.json"],
    [
        "gs://shop",
        "gs://shop/",
        "gs://shop/a/",
        "a.toml",
        "",
        "gs://shop/a#.toml",
        "gs://shop/*.toml",
        "gs://shop/a\r.toml",
    ],
)
_DAYS = (["1", "9", "90", "100000"], ["0", "-1", "100001", "1.5", "1e3", "", " 1", "١"])
_POSITIVE = (["1", "2", "16", "999999999999999999"], ["0", "-1", "+1", "1.0", "", "many"])
_TABLE = (
    [
        "my-project.shop.predictions",
        "bigquery://my-project.shop.t",
        "example.com:my-project.shop.t-1",
        "my-project.s_1.two words",
    ],
    [
        "shop.predictions",
        "my-project:shop.predictions",
        "my-project.shop.t$20111210",
        "my-project.shop.",
        "a.b.c",
        "gs://my-project.shop.t",
    ],
)
_FLAG = (["true", "false"], ["", "True", "yes", "1"])

USABLE_AND_NOT: dict[str, tuple[list[str], list[str]]] = {
    "predictions": _DIRECTORY,
    "dead_letters": _DIRECTORY,
    "staging": _DIRECTORY,
    "registry": _DIRECTORY,
    "model": _DIRECTORY,
    "output": _DIRECTORY,
    "reuse_transform": _DIRECTORY,
    "guards": _FILE,
    "orders_query": _FILE,
    "data_schema": _FILE,
    "skew_thresholds": _FILE,
    "bigquery_table": _TABLE,
    "features_table": _TABLE,
    "ttl_days": _DAYS,
    "horizon_days": _DAYS,
    "history_days": _DAYS,
    "quiet_days": (["0", "1", "100000"], ["-1", "00", "100001", "1.5", "", " 0"]),
    "keep_generations": _POSITIVE,
    "shards": _POSITIVE,
    "maximum_bytes_billed": _POSITIVE,
    "buckets": (["1", "10000", "59999", "65535"], ["0", "65536", "66000", "70000", "100000"]),
    "stage_only": _FLAG,
    "no_pushdown": _FLAG,
    "serving": (
        ["datastore://my-project", "datastore://my-project/(default)", "datastore://example.com:my-project/shop-2"],
        ["sqlite://work/serving.db", "sqlite:///serving.db", "datastore://", "datastore://My-project", "datastore://my-project/"],
    ),
    "ramp": (
        ["500/50/5", "off", "0.5/0/1", "1000/12.5/0.25"],
        ["500", "500/50", "0/50/5", "500/50/0", "0.0/50/5", "fast", "", "500/50/5/", "-1/50/5", "OFF"],
    ),
    "override": (
        ["customers=the Spanish, shop was closed", "customers=closed;total_value=the same", "as_of= late; zeros=a b"],
        ["customers", "customers=", "customers= ", "size=large", "customers=a;", ";customers=a", "customers=a;;zeros=b", "customers=a;b"],
    ),
    "orders": (
        ["gs://shop/orders", "gs://shop/2011-08-08/*.csv.gz", "gs://shop/o?.parquet", "gs://shop/[ab] #1/%2F.csv", "bigquery://my-project.shop.orders"],
        ["orders.parquet", "my-project.shop.orders", "bigquery://shop.orders", "s3://shop/orders", "", "gs://shop/a\n.csv", "gs://shop/\0"],
    ),
    "columns": (
        ["gs://shop/our%20 columns.toml", "customer_id=CustomerID,ordered_at=InvoiceDate", "amount= Total paid", "customer_id=a, ordered_at=b,  amount=c d", "gs://shop/columns.toml"],
        ["CustomerID=customer_id", "customer_id=", "customer_id=a,", "customer_id=a, ", "customer_id=a, CustomerID=b", "columns.toml", "gs://shop/columns.json", "customer_id= ,amount=a", "gs://shop/#.toml"],
    ),
    "csv_delimiter": ([",", ";", "\t", "|", " "], ["", ",,", "é", "\n"]),
    "csv_encoding": (["utf8", "latin-1", "cp1252", "ISO8859_1"], ["", "utf 8", "-"]),
    "snapshot_time": (
        ["2011-12-09", "2011-12-09T22:00:00Z", "2011-12-09 22:00", "2011-12-09T22:00:00.5+01:00", "2012-02-29T00:00"],
        ["now", "2011-12-09Z", "2011-12-09T25:00", "2011-12-09T22", "2011-02-29T00:00:00Z", "2011-12-09T22:00:60Z"],
    ),
    "cutoff": (
        ["2011-08-08", "2012-02-29", "2000-02-29", "9999-12-31"],
        ["2011-02-29", "1900-02-29", "2011-13-01", "2011-04-31", "2011-8-8", "08.08.2011", "20110808", "2011-08-08T00:00", ""],
    ),
    "events": (["gs://shop/events", "gs://shop/e?.parquet"], ["events.parquet", "bigquery://my-project.shop.events", "s3://shop/e", ""]),
    "event_type": (["purchase", "add to cart", "é" * 256, "a;b"], ["", " ", " purchase", "a\nb", "x" * 257]),
    "no_event_value": _FLAG,
    "context": (["device", "Device, level_2", "a,b,c,d,e"], ["", "a,", "1a", "a b", "é", "a,b,c,d,e,f", "a" * 64]),
    "time_unit": (["s", "ms", "us"], ["ns", "S", "seconds", ""]),
    "since": (["2011-12-10"], ["2011-12-32", "yesterday"]),
    "until": (["2011-12-10"], ["2011-12-32", "today"]),
    "newest_within_days": (["0", "3", "100000"], ["-1", "00", "100001", "1.5", ""]),
    "limits": _FILE,
    "as_of": (["2011-12-10"], ["2011-12-32", "today", "2011-00-10"]),
}  # fmt: skip

# Where a template takes other values than the others do.
USABLE_AND_NOT_THERE: dict[tuple[str, str], tuple[list[str], list[str]]] = {
    ("interactions", "output"): (
        [*_DIRECTORY[0], "s3://shop/a", "s3://my.shop-1/interactions/2011-12-10"],
        [*(value for value in _DIRECTORY[1] if not value.startswith("s3://")), "s3://", "s3://Shop/a", "s3://shop/*", "s3a://shop/a"],
    ),
    ("interactions", "columns"): (
        [*USABLE_AND_NOT["columns"][0], "occurred_at=at,event_type=kind", "device=Device type"],
        ["customer_id=", "customer_id=a,", "columns.toml", "gs://shop/columns.json", "customer_id= ,amount=a", "1=a", "a b=c"],
    ),
}  # fmt: skip
