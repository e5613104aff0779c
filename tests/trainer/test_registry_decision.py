"""``promote --decision``: what a gate decided is kept, and a gate is not asked twice."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.registry_models import FORCED, champion_content, killed, moves, promote, small, variant
from tests.trainer.trained_models import World
from trainer import registry, registry_challenge, registry_decision
from trainer.registry_store import Registry
from transforms.errors import UsageError

NAMES = ("promoted", "champion", "model", "challenger", "reason", "forced", "figures", "notes", "metrics", "registry")


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "registry")


@pytest.fixture
def gate(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "gate.json")


def decide(place: str, model: str, gate: str, *more: str) -> dict[str, Any]:
    return registry.run(["promote", "--registry", place, "--model", model, "--decision", gate, *more])


def version_of(model: str) -> str:
    return str(json.loads(Path(model, "manifest.json").read_text())["model_version"])


def line_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a promotion that ends with 2."""
    capsys.readouterr()
    assert registry.main(["promote", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


# --- What is written ------------------------------------------------------------------------------------------------


def test_the_first_champion_is_decided(
    place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small(tmp_path / "v1", "v1")
    assert promote(place, model, "--decision", gate) == 0
    decision = json.loads(Path(gate).read_text())
    assert json.loads(capsys.readouterr().out) == decision and tuple(decision) == NAMES
    assert decision == {
        "promoted": True, "champion": "v1", "model": f"{place}/models/v1", "challenger": "v1",
        "reason": "the first champion, compared with none", "forced": False, "figures": None, "notes": [],
        "metrics": json.loads(Path(model, "manifest.json").read_text())["metrics"], "registry": place,
    }  # fmt: skip
    assert registry_decision.read(gate) == decision


def test_losing_is_a_result(
    world: World, place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An equal model does not win: without --decision the command ends with 3, with it with 0 and the same figures."""
    assert promote(place, world.model) == 0
    before, equal = champion_content(place), variant(world.model, tmp_path / "equal", "equal")
    assert promote(place, equal) == 3
    plain = capsys.readouterr().err.splitlines()[-1]
    assert promote(place, equal, "--decision", gate) == 0
    printed = capsys.readouterr()
    decision = json.loads(printed.out)
    champion = version_of(world.model)
    assert not decision["promoted"] and (decision["champion"], decision["challenger"]) == (champion, "equal")
    assert decision["model"] == f"{place}/models/{champion}" and not decision["forced"]
    assert decision["figures"]["customers"] == world.customers.num_rows
    assert plain == f"not promoted: equal is {decision['reason']}" and "normalised gini" in decision["reason"]
    said = f"equal was not promoted, {champion} stays champion: {decision['reason']}"
    assert printed.err.splitlines()[-1] == said and "\n" not in decision["reason"]
    assert champion_content(place) == before


def test_the_move_of_a_winner_and_its_decision_agree(
    world: World, place: str, gate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge's real figures, but for the rule that reads them."""
    assert promote(place, variant(world.model, tmp_path / "old", "old")) == 0
    monkeypatch.setattr("trainer.registry_challenge.favour", lambda metric, difference: 1)
    decision = decide(place, world.model, gate, "--by", "nightly")
    move = moves(place)[-1]
    assert decision["promoted"] and decision["champion"] == move["version"] == version_of(world.model)
    assert move["by"] == "nightly" and move["previous"] == "old"
    assert {name: decision[name] for name in ("reason", "forced", "figures", "notes")} == {
        name: move[name] for name in ("reason", "forced", "figures", "notes")
    }


@pytest.mark.parametrize("champion", [None, "v0"])
def test_not_judged_is_a_result_too(champion: str | None, place: str, gate: str, tmp_path: Path) -> None:
    if champion:
        assert promote(place, small(tmp_path / champion, champion)) == 0
    decision = decide(place, small(tmp_path / "v1", "v1", buyers=0), gate)
    assert not decision["promoted"] and decision["champion"] == champion and decision["figures"] is None
    assert decision["model"] == (f"{place}/models/v0" if champion else None)
    assert decision["reason"] == "not judged: Nobody bought in the evaluation window."
    assert [move["version"] for move in moves(place)] == ([champion] if champion else [])


def test_what_cannot_be_compared_is_no_decision(
    place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, small(tmp_path / "v1", "v1")) == 0
    other = small(tmp_path / "v2", "v2")  # the snapshot that it was judged on is gone
    line = line_of(capsys, "--registry", place, "--model", other, "--decision", gate)
    assert "--force --reason TEXT promotes without a comparison" in line and not os.path.exists(gate)
    forced = decide(place, other, gate, *FORCED)
    assert forced["promoted"] and forced["forced"] and forced["reason"] == "a test" and forced["notes"]


def test_a_champion_that_is_gone_can_be_replaced(
    place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("v0", "v1"):
        assert promote(place, small(tmp_path / version, version), *FORCED) == 0
    shutil.rmtree(f"{place}/models/v1")
    model = small(tmp_path / "v2", "v2")
    line = line_of(capsys, "--registry", place, "--model", model, "--decision", gate)
    assert (
        "no comparing with the champion v1: model version 'v1' was cut off while it was copied, or its copy is gone"
        in line
    )
    assert "rollback --to VERSION makes another version champion (--force --reason TEXT promotes" in line
    assert not os.path.exists(gate)
    decision = decide(place, model, gate, *FORCED)
    assert decision["promoted"] and decision["forced"] and "no comparing with the champion v1" in decision["notes"][0]
    shutil.rmtree(f"{place}/models/v2")
    assert registry.main(["rollback", "--registry", place, "--to", "v0", "--reason", "the copy is gone"]) == 0
    assert [move["version"] for move in moves(place)] == ["v0", "v1", "v2", "v0"]


# --- Asked again ----------------------------------------------------------------------------------------------------


def test_a_gate_is_not_asked_twice(
    place: str, gate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the champion was rolled back meanwhile: that is not undone."""
    assert promote(place, small(tmp_path / "v0", "v0")) == 0
    model = small(tmp_path / "v1", "v1")
    first = decide(place, model, gate, *FORCED)
    assert registry.main(["rollback", "--registry", place, "--reason", "too high"]) == 0
    before, stamp = champion_content(place), os.stat(gate).st_mtime_ns
    monkeypatch.setattr(Registry, "register", None)  # called, it would fail
    capsys.readouterr()
    for more in ((), FORCED):
        assert decide(place, model, gate, *more) == first
        assert capsys.readouterr().err == f"decided before, by {gate}: v1 became champion: a test\n"
    assert (champion_content(place), os.stat(gate).st_mtime_ns) == (before, stamp)


def test_a_model_that_was_rolled_back_from_is_not_promoted_by_a_gate(place: str, gate: str, tmp_path: Path) -> None:
    """A second run that comes to the same model, or the same run whose decision was lost."""
    first, second = (small(tmp_path / version, version) for version in ("v0", "v1"))
    assert promote(place, first) == 0 and promote(place, second, *FORCED) == 0
    assert registry.main(["rollback", "--registry", place, "--reason", "too high"]) == 0
    decision = decide(place, second, gate)
    assert (decision["promoted"], decision["champion"]) == (False, "v0")
    assert decision["reason"].startswith(f"rolled back from at {moves(place)[-1]['at']} (too high): only a person")
    assert [move["version"] for move in moves(place)] == ["v0", "v1", "v0"]
    again = decide(place, first, f"{gate}-other")  # what was rolled back to is champion, and no decision made it so
    assert (again["promoted"], again["champion"], again["reason"]) == (False, "v0", "it is the champion already")
    assert decide(place, second, gate, *FORCED)["champion"] == "v1"


@pytest.mark.parametrize("buyers", [100, 0], ids=["promoted", "refused"])
def test_an_answer_outlives_the_directory_of_its_model(
    buyers: int, place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small(tmp_path / "v1", "v1", buyers=buyers)
    first = decide(place, model, gate)
    shutil.rmtree(model)
    assert decide(place, model, gate) == first
    if first["promoted"]:
        assert decide(place, model, gate, *FORCED) == first
    else:
        line = line_of(capsys, "--registry", place, "--model", model, "--decision", gate, *FORCED)
        assert f"{model} is not a complete model directory" in line


def test_what_was_superseded_may_be_judged_again(
    world: World, place: str, gate: str, tmp_path: Path
) -> None:  # fmt: skip
    assert promote(place, world.model) == 0
    assert promote(place, variant(world.model, tmp_path / "next", "next"), *FORCED) == 0
    assert "not clearly better" in decide(place, world.model, gate)["reason"]


def test_a_person_may_overrule_a_refusal(place: str, gate: str, tmp_path: Path) -> None:
    assert promote(place, small(tmp_path / "v0", "v0")) == 0
    model = small(tmp_path / "v1", "v1", buyers=0)
    assert not decide(place, model, gate)["promoted"]
    overruled = decide(place, model, gate, "--force", "--reason", "the shop was closed")
    assert overruled["promoted"] and overruled["forced"] and overruled["reason"] == "the shop was closed"
    assert decide(place, model, gate) == overruled == registry_decision.read(gate)


def test_a_training_that_came_to_a_registered_model_is_no_other_content(
    place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal weights have equal versions: after an edit that changes nothing, or from a copy of the orders."""
    first, again = (
        small(tmp_path / name, "v1", training=day) for name, day in (("a", "2011-05-01"), ("b", "2011-05-02"))
    )
    assert promote(place, first) == 0
    line = line_of(capsys, "--registry", place, "--model", again)
    assert "is version v1 with other content" in line
    capsys.readouterr()
    decision = decide(place, again, gate)
    assert not decision["promoted"] and decision["reason"] == "it is the champion already"
    assert decision["champion"] == decision["challenger"] == "v1" and not decision["forced"]
    assert capsys.readouterr().err.endswith("\nv1 stays champion: it is the champion already\n")
    assert json.loads(Path(place, "models", "v1", "manifest.json").read_text())["training_cutoffs"] == ["2011-05-01"]
    assert len(moves(place)) == 1


def test_a_decision_of_another_model_or_registry_is_refused(
    place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (small(tmp_path / version, version) for version in ("v1", "v2"))
    decide(place, first, gate)
    before = champion_content(place)
    line = line_of(capsys, "--registry", place, "--model", second, "--decision", gate, *FORCED)
    assert f"--decision '{gate}' is about --model v1, not v2: name another file, or delete it" in line
    line = line_of(capsys, "--registry", f"{place}-2", "--model", first, "--decision", gate)
    assert f"is about --registry {place}, not {place}-2" in line
    assert champion_content(place) == before and not os.path.exists(f"{place}-2")


def test_one_registry_has_one_name(
    place: str, gate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    model = small(tmp_path / "v1", "v1")
    first = decide(place, model, gate)
    monkeypatch.chdir(tmp_path)
    assert decide("registry/", "v1", "run/gate.json") == first and os.path.isabs(first["model"])


# --- What the file may be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "[]", '{"promoted": true}'])
def test_what_is_no_decision_is_refused_and_kept(
    content: str, place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.makedirs(os.path.dirname(gate))
    Path(gate).write_text(content)
    line = line_of(capsys, "--registry", place, "--model", small(tmp_path / "v1", "v1"), "--decision", gate)
    assert f"{gate} is no decision of trainer.registry promote --decision" in line
    assert Path(gate).read_text() == content and champion_content(place) is None


@pytest.mark.parametrize("uri", ["", "s3://bucket/gate.json", "run/"])
def test_a_decision_is_a_file_here_or_on_cloud_storage(
    uri: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = line_of(capsys, "--registry", place, "--model", small(tmp_path / "v1", "v1"), "--decision", uri)
    assert f"--decision {uri!r} is not usable: accepted is a file to write, local or gs://" in line
    assert not os.path.exists(place)


def test_a_directory_is_no_file(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(capsys, "--registry", place, "--model", small(tmp_path / "v1", "v1"), "--decision", str(tmp_path))
    assert f"--decision '{tmp_path}' is not usable: accepted is a file, not a directory" in line


def test_where_no_decision_can_be_kept_none_is_made(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("a file, where the decision's directory should be")
    gate = f"{tmp_path}/run/gate.json"
    line = line_of(capsys, "--registry", place, "--model", small(tmp_path / "v1", "v1"), "--decision", gate)
    assert line.startswith(f"error: --decision '{gate}' cannot be written, so nothing was decided: ")
    assert not os.path.exists(place)


def test_nothing_but_the_decision_stays(place: str, gate: str, tmp_path: Path) -> None:
    decide(place, small(tmp_path / "v1", "v1"), gate)
    assert sorted(os.listdir(os.path.dirname(gate))) == [".lock", "gate.json"]


def test_who_goes_on_from_it_is_told_where_it_is_not(gate: str) -> None:
    with pytest.raises(UsageError, match=f"{gate} does not exist: trainer.registry promote --decision"):
        registry_decision.read(gate)


# --- Crashes, and two at once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function", ["trainer.registry_store.Registry.move", "trainer.registry_decision.DecisionFile.write"]
)
def test_killed_around_the_move_and_run_again(function: str, place: str, gate: str, tmp_path: Path) -> None:
    assert promote(place, small(tmp_path / "v0", "v0")) == 0
    model = small(tmp_path / "v1", "v1")
    assert killed(function, 0, functools.partial(promote, place, model, *FORCED, "--decision", gate)) == 9
    assert not os.path.exists(gate)
    if function.endswith("write"):  # the champion has moved: not by another gate
        assert not decide(place, model, f"{gate}-other")["promoted"]
    decision = decide(place, model, gate, *FORCED)
    assert decision["promoted"] and decision["forced"] and decision["reason"] == "a test"
    assert [(move["version"], move["decision"]) for move in moves(place)] == [("v0", None), ("v1", gate)]


@pytest.mark.parametrize("with_decision", [True, False])
def test_no_refusal_names_a_champion_that_was_rolled_back_meanwhile(
    with_decision: bool, world: World, place: str, gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, equal = (variant(world.model, tmp_path / name, name) for name in ("first", "second", "equal"))
    assert promote(place, first) == 0 and promote(place, second, *FORCED) == 0
    plain = registry_challenge.compare

    def overtaken(*arguments: Any) -> Any:
        decision = plain(*arguments)
        assert registry.main(["rollback", "--registry", place, "--reason", "too high"]) == 0
        return decision

    more = ("--decision", gate) if with_decision else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_challenge, "compare", overtaken)
        assert promote(place, equal, *more) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("error: equal was not made champion: first (rollback at ")
    assert "is champion now, not second as when this began; run it again" in printed.err
    assert not os.path.exists(gate)
    assert decide(place, equal, gate)["champion"] == "first"


def test_of_two_at_once_the_first_counts(
    place: str, gate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(tmp_path / "v1", "v1", buyers=0)
    assert promote(place, small(tmp_path / "v0", "v0")) == 0
    plain, other = registry_decision.DecisionFile.write, {}

    def overtaken(self: Any, decision: dict[str, Any], **named: Any) -> dict[str, Any]:
        other.update(decision | {"reason": "the other's"})
        plain(self, other)
        return plain(self, decision, **named)

    monkeypatch.setattr(registry_decision.DecisionFile, "write", overtaken)
    assert decide(place, model, gate) == other == registry_decision.read(gate)
