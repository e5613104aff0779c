"""The model registry's commands: promote, rollback, register, list, show, champion. ``--help`` explains them."""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from trainer import registry_challenge, registry_decision, registry_store
from trainer.evaluation_text import MAIN_METRICS, format_metric, spoken
from trainer.registry_challenge import Contender, Decision, Incomparable
from trainer.registry_decision import DecisionFile
from trainer.registry_options import RegistryOptions
from trainer.registry_store import PROMOTE, ROLLBACK, Champions, Clock, Move, Registry, utc_now
from transforms import storage
from transforms.cli import exit_code, say
from transforms.errors import UsageError, rejected

NOT_PROMOTED = 3
ALREADY_CHAMPION = "it is the champion already"


class NotPromoted(RuntimeError):
    """The challenger did not win; the champion is what it was. One line with the figures."""


def main(argv: list[str] | None = None) -> int:
    try:
        return exit_code(lambda: print(_text(RegistryOptions.parse(argv), run(argv))))
    except NotPromoted as error:
        print(f"not promoted: {error}", file=sys.stderr)
        return NOT_PROMOTED


def run(argv: list[str] | None = None, clock: Clock = utc_now) -> dict[str, Any]:
    """Runs a command and returns what it shows.

    For ``champion``, ``promote`` and ``rollback`` the move and ``model``; for ``promote --decision`` the decision.

    Raises:
      UsageError: a bad argument, or nothing there to show.
      ChampionMoved: another process changed the champion meanwhile.
      NotPromoted: the challenger is not better than the champion; never with ``--decision``.
    """
    options = RegistryOptions.parse(argv)
    registry = Registry(options.registry, clock)
    if options.command == "register":
        return registry.register(options.model, options.by)
    if options.command == "promote":
        return _gate(registry, options) if options.decision is not None else _promote(registry, options)
    if options.command == "rollback":
        return _rollback(registry, options)
    if options.command == "list":
        return {"champion": registry.champions().version, "versions": registry.versions()}
    if options.command == "show":
        return {
            **registry.entry(options.version),
            "model_directory": registry.model_directory(options.version),
            "champion": _reigns(registry.champions(), options.version),
        }
    return _champion(registry, options)


def _champion(registry: Registry, options: RegistryOptions) -> dict[str, Any]:
    if options.on:
        asked, move = registry_store.end_of(options.on), registry.champion_on(options.on)
    else:
        asked = options.at or registry.clock().astimezone(datetime.UTC)
        move = registry.champion_at(options.at)
    return {**_shown(registry, move), "instant": asked.isoformat(timespec="microseconds")}


def _shown(registry: Registry, move: Move) -> dict[str, Any]:
    return {**asdict(move), "model": registry.model_directory(move.version)}


def _promote(registry: Registry, options: RegistryOptions) -> dict[str, Any]:
    outcome = _challenge(registry, options)
    if outcome.move is None:
        challenger, decision = outcome.challenger, outcome.decision
        raise NotPromoted("; ".join([f"{challenger.version} is {decision.sentence}", *decision.notes]))
    return _shown(registry, outcome.move)


def _gate(registry: Registry, options: RegistryOptions) -> dict[str, Any]:
    """``promote`` for a scheduler: whoever is champion afterwards, the run goes on, and a repeat decides nothing anew."""
    assert options.decision is not None
    registry = Registry(registry_decision.absolute(registry.uri), registry.clock)
    file = DecisionFile(options.decision, registry.uri)
    kept = file.read()
    answer = kept if kept and (kept["promoted"] or not options.force) else None
    # An answer stays one where the model's directory was tidied up: then there is nothing to hold it against.
    if answer is None or storage.exists(storage.join(options.model, storage.MANIFEST)):
        version = str(storage.read_manifest(options.model, "model").get("model_version"))
        if kept:
            file.require_challenger(kept, version)
    if answer:
        say(f"decided before, by {options.decision}: {_in_words(answer)}")
        return answer
    file.require_writable()
    outcome = _challenge(registry, options)
    made = _decided(registry, outcome)
    decided = file.write(made, replaced=kept)
    if not decided["promoted"]:
        say(_in_words(decided))
    return decided


def _in_words(decided: dict[str, Any]) -> str:
    if decided["promoted"]:
        return f"{decided['challenger']} became champion: {decided['reason']}"
    if decided["champion"] == decided["challenger"]:
        return f"{decided['challenger']} stays champion: {decided['reason']}"
    stays = f"{decided['champion']} stays champion" if decided["champion"] else "there is no champion"
    return f"{decided['challenger']} was not promoted, {stays}: {decided['reason']}"


def _decided(registry: Registry, outcome: Outcome) -> dict[str, Any]:
    decision, champion = outcome.decision, outcome.champion
    move = outcome.move if outcome.promoted else None
    return {
        "promoted": outcome.promoted,
        "champion": champion,
        "model": None if champion is None else registry.model_directory(champion),
        "challenger": outcome.challenger.version,
        "reason": move.reason if move else decision.sentence,
        "forced": bool(move and move.forced),
        "figures": move.figures if move else decision.figures,
        "notes": list(move.notes if move else decision.notes),
        "metrics": outcome.challenger.entry["metrics"],
        "registry": registry.uri,
    }


@dataclass(frozen=True)
class Outcome:
    """``move`` made the challenger champion, now or earlier; None: it is not, and ``champion`` is who is, if anybody.

    ``promoted``: this decision made that move, in this process or in one that was killed before it could say so.
    """

    challenger: Contender
    champion: str | None
    decision: Decision
    move: Move | None = None
    promoted: bool = False


def _challenge(registry: Registry, options: RegistryOptions) -> Outcome:
    # Read before anything is compared: what the comparison is about is what the move may replace.
    seen = registry.champions()
    # A gate is asked about every training, also one that came to a model which is known already.
    entry = registry.register(options.model, options.by, retrained=options.decision is not None)
    challenger = Contender(entry, registry.model_directory(entry["model_version"]))
    file = registry_decision.absolute(options.decision) if options.decision is not None else None
    if seen.current and seen.version == challenger.version:
        registry.require_unmoved(seen, challenger.version)
        say(f"{challenger.version} is already champion, since {seen.current.at}")
        ours = file is not None and seen.current.decision == file
        return Outcome(challenger, seen.version, Decision(ours, ALREADY_CHAMPION, None), seen.current, promoted=ours)
    decision = _decision(registry, seen, challenger, options)
    for note in decision.notes:
        say(f"note: {note}")
    if not decision.wins and not options.force:
        # A comparison takes minutes, and a champion may be rolled back in them: what is kept names the one there is.
        registry.require_unmoved(seen, challenger.version)
        return Outcome(challenger, seen.version, decision)
    move = registry.move(
        seen, challenger.version, action=PROMOTE, reason=options.reason or decision.sentence,
        forced=not decision.wins, figures=decision.figures, notes=decision.notes, by=options.by, decision=file,
    )  # fmt: skip
    say(f"{challenger.version} is champion{' by force' if move.forced else ''}: {decision.sentence}")
    return Outcome(challenger, move.version, decision, move, promoted=True)


def _decision(registry: Registry, seen: Champions, challenger: Contender, options: RegistryOptions) -> Decision:
    if options.decision is not None and not options.force and (refused := _rolled_back(seen, challenger)):
        return refused
    if (seen.version is None or options.evaluation is None) and (unjudged := _unjudged(options.model)):
        return unjudged
    if seen.version is None:
        return Decision(True, "the first champion, compared with none", None)
    try:
        champion = _reigning(registry, seen.version)
        evaluation = registry_challenge.evaluation_of(challenger, options.evaluation)
        say(f"comparing {challenger.version} with the champion {champion.version} on {evaluation.uri}")
        return registry_challenge.compare(challenger, champion, evaluation)
    except Incomparable as error:
        if not options.force:
            raise
        return Decision(False, "not compared with the champion", None, (error.why,))


def _reigning(registry: Registry, version: str) -> Contender:
    """Raises: Incomparable where the registry no longer holds the champion."""
    try:
        return Contender(registry.entry(version), registry.model_directory(version))
    except UsageError as error:
        way_out = "rollback --to VERSION makes another version champion"
        raise Incomparable(f"there is no comparing with the champion {version}: {error}; {way_out}") from error


def _rolled_back(seen: Champions, challenger: Contender) -> Decision | None:
    """A person took it back for a reason; the gate's figures had not shown it, and would not now."""
    move = seen.ended(challenger.version)
    if move is None or move.action != ROLLBACK:
        return None
    why = f"rolled back from at {move.at} ({move.reason}): only a person makes it champion again"
    return Decision(False, f"{why}, without --decision or with --force", None)


def _unjudged(model: str) -> Decision | None:
    """On days on which nobody bought no model is better than another."""
    evaluation = json.loads(storage.read_bytes(storage.join(model, "evaluation.json")))
    return None if evaluation["buyers"] else Decision(False, f"not judged: {evaluation['verdict']}", None)


def _rollback(registry: Registry, options: RegistryOptions) -> dict[str, Any]:
    seen = registry.champions()
    if seen.version is None:
        raise UsageError(f"--registry {registry.uri!r} has no champion to roll back from")
    version = options.to or seen.before_current()
    if version is None:
        raise UsageError(f"there was no champion before {seen.version}: name a registered version by --to")
    if version == seen.version:
        raise rejected("--to", version, f"a version other than the champion {seen.version}")
    registry.entry(version)  # complete, or refused
    assert options.reason is not None
    move = registry.move(seen, version, action=ROLLBACK, reason=options.reason, by=options.by)
    say(f"{version} is champion again, instead of {seen.version}")
    return _shown(registry, move)


def _reigns(champions: Champions, version: str) -> list[dict[str, str | None]]:
    """When a version was champion: [{"from", "to"}], "to" None for the present."""
    ends = [*(move.at for move in champions.moves[1:]), None]
    return [
        {"from": move.at, "to": end}
        for move, end in zip(champions.moves, ends, strict=False)
        if move.version == version
    ]  # fmt: skip


def _text(options: RegistryOptions, result: dict[str, Any]) -> str:
    if options.json or options.command == "show" or options.decision is not None:
        return json.dumps(result, indent=2, ensure_ascii=False)
    if options.command == "list":
        return _table(result)
    if options.command == "register":
        return str(result["model_version"])
    return str(result["model"] if options.command == "champion" else result["version"])


def _table(listing: dict[str, Any]) -> str:
    head = ["", "version", "registered", "trained on", "judged on", *map(spoken, MAIN_METRICS)]
    rows = [
        [
            "*" if entry["model_version"] == listing["champion"] else "",
            entry["model_version"],
            entry["registered_at"][:16].replace("T", " "),
            " ".join(entry["training_cutoffs"]),
            entry["evaluation_cutoff"],
            *(format_metric(metric, entry["metrics"].get(metric)) for metric in MAIN_METRICS),
        ]
        for entry in listing["versions"]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    return "\n".join([*lines, "", _legend(listing)])


def _legend(listing: dict[str, Any]) -> str:
    if listing["champion"] is None:
        return "no champion yet; times are UTC"
    return f"* {listing['champion']} is champion; metrics as first judged, on different customers; times are UTC"


if __name__ == "__main__":
    sys.exit(main())
