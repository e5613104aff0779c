"""The entry Dataflow's launcher starts: parameters become arguments, the pipeline runs, its exit code passes through."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipelines import publish_options
from pipelines.options import pipeline_options
from serving.store import open_store
from templates import launcher
from tests.pipelines.publishing import Place, customers, write_predictions
from tests.templates.values import LEAST
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "europe-west1-docker.pkg.dev/my-project/clv/publish:2026-11-22"
# As Google's launcher adds them to the parameters.
OF_DATAFLOW = [
    "--runner=DataflowRunner", "--project=my-project", "--region=europe-west1", "--job_name=publish-1",
    "--temp_location=gs://shop/temp", "--staging_location=gs://shop/staging",
    "--template_location=gs://shop/staging/template_launches/1/job_object", "--max_num_workers=4",
]  # fmt: skip


def environment(name: str = "publish", image: str = IMAGE) -> dict[str, str]:
    return {"CLV_TEMPLATE": name, "CLV_IMAGE": image}


def listed(given: Mapping[str, str]) -> list[str]:
    return [f"--{key}={value}" for key, value in given.items()]


def arguments(*given: str, name: str = "publish") -> list[str]:
    return launcher.pipeline_arguments([*listed(LEAST[name]), *given], environment(name))


def test_flags_repeats_and_what_was_left_empty() -> None:
    found = arguments("--stage_only=true", "--override=customers=a, b;zeros=c=d ", "--registry=", "--shards=4")
    options, rest = publish_options.parse(found)
    assert options.stage_only
    assert options.overrides == {"customers": "a, b", "zeros": "c=d"}
    assert (options.registry, options.shards) == (None, 4)
    assert rest == [f"--sdk_container_image={IMAGE}"]
    assert "--stage_only" not in arguments("--stage_only=false")


def test_the_job_runs_in_the_image_it_was_launched_from() -> None:
    options = pipeline_options(publish_options.parse(arguments(*OF_DATAFLOW))[1])
    found = options.get_all_options()
    assert found["sdk_container_image"] == IMAGE
    assert found["template_location"] == "gs://shop/staging/template_launches/1/job_object"
    other = "--sdk_container_image=gcr.io/shop/other:2"
    assert arguments(other)[-1] == other
    assert launcher.pipeline_arguments([*listed(LEAST["publish"]), other], {"CLV_TEMPLATE": "publish"})[-1] == other


def test_what_is_beams_keeps_its_order() -> None:
    given = ["--labels", "{'team': 'shop'}", "--experiments=a", "--experiments=b"]
    assert arguments(*given)[-5:-1] == given
    assert pipeline_options(publish_options.parse(arguments(*given, *OF_DATAFLOW))[1]).get_all_options()["experiments"][
        :2
    ] == ["a", "b"]
    with pytest.raises(UsageError, match="stray is known neither to this command nor to Beam"):
        pipeline_options(publish_options.parse(arguments("stray"))[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--stage_only=perhaps", "--stage_only 'perhaps' is not usable: accepted is true or false"),
        ("--stage_only", "--stage_only=value; a flag is true or false"),
        ("--dry_run=true", "--dry_run is not offered by the template publish"),
        ("--warehouse=/data", "--warehouse is not offered by the template publish: it is a directory"),
        ("--serving=datastore://other-project", "--serving was given as 'datastore://my-project' and as"),
    ],
)
def test_what_cannot_be_translated_is_one_line(given: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        arguments(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["features", "predict"])
def test_other_templates_know_their_own_parameters(name: str) -> None:
    found = arguments("--no_pushdown=true", "--csv_delimiter=;", name=name)
    assert "--no_pushdown" in found and "--csv_delimiter=;" in found
    with pytest.raises(UsageError, match="--print_sql is not offered"):
        arguments("--print_sql=true", name=name)


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """The file as the image has it: beside nothing that it imports."""
    return Path(shutil.copy(ROOT / "templates" / "launcher.py", tmp_path / "launcher.py"))


def started(entry: Path, *given: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(entry), *given], capture_output=True, text=True, check=False, cwd=entry.parent,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip


def test_it_publishes_when_started_by_path(entry: Path, tmp_path: Path) -> None:
    predictions = write_predictions(tmp_path / "predictions", [customers(20)])
    store = f"sqlite://{tmp_path}/serving.db"
    given = [f"--predictions={predictions}", f"--serving={store}", f"--dead_letters={tmp_path}/dl"]
    staged = started(entry, *given, "--stage_only=true", **environment())
    assert staged.returncode == 0, staged.stderr
    with open_store(store) as held:
        assert held.current() is None and len(held.generations()) == 1
    switched = started(entry, *given, "--stage_only=false", "--override=", **environment())
    assert switched.returncode == 0, switched.stderr
    with open_store(store) as held:
        current = held.current()
        assert current is not None and current.content.rows == 20


def test_a_guard_that_trips_passes_its_exit_code_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    place = Place(tmp_path)
    place.publish(write_predictions(tmp_path / "many", [customers(40)]))
    few = write_predictions(tmp_path / "few", [customers(5)])
    given = [f"--predictions={few}", f"--serving={place.uri}", f"--dead_letters={tmp_path}/dl"]
    assert launcher.main([*given, "--stage_only=true"]) == 0
    assert launcher.main(given) == 3
    assert launcher.main([*given, "--override=customers=a test; total_value=the same"]) == 0


@pytest.mark.parametrize(
    ("variables", "given", "said"),
    [
        (
            {},
            [],
            "the environment variable CLV_TEMPLATE '' is not usable: accepted is publish, features, predict, interactions",
        ),
        ({"CLV_TEMPLATE": "publishing"}, [], "'publishing' is not usable"),
        ({"CLV_TEMPLATE": "publish"}, listed(LEAST["publish"]), "the environment variable CLV_IMAGE '' is not usable"),
        (environment(image="gcr.io/shop/clv:latest"), ["--check"], "CLV_IMAGE 'gcr.io/shop/clv:latest' is not usable"),
        (environment(), ["--predictions=/nowhere", "--dead_letters=/tmp"], "required: --serving"),
    ],
)
def test_refusals_are_one_line_and_exit_code_2(
    variables: dict[str, str], given: list[str], said: str, entry: Path
) -> None:
    done = started(entry, *given, **variables)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_check_says_what_the_image_is(entry: Path) -> None:
    done = started(entry, "--check", **environment("predict"))
    assert (done.returncode, done.stdout) == (0, f"predict {IMAGE}\n")
