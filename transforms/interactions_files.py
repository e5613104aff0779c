"""The files of one piece of the lines: CSV parts and dead letters, whose names and contents a retry repeats exactly.

A part is named by the piece and its number in it, and cut after a fixed number of rows. So an engine that runs a piece
twice, on purpose or because it takes a worker for dead, writes the same bytes under the same names: nothing doubles.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from transforms import storage
from transforms.dead_letters import DeadLetter
from transforms.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

# 100 MB or so: an upload that fails costs seconds, and 100 GB are a thousand files.
PART_ROWS = 2_000_000


class Parts:
    """Writes CSV lines into ``directory/part-PIECE-NNNN.csv``.

    Args:
      header: the first line of every part.
      require_turn: called before a file is begun; raises where another attempt has begun the directory.
    """

    def __init__(
        self, directory: str, piece: str, header: bytes, require_turn: Callable[[], None], part_rows: int = PART_ROWS
    ) -> None:
        self.directory, self.piece, self.header = directory, piece, header
        self.require_turn, self.part_rows = require_turn, part_rows
        self.files: list[dict[str, Any]] = []
        self._stream: Any = None

    def write(self, lines: pa.Array) -> None:
        """Args: lines: text, none of it null, each with its line feed; empty texts are no lines."""
        import numpy as np

        bounds, data = _bounds_of(lines)
        rows = int(np.count_nonzero(bounds[1:] > bounds[:-1]))
        start = 0  # of what is not yet written, in texts
        while rows:
            if self._stream is None:
                self._begin()
            part = self.files[-1]
            end, count = len(lines), min(rows, self.part_rows - part["rows"])
            if count < rows:
                end = start + int(np.flatnonzero(bounds[start + 1 :] > bounds[start:-1])[count - 1]) + 1
            content = data[int(bounds[start]) : int(bounds[end])]
            self._stream.write(content)
            part["rows"] += count
            part["bytes"] += len(content)
            start, rows = end, rows - count
            if part["rows"] == self.part_rows:
                self.close()

    def _begin(self) -> None:
        self.require_turn()
        path = storage.join(self.directory, f"part-{self.piece}-{len(self.files):04d}.csv")
        self._stream = open_stream(path)
        self._stream.write(self.header)
        self.files.append({"path": path, "rows": 0, "bytes": len(self.header)})

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _bounds_of(lines: pa.Array) -> tuple[npt.NDArray[Any], memoryview]:
    """Where each text begins and the last one ends in the bytes that hold them one after the other."""
    import numpy as np
    import pyarrow as pa

    width = np.int64 if pa.types.is_large_string(lines.type) else np.int32
    _, offsets, data = lines.buffers()
    return np.frombuffer(offsets, width)[lines.offset : lines.offset + len(lines) + 1], memoryview(data or b"")


class Letters:
    """Writes dead letters into ``directory/part-PIECE.jsonl``, a file that exists only where there are some."""

    def __init__(self, directory: str, piece: str, require_turn: Callable[[], None]) -> None:
        self.path = storage.join(directory, f"part-{piece}.jsonl")
        self.require_turn = require_turn
        self.count = 0
        self._stream: Any = None

    def write(self, letters: Iterable[DeadLetter]) -> None:
        for letter in letters:
            if self._stream is None:
                self.require_turn()
                self._stream = open_stream(self.path)
            self._stream.write(letter.to_json().encode() + b"\n")
            self.count += 1

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def open_stream(uri: str) -> Any:
    """A file to be written from its beginning; an object store shows it once it is closed."""
    filesystem, path = storage.resolve(uri)
    if storage.is_local(uri):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    return filesystem.open_output_stream(path, compression=None)


def delete_others(directory: str, known: Iterable[str]) -> None:
    """Deletes what an earlier, interrupted reading of the same lines left in a directory beside the known files."""
    keep = {os.path.basename(path) for path in known}
    for path in storage.list_files(directory):
        if os.path.basename(path) not in keep:
            _delete(directory, path)


def _delete(directory: str, path: str) -> None:
    filesystem, _ = storage.resolve(directory)
    if not directory.startswith("s3://"):
        filesystem.delete_file(path)
        return
    # Arrow would leave an empty object named as the folder, which an import of the prefix takes for one more file.
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise UsageError(f"s3://{path} is in the way, left by a retry: delete it, or install boto3 for that") from error
    bucket, _, key = path.partition("/")
    try:
        boto3.client("s3").delete_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"s3://{path} cannot be deleted: {error}") from error  # as Arrow does of what it cannot do
