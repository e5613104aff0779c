"""Step directories on any file system: immutable, and complete only with a manifest.

A step calls ``begin``, writes its files, and calls ``finish``, which writes ``manifest.json`` last::

    begin --(marker _started.json)--> files ... --> finish --(manifest.json, marker gone)

A reader calls ``read_manifest`` and so refuses whatever is half-written. ``begin`` on a finished
directory answers with its manifest when the arguments are the same, and refuses otherwise.
URIs are local paths, ``file://``, ``gs://`` or ``s3://``: whatever ``pyarrow.fs`` opens.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transforms.errors import UsageError, one_line, rejected

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
STARTED = "_started.json"


def resolve(uri: str) -> tuple[Any, str]:
    """The ``pyarrow.fs.FileSystem`` of a URI and the path in it. Relative local paths become absolute."""
    from pyarrow import fs

    if not uri:
        raise UsageError("an empty path is not usable: accepted is a directory or a file, local, gs:// or s3://")
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(uri)
    try:
        if uri.startswith("gs://"):
            return _resolve_object(uri)
        # Arrow would leave them and what follows out, and give another directory.
        if "#" in uri or (uri.startswith("file://") and "?" in uri):
            raise ValueError("write %23 for # and %3F for ?")
        filesystem, path = fs.FileSystem.from_uri(uri)
    except ValueError as error:
        raise UsageError(f"{uri!r} is not a path this system opens: {error}") from error
    return filesystem, path


def _resolve_object(uri: str) -> tuple[Any, str]:
    """The same of gs://, literally, as Google's own clients and Beam read it: ``#`` and ``%2F`` are part of a name."""
    from pyarrow import fs

    bucket, _, name = uri.removeprefix("gs://").partition("/")
    # Of Arrow's reading of URIs, which is another, only the credentials and the refusals are wanted.
    filesystem, read = fs.FileSystem.from_uri(f"gs://{bucket}")
    if bucket.removeprefix("anonymous@") != read or (name and not read):
        raise ValueError(f"{bucket!r} is not a bucket's name")
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):  # the variable Google's own clients follow
        scheme, _, endpoint = emulator.rpartition("://")
        filesystem = fs.GcsFileSystem(anonymous=True, scheme=scheme or "http", endpoint_override=endpoint.rstrip("/"))
    return filesystem, f"{read}/{name}".rstrip("/")


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    from pyarrow import fs

    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def write_bytes(uri: str, content: bytes) -> None:
    """Writes a small file so that no reader ever sees half of it."""
    filesystem, path = resolve(uri)
    _make_folder(os.path.dirname(path), uri)
    # Object stores show an object only once it is closed; a local file needs the rename.
    target = f"{path}.{uuid.uuid4().hex}.writing" if is_local(uri) else path
    try:
        with filesystem.open_output_stream(target, compression=None) as stream:
            stream.write(content)
        if target != path:
            os.replace(target, path)
    except OSError:
        if target != path and os.path.exists(target):
            os.remove(target)
        raise


def compare_and_set(uri: str, content: bytes, expected: bytes | None) -> bool:
    """Writes a small file only where it still holds ``expected``; None: only where there is no file yet.

    For a file that several processes change. Of any number of calls with different contents that expect the
    same, one succeeds: on this machine they take turns by a lock beside the file, Cloud Storage is told which
    generation of the object to replace (ifGenerationMatch).

    Returns:
      Whether the file holds ``content`` now; where not, another process was first and nothing was changed.

    Raises:
      UsageError: a file system without such a write, or Cloud Storage refuses it.
    """
    if is_local(uri):
        return _compare_and_set_file(uri, content, expected)
    if uri.startswith("gs://"):
        return _compare_and_set_object(uri, content, expected)
    raise rejected("the place of a file that changes", uri, "a local path or gs://")


def _compare_and_set_file(uri: str, content: bytes, expected: bytes | None) -> bool:
    with _locked(os.path.dirname(resolve(uri)[1])):
        found = read_bytes(uri) if exists(uri) else None
        if found != expected:
            return False
        write_bytes(uri, content)
        return True


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Keeps every other process, and thread, that asks for the same folder waiting. A killed process lets go."""
    import fcntl

    os.makedirs(folder, exist_ok=True)
    # The lock's file stays: who deleted it could let two processes hold locks on two files of one name.
    with open(os.path.join(folder, ".lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compare_and_set_object(uri: str, content: bytes, expected: bytes | None) -> bool:
    from google.api_core.exceptions import GoogleAPICallError, NotFound, PreconditionFailed
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage  # type: ignore[import-untyped]

    bucket_name, _, name = uri.removeprefix("gs://").partition("/")
    try:
        with storage.Client() as client:
            bucket = client.bucket(bucket_name)
            # The generation is looked up first: what is read after it can only be of it, or of a later one.
            seen = bucket.get_blob(name)
            generation = seen.generation if seen else 0  # 0: there must be none
            try:
                found = seen.download_as_bytes() if seen else None
            except NotFound:
                return False  # replaced or deleted since
            if found != expected:
                return False
            try:
                bucket.blob(name).upload_from_string(content, if_generation_match=generation)
            except PreconditionFailed:
                # The client repeats a request whose answer was lost, and its own success then looks like another's.
                return bool(bucket.blob(name).download_as_bytes() == content)
            return True
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"{uri} cannot be changed: {one_line(str(error))}") from error


def _make_folder(path: str, uri: str) -> None:
    # An object store has no folders. Asked for one, it gets an empty object for each folder on the way, every time.
    if is_local(uri):
        os.makedirs(path, exist_ok=True)


def write_parquet(rows: pa.Table, uri: str) -> dict[str, Any]:
    """Writes one Parquet part, in a directory that counts once its manifest is written.

    Returns:
      ``{"name", "rows", "sha256"}``, for the manifest. The same rows give the same bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A dictionary pays for repeated text only; of numbers and ids it makes larger files, more slowly.
    repeated = [name for name in ("country", "channel", "category", "split") if name in rows.column_names]
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", use_dictionary=repeated)
    content = sink.getvalue()
    filesystem, path = resolve(uri)
    _make_folder(os.path.dirname(path), uri)
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(content)
    return {"name": os.path.basename(path), "rows": rows.num_rows, "sha256": hashlib.sha256(content).hexdigest()}


def read_parquet(uri: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """One Parquet part, or the named columns of its rows that pass the filter."""
    import pyarrow.parquet as pq

    filesystem, path = resolve(uri)
    return pq.read_table(path, filesystem=filesystem, columns=columns, filters=filters, use_threads=False)


def list_parts(directory: str, manifest: dict[str, Any]) -> list[str]:
    """The paths of a finished directory's Parquet parts, as its manifest names them.

    Raises:
      UsageError: a part is missing, or there is one that the manifest does not know.
    """
    paths = [path for path in list_files(directory, ".parquet") if os.path.basename(path).startswith("part-")]
    found, known = {os.path.basename(path) for path in paths}, {part["name"] for part in manifest["parts"]}
    for name in sorted(found ^ known):
        problem = "is missing" if name in known else "does not belong to it"
        raise UsageError(f"{directory} is not what its manifest says: {name} {problem}; make it anew")
    return paths


def list_files(directory: str, suffix: str = "") -> list[str]:
    """Paths of the files below a directory, sorted, usable with ``resolve(directory)[0]``."""
    from pyarrow import fs

    filesystem, path = resolve(directory)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=True)
    found = filesystem.get_file_info(selector)
    return sorted(info.path for info in found if info.is_file and info.path.endswith(suffix))


def glob(pattern: str) -> tuple[Any, list[Any]]:
    """The file system and the sorted ``FileInfo`` of the files a path or ``*?[]`` pattern names."""
    from pyarrow import fs

    # Only what stands before the first wildcard can be a URI: a question mark in one would begin its query.
    fixed = pattern[: min((pattern.index(c) for c in "*?[" if c in pattern), default=len(pattern))]
    if fixed == pattern:
        filesystem, root = resolve(pattern)
        info = filesystem.get_file_info(root)
        if info.is_file:
            return filesystem, [info]
        path = f"{root.rstrip('/')}/*"
    else:
        folder = fixed[: fixed.rfind("/") + 1]
        filesystem, root = resolve(folder or ".")
        path = f"{root.rstrip('/')}/{pattern[len(folder) :]}"
    if filesystem.get_file_info(root).type != fs.FileType.Directory:
        return filesystem, []
    found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    # As in a shell, a star stays within one folder and hidden files are not meant.
    parts = path.split("/")
    return filesystem, sorted(
        (
            info
            for info in found
            if info.is_file
            and not info.base_name.startswith((".", "_"))
            and len(info.path.split("/")) == len(parts)
            and all(map(fnmatch.fnmatchcase, info.path.split("/"), parts))
        ),
        key=lambda info: info.path,
    )


def delete_directory(directory: str) -> None:
    """Deletes a directory and what is in it, if it exists."""
    from pyarrow import fs

    filesystem, path = resolve(directory)
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        return
    if is_local(directory):
        filesystem.delete_dir(path)
    else:  # what makes a folder there is only what is in it: deleting "the folder itself" as well fails
        filesystem.delete_dir_contents(path)


def copy_directory(source: str, target: str) -> str:
    """Copies a directory between any two file systems and returns the target.

    Also what brings a SavedModel to this machine: not every build of TensorFlow opens gs://.
    """
    from pyarrow import fs

    (filesystem, root), (target_filesystem, target_root) = resolve(source), resolve(target)
    _make_folder(target_root, target)
    # File by file: Arrow's own copy of a folder needs, and makes, an empty object for every folder in it.
    for path in list_files(source):
        copy = os.path.join(target_root, os.path.relpath(path, root))
        _make_folder(os.path.dirname(copy), target)
        fs.copy_files(path, copy, source_filesystem=filesystem, destination_filesystem=target_filesystem)
    return target


def fingerprint(directory: str, leave_out: tuple[str, ...] = ()) -> str:
    """A short hash of the names and contents of a directory's files, but those with a name to leave out."""
    filesystem, root = resolve(directory)
    digest = hashlib.sha256()
    for path in list_files(directory):
        if os.path.basename(path) in leave_out:
            continue
        digest.update(os.path.relpath(path, root).encode())
        with filesystem.open_input_stream(path, compression=None) as stream:
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def _read_json(uri: str) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(uri))
    except ValueError as error:
        raise UsageError(f"{uri} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{uri} does not hold a JSON object")
    return content


def read_manifest(directory: str, kind: str) -> dict[str, Any]:
    """The manifest of a finished directory of this kind ("features", "model", "predictions", ...).

    Raises:
      UsageError: there is no manifest (missing, or half-written), or it is of another kind.
    """
    if not exists(join(directory, MANIFEST)):
        raise UsageError(f"{directory} is not a complete {kind} directory: it has no {MANIFEST}")
    manifest = _read_json(join(directory, MANIFEST))
    if manifest.get("kind") != kind:
        raise UsageError(f"{directory} holds {manifest.get('kind')!r}, accepted is a {kind} directory")
    return manifest


def begin(directory: str, kind: str, arguments: dict[str, Any], attempt: str = "") -> dict[str, Any] | None:
    """Prepares a directory for writing, or returns the manifest of the same finished step.

    What a killed attempt with the same arguments left is deleted; ``attempt`` names this one, so that
    an older attempt which is still running cannot finish in its place.

    Raises:
      UsageError: the directory holds another step's result or leftovers, or files that are not a step's.
    """
    from pyarrow import fs

    _require_folder(directory)
    filesystem, path = resolve(directory)
    if exists(join(directory, MANIFEST)):
        manifest = read_manifest(directory, kind)
        _require_same(directory, "another result", manifest, kind, arguments)
        return manifest
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    if found:
        if not exists(join(directory, STARTED)):
            raise UsageError(
                f"--output {directory!r} is not empty and not a half-finished step: choose a new directory"
            )
        started = _read_json(join(directory, STARTED))
        _require_same(directory, "a half-finished step with other arguments", started, kind, arguments)
        filesystem.delete_dir_contents(path)
    marker = {"kind": kind, "arguments": arguments, "attempt": attempt}
    write_bytes(join(directory, STARTED), json.dumps(marker, default=str).encode())
    return None


def _require_same(directory: str, what: str, found: dict[str, Any], kind: str, arguments: dict[str, Any]) -> None:
    previous = {"kind": found.get("kind"), **found.get("arguments", {})}
    wanted = json.loads(json.dumps({"kind": kind, **arguments}, default=str))
    changed = sorted(k for k in {*previous, *wanted} if previous.get(k) != wanted.get(k))
    if changed:
        detail = ", ".join(f"{k} was {previous.get(k)!r}, is {wanted.get(k)!r}" for k in changed)
        raise UsageError(f"--output {directory!r} holds {what} ({detail}): delete it, or choose a new directory")


def _require_folder(directory: str) -> None:
    """Raises: UsageError where the directory, or the nearest of its parents that exists, is a file."""
    from pyarrow import fs

    filesystem, path = resolve(directory)
    if not is_local(directory):
        return  # an object store has no folders a file could stand in for
    while (kind := filesystem.get_file_info(path).type) == fs.FileType.NotFound and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    if kind == fs.FileType.File:
        raise UsageError(f"--output {directory!r} is not usable: {path} is a file, accepted is a directory")


def require_attempt(directory: str, attempt: str) -> None:
    """Raises: UsageError where another attempt has begun the directory since."""
    if not exists(join(directory, STARTED)) or _read_json(join(directory, STARTED)).get("attempt") != attempt:
        raise _begun_anew(directory)


def _take_back(directory: str, manifest: bytes, attempt: str) -> None:
    """Raises: UsageError where another attempt has begun the directory; then this one's manifest is gone from it."""
    try:
        overtaken = _read_json(join(directory, STARTED)).get("attempt") != attempt
    except FileNotFoundError:
        return  # a repeat of this very step was faster
    if overtaken:
        if read_bytes(join(directory, MANIFEST)) == manifest:
            filesystem, path = resolve(join(directory, MANIFEST))
            filesystem.delete_file(path)
        raise _begun_anew(directory)


def _begun_anew(directory: str) -> UsageError:
    return UsageError(f"--output {directory!r} was begun anew by another run: this one does not finish it")


def finish(
    directory: str, kind: str, arguments: dict[str, Any], content: dict[str, Any], attempt: str = ""
) -> dict[str, Any]:
    """Writes the manifest, last of all, and returns it; may be called again for the same attempt.

    Raises:
      UsageError: another attempt has begun this directory since, or has finished it with other content.
    """
    from pyarrow import fs

    from transforms import version

    manifest = {"kind": kind, "code_version": version.code_version(), "arguments": arguments, **content}
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str)
    filesystem, started = resolve(join(directory, STARTED))
    if exists(join(directory, MANIFEST)):
        # The engine repeats the last bundle of a job when it does not hear of its success.
        if read_bytes(join(directory, MANIFEST)) != text.encode():
            raise UsageError(f"--output {directory!r} was finished by another run meanwhile: this one's work is lost")
    else:
        require_attempt(directory, attempt)
        write_bytes(join(directory, MANIFEST), text.encode())
        # It may have been begun anew since the look: what is there now is the other's.
        _take_back(directory, text.encode(), attempt)
    if filesystem.get_file_info(started).type != fs.FileType.NotFound:
        filesystem.delete_file(started)
    # Round trip: what the caller gets is exactly what a reader will get.
    return dict(json.loads(text))
