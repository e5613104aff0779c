"""Installs the DuckDB extensions this environment's packages carry, below $HOME; downloads nothing."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import duckdb


def main() -> None:
    packages = Path(sysconfig.get_path("purelib"))
    found = sorted(packages.glob("duckdb_extension_*/extensions/*/*.duckdb_extension"))
    with duckdb.connect() as connection:
        for path in found:
            connection.execute("INSTALL '" + str(path).replace("'", "''") + "'")
            connection.execute(f"LOAD {path.stem}")


if __name__ == "__main__":
    main()
