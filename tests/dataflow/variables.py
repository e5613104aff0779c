"""Variables that lead every library of a process to the emulated Cloud Storage, TensorFlow's own gs:// included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.dataflow import service_account, tensorflow_storage
from tests.dataflow.stub import DataflowStub, Ending


@contextlib.contextmanager
def leading_to(storage: str, folder: Path) -> Iterator[dict[str, str]]:
    """Yields them; they hold while the block lasts.

    Args:
      storage: the emulator's URL, which STORAGE_EMULATOR_HOST has to name besides.
      folder: for a key and a certificate.
    """
    tokens = DataflowStub(lambda _: Ending())
    with tensorflow_storage.proxied(storage.removeprefix("http://"), folder) as proxy, tokens:
        key = service_account.write_key_file(folder / "key.json", f"{tokens.url}/token")
        yield {**proxy, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
