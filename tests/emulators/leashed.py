"""Runs a Python module, a script or a program until standard input ends: no longer than who started it lives.

    python leashed.py local_bigquery.cli --port 9050
    python leashed.py /opt/sdk/cloud_datastore_emulator start --testing

An emulator would otherwise outlive a test run that was killed, and go on holding its ports. To be started as the
leader of a process group: the whole group ends.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading


def _end_group_at_end_of_input() -> None:
    # Not sys.stdin: a thread that holds its lock breaks the interpreter's own shutdown.
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_group_at_end_of_input, daemon=True).start()
    del sys.argv[0]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    elif os.path.isabs(sys.argv[0]):
        # The group is told to end, the program with it: this process only after it, so that waiting for one is
        # waiting for both. Not SIG_IGN, which the program would inherit.
        signal.signal(signal.SIGTERM, lambda *_: None)
        sys.exit(subprocess.run(sys.argv, stdin=subprocess.DEVNULL, check=False).returncode)
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
