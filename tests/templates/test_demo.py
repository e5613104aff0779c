"""The demo as it is run, and what it says where a part is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines import publishing
from tests.templates import demo

pytestmark = pytest.mark.templates

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.templates.demo", *arguments],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


def test_it_ends_with_the_best_customer_as_served(tmp_path: Path) -> None:
    done = run("--workdir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    row = json.loads(line)
    assert row["as_of"] == "1998-07-01" and row["decile"] == 1 and row["model_version"].startswith("mbgnbd-")
    assert f"publish {row['generation']}: is current now" in done.stderr
    for command in ("flex-template build gs://", "flex-template run clv-publish-", "jobs list", "jobs describe"):
        assert f"gcloud dataflow {command}" in done.stderr
    states = [line.split()[-1] for line in done.stderr.splitlines() if " JOB_STATE_" in line]
    assert states[-1] == "JOB_STATE_DONE" and set(states) <= {"JOB_STATE_QUEUED", "JOB_STATE_RUNNING", "JOB_STATE_DONE"}


def test_predictions_that_are_there_are_taken_the_newest_first(tmp_path: Path) -> None:
    made = [publishing.write_predictions(tmp_path / run / "predictions", [publishing.customers(3)]) for run in "ba"]
    (tmp_path / "warehouse/predictions").mkdir(parents=True)
    (tmp_path / "warehouse/predictions/manifest.json").write_text('{"kind": "other"}')
    assert str(demo._predictions(tmp_path, tmp_path / "none")) == made[1]


def test_a_missing_part_is_one_line(tmp_path: Path) -> None:
    done = run(PATH=str(tmp_path))
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith(
        "error: the firestore emulator needs the Google Cloud SDK: install it"
    )
    assert "Traceback" not in done.stderr
