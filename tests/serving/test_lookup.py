"""The lookup command as a person runs it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from serving.store import open_store
from tests.serving.store_contract import fill, prediction

ROOT = Path(__file__).resolve().parents[2]
STRANGE = 'Zoë "\n\u2028 名'


def lookup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving.lookup", *arguments], cwd=ROOT, capture_output=True,
        encoding="utf-8", timeout=60, check=False, env=os.environ | environment,
    )  # fmt: skip


@pytest.fixture
def uri(tmp_path: Path) -> str:
    uri = f"sqlite://{tmp_path}/serving.db"
    with open_store(uri, create=True) as store:
        fill(store, "g1", [prediction("c1", 12.5), prediction(STRANGE, 3.25), prediction("-x")])
        store.switch("g1", None)
    return uri


def test_one_json_object_a_customer_in_the_order_asked(uri: str) -> None:
    done = lookup("--serving", uri, STRANGE, "c1")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    expected = [prediction(STRANGE, 3.25), prediction("c1", 12.5)]
    assert rows == [row | {"as_of": "2011-12-10", "generation": "g1"} for row in expected]
    assert "Zoë" in done.stdout


def test_a_terminal_without_unicode_gets_escapes(uri: str) -> None:
    done = lookup("--serving", uri, STRANGE, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert json.loads(done.stdout)["customer_id"] == STRANGE


def test_missing_customers_are_named_and_the_others_printed(uri: str) -> None:
    done = lookup("--serving", uri, "c9", "c1", "two\nlines", "--", "-x")
    assert done.returncode == 1
    assert done.stderr == "no prediction for: 'c9', 'two\\nlines'\n"
    assert [json.loads(line)["customer_id"] for line in done.stdout.splitlines()] == ["c1", "-x"]


def test_an_empty_store_and_no_store(tmp_path: Path) -> None:
    uri = f"sqlite://{tmp_path}/serving.db"
    missing = lookup("--serving", uri, "c1")
    assert missing.returncode == 2
    assert missing.stderr.startswith(f"error: --serving '{uri}' is not usable: accepted is an existing store")
    open_store(uri, create=True).close()
    empty = lookup("--serving", uri, "c1")
    assert empty.returncode == 2
    assert empty.stderr == f"error: --serving '{uri}' serves nothing yet: python -m pipelines.publish fills it\n"


def test_it_starts_fast_because_nothing_heavy_is_imported(uri: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert lookup("--serving", uri, "c1").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    heavy = (
        "import sys; from serving.lookup import main; main(sys.argv[1:]);"
        "sys.exit(str(sorted({'pyarrow', 'numpy', 'apache_beam'} & set(sys.modules)) or '') or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", heavy, "--serving", uri, "c1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
