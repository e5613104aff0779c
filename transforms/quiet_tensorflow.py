"""TensorFlow imported without the lines its C++ side writes on every machine that has no GPU."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType


def import_tensorflow() -> ModuleType:
    """The tensorflow module. TF_CPP_MIN_LOG_LEVEL=0 in the environment brings its C++ messages back."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with contextlib.nullcontext() if _wanted() else _stderr_closed():
        import tensorflow
    return tensorflow


def _wanted() -> bool:
    return "tensorflow" in sys.modules or os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    # Two lines are written while the libraries load, before any log level is read: only the file descriptor helps.
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
