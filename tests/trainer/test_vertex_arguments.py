"""The command line of ``trainer.vertex`` without Vertex AI: what it refuses, how it keys jobs, and what its jobs run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.vertex_runs import IMAGE, PROJECT, REGION, TASK
from trainer import vertex, vertex_arguments, vertex_client, vertex_jobs, vertex_models, vertex_tuning
from trainer.vertex_jobs import JobRequest

ROOT = Path(__file__).resolve().parents[2]
# Nothing may be asked of Vertex AI: nobody listens here.
PLACE = ["--project", PROJECT, "--region", REGION, "--api_endpoint", "http://localhost:1"]
SUBMIT = ["submit", *PLACE, "--image", IMAGE]
JOB = "projects/1/locations/europe-west1/customJobs/7"
TUNING = "projects/1/locations/europe-west1/hyperparameterTuningJobs/7"
PROMOTE = ("--module", "trainer.registry", "--", "promote", "--registry", "gs://b/r", "--model", "gs://b/m")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (SUBMIT, "the arguments of trainer.task are missing"),
        ([*SUBMIT, "--", *TASK, "--modle", "ziln"], "python -m trainer.task --help"),
        ([*SUBMIT, "--", *TASK[:-1], "model"], "trainer.task --output 'model' is not usable: accepted is gs://"),
        ([*SUBMIT, "--", "--features", "features", *TASK[2:]], "trainer.task --features 'features' is not usable"),
        ([*SUBMIT, "--", *TASK, "--tune", "3", "--tune_storage", "/tmp/x"], "trainer.task --tune_storage '/tmp/x'"),
        (
            [*SUBMIT, "--module", "trainer.registry", "--", "promote", "--registry", "gs://b/r", "--model", "model"],
            "trainer.registry --model 'model' is not usable",
        ),
        (
            [*SUBMIT, "--module", "trainer.registry", "--", "rollback", "--registry", "gs://b/r", "--reason", "x"],
            "trainer.registry in a job: 'rollback' is not usable: accepted is promote",
        ),
        (
            [*SUBMIT, "--module", "trainer.registry", "--", "list", "--registry", "gs://b/r"],
            "trainer.registry in a job: 'list' is not usable: accepted is promote",
        ),
        ([*SUBMIT, "--image", "clv:latest", "--", *TASK], "--image 'clv:latest' is not usable"),
        ([*SUBMIT, "--image", "europe-docker.pkg.dev/p/clv/publish", "--", *TASK], "a tag other than latest"),
        ([*SUBMIT, "--module", "os", "--", *TASK], "trainer.registry"),
        ([*SUBMIT, "--labels", "Team=crm", "--", *TASK], "Team=crm"),
        ([*SUBMIT, "--labels", "team", "--", *TASK, "--seed", "x"], "'x' is not usable"),
        ([*SUBMIT, "--labels", "clv-key=1", "--", *TASK], "is set from --key"),
        ([*SUBMIT, "--labels", "a=1,a=2", "--", *TASK], "each key once"),
        ([*SUBMIT, "--timeout_hours", "200", "--", *TASK], "accepted are hours from 0.1 to 168"),
        ([*SUBMIT, "--accelerator_type", "NVIDIA_TESLA_T4", "--", *TASK], "both, or none of them"),
        (
            [*SUBMIT, "--accelerator_type", "T4", "--accelerator_count", "1", "--", *TASK],
            "--accelerator_type 'T4' is not usable: accepted is NVIDIA_",
        ),
        ([*SUBMIT, "--region", "Mars", "--", *TASK], "--region 'Mars'"),
        ([*SUBMIT, "--api_endpoint", "http://vertex.example", "--", *TASK], "http:// for this machine alone"),
        ([*SUBMIT, "--api_endpoint", "a b", "--", *TASK], "--api_endpoint 'a b'"),
        ([*SUBMIT, "--key", " ", "--", *TASK], "--key ' '"),
        ([*SUBMIT, "--package", "/tmp", "--", *TASK], "--package '/tmp' is not usable: accepted is gs://"),
        ([*SUBMIT, "--tune", "2", "--module", "trainer.registry", "--", "list", "--registry", "gs://b/r"], "--tune goes"),
        ([*SUBMIT, "--tune", "2", "--best_of", "x", "--", *TASK], "--tune goes"),
        ([*SUBMIT, "--tune", "2", "--parallel_trials", "3", "--", *TASK], "--parallel_trials 3"),
        ([*SUBMIT, "--tune", "3", "--parallel_trials", "1", "--", *TASK, "--hidden_units", "8"], "--hidden_units does not go"),
        ([*SUBMIT, "--tune", "2", "--parallel_trials", "1", "--", *TASK, "--tune", "2"], "within one job"),
        ([*SUBMIT, "--best_of", "7", "--", *TASK], "--best_of '7' is not usable: accepted is projects/"),
        ([*SUBMIT, "--best_of", f"{TUNING}/trials/1", "--", *TASK], f"--best_of '{TUNING}/trials/1' is not usable"),
        ([*SUBMIT, "--best_of", f"{TUNING}@2", "--", *TASK], f"--best_of '{TUNING}@2' is not usable"),
        ([*SUBMIT, "--best_of", JOB, "--", *TASK], f"--best_of '{JOB}' is not usable: accepted is a tuning job"),
        ([*SUBMIT, "--best_of", TUNING, *PROMOTE], "--best_of with --module trainer.registry"),
        ([*SUBMIT, "--best_of", TUNING, "--", "--features", "x"], "--evaluation"),
        ([*SUBMIT, "--parallel_trials", "3", "--", *TASK], "--parallel_trials without --tune 3"),
        ([*SUBMIT, "--best_of", "7", "--", *TASK, "--weight_decay=0"], "--best_of with '--weight_decay=0'"),
        (["deploy", *PLACE, "--registry", "registry"], "--registry 'registry' is not usable: accepted is gs://"),
        (["deploy", *PLACE, "--registry", "gs://b/r", "--model_id", "9"], "--model_id '9'"),
        (["deploy", *PLACE, "--registry", "gs://b/r", "--", "x"], "deploy without arguments of a module"),
        (["rollback", *PLACE, "--registry", "gs://b/r"], "--reason"),
        (["status", "--project", PROJECT], "status needs --project and --region"),
        (["status", "7"], "JOB '7' is not usable: accepted is projects/"),
        (["status", f"{JOB}/more"], f"JOB '{JOB}/more' is not usable"),
        (["status", f"{JOB} "], f"JOB '{JOB} ' is not usable"),
        (["status", JOB.replace("customJobs", "models")], "JOB 'projects/1/locations/europe-west1/models/7' is not"),
        (["status", JOB, "--project", PROJECT], "--project with status JOB 'test-project' is not usable"),
        (["status", JOB, "--region", REGION], "--region with status JOB"),
        (["status", JOB, "--registry", "gs://b/r"], "--registry with status JOB"),
        (["status", JOB, "--most", "20"], "--most with status JOB 20"),
        (["status", JOB, "--model_id", "clv"], "--model_id with status JOB"),
        (["sbumit"], "sbumit"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_costs_nothing(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vertex.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error


@pytest.mark.parametrize("command", [[], ["submit"], ["status"], ["deploy"], ["rollback"]])
def test_help_teaches_and_imports_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys; from trainer import vertex\n"
        "try: vertex.run([*sys.argv[1:], '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'google.cloud.aiplatform_v1', 'google.api_core', 'tensorflow', 'apache_beam', 'pyarrow', 'numpy', 'optuna'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m trainer.vertex {' '.join(command) or 'deploy'}" in done.stdout


def request(**changes: object) -> JobRequest:
    plain = JobRequest(PROJECT, REGION, IMAGE, "trainer.task", TASK, "k", "train")
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


TEXTS = st.text("ab ,-=/", max_size=6)


@given(st.lists(TEXTS), st.lists(TEXTS))
def test_jobs_have_one_key_only_where_they_do_the_same(one: list[str], other: list[str]) -> None:
    keys = [vertex_arguments.decisive(request(arguments=tuple(arguments))) for arguments in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"machine_type": "n2-standard-16"}, True),
        ({"display_name": "other"}, True),
        ({"labels": {"a": "b"}}, True),
        ({"image": IMAGE + "-2"}, False),
        ({"module": "trainer.registry"}, False),
        ({"package": "gs://b/p.tar.gz"}, False),
        ({"region": "us-central1"}, False),
    ],
)
def test_what_decides_a_job(change: dict[str, object], same: bool) -> None:
    assert (vertex_arguments.decisive(request()) == vertex_arguments.decisive(request(**change))) == same
    assert vertex_arguments.decisive(request()) != vertex_arguments.decisive(request(), 20)


@given(st.text())
def test_every_key_is_a_label(key: str) -> None:
    label = vertex_jobs.key_label(key)
    assert len(label) == 32 and set(label) <= set("0123456789abcdef")


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True),
)
def test_every_version_has_an_alias_of_its_own(one: str, other: str) -> None:
    """The first pattern is the registry's, the second Vertex AI's."""
    alias = vertex_models.alias_of(one)
    assert re.fullmatch(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]", alias) and alias not in ("champion", "default")
    assert one == other or alias != vertex_models.alias_of(other)


def test_a_version_of_the_trainer_is_its_own_alias() -> None:
    assert vertex_models.alias_of("blend-2011-05-01-1f0c6d5e") == "blend-2011-05-01-1f0c6d5e"


def test_the_study_is_what_the_trainer_searches() -> None:
    """Every value of the study is one that trainer.task takes, and the ranges are the trainer's."""
    from trainer import tune
    from trainer.task import TaskOptions

    by_name = {parameter["parameter_id"]: parameter for parameter in vertex_tuning.study_spec()["parameters"]}
    assert set(by_name) == set(vertex_tuning.SEARCHED)
    shapes = by_name["hidden_units"]["categorical_value_spec"]["values"]
    parsed = [TaskOptions.parse([*TASK, f"--hidden_units={shape}"]).hidden_units for shape in shapes]
    assert parsed == list(tune.SHAPES)
    decays = by_name["weight_decay"]["discrete_value_spec"]["values"]
    assert decays == [0.0, 0.001, 0.01, 0.1, 1.0] and (decays[1], decays[-1]) == tune.WEIGHT_DECAYS
    rates = by_name["learning_rate"]["double_value_spec"]
    assert (rates["min_value"], rates["max_value"]) == tune.LEARNING_RATES


@pytest.mark.parametrize(("given", "scheme", "host"), [
    (None, "https", "europe-west1-aiplatform.googleapis.com"),
    ("europe-west1-aiplatform.example.com", "https", "europe-west1-aiplatform.example.com"),
    ("https://10.0.0.7:8443/", "https", "10.0.0.7:8443"),
    ("http://localhost:8080", "http", "localhost:8080"),
])  # fmt: skip
def test_where_vertex_ai_is(given: str | None, scheme: str, host: str) -> None:
    assert vertex_client.Vertex(PROJECT, REGION, given)._address == (scheme, host)


def test_a_full_name_may_name_a_version() -> None:
    plain = {"project": "p", "region": "europe-west1", "kind": "models", "id": "clv"}
    for name in ("projects/p/locations/europe-west1/models/clv", "projects/p/locations/europe-west1/models/clv@3"):
        assert vertex_client.parts(name) == plain


def test_without_credentials_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    assert vertex.main(["status", "--project", PROJECT, "--region", REGION]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Vertex AI: no credentials") and error.count("\n") == 1
