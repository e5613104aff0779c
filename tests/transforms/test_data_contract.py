"""The page people and the brute force read is the schema, and nothing but the schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from transforms import activity, data_contract, schema

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data_contract.md"


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text() == data_contract.page(), "python -m transforms.data_contract > docs/data_contract.md"


def test_the_command_prints_the_page() -> None:
    command = [sys.executable, "-m", "transforms.data_contract"]
    assert subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, check=True).stdout == PAGE.read_bytes()


def test_every_column_and_reason_has_a_row() -> None:
    page = PAGE.read_text().replace("\\|", "/")
    features = (*schema.FEATURES, *schema.LABELS, schema.SPLIT)
    for column in (*schema.ORDERS, *features, *activity.COLUMNS, *schema.PREDICTIONS):
        formula = column.formula.replace("|", "/")
        assert f"| `{column.name}` | {column.type.bigquery} | {column.unit} | {formula} | {column.nulls} |" in page
    for reason in (*schema.EXCLUDED, *schema.DEAD_LETTERS):
        assert f"| `{reason.name}` | `{reason.column}` | {reason.accepted.replace('|', '/')} |" in page
