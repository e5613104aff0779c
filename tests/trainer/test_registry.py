"""The model registry by its command line: what it keeps, who becomes champion, who was it when, and what a crash leaves."""

from __future__ import annotations

import datetime
import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer import features_fixture, registry_models
from tests.trainer.registry_models import FORCED, FixedClock, champion_content, killed, moves, promote, small, variant
from tests.trainer.trained_models import EVALUATION_CUTOFF, HORIZON_DAYS, World
from trainer import evaluate, predictor, registry, registry_challenge, task
from trainer.evaluation_text import MAIN_METRICS
from trainer.registry_store import Registry

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("register", "promote", "rollback", "list", "show", "champion")


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "registry")


def refused(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """The one line on stderr of a command that ends with the code."""
    capsys.readouterr()
    assert registry.main(list(argv)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert captured.err.count(line) == 1
    return line


def files(directory: str) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in Path(directory).rglob("*") if p.is_file()}


# --- Versions -------------------------------------------------------------------------------------------------------


def test_a_registered_version_is_a_copy_with_its_lineage(world: World, place: str) -> None:
    entry = registry.run(["register", "--registry", place, "--model", world.model, "--by", "ann"])
    manifest = json.loads(Path(world.model, "manifest.json").read_text())
    version = manifest["model_version"]
    assert files(f"{place}/models/{version}") == files(world.model)
    assert entry["input_manifests"] == manifest["arguments"]["input_manifests"] and entry["input_manifests"]
    assert entry["parameters"]["seed"] == 3 and entry["parameters"]["evaluation"] == world.evaluation
    assert (entry["metrics"], entry["code_version"]) == (manifest["metrics"], manifest["code_version"])
    assert entry["source"] == world.model and entry["registered_by"] == "ann"
    assert json.loads(Path(place, "versions", f"{version}.json").read_text()) == entry


def test_registering_again_changes_nothing_even_from_the_copy(place: str, tmp_path: Path) -> None:
    model = small(tmp_path / "model", "v1")
    first = registry.run(["register", "--registry", place, "--model", model])
    before = {path: os.stat(path).st_mtime_ns for path in Path(place).rglob("*") if path.name != ".lock"}
    assert registry.run(["register", "--registry", place, "--model", model, "--by", "other"]) == first
    assert registry.run(["register", "--registry", place, "--model", f"{place}/models/v1"]) == first
    assert {path: os.stat(path).st_mtime_ns for path in Path(place).rglob("*") if path.name != ".lock"} == before


@pytest.mark.parametrize("changed", ["manifest.json", "saved_model/variables/weights"])
def test_one_version_has_one_content(
    changed: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small(tmp_path / "model", "v1")
    assert registry.main(["register", "--registry", place, "--model", model]) == 0
    before = files(place)
    Path(model, changed).write_text(Path(model, changed).read_text().replace("v1", "v1 ", 1).replace('"v1 "', '"v1"  '))
    line = refused(capsys, "promote", "--registry", place, "--model", model, *FORCED)
    assert "is version v1 with other content than the one registered from" in line
    assert files(place) == before


def test_what_is_no_finished_model_is_refused(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small(tmp_path / "model", "../../escape")
    assert "model version '../../escape' is not usable" in refused(
        capsys, "register", "--registry", place, "--model", model
    )
    Path(model, "manifest.json").unlink()
    assert "is not a complete model directory" in refused(capsys, "register", "--registry", place, "--model", model)
    assert not Path(place).exists()


def test_list_and_show(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert registry.main(["list", "--registry", place]) == 0
    assert "no champion yet" in capsys.readouterr().out
    for version in ("v1", "v2"):
        assert promote(place, small(tmp_path / version, version), *FORCED) == 0
    assert registry.main(["rollback", "--registry", place, "--reason", "r"]) == 0
    capsys.readouterr()
    assert registry.main(["list", "--registry", place]) == 0
    head, first, second, *_, legend = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1] and "normalised gini" in head and "judged on" in head
    assert first.split()[:2] == ["*", "v1"] and second.split()[0] == "v2" and legend.startswith("* v1 is champion")
    assert "0.800" in first and "1,234" in first and "2011-08-01" in first

    assert registry.main(["list", "--registry", place, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["model_version"] for entry in listed["versions"]] == ["v1", "v2"] and listed["champion"] == "v1"
    assert registry.main(["show", "v1", "--registry", place]) == 0
    shown = json.loads(capsys.readouterr().out)
    at = [move["at"] for move in moves(place)]
    assert shown["champion"] == [{"from": at[0], "to": at[1]}, {"from": at[2], "to": None}]
    assert "accepted is one of v1, v2" in refused(capsys, "show", "v3", "--registry", place)


# --- Challenger against champion ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def noise(world: World) -> str:
    """A model that learned from labels dealt out to the wrong customers, their value thirty times what it was."""
    order = pa.array(np.random.default_rng(5).permutation(world.training_transformed.num_rows))
    shuffled = world.training_transformed
    for name, factor in (("future_value", 30), ("future_orders", 1)):
        values = pc.multiply(shuffled[name].take(order), factor).cast(shuffled[name].type)
        shuffled = shuffled.set_column(shuffled.schema.get_field_index(name), name, values)
    directory = features_fixture.write_features(
        world.root / "noise", world.training_customers, shuffled, world.transform_output
    )
    model = str(world.root / "noise-model")
    arguments = ["--features", directory, "--evaluation", world.evaluation, "--output", model, "--epochs", "1"]
    assert task.main(arguments) == 0
    return model


def version_of(model: str) -> str:
    return str(json.loads(Path(model, "manifest.json").read_text())["model_version"])


def test_the_better_model_takes_over_with_its_figures(
    world: World, noise: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, noise) == 0
    capsys.readouterr()
    assert promote(place, world.model, "--by", "nightly") == 0
    assert capsys.readouterr().out == f"{version_of(world.model)}\n"
    first, second = moves(place)
    assert (first["version"], first["previous"], first["figures"]) == (version_of(noise), None, None)
    assert first["reason"] == "the first champion, compared with none" and not first["forced"]
    assert (second["version"], second["previous"]) == (version_of(world.model), version_of(noise))
    assert not second["forced"] and second["by"] == "nightly" and second["notes"] == []

    # The second way: what the two models were measured as by themselves when they were trained.
    figures = second["figures"]
    assert (figures["customers"], figures["split"]) == (world.customers.num_rows, "out of time")
    for name, model in (("challenger", world.model), ("champion", noise)):
        judged = json.loads(Path(model, "manifest.json").read_text())["metrics"]
        for metric in MAIN_METRICS:
            assert figures["metrics"][metric][name] == pytest.approx(judged[metric], rel=1e-9)
    gini = figures["metrics"]["normalised_gini"]
    assert gini["difference_95"][0] > 0 and gini["favours"] == "challenger"
    assert "better in normalised gini" in second["reason"]


def test_the_worse_model_does_not_unless_forced(
    world: World, noise: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, world.model) == 0
    before = champion_content(place)
    line = refused(capsys, "promote", "--registry", place, "--model", noise, code=3)
    assert line.startswith(f"not promoted: {version_of(noise)} is worse in ") and "; rmse capped " in line
    assert champion_content(place) == before
    assert "--force without --reason" in refused(capsys, "promote", "--registry", place, "--model", noise, "--force")
    assert promote(place, noise, "--force", "--reason", "a drill") == 0
    assert moves(place)[-1]["forced"] and moves(place)[-1]["reason"] == "a drill"
    assert moves(place)[-1]["figures"]["metrics"]["normalised_gini"]["favours"] == "champion"


def test_an_equal_model_does_not_win(
    world: World, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, world.model) == 0
    equal = variant(world.model, tmp_path / "equal", "equal")
    line = refused(capsys, "promote", "--registry", place, "--model", equal, code=3)
    assert "equal is not clearly better than" in line and "[0.000, 0.000]" in line


def test_the_champion_again_is_no_move(world: World, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert promote(place, world.model) == 0
    before = champion_content(place)
    assert promote(place, world.model) == 0
    assert "is already champion, since" in capsys.readouterr().err
    assert champion_content(place) == before


def test_a_first_champion_that_could_not_be_judged_is_refused(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small(tmp_path / "model", "v1", buyers=0)
    assert "Nobody bought" in refused(capsys, "promote", "--registry", place, "--model", model, code=3)
    assert champion_content(place) is None
    assert promote(place, model, *FORCED) == 0
    assert moves(place)[0]["forced"]


@pytest.mark.parametrize("name, value", [("horizon_days", 30), ("history_days", 365)])
def test_what_cannot_be_compared_needs_force(
    name: str, value: int, world: World, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, variant(world.model, tmp_path / "other", "other", **{name: value})) == 0
    line = refused(capsys, "promote", "--registry", place, "--model", world.model)
    assert f"{name} of {version_of(world.model)} is" in line and f"of the champion other {value}" in line
    assert promote(place, world.model, *FORCED) == 0
    move = moves(place)[-1]
    assert move["forced"] and move["figures"] is None and name in move["notes"][0]


def test_a_champion_that_learned_from_the_evaluations_days_is_flattered_and_it_is_said(
    world: World, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saw = variant(world.model, tmp_path / "saw", "saw", training_cutoffs=[str(EVALUATION_CUTOFF)])
    assert promote(place, saw) == 0
    line = refused(capsys, "promote", "--registry", place, "--model", world.model, code=3)
    end = EVALUATION_CUTOFF + datetime.timedelta(days=HORIZON_DAYS)
    assert f"the comparison flatters the champion saw: it learned from days before {end}" in line


def test_a_challenger_that_learned_from_those_days_is_compared_on_customers_it_did_not_learn_from_or_not_at_all(
    world: World, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, world.model) == 0
    days: dict[str, Any] = {"training_cutoffs": [str(EVALUATION_CUTOFF)]}
    knows = variant(world.model, tmp_path / "knows", "knows", **days)
    assert "it would know the answers" in refused(capsys, "promote", "--registry", place, "--model", knows, code=2)
    inside = variant(world.model, tmp_path / "inside", "inside", split="by customer", **days)
    result = registry.run(["promote", "--registry", place, "--model", inside, *FORCED])
    assert result["figures"]["split"] == "by customer"
    assert result["figures"]["customers"] == world.customers["split"].to_pylist().count("test")


def test_other_feature_formulas_are_noted_and_never_the_challengers_fault(
    world: World, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = variant(world.model, tmp_path / "older", "older", schema_fingerprint="older")
    assert promote(place, older) == 0
    assert "it learned from other feature formulas" in refused(
        capsys, "promote", "--registry", place, "--model", world.model, code=3
    )
    assert promote(place, small(tmp_path / "broken", "broken"), *FORCED) == 0
    line = refused(capsys, "promote", "--registry", place, "--model", world.model)
    assert "the champion broken cannot forecast customers of other feature formulas" in line


def test_the_evaluation_is_the_challengers_own_or_the_one_named(
    world: World, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, world.model) == 0
    arguments = json.loads(Path(world.model, "manifest.json").read_text())["arguments"]
    gone = variant(world.model, tmp_path / "gone", "gone", arguments={**arguments, "evaluation": f"{tmp_path}/none"})
    assert "name another by --evaluation" in refused(capsys, "promote", "--registry", place, "--model", gone)
    changed = variant(
        world.model,
        tmp_path / "changed",
        "changed",
        arguments={**arguments, "input_manifests": {world.evaluation: "0"}},
    )
    assert "is no longer what changed was judged on" in refused(
        capsys, "promote", "--registry", place, "--model", changed
    )
    named = ("promote", "--registry", place, "--model", gone, "--evaluation")
    assert "gone is not clearly better" in refused(capsys, *named, world.evaluation, code=3)
    shorter = world.snapshot(f"{tmp_path.name}-shorter", horizon_days=30)
    assert "accepted is horizon_days 90, as gone learned; it has 30" in refused(capsys, *named, shorter)


@pytest.mark.parametrize(
    "metric, difference, favours",
    [
        ("normalised_gini", [0.01, 0.02], 1), ("normalised_gini", [-0.02, -0.01], -1), ("normalised_gini", [-0.01, 0.01], 0),
        ("decile_mape", [0.01, 0.02], -1), ("decile_mape", [-0.02, -0.01], 1), ("rmse_capped", [0.0, 5.0], 0),
        ("rmse_capped", [None, None], 0),
    ],
)  # fmt: skip
def test_whom_an_interval_favours(metric: str, difference: list[float | None], favours: int) -> None:
    assert registry_challenge.favour(metric, difference) == favours


@pytest.mark.parametrize(
    "favoured, wins",
    [((1, 0, 0), True), ((1, 1, 1), True), ((0, 0, 0), False), ((1, -1, 0), False), ((-1, 1, 1), False)],
)
def test_one_metric_in_favour_and_none_against(
    favoured: tuple[int, ...], wins: bool, world: World, monkeypatch: pytest.MonkeyPatch, place: str, tmp_path: Path
) -> None:
    """The judge's figures are real but for the three intervals, which are what the rule is about."""
    plain = evaluate.evaluate

    def judged(*arguments: Any, **named: Any) -> dict[str, Any]:
        result = plain(*arguments, **named)
        signs = dict(
            zip(MAIN_METRICS, (favoured[0], -favoured[1], -favoured[2]), strict=True)
        )  # errors: less is better
        result["paired"]["champion"] |= {m: sorted([s * 0.5, s * 1.5]) if s else [-1, 1] for m, s in signs.items()}
        return result

    assert promote(place, world.model) == 0
    monkeypatch.setattr(evaluate, "evaluate", judged)
    assert promote(place, variant(world.model, tmp_path / "other", "other")) == (0 if wins else 3)
    assert moves(place)[-1]["version"] == ("other" if wins else version_of(world.model))


# --- The champion ---------------------------------------------------------------------------------------------------


def test_a_shell_gets_the_directory_and_nothing_else(world: World, place: str) -> None:
    assert promote(place, world.model) == 0
    command = [sys.executable, "-m", "trainer.registry", "champion", "--registry", place]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout == f"{place}/models/{version_of(world.model)}\n"
    sample = world.customers.slice(0, 50)
    from_registry = predictor.load(done.stdout.strip()).predict(sample, EVALUATION_CUTOFF)
    assert from_registry.equals(predictor.load(world.model).predict(sample, EVALUATION_CUTOFF))


def test_who_was_champion_on_a_day(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = FixedClock(datetime.datetime(2011, 12, 9, 23, 59, 59, tzinfo=datetime.UTC))
    assert "has no champion" in refused(capsys, "champion", "--registry", place)
    for version in ("v1", "v2"):
        model = small(tmp_path / version, version)
        registry.run(["promote", "--registry", place, "--model", model, *FORCED], clock)
        clock.go(seconds=1)  # v2 comes at midnight, the first instant of the 10th
    clock.go(days=5)
    registry.run(["rollback", "--registry", place, "--reason", "r"], clock)
    on = ("champion", "--registry", place, "--on")
    for day, version in (("09", "v1"), ("10", "v2"), ("14", "v2"), ("15", "v1")):
        assert registry.run([*on, f"2011-12-{day}"], clock)["version"] == version
    assert "2011-12-09 or later: the first champion is v1" in refused(capsys, *on, "2011-12-08")
    assert "'2999-01-01' is not usable: accepted is a day that has begun" in refused(capsys, *on, "2999-01-01")
    assert "'yesterday' is not usable" in refused(capsys, *on, "yesterday")
    assert registry.main([*on, "2011-12-10", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["model"]) == ("v2", f"{place}/models/v2")


def test_who_was_champion_at_an_instant(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noon = datetime.datetime(2011, 12, 9, 12, tzinfo=datetime.UTC)
    clock = FixedClock(noon)
    for version in ("v1", "v2"):
        model = small(tmp_path / version, version)
        registry.run(["promote", "--registry", place, "--model", model, *FORCED], clock)
        clock.go(hours=3)
    at = ("champion", "--registry", place, "--at")
    for text, version, instant in (
        ("2011-12-09T12:00:00Z", "v1", "2011-12-09T12:00:00.000000+00:00"),  # its own instant
        ("2011-12-09T14:59:59.999999", "v1", "2011-12-09T14:59:59.999999+00:00"),
        ("2011-12-09 16:00:00+01:00", "v2", "2011-12-09T15:00:00.000000+00:00"),
        ("2011-12-09T15:59:59+01:00", "v1", "2011-12-09T14:59:59.000000+00:00"),
        ("20111210T180000", "v2", "2011-12-10T18:00:00.000000+00:00"),  # a day ahead of the clock
    ):
        shown = registry.run([*at, text], clock)
        assert (shown["version"], shown["instant"]) == (version, instant), text
    now = registry.run(["champion", "--registry", place], clock)
    assert (now["version"], now["instant"]) == ("v2", "2011-12-09T18:00:00.000000+00:00")
    on = registry.run(["champion", "--registry", place, "--on", "2011-12-09"], clock)
    assert on["instant"] == "2011-12-09T23:59:59.999999+00:00"
    before = refused(capsys, *at, "2011-12-09T11:59:59.999999Z")
    assert "accepted is 2011-12-09T12:00:00.000000+00:00 or later: the first champion is v1" in before
    with pytest.raises(ValueError, match=r"--at .* accepted is an instant at most a day ahead of now, 2011-12-09T18"):
        registry.run([*at, "2011-12-10T18:00:00.000001Z"], clock)


@pytest.mark.parametrize("text", ["2011-12-10", "noon", "2011-12-10T25:00:00Z", "1323511200"])
def test_an_instant_is_an_instant(text: str, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "champion", "--registry", place, "--at", text)
    assert f"{text!r} is not usable: accepted is an instant such as 2011-12-10T03:00:00Z" in line


def test_a_day_or_an_instant_not_both(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--on", "2011-12-10", "--at", "2011-12-10T03:00:00Z")
    assert "--at: not allowed with argument --on" in refused(capsys, "champion", "--registry", place, *both)


def test_asking_needs_neither_tensorflow_nor_beam(place: str, tmp_path: Path) -> None:
    """A scheduler's environment has neither."""
    assert promote(place, small(tmp_path / "v1", "v1"), *FORCED) == 0
    for argv in (["champion", "--registry", place, "--json"], ["show", "v1", "--registry", place]):
        code = (
            "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'apache_beam', 'lightgbm', 'tensorflow_transform'));"
            f"from trainer import registry; sys.exit(registry.main({argv!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        shown = json.loads(done.stdout)
        assert f"{place}/models/v1" in (shown["model"], shown.get("model_directory"))


def test_rolling_back(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back = ("rollback", "--registry", place, "--reason", "too high")
    assert "has no champion to roll back from" in refused(capsys, *back)
    for version in ("v1", "v2", "v3"):
        assert promote(place, small(tmp_path / version, version), *FORCED) == 0
        if version == "v1":
            assert "there was no champion before v1" in refused(capsys, *back)
    assert "--reason" in refused(capsys, "rollback", "--registry", place)
    assert "'v9' is not usable: accepted is one of v1, v2, v3" in refused(capsys, *back, "--to", "v9")
    assert "a version other than the champion v3" in refused(capsys, *back, "--to", "v3")
    assert registry.main([*back, "--by", "ann"]) == registry.main([*back]) == 0
    assert [move["version"] for move in moves(place)] == ["v1", "v2", "v3", "v2", "v1"]  # and not to v3 again
    assert (moves(place)[3]["action"], moves(place)[3]["reason"], moves(place)[3]["by"]) == (
        "rollback",
        "too high",
        "ann",
    )
    assert moves(place)[3]["previous"] == "v3"
    assert registry.main([*back, "--to", "v3"]) == 0
    assert moves(place)[-1]["version"] == "v3"


def test_a_damaged_history_is_refused_and_kept(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert promote(place, small(tmp_path / "v1", "v1"), *FORCED) == 0
    Path(place, "champion.json").write_text('{"moves": [{"version": "v1"')
    assert "champion.json is damaged" in refused(capsys, "champion", "--registry", place)
    model = small(tmp_path / "v2", "v2")
    assert "champion.json is damaged" in refused(capsys, "promote", "--registry", place, "--model", model, *FORCED)
    assert champion_content(place) == b'{"moves": [{"version": "v1"'


def test_a_history_of_before_gates_were_named_in_it_is_read(place: str, tmp_path: Path) -> None:
    model = small(tmp_path / "v1", "v1")
    assert promote(place, model, "--decision", str(tmp_path / "gate.json")) == 0
    [move] = moves(place)
    assert move.pop("decision") == str(tmp_path / "gate.json")
    Path(place, "champion.json").write_text(json.dumps({"moves": [move]}))
    assert registry.run(["champion", "--registry", place])["version"] == "v1"
    assert promote(place, small(tmp_path / "v2", "v2"), *FORCED) == 0
    assert [move["decision"] for move in moves(place)] == [None, None]


# --- Any sequence of moves ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A champion, and the one that a rollback from it goes back to: the model's own way to know."""

    version: str
    before: Node | None

    def rolled_back_to(self, version: str) -> Node:
        node = self.before
        while node and node.version != version:
            node = node.before
        return node or Node(version, self.before)


VERSIONS = ("v1", "v2", "v3", "v4")
STEP = st.one_of(
    st.tuples(st.just("promote"), st.sampled_from(VERSIONS)),
    st.tuples(st.just("rollback"), st.sampled_from((None, *VERSIONS))),
    st.tuples(st.just("go"), st.integers(-36, 100)),  # hours; clocks of several machines go back, too
)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("four")
    return {version: small(root / version, version) for version in VERSIONS}


@settings(max_examples=60)
@given(steps=st.lists(STEP, max_size=14))
def test_any_sequence_of_moves(
    steps: list[tuple[str, Any]], four: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, clock = str(tmp_path_factory.mktemp("any") / "registry"), FixedClock()
    for version in VERSIONS:
        registry.run(["register", "--registry", place, "--model", four[version]], clock)
    node: Node | None = None
    happened: list[tuple[datetime.datetime, str]] = []
    for step, value in steps:
        if step == "go":
            clock.go(hours=value)
            continue
        if step == "promote":
            registry.run(["promote", "--registry", place, "--model", four[value], *FORCED], clock)
            moved = node is None or node.version != value
            node = Node(value, node) if moved else node
        else:
            to = value or (node.before.version if node and node.before else None)
            moved = node is not None and to is not None and to != node.version
            named = ["--to", value] if value else []
            assert (registry_main(["rollback", "--registry", place, "--reason", "r", *named], clock) == 0) == moved
            if moved:
                assert node is not None and to is not None
                # Back by default is one step; back to a name is the nearest one of that name below.
                node = node.rolled_back_to(value) if value else node.before
        if moved:
            assert node is not None
            happened.append((max([clock.now, *(at for at, _ in happened)]), node.version))
    _check_every_day(place, happened, clock)


def registry_main(argv: list[str], clock: FixedClock) -> int:
    try:
        registry.run(argv, clock)
    except ValueError:
        return 2
    return 0


def _check_every_day(place: str, happened: list[tuple[datetime.datetime, str]], clock: FixedClock) -> None:
    assert [move["version"] for move in moves(place)] == [version for _, version in happened]
    if not happened:
        return
    late = FixedClock(max(clock.now, happened[-1][0]) + datetime.timedelta(days=3))
    day = happened[0][0].date() - datetime.timedelta(days=1)
    while day <= late.now.date():
        expected = [version for at, version in happened if at.date() <= day]
        argv = ["champion", "--registry", place, "--on", str(day)]
        if expected:
            assert registry.run(argv, late)["version"] == expected[-1]
        else:
            assert registry_main(argv, late) == 2
        day += datetime.timedelta(days=1)
    for at, _ in happened:
        expected = [version for moved, version in happened if moved <= at]
        assert registry.run(["champion", "--registry", place, "--at", at.isoformat()], late)["version"] == expected[-1]
    assert registry.run(["champion", "--registry", place], late)["version"] == happened[-1][1]


# --- Several at once, and crashes -----------------------------------------------------------------------------------


def test_of_processes_that_promote_at_once_exactly_one_wins(place: str, tmp_path: Path) -> None:
    rounds = 25
    models = [[small(tmp_path / f"v{i}-{own}", f"v{i}-{own}") for i in range(rounds)] for own in "ab"]
    assert promote(place, small(tmp_path / "v0", "v0"), *FORCED) == 0
    codes = registry_models.race(place, models)
    winners = []
    for pair in zip(*models, strict=True):
        assert sorted(codes[model] for model in pair) == [0, 1]
        winners += [version_of(model) for model in pair if codes[model] == 0]
    made = [move["version"] for move in moves(place)]
    assert made == ["v0", *winners]
    assert [move["previous"] for move in moves(place)] == [None, *made[:-1]]


def test_the_loser_says_who_won(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, ours, theirs = (small(tmp_path / version, version) for version in ("first", "ours", "theirs"))
    assert promote(place, first, *FORCED) == 0
    plain = Registry.move

    def overtaken(self: Registry, *arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(Registry, "move", plain)
        assert promote(place, theirs, *FORCED, "--by", "bob") == 0
        capsys.readouterr()
        return self.move(*arguments, **named)

    monkeypatch.setattr(Registry, "move", overtaken)
    line = refused(capsys, "promote", "--registry", place, "--model", ours, *FORCED, code=1)
    assert line.startswith("error: ours was not made champion: theirs (promote at 20")
    assert "by bob) is champion now, not first as when this began" in line
    assert [move["version"] for move in moves(place)] == ["first", "theirs"]


WRITE, MOVE = "transforms.storage.write_bytes", "trainer.registry_store.Registry.move"


@pytest.mark.parametrize(
    "function, after",
    [(WRITE, 0), (WRITE, 1), (WRITE, 2), (WRITE, 3), (MOVE, 0)],
    ids=["entry", "first file", "second file", "manifest", "champion"],
)
def test_killed_anywhere_before_the_alias_and_run_again(
    function: str, after: int, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, small(tmp_path / "old", "old"), *FORCED) == 0
    model, before = small(tmp_path / "new", "new"), champion_content(place)
    assert killed(function, after, functools.partial(promote, place, model, *FORCED)) == 9
    assert champion_content(place) == before
    complete = function == MOVE
    listed = registry.run(["list", "--registry", place])["versions"]
    assert [entry["model_version"] for entry in listed] == (["old", "new"] if complete else ["old"])
    if not complete:
        line = refused(capsys, "rollback", "--registry", place, "--to", "new", "--reason", "r")
        assert "'new'" in line and ("was cut off while it was copied" in line or "one of old" in line)
    assert promote(place, model, *FORCED) == 0
    assert moves(place)[-1]["version"] == "new" and files(f"{place}/models/new") == files(model)


# --- The command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        registry.main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"python -m trainer.registry {command} " in text and "--registry URI" in text


def test_nothing_heavy_is_imported_for_help() -> None:
    heavy = ("numpy", "pyarrow", "tensorflow", "apache_beam", "scipy", "duckdb", "google.cloud.storage", "pandas")
    code = f"import sys, trainer.registry; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("uri", ["s3://bucket/registry", ""])
def test_a_registry_needs_a_place_with_compare_and_set(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--registry {uri!r} is not usable: accepted is a local directory or gs://" in refused(
        capsys, "list", "--registry", uri
    )
