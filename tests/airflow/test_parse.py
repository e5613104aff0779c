"""The DAG files as Airflow reads them, its newest version and the oldest: tasks, edges, defaults, cost, mistakes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.airflow import environment
from tests.airflow.environment import EXAMPLE, FOLDER, NEWEST, OLDEST, ROOT

pytestmark = pytest.mark.airflow

VERSIONS = {NEWEST: "3.3.1", OLDEST: "2.11.1"}
FILES = ["build_train_deploy.py", "predict_serve.py"]
CHAMPION = "gs://my-project-clv/registry/90d/champion.json"
PREPARE = ["orders.create_dataset", "orders.load_orders", "orders.clean_orders"]
# The ten steps' tasks, each behind those it waits for, without what it only takes a value from.
BUILD = {
    "plan": [],
    "orders.create_dataset": ["plan"],
    "orders.load_orders": ["orders.create_dataset", "plan"],
    "orders.clean_orders": ["orders.load_orders", "plan"],
    "training_due": ["orders.clean_orders", "plan"],
    "snapshots": ["training_due"],
    "features.analysed": ["snapshots"],
    "features.listed": ["snapshots"],
    "features.others": ["features.analysed", "features.listed"],
    "train": ["features.others", "snapshots"],
    "report": ["snapshots", "train"],
    "deploy.gate": ["snapshots", "train"],
    "deploy.challenger_won": ["deploy.gate", "snapshots"],
    "deploy.champion": ["deploy.challenger_won", "plan"],
    "deploy.announce": ["deploy.champion"],
}
SERVE = {
    "plan": [],
    "predict": ["plan"],
    "report": ["plan", "predict"],
    "newest": ["predict"],
    "publish": ["newest", "plan"],
    "announce": ["publish"],
}


def ask(version: str, home: Path, what: str, question: Any, folder: Path = FOLDER, isolated: bool = False) -> Any:
    """tests/airflow/questions.py in one of Airflow's environments; isolated: with no network but its own loopback."""
    alone = ["unshare", "--map-root-user", "--net"] if isolated and can_be_alone() else []
    done = subprocess.run(
        [*alone, environment.python(version), "-m", "tests.airflow.questions", what], cwd=ROOT, text=True,
        env={**environment.variables(home, EXAMPLE), "AIRFLOW__CORE__DAGS_FOLDER": str(folder)},
        input=json.dumps(question), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


def can_be_alone() -> bool:
    """Whether this user may start a process without a network; where not, its sockets are refused all the same."""
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(
            ["unshare", "--map-root-user", "--net", "true"], capture_output=True, check=False
        ).returncode
    )


@pytest.fixture(scope="module")
def answers(version: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one process, that reads the files for one deployment after the other."""
    folder = tmp_path_factory.mktemp(version)
    project = 'project = "my-project"\n'
    texts = {
        "table": changed({
            'files = "gs://my-project-orders/{date}/*.parquet"': 'table = "my-project.shop.sales"',
        }),
        "settings": changed({
            "# count = 3 ": "count = 5 ", "# delay_seconds = 300 ": "delay_seconds = 7 ",
            '# build_train_deploy = "0 3 * * *"': 'build_train_deploy = "30 1 * * 1"',
            '# predict_serve = "0 6 * * *"': 'predict_serve = "15 2 * * *"',
        }),
        "misspelt": changed({'region = "europe-west1"': 'regoin = "europe-west1"'}),
        "wrong": changed({project: 'project = "My Project"\n'}),
        "no TOML": changed({project: "project = my-project\n"}),
    }  # fmt: skip
    deployments = {"files": str(EXAMPLE), "missing": str(folder / "nowhere.toml")}
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
        deployments[name] = str(folder / f"{name}.toml")
    return dict(ask(version, folder / "home", "parse", deployments, isolated=True))


def changed(lines: dict[str, str]) -> str:
    """The example with some of its lines as somebody would change them."""
    text = EXAMPLE.read_text()
    for old, new in lines.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def edges(dag: dict[str, Any]) -> dict[str, list[str]]:
    return {name: task["upstream"] for name, task in dag["tasks"].items()}


def test_it_is_the_version_that_is_meant(version: str, answers: dict[str, Any]) -> None:
    assert answers["version"] == VERSIONS[version]


def test_tasks_and_edges(answers: dict[str, Any]) -> None:
    read = answers["read"]["files"]
    assert not read["errors"]
    assert {name: edges(dag) for name, dag in read["dags"].items()} == {
        "build_train_deploy": BUILD, "predict_serve": SERVE
    }  # fmt: skip


def test_without_order_files_the_rest_begins_at_once(answers: dict[str, Any]) -> None:
    read = answers["read"]["table"]
    assert not read["errors"]
    rest = {name: before for name, before in BUILD.items() if name not in PREPARE}
    assert edges(read["dags"]["build_train_deploy"]) == {**rest, "training_due": ["plan"]}
    assert edges(read["dags"]["predict_serve"]) == SERVE


def test_what_runs_where(answers: dict[str, Any]) -> None:
    """pipelines as templates, trainer on Vertex AI, the rest on the worker."""
    dags = answers["read"]["files"]["dags"]
    ours = {
        (dag, name): task["operator"]
        for dag in dags
        for name, task in dags[dag]["tasks"].items()
        if not task["operator"].startswith("_")  # a Python function
    }
    build, serve = "build_train_deploy", "predict_serve"
    assert ours == {
        **{(build, name): "RunCommand" for name in (*PREPARE, "deploy.champion")},
        **{(build, name): "LaunchTemplate" for name in ("features.analysed", "features.others")},
        **{(build, name): "RunOnVertex" for name in ("train", "report", "deploy.gate")},
        **{(serve, name): "LaunchTemplate" for name in ("predict", "publish")},
        (serve, "report"): "RunOnVertex",
    }


def test_the_schedules(answers: dict[str, Any]) -> None:
    def found(name: str) -> list[Any]:
        return [dag["schedule"] for dag in answers["read"][name]["dags"].values()]

    build, serve = {"zone": "UTC", "assets": []}, {"zone": "UTC", "assets": [CHAMPION]}
    assert found("files") == [{"cron": "0 3 * * *", **build}, {"cron": "0 6 * * *", **serve}]
    assert found("settings") == [{"cron": "30 1 * * 1", **build}, {"cron": "15 2 * * *", **serve}]


def test_one_task_alone_makes_the_event_that_the_other_dag_waits_for(answers: dict[str, Any]) -> None:
    tasks = [task for dag in answers["read"]["files"]["dags"].values() for task in dag["tasks"].items()]
    assert {name: task["outlets"] for name, task in tasks if task["outlets"]} == {"deploy.announce": [CHAMPION]}


def test_runs_do_not_overlap_and_old_ones_are_not_made_up_for(answers: dict[str, Any]) -> None:
    for name, dag in answers["read"]["files"]["dags"].items():
        hours = {"build_train_deploy": 96, "predict_serve": 48}[name]
        assert (dag["max_active_runs"], dag["catchup"], dag["timeout"]) == (1, False, hours * 3600)
        assert dag["callback"]  # a run that takes too long is told of
        assert dag["timeout"] > max(task["timeout"] for task in dag["tasks"].values())
        assert len(dag["doc"].strip().splitlines()) > 2


@pytest.mark.parametrize(("deployment", "count", "delay"), [("files", 3, 300.0), ("settings", 5, 7.0)])
def test_every_task_is_tried_again_and_tells_of_its_end(
    deployment: str, count: int, delay: float, answers: dict[str, Any]
) -> None:
    for dag, (name, task) in (
        (dag, task)
        for dag, described in answers["read"][deployment]["dags"].items()
        for task in described["tasks"].items()
    ):
        assert (task["retries"], task["retry_delay"], task["backoff"]) == (count, delay, True), name
        assert (task["max_retry_delay"], task["callback"]) == (3600, True), name
        assert task["timeout"] == (24 if (dag, name) == ("build_train_deploy", "train") else 6) * 3600, name


def test_training_needs_no_other_snapshots(answers: dict[str, Any]) -> None:
    """The mapped task is skipped where there is nothing to map; every other task wants all before it done."""
    tasks = answers["read"]["files"]["dags"]["build_train_deploy"]["tasks"]
    assert [name for name, task in tasks.items() if task["mapped"]] == ["features.others"]
    assert tasks["features.others"]["at_once"] == 4
    rules = {name: task["trigger_rule"] for name, task in tasks.items() if task["trigger_rule"] != "all_success"}
    assert rules == {"train": "none_failed_min_one_success"}


def test_no_value_that_is_known_late_stands_where_airflow_does_not_look(answers: dict[str, Any]) -> None:
    for dag in answers["read"]["files"]["dags"].values():
        for name, task in dag["tasks"].items():
            assert task["not_templates"] == [], name


LATE = """
from airflow.providers.common.compat.sdk import BaseOperator, dag, task
import datetime

class Late(BaseOperator):
    template_fields = ("seen",)
    def __init__(self, *, seen, unseen, **kwargs):
        super().__init__(**kwargs)
        self.seen, self.unseen = seen, unseen

@dag(schedule=None, start_date=datetime.datetime(2020, 1, 1))
def late():
    @task
    def first():
        return [1]
    made = first()
    Late(task_id="xcom", seen=made, unseen={"a": [made]})
    Late(task_id="jinja", seen="{{ ds }}", unseen=("{{ ds }}",))
    Late(task_id="good", seen={"a": made}, unseen={"a": "ds"})
    Late.partial(task_id="partial", unseen="{{ ds }}").expand(seen=made)
    Late.partial(task_id="mapped", unseen="ds").expand(seen=made)

late()
"""


def test_the_judge_of_late_values_finds_them(version: str, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "late.py").write_text(LATE)
    found = ask(version, tmp_path / "home", "parse", {"late": str(EXAMPLE)}, tmp_path / "dags")["read"]["late"]
    assert not found["errors"]
    tasks = found["dags"]["late"]["tasks"]
    assert {name: task["not_templates"] for name, task in tasks.items()} == {
        "first": [], "xcom": ["unseen"], "jinja": ["unseen"], "good": [], "partial": ["unseen"], "mapped": [],
    }  # fmt: skip


def test_a_file_that_asks_the_network_is_found_out(version: str, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "asks.py").write_text(
        "# airflow dag\nimport urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/', timeout=1)\n"
    )
    found = ask(version, tmp_path / "home", "parse", {"asks": str(EXAMPLE)}, tmp_path / "dags")["read"]["asks"]
    assert "a DAG file opens a connection while it is read" in found["errors"]["asks.py"]


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        ("missing", "nowhere.toml is missing: copy orchestration/deployment.example.toml there, or name yours by"),
        ("misspelt", "misspelt.toml: regoin is no setting: accepted are project, region,"),
        ("wrong", "wrong.toml: project 'My Project' is not usable: accepted is a Google Cloud project's id"),
        ("no TOML", "no TOML.toml is no TOML file: "),
    ],
)
def test_a_deployment_of_no_use_is_one_line_under_each_file(
    deployment: str, said: str, answers: dict[str, Any]
) -> None:
    read = answers["read"][deployment]
    assert not read["dags"] and sorted(read["errors"]) == FILES
    for error in read["errors"].values():
        last = error.strip().splitlines()[-1]
        assert last.startswith("transforms.errors.UsageError: ") and said in last


def test_reading_them_is_quick_and_loads_nothing_heavy(answers: dict[str, Any]) -> None:
    """Airflow reads the files all the time: what they cost beyond Airflow itself, with bytecode compiled."""
    print(f"Airflow {answers['version']}: {answers['cpu_seconds']:.2f} CPU-s")
    assert answers["cpu_seconds"] < 2.0
    assert answers["heavy"] == []
