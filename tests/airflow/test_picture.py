"""docs/dags.svg: made by the command, the same by every Airflow, and a picture of all there is."""

from __future__ import annotations

import itertools
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from orchestration.dag_picture import reduced
from orchestration.dag_picture_svg import DATAFLOW, WORKER, Dag, Group, Task, svg
from tests.airflow import environment
from tests.airflow.environment import EXAMPLE, ROOT
from tests.airflow.test_parse import BUILD, SERVE

COMMITTED = ROOT / "docs" / "dags.svg"
SVG = "{http://www.w3.org/2000/svg}"


def draw(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [environment.python(version), "-m", "orchestration.dag_picture", *arguments],
        cwd=ROOT, env=environment.variables(Path("/nonexistent"), EXAMPLE), text=True, capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.airflow
def test_the_picture_is_current(version: str, tmp_path: Path) -> None:
    made = draw(version, "--output", str(tmp_path / "dags.svg"))
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "dags.svg").read_bytes() == COMMITTED.read_bytes(), "make dags-picture"


@pytest.mark.airflow
def test_a_deployment_s_own_schedule_is_shown(version: str, tmp_path: Path) -> None:
    own = EXAMPLE.read_text().replace('# predict_serve = "0 6 * * *"', 'predict_serve = "45 7 * * *"')
    (tmp_path / "deployment.toml").write_text(own)
    made = draw(
        version, "--output", str(tmp_path / "dags.svg"), "--deployment", str(tmp_path / "deployment.toml")
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "At 07:45 UTC, and when the asset has a new event" in texts(tmp_path / "dags.svg")


@pytest.mark.airflow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "nowhere/dags.svg"], "--output 'nowhere/dags.svg' is not usable"),
        (["--output", "dags.svg", "--deployment", "nowhere.toml"], "nowhere.toml is missing"),
        ([], "--output"),
    ],
)
def test_bad_arguments(arguments: list[str], said: str) -> None:
    made = draw(environment.NEWEST, *arguments)
    assert made.returncode == 2 and said in made.stderr.splitlines()[-1]


def texts(path: Path) -> list[str]:
    return [text.text or "" for text in ET.parse(path).iter(f"{SVG}text")]


def test_without_airflow_it_says_what_to_run_it_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestration.dag_picture import main

    assert main(["--output", str(tmp_path / "dags.svg")]) == 2
    assert "has no Airflow: run it with .venv-airflow/bin/python" in capsys.readouterr().err


def test_every_task_is_in_the_picture_by_its_name() -> None:
    written = texts(COMMITTED)
    for expected in (BUILD, SERVE):
        for task in expected:
            assert task.rpartition(".")[2] in written
    for name in (
        "build_train_deploy",
        "predict_serve",
        "orders",
        "features",
        "deploy",
        "asset registry/90d/champion.json",
    ):
        assert name in written


def rectangles(picture: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of the boxes that have a place."""
    found = [each.attrib for each in ET.fromstring(picture).iter(f"{SVG}rect") if "x" in each.attrib]
    sizes = [[float(each[name]) for name in ("x", "y", "width", "height")] for each in found]
    return [(x, y, x + width, y + height) for x, y, width, height in sizes]


def assert_clean(picture: str) -> None:
    """Boxes lie inside one another, beside one another, or are the shades of a mapped task; all of them on the page."""
    _, _, width, height = map(float, ET.fromstring(picture).attrib["viewBox"].split())
    boxes = rectangles(picture)
    assert all(0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in boxes)
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        within = any(
            a[0] <= b[0] and a[1] <= b[1] and b[2] <= a[2] and b[3] <= a[3] for a, b in ((one, other), (other, one))
        )
        shade = abs(one[0] - other[0]) <= 8 and one[0] - other[0] == one[1] - other[1]
        assert apart or within or shade, (one, other)


def test_no_box_lies_upon_another() -> None:
    assert_clean(COMMITTED.read_text())


def task(name: str, **marks: bool) -> Task:
    return Task(name, WORKER, **{"mapped": False, "ends_run": False, **marks})


def test_other_dags_are_drawn_cleanly_too() -> None:
    inner = Group("a.inner", [task("a.inner.one"), task("a.inner.two", mapped=True)], [])
    deep = Group("a", [task("a.first"), inner, task("a.with_a_long_name")], [("a.first", "a.inner")])
    body = Group("", [deep, task("b"), task("c", ends_run=True)], [("a", "b"), ("a", "c")])
    dags = [
        Dag("one", "At 01:00 UTC", body, {"a.inner.two": ["gs://b/x/y/z.json"]}, []),
        Dag("two & <three>", "never", Group("", [Task("only", DATAFLOW, True, True)], []), {}, ["gs://b/x/y/z.json"]),
    ]
    picture = svg(dags)
    assert_clean(picture)
    assert picture == svg(dags)
    assert {"asset x/y/z.json", "two & <three>"} <= {each.text for each in ET.fromstring(picture).iter(f"{SVG}text")}


def test_an_edge_that_a_longer_way_implies_is_left_out() -> None:
    edges = [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d"), ("a", "d"), ("a", "e")]
    assert reduced(edges) == [("a", "b"), ("a", "e"), ("b", "c"), ("c", "d")]
    assert reduced([]) == []
