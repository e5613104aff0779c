"""The benchmark of pipelines.interactions: its comparison finds differences, its closing line is the agreed one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import interactions, interactions_contestant
from benchmarks.harness import OutputsDiffer

HEADER = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE\n"
ROWS = ["a,x,1,purchase,1.5\n", "a,x,1,purchase,1.5\n", 'b,"x,y",2,purchase,2.0\n']


def write(path: Path, rows: list[str]) -> str:
    path.write_text(HEADER + "".join(rows))
    return str(path)


def test_the_whole_command_agrees_and_ends_in_the_agreed_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--orders=5000", "--memory_baseline_orders=2000", f"--workdir={tmp_path}"]
    assert interactions.main(arguments) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["name"] == "interactions" and set(last["aim"]) <= set(last["ratios"])
    assert set(last["figures"]) == {
        interactions.OURS, interactions.COPY, interactions.TOLD, f"{interactions.OURS}, smaller file",
        f"{interactions.COPY}, smaller file",
    }  # fmt: skip
    assert last["aim_met"] == all(last["ratios"][name] >= least for name, least in last["aim"].items())
    assert not list(tmp_path.glob("run-*"))


def test_equal_rows_in_any_order_and_any_files(tmp_path: Path) -> None:
    write(tmp_path / "a1.csv", [ROWS[2].replace("2.0", "2")])
    write(tmp_path / "a2.csv", ROWS[:2])
    assert interactions_contestant.same_rows(f"{tmp_path}/a*.csv", write(tmp_path / "b.csv", ROWS)) == 3


@pytest.mark.parametrize("other", [ROWS[1:], [*ROWS, ROWS[0]], [*ROWS[:2], ROWS[2].replace("b", "c")]])
def test_other_rows_are_found(tmp_path: Path, other: list[str]) -> None:
    ours, theirs = write(tmp_path / "a.csv", ROWS), write(tmp_path / "b.csv", other)
    with pytest.raises(OutputsDiffer, match="more often"):
        interactions_contestant.same_rows(ours, theirs)


def test_wrong_figures_are_found() -> None:
    manifest = {"rows": 10, "users": 1000, "estimates": ["users"], "estimates_standard_error": 0.004}
    interactions._same_figures(manifest, {"rows": 10, "users": 1010})
    with pytest.raises(OutputsDiffer, match="users is 1000 in the manifest, and exactly 1020"):
        interactions._same_figures(manifest, {"users": 1020})
    with pytest.raises(OutputsDiffer, match="rows is 10"):
        interactions._same_figures(manifest, {"rows": 11})
