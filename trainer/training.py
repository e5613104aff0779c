"""The members of a model, learned from snapshots; first on earlier windows, to see what each is worth, then on all.

Of the training snapshots the latest is held out once: members that learned from those whose labels end by its cutoff
forecast it, and that says when the network is to stop, which members to mix and how to calibrate. Then the
members learn from every snapshot. A history too short for that is held out by customer instead: every member learns
from some of the customers and is looked at on the others.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer import blend, btyd_model, calibration, choice, predictor, snapshots
from trainer.baselines import float_column
from trainer.choice import Evidence
from trainer.predictor import BOOSTING, NETWORK, PURCHASES, Member
from trainer.settings import DEFAULTS, Settings
from trainer.snapshots import Snapshot
from transforms import quiet_tensorflow, schema, storage
from transforms.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer import network
    from trainer.tune import Found

Array = NDArray[np.float64]

AUTO, BLEND = "auto", "blend"
# What --model takes; the members each is made of, as far as the data carry them.
MODELS: Mapping[str, tuple[str, ...]] = {
    AUTO: predictor.MEMBERS,
    BLEND: predictor.MEMBERS,
    "ziln": (NETWORK,),
    "boosting": (BOOSTING,),
    "pareto": (PURCHASES,),
    "mbgnbd": (PURCHASES,),
    "bgnbd": (PURCHASES,),
}
# Snapshots to learn from, of which splits, and the same of what is held out meanwhile.
Rehearsal = tuple[Sequence[Snapshot], Sequence[str], tuple[Sequence[Snapshot], Sequence[str]]]
# More rows move no forecast that could be measured, and cost memory and hours: some 4 GB at this many.
MOST_ROWS = 4_000_000
MOST_EVIDENCE_ROWS = 200_000
# Rows of the earlier snapshots, of the latest one's: a shop's first weeks say little about what learns well later.
LEAST_EARLIER_SHARE = 0.5
# Fewer rows with a purchase do not carry a network of their own beside a purchase model, which has four parameters.
FEWEST_BUYERS_FOR_NETWORK = 100
_FALLBACKS = {"pareto": ("pareto", "mbgnbd")}


@dataclass(frozen=True)
class Plan:
    """What to learn and from what.

    ``model``: of ``MODELS``. ``newest``: the snapshot whose features, not labels, the purchase model is fitted on.
    ``held_out_customers``: whether the judge looks at other customers of the same windows, whose rows must not be learned.
    ``search``: where not None, finds the network's settings, beginning with ``settings``.
    """

    model: str
    training: Sequence[Snapshot]  # latest first
    newest: Snapshot
    held_out_customers: bool
    epochs: int
    seed: int
    settings: Settings = DEFAULTS
    search: Callable[[Plan], Found] | None = None

    @property
    def horizon_days(self) -> int:
        return self.newest.horizon_days

    @property
    def earlier(self) -> list[Snapshot]:
        """The snapshots whose labels the latest one's features may know; none where they hold too little to learn from."""
        latest, *others = self.training
        found = [snapshot for snapshot in others if snapshot.label_end <= latest.cutoff]
        rows = sum(snapshot.manifest["rows"] for snapshot in found)
        return found if rows >= LEAST_EARLIER_SHARE * latest.manifest["rows"] else []

    @property
    def rehearsal(self) -> Rehearsal:
        """What is learned from at first, and held out to look at: the latest snapshot, or some of the customers."""
        if self.earlier:
            return self.earlier, self.splits, ([self.training[0]], self.splits)
        learned = tuple(split for split in self.splits if split != "validation")
        return self.training, learned, (self.training, ("validation",))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(s for s in schema.SPLITS if s != "test") if self.held_out_customers else schema.SPLITS


@dataclass
class Learned:
    """Members by name, their mix, and what a manifest tells of how they came to be.

    ``trained``: the network's training, with its Keras model; None where there is no network.
    """

    members: dict[str, Member]
    content: blend.Blend
    facts: dict[str, Any]
    trained: network.Training | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What the manifest calls it, see ``predictor.KINDS``."""
        if len(self.content.weights) > 1:
            return BLEND
        (name,) = self.content.weights
        if name == PURCHASES:
            return self._saved(name).purchases.name
        return "ziln" if name == NETWORK else "boosting"

    def fingerprint(self, transform_fingerprint: str) -> str:
        """8 hex digits of what was learned: equal models have equal ones."""
        digest = hashlib.sha256(json.dumps(self.content.to_json(), sort_keys=True).encode())
        for name in self.content.weights:
            if name == NETWORK and self.trained:
                digest.update(f"{transform_fingerprint} {asdict(self.trained.scales)}".encode())
                for weights in self.trained.model.get_weights():
                    digest.update(weights.tobytes())
            else:
                digest.update(self._saved(name).fingerprint().encode())
        return digest.hexdigest()[:8]

    def _saved(self, name: str) -> Any:
        """A member that knows how to save itself, as all but the network do."""
        return self.members[name]

    def save(self, model_dir: str) -> None:
        """Writes ``blend.json`` and the directory of every member of the mix but the network's, which is exported before."""
        self.content.write(model_dir)
        for name in self.content.weights:
            if name != NETWORK:
                self._saved(name).save(storage.join(model_dir, name))


class Training:
    """One model's training. ``say`` takes lines for a person who waits."""

    def __init__(self, plan: Plan, local: str, say: Callable[[str], None]) -> None:
        self.plan, self.local, self.say = plan, local, say
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self.facts_of: dict[str, dict[str, Any]] = {name: {} for name in predictor.MEMBERS}
        self.trained: network.Training | None = None

    def run(self) -> Learned:
        """Raises: UsageError where the snapshots carry none of the members asked for."""
        plan = self.plan
        wanted = [name for name in MODELS[plan.model] if self._carries(name)]
        if not wanted:
            raise UsageError(f"--model {plan.model} cannot be learned from these snapshots: {'; '.join(self.notes)}")
        if plan.search and NETWORK in wanted:
            found = plan.search(plan)
            self.plan = plan = replace(plan, settings=found.settings)
            self.facts["tuning"] = found.facts
        elif plan.search:
            self.notes.append("no search: there is no network to tune")
        evidence, members = self._evidence(wanted)
        everybody = blend.Blend.equal(tuple(members))
        weights: Mapping[str, float] = everybody.weights
        self.facts["choice"] = {"asked": plan.model, "why": f"--model {plan.model} asked for it"}
        if plan.model == AUTO:
            chosen = choice.choose(evidence, tuple(members), plan.seed)
            weights = chosen.weights
            self.facts["choice"] = {"asked": AUTO, "why": chosen.why, "compared": chosen.compared}
        if plan.earlier:
            members = self._learn_all(list(weights))
        weights = _among(weights, members)
        kept = {name: members[name] for name in weights}
        for name in reversed(predictor.MEMBERS):  # the network's rows are the ones a manifest tells of
            self.facts |= self.facts_of[name] if name in kept else {}
        content = blend.Blend(weights, self._calibration(evidence, weights, kept))
        self.facts["choice"]["weights"] = dict(weights)
        self.facts["calibration"] = content.calibration.explained(plan.newest.cutoff)
        if NETWORK in kept:
            self._export()
        return Learned(kept, content, self.facts, self.trained if NETWORK in kept else None, self.notes)

    # What the data carry.

    def _carries(self, name: str) -> bool:
        if name == PURCHASES:
            return True  # tried, and left out with its own words where it fails
        buyers = self._buyers
        if name == NETWORK and self.plan.model == AUTO and buyers < FEWEST_BUYERS_FOR_NETWORK:
            # Without repeat purchases there is no purchase model either, and then a network has to do.
            if not self._purchases_possible():
                return True
            self.notes.append(f"no network: {buyers} rows with a purchase, {FEWEST_BUYERS_FOR_NETWORK} carry one")
            return False
        if name == BOOSTING:
            from trainer import boosting

            if buyers < boosting.FEWEST_BUYERS:
                self.notes.append(f"no trees: {buyers} rows with a purchase, {boosting.FEWEST_BUYERS} carry them")
                return False
        return True

    @functools.cached_property
    def _buyers(self) -> int:
        """Rows with a purchase among those that are learned from at first, which are the fewest."""
        learned_from, splits, _ = self.plan.rehearsal
        values = (snapshots.read_customers(s, splits, ["future_value"], MOST_ROWS) for s in learned_from)
        return sum(int((float_column(v, "future_value") > 0).sum()) for v in values)

    def _purchases_possible(self) -> bool:
        """Whether somebody bought again before each cutoff that a purchase model is fitted at."""
        fitted_at = (self.plan.training[0], self.plan.newest)
        return all(
            float_column(snapshots.read_customers(s, columns=["frequency"]), "frequency").any() for s in fitted_at
        )

    # What each is worth.

    def _evidence(self, wanted: list[str]) -> tuple[Evidence | None, dict[str, Member]]:
        """Members that have not learned from some rows, and their forecasts of these rows.

        The purchase model reads no label, but where customers are held out it is fitted on features that know their days.
        """
        plan = self.plan
        if plan.earlier:
            latest = plan.training[0]
            held_out = snapshots.read_customers(latest, plan.splits, None, MOST_EVIDENCE_ROWS)
            self.say(f"learning from {len(plan.earlier)} earlier snapshot(s) to see how {latest.cutoff} is forecast")
            members = self._learn(wanted, *plan.rehearsal, latest)
            basis, window = choice.OUT_OF_TIME, str(latest.cutoff)
        else:
            # One window of them: rows of one customer at several cutoffs would pass for several customers.
            looked_at = next((s for s in plan.training if s.manifest["splits"].get("validation")), plan.training[0])
            held_out = snapshots.read_customers(looked_at, ("validation",), None, MOST_EVIDENCE_ROWS)
            members = self._learn(wanted, *plan.rehearsal, plan.newest)
            basis, window = choice.OTHER_CUSTOMERS, str(looked_at.cutoff)
        if plan.model != AUTO and len(members) == 1 and not plan.earlier:
            return None, members
        value, orders = (float_column(held_out, name) for name in schema.names(schema.LABELS))
        return Evidence(basis, window, value, orders, {n: m.forecasts(held_out) for n, m in members.items()}), members

    def _learn_all(self, names: list[str]) -> dict[str, Member]:
        plan = self.plan
        self.say(f"learning from all {len(plan.training)} snapshots")
        return self._learn(names, plan.training, plan.splits, None, plan.newest)

    def _learn(
        self, names: Sequence[str], learned_from: Sequence[Snapshot], splits: Sequence[str],
        validation: tuple[Sequence[Snapshot], Sequence[str]] | None, newest: Snapshot,
    ) -> dict[str, Member]:  # fmt: skip
        found: dict[str, Member] = {}
        for name in names:
            if name == NETWORK:
                found[name] = self._network(learned_from, splits, validation)
            elif name == BOOSTING:
                found[name] = self._boosting(learned_from, splits)
            elif (model := self._purchases(newest)) is not None:
                found[name] = model
        if not found:
            raise UsageError(
                f"--model {self.plan.model} cannot be learned from these snapshots: {'; '.join(self.notes)}"
            )
        return found

    def _network(
        self, learned_from: Sequence[Snapshot], splits: Sequence[str],
        validation: tuple[Sequence[Snapshot], Sequence[str]] | None,
    ) -> Member:  # fmt: skip
        quiet_tensorflow.import_tensorflow()
        from trainer import export, network

        plan = self.plan
        examples, held_out = read_examples(learned_from, splits, validation)
        self.say(f"network: {len(examples):,} rows of {len(learned_from)} snapshot(s)")
        # Batches grow with the rows, so that an epoch has as many steps on all the snapshots as it had on the earlier ones.
        epochs = plan.epochs if validation else self.trained.best_epoch if self.trained else plan.epochs
        trained = network.train(
            examples, held_out, horizon_days=plan.horizon_days, epochs=epochs, seed=plan.seed, progress=self.say,
            settings=plan.settings,
        )  # fmt: skip
        if validation:
            self.say(f"best of {len(trained.history)} epochs is {trained.best_epoch}")
            self.facts_of[NETWORK] |= {
                "validation_rows": len(held_out or ()), "epochs_run": len(trained.history),
                "best_epoch": trained.best_epoch, "validation_loss": trained.history[trained.best_epoch - 1],
            }  # fmt: skip
        self.facts_of[NETWORK] |= {
            "training_rows": len(examples), "batch_size": trained.batch_size, "scales": asdict(trained.scales),
            "network": asdict(plan.settings),
        }  # fmt: skip
        self.trained = trained
        return export.in_memory(trained, self._transform)

    @functools.cached_property
    def _transform(self) -> str:
        """On this machine: not every build of TensorFlow opens gs://."""
        source = storage.join(self.plan.training[0].uri, "transform_fn")
        return storage.copy_directory(source, os.path.join(self.local, "transform"))

    def _export(self) -> None:
        """Writes the network, in its last training, where the maker of the model directory finds it."""
        from trainer import export

        if self.trained:
            export.export(self.trained, self._transform, os.path.join(self.local, NETWORK))

    def _boosting(self, learned_from: Sequence[Snapshot], splits: Sequence[str]) -> Member:
        from trainer import boosting

        columns = [*boosting.inputs(), *schema.names(schema.LABELS)]
        most = MOST_ROWS // len(learned_from)
        tables = [snapshots.read_customers(s, splits, ["customer_id", *columns], most) for s in learned_from]
        x = np.concatenate([boosting.matrix(table) for table in tables])
        value, orders = (np.concatenate([float_column(t, n) for t in tables]) for n in schema.names(schema.LABELS))
        self.say(f"trees: {len(x):,} rows")
        self.facts_of[BOOSTING] = {"training_rows": len(x)}
        people = _numbers(tables)
        return boosting.fit(x, value, orders, people, horizon_days=self.plan.horizon_days, seed=self.plan.seed)

    def _purchases(self, newest: Snapshot) -> Member | None:
        """Fitted on what all customers did before the snapshot's cutoff; its labels are not read."""
        asked = self.plan.model
        customers = snapshots.read_customers(newest, columns=list(btyd_model.COLUMNS))
        own_mean = asked in (AUTO, BLEND)
        order_value = btyd_model.OWN_MEAN if own_mean else btyd_model.GAMMA_GAMMA
        names = (asked,) if asked in ("mbgnbd", "bgnbd") else _FALLBACKS["pareto"]
        failures = []
        for name in names:
            try:
                model = btyd_model.fit(name, customers, horizon_days=self.plan.horizon_days, order_value=order_value)
            except UsageError as error:
                failures.append(f"{name}: {error}")
                continue
            if model.purchases.converged_ or name == names[-1]:
                self.say(f"purchase model: {name} of {customers.num_rows:,} customers as of {newest.cutoff}")
                facts = {"model": name, "as_of": str(newest.cutoff), "notes": model.notes}
                self.facts_of[PURCHASES] = {"purchase_model": facts}
                return model
            failures.append(f"{name} did not converge")
        note = f"no purchase model: {'; '.join(failures)}"
        self.notes += [] if note in self.notes else [note]
        return None

    def _calibration(
        self, evidence: Evidence | None, weights: Mapping[str, float], members: Mapping[str, Member]
    ) -> calibration.Calibration:
        found = calibration.Calibration()
        if evidence and evidence.basis == choice.OUT_OF_TIME:
            said = blend.mix(evidence.said, weights)
            halves = np.random.default_rng(self.plan.seed).random(len(evidence.value)) < 0.5
            found = calibration.of_evidence(evidence.value, said, halves)
        windows = []
        for snapshot in self.plan.training:
            customers = snapshots.read_customers(snapshot, self.plan.splits, None, MOST_EVIDENCE_ROWS)
            said = blend.mix({name: m.forecasts(customers) for name, m in members.items()}, weights)
            window = calibration.window(
                snapshot.cutoff, float_column(customers, "future_value"), said["predicted_value"]
            )
            windows += [window] if window else []
        return calibration.Calibration(tuple(windows), found.deciles, found.p90_factor, found.why)


def read_examples(
    learned_from: Sequence[Snapshot], splits: Sequence[str],
    validation: tuple[Sequence[Snapshot], Sequence[str]] | None,
) -> tuple[network.Examples, network.Examples | None]:  # fmt: skip
    """What a network learns from, and what is held out."""
    quiet_tensorflow.import_tensorflow()
    from trainer import network

    examples = network.Examples.of(snapshots.read_transformed(learned_from, splits, MOST_ROWS))
    if validation is None:
        return examples, None
    return examples, network.Examples.of(snapshots.read_transformed(*validation, MOST_EVIDENCE_ROWS))


def _among(weights: Mapping[str, float], members: Mapping[str, Member]) -> dict[str, float]:
    """The weights of those members that there are, 1 in sum: the newest snapshot need not carry what earlier ones did."""
    kept = {name: weight for name, weight in weights.items() if name in members}
    return {name: weight / sum(kept.values()) for name, weight in kept.items()}


def _numbers(tables: Sequence[pa.Table]) -> NDArray[np.int64]:
    """[n]: a number for each customer of all the tables, the same in every one of them."""
    import pyarrow as pa

    ids = pa.chunked_array([chunk for table in tables for chunk in table["customer_id"].chunks], pa.string())
    return ids.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
