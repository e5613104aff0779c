"""Step directories: complete or refused, never half; and which files a path or pattern names."""

from __future__ import annotations

import json
import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from transforms import storage
from transforms.errors import UsageError

ARGUMENTS = {"cutoff": "2012-03-01", "history_days": None}


def finished(directory: str, arguments: dict[str, object] = ARGUMENTS) -> dict[str, object]:
    assert storage.begin(directory, "features", arguments) is None
    storage.write_bytes(storage.join(directory, "raw", "part.parquet"), b"rows")
    return storage.finish(directory, "features", arguments, {"rows": 3})


@pytest.fixture(params=["path", "file://"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "made here"
    return str(path) if request.param == "path" else path.as_uri()


def test_a_finished_directory_tells_what_it_is(directory: str) -> None:
    made = finished(directory)
    assert storage.read_manifest(directory, "features") == made
    assert made["kind"] == "features" and made["rows"] == 3 and made["arguments"] == ARGUMENTS
    assert made["code_version"]
    assert not storage.exists(storage.join(directory, storage.STARTED))


def test_the_manifest_is_the_last_file_and_nothing_is_half_written(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before the rename, the directory has no manifest and its reader refuses it."""

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    storage.begin(directory, "features", ARGUMENTS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", power_cut)
        with pytest.raises(KeyboardInterrupt):
            storage.finish(directory, "features", ARGUMENTS, {})
    with pytest.raises(UsageError, match="not a complete features directory"):
        storage.read_manifest(directory, "features")
    assert finished(directory)["rows"] == 3


def test_the_same_step_again_gets_the_manifest_and_touches_nothing(directory: str) -> None:
    made = finished(directory)
    before = {path: os.stat(path).st_mtime_ns for path in storage.list_files(directory)}
    assert storage.begin(directory, "features", ARGUMENTS) == made
    assert {path: os.stat(path).st_mtime_ns for path in storage.list_files(directory)} == before


def test_a_step_cut_off_after_its_manifest_is_complete(directory: str) -> None:
    made = finished(directory)
    storage.write_bytes(storage.join(directory, storage.STARTED), b"{}")
    assert storage.begin(directory, "features", ARGUMENTS) == made


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({**ARGUMENTS, "cutoff": "2012-03-02"}, "cutoff was '2012-03-01', is '2012-03-02'"),
        ({**ARGUMENTS, "history_days": 30}, "history_days was None, is 30"),
        ({**ARGUMENTS, "more": 1}, "more was None, is 1"),
    ],
)
def test_other_arguments_are_refused(directory: str, arguments: dict[str, object], named: str) -> None:
    finished(directory)
    with pytest.raises(UsageError) as error:
        storage.begin(directory, "features", arguments)
    assert named in str(error.value) and repr(directory) in str(error.value)
    assert storage.read_manifest(directory, "features")["arguments"] == ARGUMENTS


def test_a_half_finished_directory_is_emptied(directory: str) -> None:
    storage.begin(directory, "features", ARGUMENTS)
    storage.write_bytes(storage.join(directory, "raw", "leftover.parquet"), b"half")
    with pytest.raises(UsageError, match=r"half-finished step with other arguments \(cutoff was"):
        storage.begin(directory, "features", {**ARGUMENTS, "cutoff": "2013-01-01"})
    assert storage.begin(directory, "features", ARGUMENTS) is None
    assert [Path(path).name for path in storage.list_files(directory)] == [storage.STARTED]


def test_an_overtaken_attempt_cannot_finish(directory: str) -> None:
    storage.begin(directory, "features", ARGUMENTS, "first")
    storage.begin(directory, "features", ARGUMENTS, "second")
    with pytest.raises(UsageError, match="begun anew by another run"):
        storage.finish(directory, "features", ARGUMENTS, {"rows": 3}, "first")
    made = storage.finish(directory, "features", ARGUMENTS, {"rows": 3}, "second")
    assert storage.read_manifest(directory, "features") == made
    # The engine may repeat the last bundle of a job; another result may not take its place.
    assert storage.finish(directory, "features", ARGUMENTS, {"rows": 3}, "second") == made
    with pytest.raises(UsageError, match="finished by another run"):
        storage.finish(directory, "features", ARGUMENTS, {"rows": 4}, "third")


def test_parts_are_those_of_the_manifest(directory: str) -> None:
    table = pa.table({"customer_id": ["a", "b"]})
    parts = [storage.write_parquet(table, storage.join(directory, "raw", f"part-{i}.parquet")) for i in range(2)]
    assert [part["rows"] for part in parts] == [2, 2] and parts[0]["sha256"] == parts[1]["sha256"]
    raw = storage.join(directory, "raw")
    assert [Path(path).name for path in storage.list_parts(raw, {"parts": parts})] == [
        "part-0.parquet",
        "part-1.parquet",
    ]
    with pytest.raises(UsageError, match=r"part-1\.parquet does not belong to it"):
        storage.list_parts(raw, {"parts": parts[:1]})
    with pytest.raises(UsageError, match=r"part-9\.parquet is missing"):
        storage.list_parts(raw, {"parts": [*parts, {"name": "part-9.parquet"}]})


def test_a_foreign_directory_is_refused_and_untouched(directory: str) -> None:
    storage.write_bytes(storage.join(directory, "thesis.tex"), b"years of work")
    with pytest.raises(UsageError, match="not empty and not a half-finished step"):
        storage.begin(directory, "features", ARGUMENTS)
    assert storage.read_bytes(storage.join(directory, "thesis.tex")) == b"years of work"


def test_another_kind_is_refused(directory: str) -> None:
    finished(directory)
    with pytest.raises(UsageError, match="holds 'features', accepted is a model directory"):
        storage.read_manifest(directory, "model")
    with pytest.raises(UsageError, match="accepted is a model directory"):
        storage.begin(directory, "model", ARGUMENTS)


@pytest.mark.parametrize("below", ["", "/deep/er"])
def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UsageError, match="taken is a file, accepted is a directory"):
        storage.begin(f"{tmp_path}/taken{below}", "features", ARGUMENTS)


@pytest.mark.parametrize("uri", ["ftp://host/path", "file://not-absolute", "s3//:x://y"])
def test_an_unknown_uri_is_refused_by_name(uri: str) -> None:
    with pytest.raises(UsageError, match="is not a path this system opens"):
        storage.resolve(uri)


@pytest.mark.parametrize("emulator", ["", "http://127.0.0.1:1"])
@pytest.mark.parametrize(
    "path",
    ["shop", "shop/a", "shop/dead#x/GEN", "shop/a#", "shop/what?/a?b=c", "shop/a%2Fb", "shop/100%", "shop/with space/ä",
     "shop/a:b@c", "shop/a//b", "my.shop-1_x/[1]*"],
)  # fmt: skip
def test_a_name_in_cloud_storage_is_taken_literally(path: str, emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    filesystem, found = storage.resolve(f"gs://{path}")
    assert found == path
    assert storage.resolve(f"gs://{path}/")[1] == path
    assert isinstance(filesystem, fs.GcsFileSystem)


def test_cloud_storage_has_the_credentials_that_arrow_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    for bucket in ("shop", "anonymous@shop"):
        filesystem, path = storage.resolve(f"gs://{bucket}/dead#x")
        assert filesystem == fs.FileSystem.from_uri(f"gs://{bucket}/dead")[0]
        assert path == "shop/dead#x"
    assert storage.resolve("gs://anonymous@shop/a")[0] != storage.resolve("gs://shop/a")[0]


@pytest.mark.parametrize("emulator", ["", "http://127.0.0.1:1"])
@pytest.mark.parametrize("uri", ["gs:///a", "gs://shop#x/a", "gs://shop?x=1/a", "gs://sh%6Fp/a", "gs://me:pw@shop/a"])
def test_what_is_no_bucket_is_refused(uri: str, emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    with pytest.raises(UsageError, match="is not a path this system opens"):
        storage.resolve(uri)


@pytest.mark.parametrize("uri", ["file:///data/dead#x/GEN", "file:///data/dead?x/GEN", "s3://shop/dead#x/GEN"])
def test_a_uri_that_would_be_cut_off_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="write %23 for # and %3F for"):
        storage.resolve(uri)


# --- Which files ----------------------------------------------------------------------------------------------------

TREE = ("a.csv", "b.csv", "b.CSV", "c.txt", "é x.csv", "_hidden.csv", ".hidden.csv", "sub/a.csv", "sub/deep/a.csv", "sub2/a.csv")  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.csv", ["a.csv"]),
        ("_hidden.csv", ["_hidden.csv"]),  # named, hence meant
        ("*.csv", ["a.csv", "b.csv", "é x.csv"]),
        ("?.csv", ["a.csv", "b.csv"]),
        ("[bc].*", ["b.CSV", "b.csv", "c.txt"]),
        ("sub", ["sub/a.csv"]),
        ("sub/", ["sub/a.csv"]),
        ("sub*/a.csv", ["sub/a.csv", "sub2/a.csv"]),
        ("*/*/a.csv", ["sub/deep/a.csv"]),
        ("*.parquet", []),
        ("absent.csv", []),
        ("absent/*.csv", []),
        ("a.csv/*", []),
    ],
)
@pytest.mark.parametrize("prefix", ["", "file://"], ids=["path", "file"])
def test_a_pattern_names_what_a_shell_would(tree: Path, pattern: str, found: list[str], prefix: str) -> None:
    _, infos = storage.glob(f"{prefix}{tree}/{pattern}")
    assert [os.path.relpath(info.path, tree) for info in infos] == found


def test_relative_paths_start_here(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert [info.path for info in storage.glob("sub/*.csv")[1]] == [f"{tree}/sub/a.csv"]
    assert storage.exists("a.csv") and not storage.exists("absent")
    assert storage.read_bytes("a.csv") == b"a.csv"


def test_list_files_is_sorted_and_deep(tree: Path) -> None:
    assert storage.list_files(str(tree), ".csv") == sorted(f"{tree}/{name}" for name in TREE if name.endswith(".csv"))
    assert storage.list_files(f"{tree}/absent") == []


def test_copy_fingerprint_and_delete(tree: Path) -> None:
    copy = storage.copy_directory(f"{tree}/sub", f"{tree}/copy")
    assert storage.fingerprint(copy) == storage.fingerprint(f"{tree}/sub") != storage.fingerprint(f"{tree}/sub2")
    (tree / "copy" / "a.csv").write_text("other")
    assert storage.fingerprint(copy) != storage.fingerprint(f"{tree}/sub")
    storage.delete_directory(copy)
    assert not storage.exists(copy)
    storage.delete_directory(copy)  # already gone is as good


@given(st.binary(max_size=2000))
def test_bytes_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = str(tmp_path_factory.getbasetemp() / "bytes.gz")  # the name asks for decompression, which nobody wants here
    storage.write_bytes(path, content)
    assert storage.read_bytes(path) == content


def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / storage.MANIFEST).write_text(json.dumps([1]))
    with pytest.raises(UsageError, match="does not hold a JSON object"):
        storage.read_manifest(str(tmp_path), "features")


# --- A file that several processes change ---------------------------------------------------------------------------


@pytest.fixture(params=["path", "file://"])
def pointer(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "made here" / "pointer.json"
    return str(path) if request.param == "path" else path.as_uri()


def test_a_file_is_replaced_only_where_it_holds_what_was_expected(pointer: str) -> None:
    assert not storage.compare_and_set(pointer, b"new", b"old")
    assert not storage.exists(pointer)
    assert storage.compare_and_set(pointer, b"first", None)
    assert not storage.compare_and_set(pointer, b"other", None)
    assert storage.compare_and_set(pointer, b"second", b"first")
    assert not storage.compare_and_set(pointer, b"third", b"first")
    assert storage.read_bytes(pointer) == b"second"


def test_a_file_that_changes_needs_a_place_where_it_can(pointer: str) -> None:
    with pytest.raises(UsageError, match=r"'s3://bucket/pointer' is not usable: accepted is a local path or gs://"):
        storage.compare_and_set("s3://bucket/pointer", b"new", None)


def _count_up(path: str, times: int, start: Barrier) -> None:
    start.wait(60)
    for _ in range(times):
        while True:
            seen = storage.read_bytes(path)
            if storage.compare_and_set(path, b"%d" % (int(seen) + 1), seen):
                break


def test_no_change_is_lost_between_processes(tmp_path: Path) -> None:
    """Every process adds one, over and over: a change overwritten by another process would be missing at the end."""
    path, context = str(tmp_path / "count"), multiprocessing.get_context("spawn")
    storage.write_bytes(path, b"0")
    start = context.Barrier(3)
    processes = [context.Process(target=_count_up, args=(path, 60, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert storage.read_bytes(path) == b"180"
    assert sorted(os.listdir(tmp_path)) == [".lock", "count"]
