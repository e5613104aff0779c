"""The parameters of each template: what a pipeline's own parser does not say of its arguments.

Names, help, defaults and whether an argument must be given come from the parser (``templates.metadata``). Here stands
what a launch through Dataflow adds: a label, the kind of value, and which arguments make no sense there.

Every regex matches the whole value and uses only what Python, Java and RE2 read alike, since nobody says which of them
the service uses. What it accepts the parser accepts; what no regex can say is left to the parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.publish_toml import GUARDS

SEPARATOR = ";"  # between the values of an argument that may be repeated


@dataclass(frozen=True)
class Kind:
    """What values a parameter takes.

    Attributes:
      param_type: one of Google's ParameterMetadata.paramType: which input field the console shows.
      regex: matches a usable value as a whole.
      accepted: the same in words.
    """

    param_type: str
    regex: str
    accepted: str


@dataclass(frozen=True)
class Parameter:
    """One argument as a template offers it.

    Attributes:
      required: where the parser's answer is that of a terminal, the answer for a template.
      help: where the parser's help speaks of what only a terminal offers, the help for a template.
    """

    label: str
    kind: Kind
    required: bool | None = None
    help: str | None = None


@dataclass(frozen=True)
class Template:
    """One pipeline as a template.

    Attributes:
      offered: the parameters by name.
      withheld: the parser's other arguments, and why a template does not offer them.
    """

    title: str
    description: str
    offered: Mapping[str, Parameter]
    withheld: Mapping[str, str]


_BUCKET = r"gs://[a-z0-9][-a-z0-9._]+[a-z0-9]"
# Cloud Storage would take these: #, which other tools cut a name off at, wildcards, control characters.
_IN_NAME, _LAST = r"[^#?*\[\]\x00-\x1f\x7f-\x9f]", r"[^#?*\[\]\x00-\x1f\x7f-\x9f/\s]"
_PROJECT = r"([a-z][a-z0-9.-]{1,61}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
# RE2 counts to 1000 at most.
_TABLE = rf"{_PROJECT}\.[A-Za-z0-9_]{{1,1000}}\.[A-Za-z0-9_-]+( +[A-Za-z0-9_-]+)*"
_COLUMN = "(customer_id|ordered_at|amount|quantity|unit_price|order_id|item_id|country|channel|category)"
_PAIR = rf"{_COLUMN}= *[^,\s][^,]*"
_ANY_PAIR = r"[A-Za-z][A-Za-z0-9_]{0,62}= *[^,\s][^,]*"
_GUARD = rf"({'|'.join(GUARDS)})= *[^;\s][^;]*"
_LONG, _SHORT = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])", "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_LEAP = "([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)"
_DAY = rf"([1-9][0-9]{{3}}-({_LONG}|{_SHORT}|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
_HOUR_MINUTE = "([01][0-9]|2[0-3]):[0-5][0-9]"
_NUMBER = r"[0-9]{1,9}(\.[0-9]{1,6})?"
_MORE_THAN_0 = r"([1-9][0-9]{0,8}(\.[0-9]{1,6})?|0\.0{0,2}[1-9][0-9]{0,3})"

FOLDER_READ = Kind(
    "GCS_READ_FOLDER", rf"^{_BUCKET}(/{_IN_NAME}*)?$", "a gs:// directory, without # ? [ ] * in its name"
)
FOLDER_WRITTEN = Kind("GCS_WRITE_FOLDER", FOLDER_READ.regex, FOLDER_READ.accepted)
FILE = Kind("GCS_READ_FILE", rf"^{_BUCKET}/{_IN_NAME}*{_LAST}$", "a gs:// file, without # ? [ ] * in its name")
# Made where it is missing, so that the console must not ask for one that exists.
FILE_OR_NEW = Kind("TEXT", FILE.regex, FILE.accepted)
FLAG = Kind("BOOLEAN", "^(true|false)$", "true or false")
TABLE = Kind("TEXT", rf"^(bigquery://)?{_TABLE}$", "project.dataset.table, such as my-project.shop.predictions")
ORDERS = Kind(
    # Somebody else names these files, so that a # may be meant.
    "TEXT", rf"^({_BUCKET}(/[^\x00-\x1f\x7f-\x9f]*)?|bigquery://{_TABLE})$",
    "a gs:// file, directory or pattern, or bigquery://project.dataset.table",
)  # fmt: skip
SERVING = Kind(
    "TEXT", rf"^datastore://{_PROJECT}(/(\(default\)|[a-z][a-z0-9-]{{2,61}}[a-z0-9]))?$",
    "datastore://project or datastore://project/database: workers do not see this machine's files",
)  # fmt: skip
COLUMNS = Kind(
    "TEXT",
    rf"^({_BUCKET}/{_IN_NAME}*\.toml|{_PAIR}(, *{_PAIR})*)$",
    "our_name=their_name,... or a gs:// file ending in .toml",
)
OVERRIDES = Kind(
    "TEXT", rf"^{_GUARD}({SEPARATOR} *{_GUARD})*$",
    f"GUARD=REASON, several separated by {SEPARATOR}, GUARD one of {', '.join(GUARDS)}",
)  # fmt: skip
# Events have columns of their own, and context of any name.
ANY_COLUMNS = Kind(
    "TEXT",
    rf"^({_BUCKET}/{_IN_NAME}*\.toml|{_ANY_PAIR}(, *{_ANY_PAIR})*)$",
    "our_name=their_name,... or a gs:// file ending in .toml",
)
OUTPUT_ANYWHERE = Kind(
    "TEXT", rf"^(gs|s3)://[a-z0-9][-a-z0-9._]+[a-z0-9](/{_IN_NAME}*)?$",
    "a gs:// or s3:// directory, without # ? [ ] * in its name",
)  # fmt: skip
EVENTS = Kind(
    "TEXT", rf"^{_BUCKET}(/[^\x00-\x1f\x7f-\x9f]*)?$", "a gs:// file, directory or pattern"
)  # fmt: skip
_NAME = "[A-Za-z][A-Za-z0-9_]{0,62}"
CONTEXT = Kind("TEXT", rf"^{_NAME}( *, *{_NAME}){{0,4}}$", "at most five names of columns, such as device,country")
EVENT_TYPE = Kind("TEXT", r"^[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]{0,255}$", "a text of 1 to 256 characters")
TIME_UNIT = Kind("TEXT", "^(s|ms|us)$", "s, ms or us")
DATE = Kind("TEXT", rf"^{_DAY}$", "a date such as 2011-08-08")
TIME = Kind(
    "TEXT", rf"^{_DAY}([T ]{_HOUR_MINUTE}(:[0-5][0-9](\.[0-9]{{1,6}})?)?(Z|[+-]{_HOUR_MINUTE})?)?$",
    "a time such as 2011-12-09T22:00:00Z, UTC unless it says otherwise",
)  # fmt: skip
DAYS = Kind("NUMBER", "^([1-9][0-9]{0,4}|100000)$", "a whole number from 1 to 100000")
DAYS_OR_ZERO = Kind("NUMBER", "^(0|[1-9][0-9]{0,4}|100000)$", "a whole number from 0 to 100000")
POSITIVE = Kind("NUMBER", "^[1-9][0-9]{0,17}$", "a whole number of at least 1")
BUCKETS = Kind(
    "NUMBER", "^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$",
    "a whole number from 1 to 65535",
)  # fmt: skip
RAMP = Kind(
    "TEXT", rf"^(off|{_MORE_THAN_0}/{_NUMBER}/{_MORE_THAN_0})$", "START/PERCENT/MINUTES such as 500/50/5, or off"
)
CHARACTER = Kind("TEXT", "^[\t -~]$", "one ASCII character such as ; or a tab")
ENCODING = Kind("TEXT", "^[A-Za-z0-9][A-Za-z0-9._-]*$", "an encoding's name, such as utf8 or latin-1")

_ORDERS: dict[str, Parameter] = {
    "orders": Parameter(
        "Orders",
        ORDERS,
        help="orders as Parquet or CSV (also .csv.gz): a file, a folder or a pattern; or a table of BigQuery",
    ),
    "orders_query": Parameter("Query that selects the orders", FILE),
    "columns": Parameter("Foreign column names", COLUMNS),
    "csv_delimiter": Parameter("CSV delimiter", CHARACTER),
    "csv_encoding": Parameter("CSV encoding", ENCODING),
    "buckets": Parameter("Buckets of customers", BUCKETS),
    "snapshot_time": Parameter("Time of the orders", TIME),
    "maximum_bytes_billed": Parameter("Most bytes a query may scan", POSITIVE),
    "no_pushdown": Parameter("Aggregate in the job", FLAG),
    "features_table": Parameter("Table of features", TABLE),
}
_AGGREGATED = ("buckets", "no_pushdown", "features_table")
_QUIET_DAYS = Parameter("Days without an order", DAYS_OR_ZERO)
_PRINT_SQL = {"print_sql": "it prints to a person's terminal and makes no job"}

TEMPLATES: dict[str, Template] = {
    "publish": Template(
        "CLV publish",
        "Publishes predictions to Datastore, and to BigQuery where a table is given: checks every row, stages a generation "
        "beside the one being served, and switches to it in one transaction unless a guard trips.",
        {
            "predictions": Parameter("Predictions", FOLDER_READ),
            "serving": Parameter("Serving store", SERVING, help="the serving store; its database must exist"),
            "bigquery_table": Parameter("BigQuery table", TABLE),
            "staging": Parameter("Staging for BigQuery", FOLDER_WRITTEN),
            "ttl_days": Parameter("Days a generation is served", DAYS),
            "dead_letters": Parameter("Dead letters", FOLDER_WRITTEN),
            "keep_generations": Parameter("Former generations kept", POSITIVE),
            "ramp": Parameter("Ramp of Datastore writes", RAMP),
            "shards": Parameter(
                "Writers", POSITIVE,
                help="workers that write at a time, each with its share of the rate (default: 16)",
            ),
            "guards": Parameter("Limits of the guards", FILE),
            "override": Parameter(
                "Overridden guards", OVERRIDES, help="switch although this guard trips; the reason is recorded"
            ),
            "registry": Parameter("Model registry", FOLDER_READ),
            "stage_only": Parameter("Stop before the switch", FLAG),
        },
        {
            "warehouse": "it is a directory of the launching machine, which workers do not see: bigquery_table stands for it",
            "dry_run": "it prints a plan to a person's terminal and makes no job",
        },
    ),
    "features": Template(
        "CLV features",
        "Makes one snapshot of every customer from orders: features as of the cutoff, labels after it, transformed and "
        "ready to train or to judge on.",
        {
            **_ORDERS,
            "cutoff": Parameter("Cutoff", DATE),
            "horizon_days": Parameter("Horizon in days", DAYS),
            "history_days": Parameter("History in days", DAYS),
            "quiet_days": _QUIET_DAYS,
            "output": Parameter("Output", FOLDER_WRITTEN, required=True, help="the directory to make"),
            "reuse_transform": Parameter("Features whose transform is reused", FOLDER_READ),
            "data_schema": Parameter("Data schema", FILE_OR_NEW),
        },
        _PRINT_SQL,
    ),
    "predict": Template(
        "CLV predict",
        "Forecasts every customer's value as of a date from orders and a model: mean, quantiles, probability of a "
        "purchase, expected orders and decile.",
        {
            **_ORDERS,
            "as_of": Parameter("As of", DATE),
            "quiet_days": _QUIET_DAYS,
            "model": Parameter("Model", FOLDER_READ),
            "output": Parameter("Output", FOLDER_WRITTEN, required=True, help="the directory to make"),
            "data_schema": Parameter("Data schema", FILE_OR_NEW),
            "skew_thresholds": Parameter("Thresholds of skew", FILE),
        },
        _PRINT_SQL,
    ),
    "interactions": Template(
        "CLV interactions",
        "Exports interactions of customers with items from orders or behaviour events: CSV files and schema as Amazon "
        "Personalize imports them, checked against its limits.",
        {
            **{name: parameter for name, parameter in _ORDERS.items() if name not in _AGGREGATED},
            "columns": Parameter(
                "Foreign column names", ANY_COLUMNS,
                help="foreign column names as our_name=their_name,..., or a TOML file of such pairs; of events ours are "
                "customer_id, item_id, occurred_at, event_type, event_value and the context",
            ),
            "events": Parameter(
                "Behaviour events", EVENTS,
                help="behaviour events as Parquet or CSV (also .csv.gz), instead of orders: a file, a folder or a pattern",
            ),
            "event_type": Parameter("Event type", EVENT_TYPE),
            "no_event_value": Parameter("Leave EVENT_VALUE out", FLAG),
            "context": Parameter("Context columns", CONTEXT),
            "time_unit": Parameter("Unit of integer times", TIME_UNIT),
            "since": Parameter("Since", DATE),
            "until": Parameter("Until", DATE),
            "newest_within_days": Parameter("Most days since the newest", DAYS_OR_ZERO),
            "limits": Parameter("Limits of the service", FILE),
            "output": Parameter("Output", OUTPUT_ANYWHERE, help="the directory to make"),
        },
        {},
    ),
}  # fmt: skip
