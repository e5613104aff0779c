"""``orchestration.run_local`` and the registry: whom its gate lets through, whose forecasts it serves, and what it says to do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestration import local_checks, run_local
from orchestration.run_local import Cycle
from serving import lookup
from tests.pipelines import features_data
from tests.pipelines.features_data import SHOP_END, SHOP_HORIZON_DAYS, stamps
from tests.trainer import registry_models
from tests.trainer.registry_models import FORCED
from trainer import registry, registry_decision
from transforms import storage


@pytest.fixture(scope="module")
def cycle() -> Cycle:
    return features_data.shop_cycle()


@contextlib.contextmanager
def aside(*paths: str) -> Iterator[None]:
    """Files and directories that are not there meanwhile, and as before afterwards."""
    for path in paths:
        os.rename(path, f"{path}-aside")
    try:
        yield
    finally:
        for path in paths:
            shutil.rmtree(path) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
            os.rename(f"{path}-aside", path)


def champion_file(cycle: Cycle) -> str:
    return f"{cycle.build.registry}/champion.json"


def test_the_first_model_is_champion_and_served(cycle: Cycle) -> None:
    version = storage.read_manifest(cycle.build.model, "model")["model_version"]
    assert cycle.decision == registry_decision.read(cycle.build.gate)
    assert cycle.decision["promoted"] and cycle.decision["champion"] == cycle.decision["challenger"] == version
    [move] = registry_models.moves(cycle.build.registry)
    assert (move["version"], move["by"]) == (version, "run_local")
    assert cycle.serve.model == cycle.decision["model"] == f"{cycle.build.registry}/models/{version}"
    assert cycle.build.registry == f"{cycle.plan.workdir}/registry/{SHOP_HORIZON_DAYS}d"
    assert storage.read_manifest(cycle.serve.predictions, "predictions")["model_version"] == version


def test_what_cannot_be_judged_is_not_published(
    cycle: Cycle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody bought on the evaluation's days, and there is no champion that was judged on others."""
    for module in ("pipelines.predict", "pipelines.publish"):
        monkeypatch.setattr(f"{module}.run", None)  # called, it would fail
    path = Path(cycle.build.model) / "evaluation.json"
    before, own_report = path.read_text(), Path(cycle.build.report_step().output)
    with aside(champion_file(cycle), cycle.build.gate):
        path.write_text(json.dumps({**json.loads(before), "buyers": 0}))
        try:
            assert run_local.main(features_data.shop_arguments()) == 2
        finally:
            path.write_text(before)
        line = capsys.readouterr().err.splitlines()[-1]
        assert not os.path.exists(champion_file(cycle))
    assert line.startswith("error: nobody bought in the 90 days after ") and f"(report: {own_report})" in line
    assert "<html" in own_report.read_text()[:1000].lower()
    own_report.unlink()


@dataclass(frozen=True)
class Refused:
    """A second training in a workdir that has a champion: the first run was cut off in the gate, the second is whole."""

    argv: list[str]
    champion: str  # version
    interrupted: dict[str, int]  # stamps
    cycle: Cycle
    err: str
    out: str


@pytest.fixture(scope="module")
def loser(cycle: Cycle, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    """Of so few customers that the purchase model alone is trained, in a second: clearly worse than the shop's model."""
    workdir = str(tmp_path_factory.mktemp("loser"))
    orders = features_data.write_parquet(Path(workdir) / "orders.parquet", features_data.shop_orders(150, seed=2))
    lenient = Path(workdir) / "lenient.toml"
    names = ("rows_lost", "missing", "zeros", "divergence", "categories")
    lenient.write_text("[default]\n" + "".join(f"{name} = {{ fail = 1.0 }}\n" for name in names))
    argv = [
        "--orders", orders, "--horizon_days", str(SHOP_HORIZON_DAYS), "--training_snapshots", "1", "--workdir", workdir,
        "--skew_thresholds", str(lenient),
    ]  # fmt: skip
    place = f"{workdir}/registry/{SHOP_HORIZON_DAYS}d"
    champion = registry.run(["promote", "--registry", place, "--model", cycle.build.model])["version"]

    def power_cut(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr("trainer.registry_challenge.compare", power_cut)
        run_local.run(argv)
    interrupted = stamps(workdir)
    err, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        finished = run_local.run(argv)
    return Refused(argv, champion, interrupted, finished, err.getvalue(), out.getvalue())


def test_a_model_that_is_no_better_is_not_published(loser: Refused) -> None:
    decision, finished = loser.cycle.decision, loser.cycle
    challenger = storage.read_manifest(finished.build.model, "model")["model_version"]
    assert not decision["promoted"] and decision["challenger"] == challenger != loser.champion == decision["champion"]
    assert storage.read_manifest(finished.serve.predictions, "predictions")["model_version"] == loser.champion
    assert [move["version"] for move in registry_models.moves(finished.build.registry)] == [loser.champion]
    served = io.StringIO()
    with contextlib.redirect_stdout(served):
        assert lookup.main(["--serving", finished.plan.serving, "C00000"]) == 0
    assert json.loads(served.getvalue())["model_version"] == loser.champion


def test_who_lost_and_why_is_one_line_each(loser: Refused) -> None:
    decision = loser.cycle.decision
    for said in ("normalised gini ", "decile mape ", "rmse capped ", " against ", "difference "):
        assert said in decision["reason"]
    line = f"{decision['challenger']} was not promoted, {loser.champion} stays champion: {decision['reason']}"
    assert loser.err.splitlines().count(line) == 1
    assert f"\nserved:  {loser.champion}, " in loser.out
    assert f"\nrefused: {decision['challenger']}: {decision['reason']}\n" in loser.out
    assert f"\n{loser.champion}, judged " in loser.out


def test_both_models_have_a_report(loser: Refused) -> None:
    for report, version in (
        (loser.cycle.build.report_step().output, loser.cycle.decision["challenger"]),
        (loser.cycle.serve.report, loser.champion),
    ):
        assert f"its report: {report}\n" in loser.out or f"report:  {report}\n" in loser.out
        assert version in Path(report).read_text()


def test_the_champion_s_report_shows_what_the_champion_learned_from(loser: Refused, cycle: Cycle) -> None:
    assert list(loser.cycle.serve.features) == cycle.build.snapshots
    with aside(cycle.build.features(cycle.build.cutoff)):
        assert local_checks.learned_from(loser.cycle.build, loser.cycle.decision) == cycle.build.snapshots[:-1]


def test_a_run_cut_off_in_the_gate_goes_on_there(loser: Refused) -> None:
    run = loser.cycle.build.directory
    before = {
        path: stamp for path, stamp in loser.interrupted.items() if path.startswith((f"{run}/features", f"{run}/model"))
    }
    after = stamps(run)
    assert len(before) > 10 and before.items() <= after.items()
    assert not {path for path in loser.interrupted if "gate.json" in path or "predictions" in path}
    assert [line.split("] ")[1] for line in loser.err.splitlines() if line.startswith("[")][-6:] == [
        "train", "gate", "report", f"predict {SHOP_END}", "report", "publish",
    ]  # fmt: skip
    assert loser.err.count("already complete") == 3
    marks = [line.split("]")[0] for line in loser.err.splitlines() if line.startswith("[")]
    assert marks == ["[1/7", "[2/7", "[3/7", "[4/7", "[refused", "[5/7", "[6/7", "[7/7"]


def test_the_champion_is_not_compared_again_once_it_was_decided(
    loser: Refused, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.registry_challenge.compare", None)  # called, it would fail
    assert run_local.run(loser.argv) == loser.cycle
    assert "decided before, by " in capsys.readouterr().err


@pytest.mark.parametrize("forecasts", [True, False], ids=["beats the new model", "cannot be compared"])
def test_a_champion_of_other_formulas_says_what_to_do(
    forecasts: bool, loser: Refused, cycle: Cycle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And doing what is said is enough."""
    other = (
        registry_models.variant(cycle.build.model, tmp_path / "older", "older", schema_fingerprint="older")
        if forecasts
        else registry_models.small(tmp_path / "broken", "broken")
    )
    build = loser.cycle.build
    with aside(champion_file(loser.cycle), build.gate):
        assert registry_models.promote(build.registry, other) == 0
        capsys.readouterr()
        assert run_local.main(loser.argv) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        if forecasts:
            assert line.startswith(
                "error: the champion older learned other feature formulas than this code's and cannot"
            )
        else:
            assert line.startswith("error: the champion broken cannot forecast customers of other feature formulas: ")
        assert not os.path.exists(
            f"{build.directory}/predictions-{storage.read_manifest(other, 'model')['model_version']}"
        )
        follow(line, FORCE_IT)
        assert registry_models.moves(build.registry)[-1]["forced"]
        after = run_local.run(loser.argv)
        assert after.decision["champion"] == loser.cycle.decision["challenger"] == after.decision["challenger"]
        assert (
            storage.read_manifest(after.serve.predictions, "predictions")["model_version"] == after.decision["champion"]
        )
        storage.delete_directory(after.serve.predictions)


@contextlib.contextmanager
def restored(*paths: str) -> Iterator[None]:
    """Files that may be changed or deleted meanwhile, and are as before afterwards."""
    before = {path: Path(path).read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            Path(path).write_bytes(content)


def line_of(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """The last line of a run that ends with 2."""
    assert run_local.main(argv) == 2
    return capsys.readouterr().err.splitlines()[-1]


def follow(line: str, advice: str) -> None:
    """Does what a line says after ``advice``: a command of trainer.registry."""
    words = shlex.split(line.split(advice)[1])
    assert words[1:3] == ["-m", "trainer.registry"] and registry.main(words[3:]) == 0


FORCE_IT = ". To go on with the new model, make it champion and run this again: "


def require_served(finished: Cycle, version: str) -> None:
    """Decided, forecast and published are of one model."""
    assert finished.decision["champion"] == version
    assert storage.read_manifest(finished.serve.predictions, "predictions")["model_version"] == version
    served = io.StringIO()
    with contextlib.redirect_stdout(served):
        assert lookup.main(["--serving", finished.plan.serving, "C00000"]) == 0
    assert json.loads(served.getvalue())["model_version"] == version


@pytest.mark.parametrize("how", ["the decision is overruled", "promoted by hand, decided anew"])
def test_who_becomes_champion_later_is_served_by_its_own_forecasts(
    how: str, loser: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run has the forecasts of the champion of before, complete."""
    build, challenger = loser.cycle.build, loser.cycle.decision["challenger"]
    with restored(champion_file(loser.cycle), build.gate):
        if how == "the decision is overruled":
            follow(f"{FORCE_IT}{build.gate_step().command} --force --reason 'I say so'", FORCE_IT)
        else:
            os.remove(build.gate)
            assert registry_models.promote(build.registry, build.model, "--force", "--reason", "I say so") == 0
        capsys.readouterr()
        after = run_local.run(loser.argv)
        require_served(after, challenger)
        out = capsys.readouterr().out
        assert f"\nserved:  {challenger}, champion of {build.registry}\n" in out and "refused:" not in out
    require_served(run_local.run(loser.argv), loser.champion)
    storage.delete_directory(after.serve.predictions)


def test_a_champion_that_is_gone_is_replaced_as_is_said(loser: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    build = loser.cycle.build
    with restored(champion_file(loser.cycle), build.gate), aside(loser.cycle.serve.model):
        os.mkdir(loser.cycle.serve.model)
        line = line_of(capsys, loser.argv)
        assert f"models/{loser.champion} is gone{FORCE_IT}" in line
        follow(line, FORCE_IT)
        require_served(run_local.run(loser.argv), loser.cycle.decision["challenger"])


def test_a_champion_that_is_gone_is_no_dead_end_for_the_gate(
    loser: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    build = loser.cycle.build
    with restored(champion_file(loser.cycle), build.gate), aside(loser.cycle.serve.model):
        os.mkdir(loser.cycle.serve.model)
        os.remove(build.gate)
        line = line_of(capsys, loser.argv)
        assert f"error: there is no comparing with the champion {loser.champion}: " in line
        assert "; rollback --to VERSION makes another version champion" in line
        follow(line, FORCE_IT)
        require_served(run_local.run(loser.argv), loser.cycle.decision["challenger"])


def test_a_champion_that_is_gone_and_was_replaced_is_decided_anew(
    loser: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    build, challenger = loser.cycle.build, loser.cycle.decision["challenger"]
    with restored(champion_file(loser.cycle), build.gate), aside(loser.cycle.serve.model):
        os.mkdir(loser.cycle.serve.model)
        assert registry.main(["rollback", "--registry", build.registry, "--to", challenger, "--reason", "r"]) == 0
        line = line_of(capsys, loser.argv)
        advice = f"is gone, and {challenger} is champion now: delete {build.gate}, and the next run decides anew"
        assert line.endswith(advice)
        os.remove(build.gate)
        require_served(run_local.run(loser.argv), challenger)


def test_the_run_s_own_model_is_copied_again_as_is_said(cycle: Cycle, capsys: pytest.CaptureFixture[str]) -> None:
    with aside(cycle.serve.model):
        os.mkdir(cycle.serve.model)
        line = line_of(capsys, features_data.shop_arguments())
        follow(line, f"{cycle.serve.model} is gone. To copy it there again: ")
        assert run_local.run(features_data.shop_arguments()) == cycle


def test_a_champion_of_the_past_is_called_one(
    loser: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = loser.cycle.build.registry
    with restored(champion_file(loser.cycle)):
        assert registry_models.promote(place, registry_models.small(tmp_path / "next", "next"), *FORCED) == 0
        assert run_local.run(loser.argv) == loser.cycle
    said = f"\nserved:  {loser.champion}, champion when this run was decided; next is champion of {place} now\n"
    assert said in capsys.readouterr().out
