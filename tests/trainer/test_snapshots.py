"""Features directories as the trainer reads them: which rows, and always the same ones."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from tests.trainer.features_fixture import CUTOFF
from tests.trainer.trained_models import World
from trainer import snapshots
from transforms import schema
from transforms.errors import UsageError


def ids(table: object) -> list[str]:
    return list(table["customer_id"].to_pylist())  # type: ignore[index]


def test_a_snapshot_knows_its_days(world: World) -> None:
    found = snapshots.open_snapshot(world.training)
    assert (found.cutoff, found.horizon_days, found.history_days) == (CUTOFF, 90, None)
    assert found.label_end == CUTOFF + datetime.timedelta(days=90)
    assert found.label_end == snapshots.open_snapshot(world.evaluation).cutoff


def test_all_rows_unless_told_otherwise(world: World) -> None:
    found = snapshots.open_snapshot(world.training)
    assert snapshots.read_customers(found).equals(world.training_customers)
    assert snapshots.read_transformed([found], schema.SPLITS).num_rows == 3000
    assert ids(snapshots.read_customers(found, most_rows=3000)) == ids(world.training_customers)


def test_splits_and_columns_are_those_asked_for(world: World) -> None:
    found = snapshots.open_snapshot(world.training)
    some = snapshots.read_customers(found, ("train", "test"), ["customer_id", "split"])
    expected = world.training_customers.filter(pc.not_equal(world.training_customers["split"], "validation"))
    assert some.column_names == ["customer_id", "split"] and ids(some) == ids(expected)
    assert ids(snapshots.read_transformed([found], ("train", "test"))) == ids(expected)


@pytest.mark.parametrize("splits", [None, ("validation", "train")])
def test_some_rows_are_about_so_many_and_the_same_every_time(splits: tuple[str, ...] | None, world: World, tmp_path: Path) -> None:  # fmt: skip
    found = snapshots.open_snapshot(world.training)
    some = snapshots.read_customers(found, splits, most_rows=600)
    assert 520 < some.num_rows < 680  # 600 of 3,000: a standard deviation of 22
    assert ids(snapshots.read_customers(found, splits, most_rows=600)) == ids(some)
    assert set(ids(some)) <= set(ids(snapshots.read_customers(found, splits)))
    moved = snapshots.open_snapshot(str(shutil.copytree(world.training, tmp_path / "moved")))
    assert snapshots.read_customers(moved, splits, most_rows=600).equals(some)
    # More rows are those and others: what was looked at stays looked at.
    assert set(ids(some)) <= set(ids(snapshots.read_customers(found, splits, most_rows=1200)))


def test_some_rows_of_several_snapshots_are_shared_among_them(world: World) -> None:
    both = [snapshots.open_snapshot(world.training), snapshots.open_snapshot(world.evaluation)]
    rows = snapshots.read_transformed(both, schema.SPLITS, 1000)  # of 3,000 and 2,100
    assert 900 < rows.num_rows < 1100
    first = set(ids(world.training_customers))
    assert sum(i in first for i in ids(rows)) == pytest.approx(1000 * 3000 / 5100, abs=70)


def test_the_rows_of_parts_are_not_the_same_rows(world: World) -> None:
    """Parts of equal size must not be thinned by one pattern."""
    found = snapshots.open_snapshot(world.training)
    positions = {name: i for i, name in enumerate(ids(world.training_customers))}
    chosen = [positions[i] for i in ids(snapshots.read_customers(found, most_rows=600))]
    assert {i for i in chosen if i < 1500} != {i - 1500 for i in chosen if i >= 1500}


def test_a_split_without_customers_is_refused(world: World) -> None:
    found = snapshots.open_snapshot(world.training)
    with pytest.raises(UsageError, match="no customer in the nobody split"):
        snapshots.read_customers(found, ("nobody",))
    with pytest.raises(UsageError, match="no customer in the nobody or none split"):
        snapshots.read_transformed([found], ("nobody", "none"))
