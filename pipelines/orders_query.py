"""The text of ``--orders_query``: read through its syntax tree, run as the person wrote it.

Only the names of tables change, and where a table can be read as of an instant, the instant follows its name. A
text written anew from the tree would be another query: the tree keeps no ``NUMERIC(10, 2)`` and no ``LOG10``.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import expressions as sge
from sqlglot.tokens import TokenType

from pipelines.bigquery import Table
from transforms import storage
from transforms.errors import UsageError, one_line, rejected

_DIALECT = "bigquery"
_UNSTABLE = (
    sge.Rand, sge.Uuid, sge.CurrentDate, sge.CurrentDatetime, sge.CurrentTime, sge.CurrentTimestamp, sge.SessionUser,
)  # fmt: skip
_STABLE = "accepted is a query that gives the same rows whenever it runs, with dates as literals"


@dataclass(frozen=True)
class NamedTable:
    """A table that the query reads: which of the tree's tables it is, its whole name, whether it knows times."""

    number: int
    name: Table
    timed: bool


@dataclass(frozen=True)
class OrdersQuery:
    """One SELECT, as text and as tree."""

    path: str
    text: str
    tree: sge.Query

    @classmethod
    def read(cls, path: str) -> OrdersQuery:
        """Raises: UsageError for anything but one SELECT that gives the same rows whenever it runs."""
        text = _read_text(path)
        query = cls(path, text, _one_query(path, text))
        query._require_stable()
        return query

    @property
    def about(self) -> str:
        return f"--orders_query {self.path!r}"

    def tables(self) -> Iterator[tuple[int, sge.Table]]:
        """The tables in the order of ``NamedTable.number``, without the query's common ones."""
        common = self._common_tables()
        for number, table in enumerate(self.tree.find_all(sge.Table)):
            if table.db or table.name.casefold() not in common:
                yield number, table

    def spliced(self, tables: Sequence[NamedTable], instant: datetime.datetime | None = None) -> str:
        """The text with the tables' whole names, and their rows as of the instant where there is one.

        Raises:
          UsageError: a name is written in a way that it cannot be exchanged.
        """
        # It may stand inside another statement: no semicolon.
        ends = [
            token for token in sqlglot.tokenize(self.text, dialect=_DIALECT) if token.token_type == TokenType.SEMICOLON
        ]
        edits = [(token.start, token.end + 1, "") for token in ends]
        expected = self.tree.copy()
        nodes = list(expected.find_all(sge.Table))
        for table in tables:
            node = nodes[table.number]
            if table.timed and node.args.get("pivots"):
                raise UsageError(
                    f"{self.about}: PIVOT of {table.name}: BigQuery reads no table as of a time there: accepted is "
                    f"(SELECT ... FROM {table.name}) PIVOT (...)"
                )
            edits += self._edits(node, table, instant)
        text = _edited(self.text, edits)
        if not _is_query(text, expected):
            names = ", ".join(sorted({str(table.name) for table in tables}))
            raise UsageError(
                f"{self.about}: the name of one of the tables {names} is written in a way that is not understood: accepted is "
                "`project.dataset.table` in one pair of backticks"
            )
        return text

    def _edits(
        self, node: sge.Table, table: NamedTable, instant: datetime.datetime | None
    ) -> list[tuple[int, int, str]]:
        """What to exchange in the text for one table; does the same in the node."""
        places = [part.meta for part in node.parts]
        try:
            start, end = min(place["start"] for place in places), max(place["end"] for place in places) + 1
        except KeyError:
            raise rejected(self.about, node.sql(dialect=_DIALECT), "a table as `project.dataset.table`") from None
        for role, name in zip(
            ("catalog", "db", "this"), (table.name.project, table.name.dataset, table.name.table), strict=True
        ):
            node.set(role, sge.to_identifier(name, quoted=True))
        edits = [(start, end, table.name.sql)]
        if instant and table.timed:
            # GoogleSQL wants the time after the alias.
            alias = node.args.get("alias")
            end = alias.this.meta["end"] + 1 if alias else end
            edits.append((end, end, as_of(instant)))
            node.set("version", _version(instant))
        return edits

    def _common_tables(self) -> set[str]:
        """The names of the query's common tables, which BigQuery compares without regard to case."""
        names = {cte.alias.casefold() for cte in self.tree.find_all(sge.CTE)}
        for name in sorted(names):
            if "." in name:  # could be taken for a table of a dataset
                raise UsageError(f"{self.about}: WITH {name!r} is not usable: accepted is a name without dots")
        return names

    def _require_stable(self) -> None:
        """Several statements of one run hold this query: each must see the same rows."""
        for node in self.tree.walk():
            if problem := _instability(node):
                raise UsageError(f"{self.about}: {problem} gives other rows each time: {_STABLE}")


def as_of(instant: datetime.datetime) -> str:
    """The SQL behind a table's name that reads it as of the instant."""
    return f" FOR SYSTEM_TIME AS OF TIMESTAMP '{instant.astimezone(datetime.UTC).isoformat(' ')}'"


def _version(instant: datetime.datetime) -> sge.Expression:
    version = sqlglot.parse_one(f"SELECT * FROM t{as_of(instant)}", dialect=_DIALECT).find(sge.Version)
    assert version
    return version


def _instability(node: sge.Expression) -> str | None:
    if isinstance(node, _UNSTABLE):
        return node.sql(dialect=_DIALECT)
    if isinstance(node, sge.TableSample):
        return "TABLESAMPLE"
    if isinstance(node, sge.Limit) and not (isinstance(node.this, sge.Order) or _ordered(node.parent)):
        return "LIMIT without ORDER BY"
    if isinstance(node, sge.Window) and isinstance(node.this, sge.RowNumber) and not _ordered(node):
        return "ROW_NUMBER() without ORDER BY"
    return None


def _ordered(node: sge.Expression | None) -> bool:
    return node is not None and node.args.get("order") is not None


def _read_text(path: str) -> str:
    try:
        return storage.read_bytes(path).decode()
    except (OSError, UnicodeError) as error:
        raise rejected("--orders_query", path, "a readable UTF-8 file with one SELECT") from error


def _one_query(path: str, text: str) -> sge.Query:
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # what it cannot parse is said below, in one line
    try:
        found = sqlglot.parse(text, dialect=_DIALECT)
    except sqlglot.errors.SqlglotError as error:
        # The parser underlines the place with terminal codes.
        problem = one_line(str(error).replace("\x1b[4m", "").replace("\x1b[0m", ""), 300)
        raise UsageError(f"--orders_query {path!r} is not GoogleSQL: {problem}") from error
    # A comment behind the last semicolon is a tree, too.
    trees = [tree for tree in found if tree is not None and not isinstance(tree, sge.Semicolon)]
    if len(trees) != 1:
        raise UsageError(f"--orders_query {path!r} holds {len(trees)} statements: accepted is one SELECT")
    if not isinstance(trees[0], sge.Query):
        raise UsageError(f"--orders_query {path!r} is not a SELECT: accepted is one SELECT")
    return trees[0]


def _edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _is_query(text: str, expected: sge.Expression) -> bool:
    try:
        found = [tree for tree in sqlglot.parse(text, dialect=_DIALECT) if not isinstance(tree, sge.Semicolon)]
    except sqlglot.errors.SqlglotError:
        return False
    return found == [expected]
