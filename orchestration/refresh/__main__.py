"""``python -m orchestration.refresh``: see there."""

from __future__ import annotations

import sys

from orchestration.refresh.options import Options
from transforms.cli import exit_code


def run(argv: list[str] | None = None) -> None:
    """Raises: UsageError, JobFailed: see ``commands.run``."""
    options = Options.parse(argv)
    if options.command == "demo":
        from orchestration.refresh.demo import WORKDIR, run_demo

        run_demo(options.workdir or WORKDIR)
        return
    from orchestration.refresh import commands

    commands.run(options)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
