"""Looks customers up in the serving store, from the command line."""

from __future__ import annotations

import json
import sys
from typing import Any

from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError

DESCRIPTION = """\
Prints the current prediction of each customer: one JSON object a line, in the order asked, with every
prediction column and the generation it belongs to. All lines come from one generation, even when a
publish happens at the same moment. Exit code 1 when a customer has no prediction, 2 for a bad argument."""
EXAMPLE = """\
example:
  python -m serving.lookup --serving sqlite://work/serving.db 12347 12348
  python -m serving.lookup --serving datastore://my-project 12347
  python -m serving.lookup --serving sqlite:///data/serving.db -- -an-id-that-starts-with-a-dash"""


def _parser() -> ArgumentParser:
    parser = ArgumentParser("python -m serving.lookup", description=DESCRIPTION, epilog=EXAMPLE)
    parser.add_argument(
        "--serving", required=True, metavar="URI",
        help="the serving store: datastore://project, datastore://project/database, sqlite:///absolute/path.db or "
        "sqlite://relative/path.db; Datastore is read with the Google Cloud credentials of `gcloud auth "
        "application-default login`, or from the emulator that DATASTORE_EMULATOR_HOST names",
    )  # fmt: skip
    parser.add_argument("customer_ids", nargs="+", metavar="CUSTOMER_ID", help="customer to look up, exactly as stored")
    return parser


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints what is found; returns ``{"found": rows, "missing": ids}``.

    Raises:
      UsageError: no such store, or nothing is published in it.
    """
    from serving.store import open_store

    options = _parser().parse_args(argv)
    with open_store(options.serving) as store:
        rows = store.lookup_many(options.customer_ids)
        if not rows and store.current() is None:
            raise UsageError(f"--serving {options.serving!r} serves nothing yet: python -m pipelines.publish fills it")
    # Escapes are valid JSON too, and the only safe choice on a terminal that is not UTF-8.
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    found = [rows[customer_id] for customer_id in options.customer_ids if customer_id in rows]
    for row in found:
        print(json.dumps(row, default=str, ensure_ascii=ascii_only))
    missing = [customer_id for customer_id in options.customer_ids if customer_id not in rows]
    if missing:
        print(f"no prediction for: {', '.join(map(repr, missing))}", file=sys.stderr)
    return {"found": found, "missing": missing}


def main(argv: list[str] | None = None) -> int:
    result: dict[str, Any] = {"missing": []}
    code = exit_code(lambda: result.update(run(argv)))
    return code or int(bool(result["missing"]))


if __name__ == "__main__":
    sys.exit(main())
