"""The members' training: what each phase may see, what the data carry, and what a directory of every kind says."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.trainer import features_fixture
from tests.trainer.features_fixture import CUTOFF
from tests.trainer.trained_models import ROOT, World
from trainer import choice, predictor, snapshots, task, training
from trainer.predictor import BOOSTING, NETWORK, PURCHASES
from trainer.settings import Settings
from trainer.training import Learned, Plan, Training

DAYS = datetime.timedelta(days=1)
EARLIER = CUTOFF - 90 * DAYS
SMALL = Settings(hidden_units=(4,), members=1)
LABELS = ("future_value", "future_orders")


def learn(
    tmp_path: Path, model: str, features: list[str], evaluation: str, epochs: int = 1, seed: int = 3
) -> tuple[Training, Learned]:  # fmt: skip
    found = sorted(map(snapshots.open_snapshot, features), key=lambda snapshot: snapshot.cutoff, reverse=True)
    newest = snapshots.open_snapshot(evaluation)
    held_out = snapshots.judged_by(found, newest) == snapshots.BY_CUSTOMER
    run = Training(Plan(model, found, newest, held_out, epochs, seed, SMALL), str(tmp_path), lambda line: None)
    return run, run.run()


def poisoned(table: pa.Table, rows: Any = None) -> pa.Table:
    """The labels of some rows a thousand times what they were, and of those who bought nothing something."""
    chosen = np.ones(table.num_rows, bool) if rows is None else np.asarray(rows)
    for name in LABELS:
        index, type_ = table.schema.get_field_index(name), table.schema.field(name).type
        values = np.asarray(table[name].cast(pa.float64()).to_numpy())
        table = table.set_column(index, name, pa.array(np.where(chosen, 1000 * values + 7, values)).cast(type_))
    return table


def write(world: World, directory: Path, rows: Any = None, poison: Any = False, **manifest: Any) -> str:
    """A snapshot of some of the world's training customers."""
    raw, transformed = world.training_customers, world.training_transformed
    if rows is not None:
        raw, transformed = raw.filter(pa.array(rows)), transformed.filter(pa.array(rows))
    if poison is not False:
        raw, transformed = poisoned(raw, poison), poisoned(transformed, poison)
    return features_fixture.write_features(directory, raw, transformed, world.transform_output, **manifest)


# --- What each phase sees -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoPhases:
    run: Training
    learned: Learned
    evidence: choice.Evidence
    lines: list[str]


@pytest.fixture(scope="module")
def earlier(world: World) -> str:
    return world.snapshot("a-horizon-earlier", cutoff=EARLIER)


class Recorded(Training):
    """Keeps the evidence it was chosen and calibrated by."""

    seen: choice.Evidence | None = None

    def _evidence(self, wanted: list[str]) -> tuple[choice.Evidence | None, dict[str, predictor.Member]]:
        self.seen, members = super()._evidence(wanted)
        return self.seen, members


@pytest.fixture(scope="module")
def two_phases(world: World, earlier: str, tmp_path_factory: pytest.TempPathFactory) -> TwoPhases:
    lines: list[str] = []
    found = [snapshots.open_snapshot(uri) for uri in (world.training, earlier)]
    plan = Plan("blend", found, snapshots.open_snapshot(world.evaluation), False, 4, 3, SMALL)
    run = Recorded(plan, str(tmp_path_factory.mktemp("local")), lines.append)
    learned = run.run()
    assert run.seen is not None
    return TwoPhases(run, learned, run.seen, lines)


def test_the_latest_snapshot_is_forecast_by_what_was_known_at_its_cutoff(two_phases: TwoPhases, world: World) -> None:
    assert two_phases.evidence.basis == choice.OUT_OF_TIME
    assert two_phases.evidence.window == str(CUTOFF)
    assert set(two_phases.evidence.said) == set(predictor.MEMBERS)
    assert len(two_phases.evidence.value) == len(world.training_customers)


def test_all_snapshots_are_learned_from_afterwards_for_the_best_number_of_epochs(two_phases: TwoPhases) -> None:
    facts, trained = two_phases.learned.facts, two_phases.run.trained
    assert trained is not None and len(trained.history) == facts["best_epoch"] <= facts["epochs_run"] <= 4
    assert facts["validation_rows"] == 3000
    said = [line for line in two_phases.lines if line.startswith("network: ")]
    assert said == ["network: 3,000 rows of 1 snapshot(s)", "network: 6,000 rows of 2 snapshot(s)"]
    assert [line for line in two_phases.lines if line.startswith("trees: ")] == [
        "trees: 3,000 rows",
        "trees: 6,000 rows",
    ]


def test_the_purchase_model_knows_what_was_known_at_each_time(two_phases: TwoPhases) -> None:
    as_of = [line.rsplit(" ", 1)[1] for line in two_phases.lines if line.startswith("purchase model: ")]
    assert as_of == [str(CUTOFF), str(CUTOFF + 90 * DAYS)]


def test_facts_tell_of_the_members_that_are_kept(two_phases: TwoPhases) -> None:
    facts, kept = two_phases.learned.facts, set(two_phases.learned.members)
    assert kept == set(facts["choice"]["weights"]) == set(two_phases.learned.content.weights)
    assert ("network" in facts) == ("best_epoch" in facts) == (NETWORK in kept)
    assert ("purchase_model" in facts) == (PURCHASES in kept)
    assert ("training_rows" in facts) == bool(kept & {NETWORK, BOOSTING})
    json.dumps(facts)


def test_every_snapshot_is_a_window_of_the_calibration(two_phases: TwoPhases) -> None:
    windows = two_phases.learned.content.calibration.windows
    assert [window.cutoff for window in windows] == [CUTOFF, EARLIER]
    assert all(0.3 < window.value_ratio < 3 for window in windows)


def test_evidence_does_not_move_with_the_labels_it_is_to_judge_by(world: World, earlier: str, tmp_path: Path) -> None:
    """One epoch: which of several is the best is all the held-out labels may say."""
    latest = write(world, tmp_path / "poisoned", poison=None, cutoff=CUTOFF)
    found = []
    for i, features in enumerate(([earlier, world.training], [earlier, latest])):
        plan = Plan("blend", [snapshots.open_snapshot(uri) for uri in reversed(features)], snapshots.open_snapshot(world.evaluation), False, 1, 3, SMALL)  # fmt: skip
        run = Training(plan, str(tmp_path / str(i)), lambda line: None)
        found.append(run._evidence(list(predictor.MEMBERS))[0])
    plain, moved = found
    assert plain is not None and moved is not None
    assert moved.value.sum() > 900 * plain.value.sum()
    for name in predictor.MEMBERS:
        for column, values in plain.said[name].items():
            np.testing.assert_array_equal(moved.said[name][column], values, err_msg=f"{name} {column}")


def test_snapshots_whose_labels_overlap_the_latest_one_are_no_evidence(world: World) -> None:
    cutoffs = [CUTOFF, CUTOFF - 89 * DAYS, EARLIER, CUTOFF - 200 * DAYS]
    found = [snapshots.open_snapshot(world.snapshot(f"at-{day}", cutoff=day)) for day in cutoffs]
    plan = Plan("auto", found, snapshots.open_snapshot(world.evaluation), False, 1, 3)
    assert [snapshot.cutoff for snapshot in plan.earlier] == cutoffs[2:]


@pytest.mark.parametrize("model", ["boosting", "pareto"])
def test_judged_by_customer_the_labels_of_the_test_split_are_not_learned(model: str, world: World, tmp_path: Path) -> None:  # fmt: skip
    is_test = np.array(world.training_customers["split"].to_pylist()) == "test"
    other = write(world, tmp_path / "poisoned", poison=is_test)
    versions = []
    for i, uri in enumerate((world.training, other)):
        run, learned = learn(tmp_path / str(i), model, [uri], uri)
        assert run.plan.held_out_customers
        versions.append(learned.fingerprint("f1"))
    assert versions[0] == versions[1]


def test_the_trees_learn_from_the_customers_they_are_given(world: World, tmp_path: Path) -> None:
    """What the test above holds still does move with a label of the train split."""
    is_train = np.array(world.training_customers["split"].to_pylist()) == "train"
    other = write(world, tmp_path / "poisoned", poison=is_train)
    versions = [learn(tmp_path / str(i), "boosting", [u], u)[1].fingerprint("f1") for i, u in enumerate((world.training, other))]  # fmt: skip
    assert versions[0] != versions[1]


def test_evidence_by_customer_is_of_the_validation_split(world: World, tmp_path: Path) -> None:
    found = snapshots.open_snapshot(world.training)
    run = Training(Plan("auto", [found], found, True, 1, 3), str(tmp_path), lambda line: None)
    evidence, members = run._evidence([BOOSTING])
    rows = world.training_customers.filter(pc.equal(world.training_customers["split"], "validation"))
    assert evidence is not None and evidence.basis == choice.OTHER_CUSTOMERS
    np.testing.assert_array_equal(evidence.value, rows["future_value"].cast(pa.float64()).to_numpy())
    np.testing.assert_array_equal(evidence.said[BOOSTING]["value_p90"], members[BOOSTING].forecasts(rows)["value_p90"])


def test_evidence_by_customer_has_a_bound(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MOST_EVIDENCE_ROWS", 100)
    found = [
        snapshots.open_snapshot(uri) for uri in (world.training, world.snapshot("near", cutoff=CUTOFF - 28 * DAYS))
    ]
    run = Training(Plan("auto", found, found[0], True, 1, 3), str(tmp_path), lambda line: None)
    evidence, _ = run._evidence([BOOSTING])
    assert evidence is not None and 60 < len(evidence.value) < 140


# --- What the data carry --------------------------------------------------------------------------------------------


def test_a_shop_of_60_customers_gets_a_purchase_model(world: World, tmp_path: Path) -> None:
    few = write(world, tmp_path / "few", rows=np.arange(3000) < 60)
    run, learned = learn(tmp_path, "auto", [few], world.evaluation)
    assert learned.content.weights == {PURCHASES: 1.0} and run.trained is None
    assert learned.kind in ("pareto", "mbgnbd")
    assert [note.split(":")[0] for note in learned.notes] == ["no network", "no trees"]
    assert not {"training_rows", "network", "best_epoch"} & set(learned.facts)


def test_a_shop_where_nobody_repeats_gets_a_network(world: World, tmp_path: Path) -> None:
    once = np.array(world.training_customers["frequency"]) == 0
    few = write(world, tmp_path / "once", rows=once & (np.cumsum(once) <= 300))
    run, learned = learn(tmp_path, "auto", [few], few)
    assert learned.kind == "ziln" and run.trained is not None
    assert [note.split(":")[0] for note in learned.notes] == ["no trees", "no purchase model"]


def test_the_newest_snapshot_need_not_carry_what_the_earlier_ones_did(
    world: World, earlier: str, tmp_path: Path
) -> None:
    """Where nobody repeats as of the evaluation there is no purchase model, whatever it was worth before."""
    once = np.array(world.training_customers["frequency"]) == 0
    newest = write(world, tmp_path / "once", rows=once, cutoff=CUTOFF + 90 * DAYS)
    plan = Plan("blend", [snapshots.open_snapshot(u) for u in (world.training, earlier)], snapshots.open_snapshot(newest), False, 1, 3)  # fmt: skip
    run = Training(plan, str(tmp_path), lambda line: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(training.MODELS, "blend", (PURCHASES, BOOSTING))  # type: ignore[arg-type]
        learned = run.run()
    assert learned.content.weights == {BOOSTING: 1.0} and learned.kind == "boosting"
    assert any(note.startswith("no purchase model") for note in learned.notes)


def test_buyers_are_counted_where_members_learn_first(world: World, tmp_path: Path) -> None:
    """310 buyers in all, a tenth of them for validation: fewer than trees take, which must be known before they are tried."""
    bought = np.array(world.training_customers["future_value"].cast(pa.float64())) > 0
    rows = bought & (np.cumsum(bought) <= 310)
    few = write(world, tmp_path / "few", rows=rows | (~bought & (np.cumsum(~bought) <= 600)))
    plan = Plan("auto", [snapshots.open_snapshot(few)], snapshots.open_snapshot(world.evaluation), False, 1, 3)
    run = Training(plan, str(tmp_path), lambda line: None)
    assert 250 < run._buyers < 300 and not run._carries(BOOSTING) and run._carries(NETWORK)
    assert run.notes == [f"no trees: {run._buyers} rows with a purchase, 300 carry them"]


def test_trees_that_were_asked_for_and_cannot_grow_are_one_line(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    few = write(world, tmp_path / "few", rows=np.arange(3000) < 60)
    argv = ["--features", few, "--evaluation", world.evaluation, "--output", str(tmp_path / "m"), "--model", "boosting"]
    assert task.main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --model boosting cannot be learned from these snapshots: no trees: ")


# --- Every kind, through the command --------------------------------------------------------------------------------

KINDS = ("pareto", "mbgnbd", "bgnbd", "boosting", "ziln")


@pytest.fixture(scope="module")
def kinds(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of every kind; the purchase model first and in a process of its own, which says what it imported."""
    root = tmp_path_factory.mktemp("kinds")
    command = ["--features", world.training, "--evaluation", world.evaluation, "--epochs", "1", "--seed", "3"]
    code = (
        "import sys\nfrom trainer import task\n"
        "assert task.main(sys.argv[1:]) == 0\n"
        "print('HEAVY', sorted({'tensorflow', 'keras', 'tensorflow_transform'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--model", "pareto", "--output", str(root / "pareto")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("HEAVY []\n")
    for kind in KINDS[1:]:
        assert task.main([*command, "--model", kind, "--output", str(root / kind)]) == 0
    return root


def test_every_kind_is_what_was_asked_for(kinds: Path) -> None:
    for kind in KINDS:
        manifest = json.loads((kinds / kind / "manifest.json").read_text())
        assert manifest["model"] == kind and manifest["model_version"].startswith(f"{kind}-{CUTOFF}-")
        assert manifest["choice"]["why"] == f"--model {kind} asked for it"


def test_every_kind_says_the_same_in_a_fresh_process(kinds: Path, world: World) -> None:
    code = (
        "import sys\nfrom trainer import predictor, snapshots\n"
        "import pyarrow as pa, pyarrow.parquet as pq\n"
        "evaluation = snapshots.open_snapshot(sys.argv[1])\n"
        "customers = snapshots.read_customers(evaluation)\n"
        "for directory in sys.argv[2:]:\n"
        "    said = predictor.load(directory).predict(customers, evaluation.cutoff)\n"
        "    pq.write_table(pa.Table.from_batches([said]), directory + '/again.parquet')\n"
    )
    directories = [str(kinds / kind) for kind in KINDS]
    subprocess.run(
        [sys.executable, "-c", code, world.evaluation, *directories], cwd=ROOT, check=True, capture_output=True
    )
    for directory in directories:
        judged, again = (pq.read_table(f"{directory}/{name}.parquet") for name in ("evaluation", "again"))
        for name in (*predictor.FORECAST_COLUMNS, "model_version", "as_of"):
            assert again[name].equals(judged[name]), f"{directory} {name}"


def test_a_fingerprint_follows_the_mix_and_the_transform(two_phases: TwoPhases) -> None:
    learned = two_phases.learned
    assert learned.fingerprint("f1") == learned.fingerprint("f1")
    assert (learned.fingerprint("f2") != learned.fingerprint("f1")) == (NETWORK in learned.content.weights)
