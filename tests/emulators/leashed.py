"""Runs a module or a script until standard input ends: no longer than the process that started it lives.

    python leashed.py local_bigquery.cli --port 9050

An emulator would otherwise outlive a test run that was killed, and go on holding its ports.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _exit_at_end_of_input() -> None:
    # Not sys.stdin: a thread that holds its lock breaks the interpreter's own shutdown.
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    del sys.argv[0]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
