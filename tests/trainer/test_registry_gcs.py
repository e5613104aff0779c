"""The registry on Cloud Storage: the champion moves by generation match, and everything else as on a disk."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import PreconditionFailed
from google.cloud.storage import Blob, Client

from tests.emulators import services
from tests.trainer import registry_models
from tests.trainer.registry_models import FORCED, champion_content, moves, promote, small, variant
from tests.trainer.trained_models import EVALUATION_CUTOFF, World
from trainer import predictor, registry, registry_decision
from transforms import storage

pytestmark = pytest.mark.emulators


@pytest.fixture
def place(cloud_storage: services.CloudStorage, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A registry in a fresh bucket."""
    with Client(project=services.PROJECT) as client:
        return f"gs://{client.create_bucket(tmp_path.name.replace('_', '-').lower()).name}/a/registry"


def test_the_emulator_says_so_where_the_generation_is_another(place: str) -> None:
    with Client(project=services.PROJECT) as client:
        blob = client.bucket(place.split("/")[2]).blob("object")
        blob.upload_from_string(b"1", if_generation_match=0)
        first = blob.generation
        with pytest.raises(PreconditionFailed):
            blob.upload_from_string(b"2", if_generation_match=0)
        blob.upload_from_string(b"3", if_generation_match=first)
        with pytest.raises(PreconditionFailed):
            blob.upload_from_string(b"4", if_generation_match=first)
        blob.upload_from_string(b"5")
        assert blob.download_as_bytes() == b"5"


def test_the_whole_life_of_a_champion(
    world: World, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(place, world.model) == 0
    version = moves(place)[0]["version"]
    again = storage.copy_directory(world.model, f"{place.removesuffix('/registry')}/again")
    assert promote(place, again) == 0  # a model on Cloud Storage, of the same content: already champion
    assert promote(place, variant(world.model, tmp_path / "equal", "equal")) == 3
    assert promote(place, str(tmp_path / "equal"), *FORCED) == 0
    assert registry.main(["rollback", "--registry", place, "--reason", "r"]) == 0
    capsys.readouterr()
    assert registry.main(["champion", "--registry", place]) == 0
    directory = capsys.readouterr().out.strip()
    assert directory == f"{place}/models/{version}"
    sample = world.customers.slice(0, 50)
    assert (
        predictor.load(directory)
        .predict(sample, EVALUATION_CUTOFF)
        .equals(predictor.load(world.model).predict(sample, EVALUATION_CUTOFF))
    )
    assert [move["version"] for move in moves(place)] == [version, "equal", version]
    listed = registry.run(["list", "--registry", place])
    assert [entry["model_version"] for entry in listed["versions"]] == [version, "equal"]


def test_of_processes_that_promote_at_once_exactly_one_wins(place: str, tmp_path: Path) -> None:
    rounds = 6
    models = [[small(tmp_path / f"v{i}-{own}", f"v{i}-{own}") for i in range(rounds)] for own in "ab"]
    codes = registry_models.race(place, models)
    assert [sorted(codes[model] for model in pair) for pair in zip(*models, strict=True)] == [[0, 1]] * rounds
    made = [Path(model).name for pair in zip(*models, strict=True) for model in pair if codes[model] == 0]
    assert [move["version"] for move in moves(place)] == made
    assert [move["previous"] for move in moves(place)] == [None, *made[:-1]]


def test_a_stale_generation_does_not_overwrite(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found the expected content when the first of them writes."""
    pointer = f"{place}/pointer"
    assert storage.compare_and_set(pointer, b"old", None)
    plain, both = Blob.upload_from_string, threading.Barrier(2)
    refused: list[bytes] = []

    def together(self: Blob, content: bytes, **named: Any) -> None:
        both.wait(30)
        try:
            plain(self, content, **named)
        except PreconditionFailed:
            refused.append(content)
            raise

    monkeypatch.setattr(Blob, "upload_from_string", together)
    done: dict[bytes, bool] = {}
    threads = [
        threading.Thread(target=lambda c=c: done.update({c: storage.compare_and_set(pointer, c, b"old")}))
        for c in (b"a", b"b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done.values()) == [False, True] and len(refused) == 1
    [winner] = [content for content, won in done.items() if won]
    assert storage.read_bytes(pointer) == winner != refused[0]


def test_a_success_whose_answer_was_lost_is_a_success(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer, plain = f"{place}/pointer", Blob.upload_from_string

    def answer_lost(self: Blob, content: bytes, **named: Any) -> None:
        plain(self, content, **named)
        plain(self, content, **named)  # as the client repeats it

    assert storage.compare_and_set(pointer, b"old", None)
    monkeypatch.setattr(Blob, "upload_from_string", answer_lost)
    assert storage.compare_and_set(pointer, b"new", b"old")
    assert storage.read_bytes(pointer) == b"new"


def test_a_file_is_replaced_only_where_it_holds_what_was_expected(place: str) -> None:
    pointer = f"{place}/pointer"
    assert not storage.compare_and_set(pointer, b"new", b"old")
    assert storage.compare_and_set(pointer, b"first", None)
    assert not storage.compare_and_set(pointer, b"other", None)
    assert not storage.compare_and_set(pointer, b"other", b"another")
    assert storage.read_bytes(pointer) == b"first"


def test_a_missing_bucket_is_one_line(
    cloud_storage: services.CloudStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "gs://no-such-bucket/registry"
    assert promote(place, small(tmp_path / "v1", "v1"), *FORCED) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {place}/versions/v1.json cannot be changed: ") and error.count("\n") == 1


def test_a_promoter_killed_before_the_alias_leaves_the_champion(place: str, tmp_path: Path) -> None:
    assert promote(place, small(tmp_path / "old", "old"), *FORCED) == 0
    before, model = champion_content(place), small(tmp_path / "new", "new")
    for function, after in (("transforms.storage.write_bytes", 1), ("trainer.registry_store.Registry.move", 0)):
        assert registry_models.killed(function, after, functools.partial(promote, place, model, *FORCED)) == 9
        assert champion_content(place) == before
    assert promote(place, model, *FORCED) == 0
    assert [move["version"] for move in moves(place)] == ["old", "new"]


def test_a_decision_is_kept_on_cloud_storage(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = f"{place.removesuffix('/registry')}/run/gate.json"
    decide = ("--decision", gate)
    assert promote(place, small(tmp_path / "v0", "v0"), *decide) == 0
    first = registry_decision.read(gate)
    assert first["promoted"] and first["model"] == f"{place}/models/v0" and first["registry"] == place
    assert storage.list_files(f"{place.removesuffix('/registry')}/run") == [gate.removeprefix("gs://")]
    before = champion_content(place)
    assert promote(f"{place}/", str(tmp_path / "v0"), *decide) == 0  # asked again
    assert (registry_decision.read(gate), champion_content(place)) == (first, before)
    assert promote(place, small(tmp_path / "v1", "v1"), *decide) == 2
    assert "is about --model v0, not v1" in capsys.readouterr().err
    unjudged = small(tmp_path / "v2", "v2", buyers=0)
    assert promote(place, unjudged, "--decision", f"{gate}-2") == 0
    assert registry_decision.read(f"{gate}-2")["champion"] == "v0"
    assert promote(place, unjudged, "--decision", f"{gate}-2", *FORCED) == 0  # a person overrules it
    assert registry_decision.read(f"{gate}-2")["champion"] == moves(place)[-1]["version"] == "v2"


def test_a_decision_in_a_missing_bucket_is_one_line(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = "gs://no-such-bucket/gate.json"
    assert promote(place, small(tmp_path / "v1", "v1"), "--decision", gate) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: --decision '{gate}' cannot be written, so nothing was decided: gs://no-such-bucket/"
    )
    assert error.count("\n") == 1 and champion_content(place) is None
