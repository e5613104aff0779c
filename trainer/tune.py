"""A search for the network's settings: trials by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

A trial trains a small ensemble on the rows and days the evidence of ``trainer.training`` comes from (the earlier snapshots,
or some of the customers) and is worth its validation loss on the latest one (or on other customers). Trial 0 is
the settings the search starts from, so that its best is never worse than they are on that window. The evaluation
snapshot is not opened.

Which settings a trial tries follows from the seed, its number and the trials before it alone, so that a search that was
interrupted and taken up again is the search that was not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.settings import Settings, shape
from trainer.tune_trials import COMPLETE, FAIL, PRUNED, Study, Trial
from transforms import storage
from transforms.errors import JobFailed, UsageError, rejected

if TYPE_CHECKING:
    import optuna

    from trainer.training import Plan

# Two members cost a third of the six and still show a member's mean loss.
TRIAL_MEMBERS = 2
SHAPES = ((16,), (32,), (64,), (32, 16), (64, 32), (128, 64), (64, 32, 16))
# An order of magnitude either side of Adam's usual 1e-3; below, the epochs do not suffice, above, training diverges.
LEARNING_RATES = (2e-4, 2e-2)
# A step takes rate x decay of a weight: at some 60 steps an epoch and a rate of 2e-3 an epoch takes 0.01% to 12% of it.
WEIGHT_DECAYS = (1e-3, 1.0)
# A slow learner needs some epochs to show what it is worth, and a median some trials.
PRUNE_FROM_EPOCH, PRUNE_AFTER_TRIALS = 10, 5

Measured = tuple[Sequence[float], int, bool]
GiveUp = Callable[[int, float], bool]
Measure = Callable[[Settings, GiveUp], Measured]


@dataclass(frozen=True)
class Found:
    """The settings to train with, and what a manifest tells of the search."""

    settings: Settings
    facts: dict[str, Any]


@dataclass(frozen=True)
class Search:
    """``trials``: how many in all, those of an earlier attempt included. ``place``: the URI of the directory of studies."""

    trials: int
    place: str
    say: Callable[[str], None]

    def check(self, output: str) -> None:
        """Raises: UsageError where the search could not run or keep its trials, before anything is begun."""
        if not importlib.util.find_spec("optuna"):
            raise UsageError(f"--tune {self.trials} needs Optuna: pip install 'clv-pipelines[tune]'")
        if not storage.is_local(self.place) and not self.place.startswith("gs://"):
            raise rejected("--tune_storage", self.place, "a local path or gs://")
        # A half-finished output is emptied when it is begun again, and the trials would go with it.
        inside, outside = storage.resolve(self.place)[1], storage.resolve(output)[1]
        if storage.is_local(self.place) == storage.is_local(output) and f"{inside}/".startswith(f"{outside}/"):
            raise rejected("--tune_storage", self.place, "a place outside --output")

    def run(self, plan: Plan) -> Found:
        """Runs the trials that are missing.

        Raises:
          JobFailed: no trial ended with a finite loss.
        """
        study = Study.open(self.place, decides(plan))
        trials = complete(study, self.trials, start_of(plan), plan.seed, objective(plan), self.say)
        best = best_of(trials)
        if best is None:
            raise JobFailed(f"none of {self.trials} trials ended with a finite loss: see {study.directory}")
        chosen = replace(best.settings, members=plan.settings.members)
        return Found(chosen, _facts(trials, best, study, plan))


def complete(
    study: Study, wanted: int, start: Settings, seed: int, measure: Measure, say: Callable[[str], None]
) -> list[Trial]:
    """The first ``wanted`` trials of a study: those it has, and then those it lacks, run one by one and kept at once.

    Args:
      measure: see ``objective``.
    """
    trials = study.trials()[:wanted]
    if trials:
        say(f"{len(trials)} of {wanted} trials are in {study.directory}")
    while len(trials) < wanted:
        trials.append(study.add(_run(start, trials, seed, measure)))
        say(_line(trials, wanted))
    return trials


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the smallest loss, the first of equals; None where none ran to its end."""
    finished = [trial for trial in trials if trial.state == COMPLETE]
    return min(finished, key=_loss, default=None)


def _loss(trial: Trial) -> float:
    return math.inf if trial.loss is None else trial.loss


def start_of(plan: Plan) -> Settings:
    """Trial 0."""
    return replace(plan.settings, members=min(TRIAL_MEMBERS, plan.settings.members))


def decides(plan: Plan) -> dict[str, Any]:
    """What the losses of a search depend on: data, code and arguments. A dict for JSON."""
    learned_from, splits, (held_out, held_out_splits) = plan.rehearsal
    return {
        "learned_from": [s.manifest_hash for s in learned_from], "splits": list(splits),
        "held_out": [s.manifest_hash for s in held_out], "held_out_splits": list(held_out_splits),
        "horizon_days": plan.horizon_days, "seed": plan.seed, "epochs": plan.epochs,
        "start": asdict(start_of(plan)), "code": _code_fingerprint(),
        "libraries": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "optuna")},
    }  # fmt: skip


def _code_fingerprint() -> str:
    """A short hash of the trainer's source files; the transforms' are in the snapshots' manifests."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parent.glob("*.py")):
        digest.update(path.name.encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()[:16]


def objective(plan: Plan) -> Measure:
    """A function that trains a network of some settings and returns each epoch's validation loss, the best epoch (from 1)
    and whether it gave up, which it does where ``give_up(epoch, loss)`` says so."""
    examples: list[Any] = []  # read once, and only where a trial is missing

    def measure(settings: Settings, give_up: GiveUp) -> Measured:
        from trainer import training

        if not examples:
            examples.extend(training.read_examples(*plan.rehearsal))
        from trainer import network

        gave_up = False

        def ask(epoch: int, loss: float) -> bool:
            nonlocal gave_up
            gave_up = give_up(epoch, loss)
            return gave_up

        trained = network.train(
            examples[0], examples[1], horizon_days=plan.horizon_days, epochs=plan.epochs, seed=plan.seed,
            progress=lambda line: None, settings=settings, give_up=ask,
        )  # fmt: skip
        return trained.history, trained.best_epoch, gave_up

    return measure


def _run(start: Settings, earlier: Sequence[Trial], seed: int, measure: Measure) -> Trial:
    started = time.monotonic()
    asked, settings = propose(start, earlier, seed)

    def give_up(epoch: int, loss: float) -> bool:
        asked.report(loss, epoch)
        return asked.should_prune()

    history, best_epoch, gave_up = measure(settings, give_up)
    finite = tuple(loss if math.isfinite(loss) else None for loss in history)
    loss = finite[best_epoch - 1]
    state = FAIL if loss is None else PRUNED if gave_up else COMPLETE
    return Trial(len(earlier), settings, state, loss, finite, round(time.monotonic() - started, 3))


def propose(start: Settings, trials: Sequence[Trial], seed: int) -> tuple[optuna.Trial, Settings]:
    """The next trial: ``start`` where there is none yet, else what Optuna makes of those there are."""
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own_seed = int(np.random.SeedSequence((seed, len(trials))).generate_state(1)[0])
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=own_seed),
        pruner=optuna.pruners.MedianPruner(PRUNE_AFTER_TRIALS, PRUNE_FROM_EPOCH),
    )
    space = _space(start)
    for trial in trials:
        study.add_trial(_told(trial, space))
    if not trials:
        study.enqueue_trial(_parameters(start))
    asked = study.ask()
    return asked, _suggested(asked, space, start.members)


def _space(start: Settings) -> dict[str, Any]:
    """Optuna's distributions by name, wide enough for the start. No decay is a value of its own: a logarithm reaches no zero."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    decays = (*WEIGHT_DECAYS, start.weight_decay or WEIGHT_DECAYS[0])
    rates = (*LEARNING_RATES, start.learning_rate)
    return {
        "hidden_units": CategoricalDistribution(list(dict.fromkeys(map(shape, (*SHAPES, start.hidden_units))))),
        "learning_rate": FloatDistribution(min(rates), max(rates), log=True),
        "decays": CategoricalDistribution([False, True]),
        "weight_decay": FloatDistribution(min(decays), max(decays), log=True),
    }


def _parameters(settings: Settings) -> dict[str, Any]:
    found = {
        "hidden_units": shape(settings.hidden_units), "learning_rate": settings.learning_rate,
        "decays": settings.weight_decay > 0,
    }  # fmt: skip
    return {**found, "weight_decay": settings.weight_decay} if found["decays"] else found


def _suggested(asked: optuna.Trial, space: dict[str, Any], members: int) -> Settings:
    def choice(name: str) -> Any:
        return asked.suggest_categorical(name, space[name].choices)

    def number(name: str) -> float:
        return asked.suggest_float(name, space[name].low, space[name].high, log=True)

    layers, rate = tuple(map(int, choice("hidden_units").split())), number("learning_rate")
    return Settings(layers, members, rate, number("weight_decay") if choice("decays") else 0.0)


def _told(trial: Trial, space: dict[str, Any]) -> optuna.trial.FrozenTrial:
    import optuna

    parameters = _parameters(trial.settings)
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[trial.state], value=trial.loss if trial.state == COMPLETE else None,
        params=parameters, distributions={name: space[name] for name in parameters},
        intermediate_values={epoch: loss for epoch, loss in enumerate(trial.history, 1) if loss is not None},
    )  # fmt: skip


def described(settings: Settings) -> str:
    return (
        f"hidden_units {shape(settings.hidden_units)}, learning_rate {settings.learning_rate:.3g}, "
        f"weight_decay {settings.weight_decay:.3g}"
    )


def _line(trials: Sequence[Trial], wanted: int) -> str:
    """What a person who waits is told of the last trial."""
    last, best = trials[-1], best_of(trials)
    loss = "no finite loss" if last.loss is None else f"loss {last.loss:.4f}"
    stopped = f", stopped after {len(last.history)} epochs" if last.state == PRUNED else ""
    leads = f"best {_loss(best):.4f} (trial {best.number})" if best else "no best yet"
    return f"trial {last.number} ({len(trials)} of {wanted}): {described(last.settings)}: {loss}{stopped}; {leads}, {last.seconds:.1f} s"


def _facts(trials: Sequence[Trial], best: Trial, study: Study, plan: Plan) -> dict[str, Any]:
    """For the manifest: no seconds, so that a search that was interrupted tells what one that was not does."""
    first = trials[0]
    compared = f"validation loss {best.loss:.4f}, the settings it began with {_loss(first):.4f}"
    why = f"trial {best.number} of {len(trials)}, {described(best.settings)}: {compared}"
    return {
        "why": why, "best": best.number, "study": study.directory.rsplit("/", 1)[-1],
        "members": first.settings.members,
        "held_out": [str(snapshot.cutoff) for snapshot in plan.rehearsal[2][0]],
        "trials": [
            {
                "number": t.number, "hidden_units": list(t.settings.hidden_units),
                "learning_rate": t.settings.learning_rate, "weight_decay": t.settings.weight_decay,
                "state": t.state, "loss": t.loss,
            }
            for t in trials
        ],
    }  # fmt: skip
