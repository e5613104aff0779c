"""The search for settings: what it tries, that it survives being killed, and what of it reaches the network."""

from __future__ import annotations

import datetime
import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.dataflow import discovery
from tests.emulators import services
from tests.trainer import features_fixture
from tests.trainer.trained_models import EVALUATION_CUTOFF, HORIZON_DAYS, World
from trainer import task, training, tune, tune_report
from trainer.settings import DEFAULTS, Settings
from trainer.tune import GiveUp, Measured
from trainer.tune_trials import COMPLETE, FAIL, PRUNED, Study, Trial

ROOT = Path(__file__).resolve().parents[2]
START = Settings(members=2)


def read(path: Path | str) -> dict[str, Any]:
    return dict(json.loads(Path(path).read_text()))


# The search itself, on a loss that is known: no network is trained.


def loss_of(settings: Settings) -> float:
    """Smallest, 1, at a rate of 0.005, a decay of 0.1 and two layers of 80 units in all."""
    decay = math.log10(max(settings.weight_decay, 1e-3) / 0.1)
    layers = abs(len(settings.hidden_units) - 2) + abs(sum(settings.hidden_units) - 80) / 80
    return 1 + math.log10(settings.learning_rate / 0.005) ** 2 + 0.1 * decay**2 + 0.2 * layers


def known_loss(settings: Settings, give_up: GiveUp) -> Measured:
    """30 epochs towards the known loss."""
    history = []
    for epoch in range(1, 31):
        history.append(loss_of(settings) + 1 / epoch)
        if give_up(epoch, history[-1]):
            return history, epoch, True
    return history, len(history), False


def searched(place: Path, wanted: int, *, seed: int = 0, measure: tune.Measure = known_loss, start: Settings = START) -> list[Trial]:  # fmt: skip
    study = Study.open(str(place), {"data": "known"})
    return tune.complete(study, wanted, start, seed, measure, lambda line: None)


def content(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(t.number, t.settings, t.state, t.loss, t.history) for t in trials]


@pytest.mark.parametrize("start", [START, Settings((100,), 2, 0.05, 3.0), Settings((7, 7), 2, 1e-5, 1e-5)])
def test_the_first_trial_is_the_start_even_outside_the_space(start: Settings, tmp_path: Path) -> None:
    trials = searched(tmp_path, 4, start=start)
    assert trials[0].settings == start
    assert len({t.settings for t in trials}) == 4
    assert {t.settings.members for t in trials} == {2}


def test_a_search_ends_better_than_it_began(tmp_path: Path) -> None:
    trials = searched(tmp_path, 30)
    best = tune.best_of(trials)
    assert best and best.loss == min(t.loss for t in trials if t.state == COMPLETE and t.loss is not None)
    assert best.loss - 1 < 0.5 * (loss_of(START) - 1), "half of what could be gained, at least"
    # What chance alone finds in as many trials is beaten: the later half is better than the earlier.
    halves = [sorted(loss_of(t.settings) for t in half)[7] for half in (trials[:15], trials[15:])]
    assert halves[1] < halves[0]


def test_zero_decay_and_every_shape_are_tried(tmp_path: Path) -> None:
    tried = [t.settings for t in searched(tmp_path, 60, measure=lambda s, give_up: ([1.0], 1, False))]
    assert {s.hidden_units for s in tried} == set(tune.SHAPES)
    assert 10 < sum(s.weight_decay == 0 for s in tried) < 50
    low, high = tune.LEARNING_RATES
    assert all(low <= s.learning_rate <= high for s in tried)
    assert min(s.learning_rate for s in tried) < 2 * low and max(s.learning_rate for s in tried) > high / 2


def test_the_same_seed_tries_the_same_and_another_does_not(tmp_path: Path) -> None:
    first, again, other = (searched(tmp_path / name, 15, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert content(first) == content(again)
    assert [t.settings for t in first[1:]] != [t.settings for t in other[1:]]


def test_hopeless_trials_are_stopped_and_are_never_the_best(tmp_path: Path) -> None:
    trials = searched(tmp_path, 30)
    stopped = [t for t in trials if t.state == PRUNED]
    assert stopped
    assert all(len(t.history) >= tune.PRUNE_FROM_EPOCH for t in stopped)
    assert min(t.number for t in stopped) >= tune.PRUNE_AFTER_TRIALS
    for trial in stopped:
        epoch = len(trial.history)
        others = [t.history[epoch - 1] for t in trials[: trial.number] if t.state == COMPLETE]
        assert min(trial.history) > statistics.median(others), "worse than half of those before were then"
    lucky = replace_loss(stopped[0], 0.0)
    assert tune.best_of([*trials, lucky]) == tune.best_of(trials)


def replace_loss(trial: Trial, loss: float) -> Trial:
    return Trial(trial.number, trial.settings, trial.state, loss, trial.history, trial.seconds)


def test_a_loss_that_overflows_fails_its_trial_only(tmp_path: Path) -> None:
    def overflows(settings: Settings, give_up: GiveUp) -> Measured:
        loss = math.nan if settings.learning_rate > 2e-3 else loss_of(settings)
        give_up(1, loss)
        return [loss], 1, False

    trials = searched(tmp_path, 12, measure=overflows)
    failed = [t for t in trials if t.state == FAIL]
    assert failed and all(t.loss is None and t.history == (None,) for t in failed)
    best = tune.best_of(trials)
    assert best and best.settings.learning_rate <= 2e-3
    assert content(searched(tmp_path, 12)) == content(trials), "a failed trial is not run again"
    assert tune.best_of(failed) is None


@pytest.mark.parametrize("after", [0, 1, 9])
def test_an_interrupted_search_is_the_search_that_was_not(tmp_path: Path, after: int) -> None:
    ran: list[Settings] = []

    def breaks_off(settings: Settings, give_up: GiveUp) -> Measured:
        if len(ran) == after:
            raise KeyboardInterrupt
        ran.append(settings)
        return known_loss(settings, give_up)

    whole = searched(tmp_path / "whole", 16)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "broken", 16, measure=breaks_off)
    assert ran == [t.settings for t in whole[:after]]
    rest: list[Settings] = []

    def counted(settings: Settings, give_up: GiveUp) -> Measured:
        rest.append(settings)
        return known_loss(settings, give_up)

    assert content(searched(tmp_path / "broken", 16, measure=counted)) == content(whole)
    assert rest == [t.settings for t in whole[after:]], "nothing is done twice"


def test_what_a_killed_writer_left_is_no_trial(tmp_path: Path) -> None:
    trials = searched(tmp_path, 3)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    half = (folder / "trial-0002.json").read_bytes()[:40]
    (folder / "trial-0002.json").unlink()
    (folder / f"trial-0002.json.{'0' * 32}.writing").write_bytes(half)
    assert content(searched(tmp_path, 3)) == content(trials)
    (folder / "trial-0001.json").write_bytes(half)
    with pytest.raises(ValueError, match=r"trial-0001\.json is damaged .* delete it"):
        searched(tmp_path, 3)


def test_more_trials_later_go_on_and_fewer_look_at_the_first(tmp_path: Path) -> None:
    eight = searched(tmp_path, 8)
    assert content(searched(tmp_path, 12))[:8] == content(eight)
    assert content(searched(tmp_path, 3)) == content(eight)[:3]


def test_the_process_that_ends_a_trial_first_is_believed(tmp_path: Path) -> None:
    """Another process at the same search ends trial 1 with another loss while this one is at it."""
    theirs = Trial(1, replace_rate(START, 0.004), COMPLETE, 0.5, (0.5,), 1.0)

    def overtaken(settings: Settings, give_up: GiveUp) -> Measured:
        if settings != START:
            Study.open(str(tmp_path), {"data": "known"}).add(theirs)
        return known_loss(settings, give_up)

    assert searched(tmp_path, 2, measure=overtaken)[1] == theirs
    assert searched(tmp_path, 2)[1] == theirs


@pytest.mark.emulators
def test_a_search_on_cloud_storage_is_the_one_on_a_disk(cloud_storage: services.CloudStorage, tmp_path: Path) -> None:
    from google.cloud.storage import Client

    with Client(project=services.PROJECT) as client:
        bucket = client.create_bucket(tmp_path.name.replace("_", "-").lower()).name
    study = Study.open(f"gs://{bucket}/a/model.tuning", {"data": "known"})
    five = tune.complete(study, 5, START, 0, known_loss, lambda line: None)
    assert study.add(replace_loss(five[2], 0.0)) == five[2], "what is there stays"
    again = Study.open(f"gs://{bucket}/a/model.tuning", {"data": "known"})
    assert content(tune.complete(again, 7, START, 0, known_loss, lambda line: None)) == content(searched(tmp_path, 7))


def replace_rate(settings: Settings, rate: float) -> Settings:
    return Settings(settings.hidden_units, settings.members, rate, settings.weight_decay)


# The command line, on simulated customers.


@pytest.fixture(scope="module")
def earlier(world: World) -> str:
    """A snapshot whose labels end where the training snapshot's features do."""
    cutoff = features_fixture.CUTOFF - datetime.timedelta(days=HORIZON_DAYS)
    return world.snapshot("earlier_for_tuning", cutoff=cutoff)


@pytest.fixture(scope="module")
def judged_on(world: World) -> str:
    """Few customers: what the judge says is not what these tests are about."""
    return features_fixture.write_features(
        world.root / "evaluation_for_tuning", world.customers.slice(0, 300), world.transformed.slice(0, 300),
        world.transform_output, cutoff=EVALUATION_CUTOFF,
    )  # fmt: skip


def arguments(world: World, earlier: str, judged_on: str, output: Path, *others: str) -> list[str]:
    return [
        "--features", world.training, earlier, "--evaluation", judged_on, "--output", str(output),
        "--model", "ziln", "--epochs", "3", "--seed", "3", *others,
    ]  # fmt: skip


@dataclass(frozen=True)
class Tuned:
    """A search killed in its second trial or soon after it, and what the same command then made of it as a Vertex trial."""

    command: list[str]
    output: Path
    metrics: Path
    kept: dict[Path, int]


@pytest.fixture(scope="module")
def tuned(world: World, earlier: str, judged_on: str, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    root = tmp_path_factory.mktemp("tuned")
    command = arguments(world, earlier, judged_on, root / "model", "--tune", "3")
    killed = subprocess.Popen([sys.executable, "-m", "trainer.task", *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(root.glob("model.tuning/*/trial-0001.json")):
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert not (root / "model" / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in root.glob("model.tuning/*/trial-*.json")}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(tune_report.FILE_VARIABLE, str(root / "hypertune" / "output.metrics"))
        environment.setenv(tune_report.TRIAL_VARIABLE, "7")
        assert task.main(command) == 0
    return Tuned(command, root / "model", root / "hypertune" / "output.metrics", kept)


def test_the_best_settings_are_trained_with_and_the_trials_told(tuned: Tuned) -> None:
    manifest = read(tuned.output / "manifest.json")
    told = manifest["tuning"]
    assert [t["number"] for t in told["trials"]] == [0, 1, 2]
    assert told["trials"][0] | {"state": 0, "loss": 0} == {
        "number": 0, "hidden_units": [64, 32], "learning_rate": 2e-3, "weight_decay": 0.0, "state": 0, "loss": 0,
    }  # fmt: skip
    best = min(told["trials"], key=lambda t: t["loss"])
    assert told["best"] == best["number"]
    assert f"trial {best['number']} of 3" in told["why"]
    used = {name: best[name] for name in ("hidden_units", "learning_rate", "weight_decay")}
    assert manifest["network"] == {**used, "members": DEFAULTS.members}
    assert told["held_out"] == [features_fixture.CUTOFF.isoformat()], (
        "the latest training snapshot, never the evaluation"
    )
    assert read(tuned.output / "evaluation.json")["training"]["tuning"] == told
    assert "tune_storage" not in manifest["arguments"]


def test_killed_and_started_again_it_goes_on_with_the_first_missing_trial(
    world: World, earlier: str, judged_on: str, tuned: Tuned, tmp_path: Path
) -> None:
    assert len(tuned.kept) in (2, 3)
    assert {path: path.stat().st_mtime_ns for path in tuned.kept} == tuned.kept, "nothing is done twice"
    plan = plan_of(world, [world.training, earlier], seed=3)
    whole = tune.Search(3, str(tmp_path), lambda line: None).run(plan)
    assert read(tuned.output / "manifest.json")["tuning"] == whole.facts


def test_a_trial_is_worth_what_its_settings_are_when_they_come_as_flags(
    world: World, earlier: str, judged_on: str, tuned: Tuned, tmp_path: Path
) -> None:
    import tensorflow as tf

    trial = read(tuned.output / "manifest.json")["tuning"]["trials"][1]
    layers = trial["hidden_units"]
    flags = [
        "--members", "2", "--hidden_units", ",".join(map(str, layers)),
        "--learning_rate", str(trial["learning_rate"]), "--weight_decay", str(trial["weight_decay"]),
    ]  # fmt: skip
    assert task.main(arguments(world, earlier, judged_on, tmp_path / "model", *flags)) == 0
    assert read(tmp_path / "model" / "manifest.json")["validation_loss"] == trial["loss"]
    loaded = tf.saved_model.load(str(tmp_path / "model" / "saved_model"))
    shapes = {tuple(variable.shape) for variable in loaded.signatures["raw"].variables}
    assert {(2, units) for units in layers} <= shapes, "a bias of each layer of either member"
    assert not {(6, units) for units in layers} & shapes


def test_a_short_history_is_tuned_on_its_validation_customers(world: World) -> None:
    plan = plan_of(world, [world.training])
    learned_from, splits, (held_out, held_out_splits) = plan.rehearsal
    assert learned_from == held_out == plan.training
    assert "validation" not in splits and held_out_splits == ("validation",)
    history, best_epoch, gave_up = tune.objective(plan)(Settings((8,), 1), lambda epoch, loss: epoch == 2)
    assert (len(history), gave_up) == (2, True) and 1 <= best_epoch <= 2


def plan_of(world: World, features: list[str], seed: int = 0, **others: Any) -> training.Plan:
    from trainer import snapshots

    opened = [snapshots.open_snapshot(uri) for uri in features]
    return training.Plan("ziln", opened, snapshots.open_snapshot(world.evaluation), False, 3, seed, **others)


def test_a_study_is_another_where_the_losses_would_be(world: World, earlier: str) -> None:
    plan = plan_of(world, [world.training, earlier])
    first = tune.decides(plan)
    assert first == tune.decides(
        plan_of(world, [world.training, earlier], search=lambda plan: tune.Found(DEFAULTS, {}))
    )
    others = [
        plan_of(world, [world.training]), plan_of(world, [world.training, earlier], seed=1),
        plan_of(world, [world.training, earlier], settings=Settings(learning_rate=1e-3)),
    ]  # fmt: skip
    assert all(tune.decides(other) != first for other in others)
    # Trials have their own number of members.
    assert tune.decides(plan_of(world, [world.training, earlier], settings=Settings(members=9))) == first


# What a person, or a tuning service, gets to see.

REQUIRED = ["--features", "f", "--evaluation", "e", "--output", "o"]


@pytest.mark.parametrize("words", [["64", "32"], ["64,32"], ["64 32"]])
def test_layers_are_read_as_words_or_as_one(words: list[str]) -> None:
    assert task.TaskOptions.parse([*REQUIRED, "--hidden_units", *words]).hidden_units == (64, 32)
    if len(words) == 1:  # as a tuning service passes a categorical parameter
        assert task.TaskOptions.parse([*REQUIRED, f"--hidden_units={words[0]}"]).hidden_units == (64, 32)


def test_without_flags_the_settings_are_the_defaults() -> None:
    options = task.TaskOptions.parse(REQUIRED)
    assert Settings.of(asdict(options)) == DEFAULTS
    assert (options.tune, options.search, options.tune_storage) == (None, None, "o.tuning")
    assert task.TaskOptions.parse([*REQUIRED[:-1], "gs://b/m/"]).tune_storage == "gs://b/m.tuning"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--hidden_units", "64", "0"], "'0' is not usable: accepted is a whole number from 1 to 4096"),
        (["--hidden_units", ","], "',' is not usable"),
        (["--hidden_units", "1,2,3", "4", "5", "6"], "'1 2 3 4 5 6' is not usable: accepted is 1 to 5 layers"),
        (["--members", "0"], "accepted is a whole number from 1 to 64"),
        (["--learning_rate", "0"], "'0' is not usable: accepted is a number above 0"),
        (["--learning_rate", "nan"], "'nan' is not usable"),
        (["--weight_decay", "-1"], "'-1' is not usable: accepted is a number from 0 to 10"),
        (["--tune", "0"], "accepted is a whole number from 1 to 200"),
        (["--tune", "5", "--model", "pareto"], "--tune 5 with --model 'pareto' is not usable"),
        (["--tune", "5", "--model", "boosting"], "accepted is one with a network to tune: auto, blend, ziln"),
    ],
)
def test_wrong_values_are_refused_in_one_line(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert task.main([*REQUIRED, *wrong]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("place", ["s3://bucket/trials", "{output}/trials", "{output}"])
def test_a_place_that_cannot_keep_trials_is_refused_before_anything_begins(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    output = tmp_path / "model"
    command = ["--features", world.training, "--evaluation", world.evaluation, "--output", str(output), "--tune", "2"]
    assert task.main([*command, "--tune_storage", place.format(output=output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --tune_storage") and error.count("\n") == 1
    assert not output.exists()


def test_without_optuna_it_says_what_to_install(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else found(name))
    command = ["--features", world.training, "--evaluation", world.evaluation, "--output", str(tmp_path / "model")]
    assert task.main([*command, "--tune", "2"]) == 2
    assert capsys.readouterr().err == "error: --tune 2 needs Optuna: pip install 'clv-pipelines[tune]'\n"
    assert not (tmp_path / "model").exists()


def test_the_models_that_can_be_tuned_are_those_with_a_network() -> None:
    assert set(task.MODELS_WITH_NETWORK) == {name for name, of in training.MODELS.items() if "saved_model" in of}


def test_help_teaches_without_importing_anything_heavy() -> None:
    code = (
        "import sys\nfrom trainer import task\n"
        "try: task.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'optuna', 'numpy', 'pyarrow', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    assert cpu < 0.3
    for flag in ("--hidden_units", "--members", "--learning_rate", "--weight_decay", "--tune N", "--tune_storage"):
        assert flag in done.stdout
    assert "default: 64 32" in done.stdout and "default: 0.002" in done.stdout


# What Vertex AI reads.


def vertex_reads(path: Path, metric: str) -> list[tuple[str, int, float]]:
    """(trial, step, value) of the lines that hold the metric, as ``cloudml-hypertune`` documents them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(isinstance(line["timestamp"], float) for line in lines)
    return [(line["trial"], int(line["global_step"]), float(line[metric])) for line in lines if metric in line]


def test_a_trial_of_vertex_reports_its_validation_loss_whether_new_or_already_complete(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read(tuned.output / "manifest.json")
    assert vertex_reads(tuned.metrics, "validation_loss") == [
        ("7", manifest["best_epoch"], manifest["validation_loss"])
    ]
    tuned.metrics.unlink()
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(tuned.metrics))
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "8")
    assert task.main(tuned.command) == 0
    assert vertex_reads(tuned.metrics, "validation_loss") == [
        ("8", manifest["best_epoch"], manifest["validation_loss"])
    ]


@pytest.mark.emulators
def test_the_documented_study_is_one_of_vertex_and_the_one_that_is_asked_for() -> None:
    """Field by field against Vertex AI's discovery document; its values are settings the command takes."""
    import yaml
    from google.cloud import aiplatform_v1

    from tests.vertex import enums
    from trainer import vertex_tuning

    page = (ROOT / "docs" / "tuning.md").read_text()
    study = yaml.safe_load(page.split("```yaml")[1].split("```")[0])
    described = discovery.Discovery.load("aiplatform.v1", enums.numbers)
    assert described.require(study, "GoogleCloudAiplatformV1StudySpec") == study
    assert study["metrics"] == [{"metricId": tune_report.METRIC, "goal": "MINIMIZE"}]
    asked = aiplatform_v1.StudySpec.to_dict(
        aiplatform_v1.StudySpec(vertex_tuning.study_spec()), preserving_proto_field_name=False, use_integers_for_enums=False,
        including_default_value_fields=False, always_print_fields_with_no_presence=False,
    )  # fmt: skip
    assert asked == study


FACTS = {"validation_loss": 1.25, "best_epoch": 4}


def test_the_line_is_the_packages_own(tmp_path: Path) -> None:
    file = tmp_path / "output.metrics"
    environment = {"CLOUD_ML_HP_METRIC_FILE": str(file), "CLOUD_ML_TRIAL_ID": "3"}
    tune_report.report(FACTS, lambda line: None, environment, clock=lambda: 1525851440.123456)
    line = '{"global_step": "4", "timestamp": 1525851440.123456, "trial": "3", "validation_loss": "1.25"}\n'
    assert file.read_text() == line
    tune_report.report(FACTS | {"validation_loss": 1.0}, lambda line: None, environment)
    assert vertex_reads(file, "validation_loss") == [("3", 4, 1.0)]


@pytest.mark.parametrize("facts", [{}, {"validation_loss": None}, FACTS | {"validation_loss": math.nan}])
def test_without_a_loss_nothing_is_reported_but_said(tmp_path: Path, facts: dict[str, Any]) -> None:
    said: list[str] = []
    tune_report.report(facts, said.append, {"CLOUD_ML_HP_METRIC_FILE": str(tmp_path / "m"), "CLOUD_ML_TRIAL_ID": "3"})
    assert not (tmp_path / "m").exists() and said and "trial 3 has no validation_loss" in said[0]


def test_outside_a_trial_nothing_is_written() -> None:
    said: list[str] = []
    tune_report.report(FACTS, said.append, {}, clock=lambda: pytest.fail("asked for the time"))
    assert not said
