"""The directory of an export: what cannot be written is one line, and mended input takes a failed export's place."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import interactions, interactions_output
from tests.pipelines.features_data import refused, stamps
from tests.pipelines.interactions_data import manifest_of, shop, write_csv
from transforms import interactions_files, storage


def failed(
    capsys: pytest.CaptureFixture[str], main: Callable[[list[str] | None], int], arguments: list[str]
) -> str:  # fmt: skip
    """The one line on stderr of a command that must end with exit code 1."""
    capsys.readouterr()
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0].removeprefix("error: ")


class FullDisk:
    """A file that has no room for more than its header."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.writes = stream, 0

    def write(self, content: Any) -> None:
        self.writes += 1
        if self.writes > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.stream.write(content)

    def close(self) -> None:
        self.stream.close()


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), f"{tmp_path}/out"
    arguments = ["--orders", orders, "--output", output]
    open_stream = interactions_files.open_stream
    with monkeypatch.context() as patch:
        patch.setattr(interactions_files, "open_stream", lambda uri: FullDisk(open_stream(uri)))
        said = failed(capsys, interactions.main, arguments)
    assert said == f"--output {output!r} cannot be written: [Errno 28] No space left on device"
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert interactions.main(arguments) == 0  # there is room now
    assert manifest_of(output)["rows"] == 1500


def test_a_disk_that_is_full_at_the_end_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = storage.write_bytes

    def full(uri: str, content: bytes) -> None:
        if uri.endswith("schema.avsc"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(uri, content)

    monkeypatch.setattr(storage, "write_bytes", full)
    orders, output = write_csv(tmp_path / "orders.csv", shop()), f"{tmp_path}/out"
    said = failed(capsys, interactions.main, ["--orders", orders, "--output", output])
    assert said == f"--output {output!r} cannot be written: [Errno 28] No space left on device"


def test_nobody_reading_what_is_printed_is_no_failure_of_the_output() -> None:
    with pytest.raises(BrokenPipeError), interactions_output.failing_in_one_line("out"):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_an_export_that_failed_its_checks_is_made_anew_from_mended_orders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop(999)), tmp_path / "out"
    arguments = ["--orders", orders, "--output", str(output)]
    assert "rows is 999" in refused(capsys, interactions.main, arguments)
    write_csv(tmp_path / "orders.csv", shop())
    said = refused(capsys, interactions.main, [*arguments, "--no_event_value"])
    assert said == (
        f"--output {str(output)!r} holds a half-finished export with other arguments (values was True, is False): "
        "delete it, or choose another --output"
    )
    assert interactions.main(arguments) == 0
    manifest = manifest_of(output)
    assert manifest["rows"] == 1500 and manifest["arguments"]["files"][0]["bytes"] == os.path.getsize(orders)
    assert not (output / "_started.json").exists()


def test_the_attempt_that_failed_its_checks_cannot_finish_what_is_made_anew(tmp_path: Path) -> None:
    """The marker that goes before ``begin`` is still the old attempt's, what ``begin`` makes is not."""
    arguments: dict[str, Any] = {"orders": "a.csv", "files": [{"path": "a.csv", "bytes": 1, "modified": "then"}]}
    mended = arguments | {"files": [{"path": "a.csv", "bytes": 2, "modified": "now"}]}
    output = f"{tmp_path}/out"
    storage.begin(output, "interactions", arguments, "old")
    interactions_output.prepare(output, "interactions", mended)
    assert json.loads((tmp_path / "out" / "_started.json").read_text()) == {
        "kind": "interactions", "arguments": mended, "attempt": "old",
    }  # fmt: skip
    assert storage.begin(output, "interactions", mended, "new") is None
    with pytest.raises(ValueError, match="was begun anew by another run"):
        storage.require_attempt(output, "old")


def test_a_finished_export_of_files_that_changed_since_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), tmp_path / "out"
    arguments = ["--orders", orders, "--output", str(output)]
    assert interactions.main(arguments) == 0
    before, size = stamps(output), os.path.getsize(orders)
    write_csv(tmp_path / "orders.csv", shop(1_600))
    said = refused(capsys, interactions.main, arguments)
    assert said.startswith(f"--output {str(output)!r} holds another export (file {orders} was {size:,} bytes of ")
    assert said.endswith("): delete it, or choose another --output") and not {"{", "["} & set(said)
    assert stamps(output) == before


@pytest.mark.parametrize("content", ["[]", "half", '{"kind": "features", "arguments": {}}'])
def test_a_marker_of_something_else_is_refused_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), tmp_path / "out"
    output.mkdir()
    (output / "_started.json").write_text(content)
    refused(capsys, interactions.main, ["--orders", orders, "--output", str(output)])
    assert (output / "_started.json").read_text() == content


def test_differences_are_words() -> None:
    before = {
        "orders": "a", "columns": {"item_id": "Sku"}, "context": ["country", "channel"], "since": None,
        "limits": {"minimum_rows": 1000}, "files": [{"path": "a/1.csv", "bytes": 5000, "modified": "then"}],
    }  # fmt: skip
    now = {
        "orders": "a", "columns": {}, "context": [], "since": "2024-01-01", "limits": {"minimum_rows": 10},
        "files": [{"path": "a/1.csv", "bytes": 5000, "modified": "then"}, {"path": "a/2.csv", "bytes": 1, "modified": "now"}],
    }  # fmt: skip
    assert interactions_output.differences(before, now) == [
        "columns item_id was 'Sku', is none",
        "context was country,channel, is none",
        "file a/2.csv was none, is 1 bytes of now",
        "limits minimum_rows was 1000, is 10",
        "since was None, is '2024-01-01'",
    ]
    assert interactions_output.counted({"no_item": 5000, "return": 1}) == "5,000 no_item, 1 return"
