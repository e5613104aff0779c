"""One version into Airflow's DAG folder, so that no parser ever loads half of it.

    dags/clv_pipelines.py                the loader: names the versions, newest first; the only file that is replaced
    dags/clv_versions/.airflowignore     keeps Airflow from looking for DAGs below
    dags/clv_versions/VERSION/...        packages and settings, never changed
    dags/clv_versions/VERSION/version.json   their names and sizes, written after them

Files are written in this order: .airflowignore, the version's files, version.json, the loader. Until the loader is
replaced, the old version is loaded. Where a bucket is copied to machines, files arrive in any order: the loader takes
the newest version that is there in full. Versions that were replaced long ago go last.
"""

from __future__ import annotations

import ast
import concurrent.futures
import datetime
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration import deploy_loader
from orchestration.deploy_loader import FOLDER, INVENTORY
from orchestration.deploy_package import Version
from transforms import storage
from transforms.errors import JobFailed, UsageError, one_line

LOADER = "clv_pipelines.py"
IGNORE = ".airflowignore"
# Everything, in both languages that Airflow knows here: a glob that fits every version's first character, a regular
# expression that fits any text.
EVERYTHING = b"[A-Za-z0-9_]*\n"
# A task may run for a day, and imports some modules only when it gets to them.
KEPT = datetime.timedelta(days=2)
_AT_A_TIME = 8  # uploads
_VERSIONS = re.compile(r"^VERSIONS: list\[dict\[str, str\]\] = (?P<value>\[.*?\])$", re.MULTILINE | re.DOTALL)

Entry = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """What a DAG folder lacks of a version.

    Attributes:
      folder: the DAG folder.
      missing: paths of files that are not there, or not in full.
      versions: of the new loader, newest first.
      retired: directories in clv_versions that nobody needs any more.
      found: the loader that is there, None if there is none.
    """

    folder: str
    version: Version
    missing: tuple[str, ...]
    versions: tuple[Entry, ...]
    retired: tuple[str, ...]
    found: bytes | None

    @property
    def loader(self) -> bytes:
        return loader(self.versions)

    @property
    def before(self) -> str | None:
        """The version that is loaded now."""
        known = entries(self.found)
        return known[0]["directory"] if known else None

    @property
    def is_done(self) -> bool:
        return not self.missing and not self.retired and self.loader == self.found


def loader(versions: Sequence[Entry]) -> bytes:
    """The file that Airflow reads."""
    text = Path(deploy_loader.__file__).read_text()
    lines = "".join(f"    {json.dumps(version)},\n" for version in versions)
    return _VERSIONS.sub(lambda found: found[0].replace(found["value"], f"[\n{lines}]"), text, count=1).encode()


def entries(found: bytes | None) -> list[Entry]:
    """The versions a loader names; none where there is no loader.

    Raises:
      UsageError: it is not a loader.
    """
    if found is None:
        return []
    try:
        (value,) = [match["value"] for match in _VERSIONS.finditer(found.decode())]
        return [{key: str(each[key]) for key in ("directory", "code_version", "since")} for each in ast.literal_eval(value)]  # fmt: skip
    except (ValueError, SyntaxError, TypeError, KeyError):
        raise UsageError(f"{LOADER} in the DAG folder was not written by this command: move it away") from None


def planned(bucket: str, version: Version, now: datetime.datetime) -> Plan:
    """Looks at a DAG folder and changes nothing.

    Args:
      bucket: gs://, or a local directory, which holds dags/.

    Raises:
      UsageError: it cannot be read, or its loader is not ours.
    """
    folder = storage.join(bucket, "dags")
    if storage.is_local(bucket) and not Path(bucket).is_dir():
        raise UsageError(f"composer_bucket {bucket!r} is not usable: there is no such directory")
    try:
        found = storage.read_bytes(_loader(folder)) if storage.exists(_loader(folder)) else None
        there = _listing(storage.join(folder, FOLDER))
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {one_line(str(error))}") from error
    wanted = {**{path: len(content) for path, content in version.files.items()}, INVENTORY: len(version.inventory)}
    mine = there.get(version.directory, {})
    missing = sorted(path for path, size in wanted.items() if path not in mine or mine[path][0] != size)
    kept, retired = _sorted_out(entries(found), version, now)
    named = {entry["directory"] for entry in kept}
    # What a deployment that was killed left; one that is at work has just written something.
    lost = [name for name, files in there.items() if name not in named and _newest(files) < now - KEPT]
    retired = sorted({*(name for name in retired if name in there), *lost})
    return Plan(folder, version, tuple(missing), tuple(kept), tuple(retired), found)


def _sorted_out(known: list[Entry], version: Version, now: datetime.datetime) -> tuple[list[Entry], list[str]]:
    """The versions of the new loader, and the directories of those it does not name any more."""
    if not known or known[0]["directory"] != version.directory:
        since = now.astimezone(datetime.UTC).isoformat(timespec="seconds")
        new = {"directory": version.directory, "code_version": version.code_version, "since": since}
        known = [new, *(each for each in known if each["directory"] != version.directory)]
    kept, retired = known[:2], []  # the one before is what a machine loads until the new one is all there
    for successor, entry in itertools.pairwise(known[1:]):
        if datetime.datetime.fromisoformat(successor["since"]) > now - KEPT:
            kept.append(entry)
        else:
            retired.append(entry["directory"])
    return kept, retired


def _listing(folder: str) -> dict[str, dict[str, tuple[int, datetime.datetime]]]:
    """Of each version's directory the files: their sizes, and when they were written."""
    from pyarrow import fs

    filesystem, root = storage.resolve(folder)
    found: dict[str, dict[str, tuple[int, datetime.datetime]]] = {}
    for info in filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True)):
        directory, _, path = info.path[len(root) :].lstrip("/").partition("/")
        if info.is_file and path:
            found.setdefault(directory, {})[path] = (info.size, _utc(info.mtime))
    return found


def _utc(moment: Any) -> datetime.datetime:
    # Arrow's are without a zone in some releases.
    return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment


def _newest(files: Mapping[str, tuple[int, datetime.datetime]]) -> datetime.datetime:
    return max(written for _, written in files.values())


def carry_out(plan: Plan) -> None:
    """Writes what is missing, switches, and deletes; may be called again.

    Raises:
      JobFailed: somebody else deployed meanwhile, and theirs is loaded; or the folder cannot be written.
    """
    try:
        _upload(plan)
        if plan.loader != plan.found and not storage.compare_and_set(_loader(plan.folder), plan.loader, plan.found):
            raise JobFailed(
                f"{_loader(plan.folder)} was changed by another deployment meanwhile: look, and run it again"
            )
        for name in plan.retired:
            storage.delete_directory(storage.join(plan.folder, FOLDER, name))
    except OSError as error:
        raise JobFailed(f"{plan.folder} cannot be written: {one_line(str(error))}; run it again") from error


def _upload(plan: Plan) -> None:
    if not plan.missing:
        return
    versions = storage.join(plan.folder, FOLDER)
    storage.write_bytes(storage.join(versions, IGNORE), EVERYTHING)

    def write(path: str) -> None:
        storage.write_bytes(storage.join(versions, plan.version.directory, path), plan.version.files[path])

    with concurrent.futures.ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(write, [path for path in plan.missing if path != INVENTORY]))
    storage.write_bytes(storage.join(versions, plan.version.directory, INVENTORY), plan.version.inventory)


def _loader(folder: str) -> str:
    return storage.join(folder, LOADER)
