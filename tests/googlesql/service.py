"""Run GoogleSQL (formerly ZetaSQL), the SQL engine behind BigQuery, as a local process.

The engine is the server binary of the npm package pinned in ``package.json`` beside this file. It
analyses statements exactly as strictly as the library BigQuery is built on, and it evaluates
queries over in-memory tables with Google's reference implementation.
"""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from . import values

_LIBRARY = Path(__file__).parent / "node_modules/@fivetrandevelopers/zetasql/lib/zetasql"
_BINARIES = {
    ("Linux", "x86_64"): "remote_server.so",
    ("Linux", "aarch64"): "remote_server_arm.so",
    ("Darwin", "x86_64"): "remote_server",
    ("Darwin", "arm64"): "remote_server_arm",
}
_READY_SECONDS = 30.0
_STOP_SECONDS = 5.0
_CHANNEL_OPTIONS = (
    # A whole result comes in one message; gRPC's default limit is that of the server, below.
    ("grpc.max_receive_message_length", -1),
    # The first attempt comes before the server listens; gRPC would wait 1 s before the next.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # The server is local: a proxy named in the environment must not be asked for it.
    ("grpc.enable_http_proxy", 0),
)
# The server keeps gRPC's default limit, and all tables of a query travel in one request.
_REQUEST_BYTES = 4 * 1024 * 1024
# Statuses by which the server speaks about the SQL. Any other means that the service failed.
_SQL_STATUSES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class GoogleSqlError(Exception):
    """GoogleSQL refused a statement; the text is the engine's own message.

    ``status`` is the gRPC status name: ``INVALID_ARGUMENT`` for invalid SQL, ``OUT_OF_RANGE`` for
    a failure on the data (division by zero, overflow), ``UNIMPLEMENTED`` for valid SQL that the
    reference evaluator cannot run.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def unavailable_reason() -> str | None:
    """Return why the engine cannot run here, or ``None`` if it can."""
    binary = _binary()
    if binary is None:
        return f"GoogleSQL has no binary for {platform.system()} {platform.machine()}"
    if not binary.is_file():
        return "GoogleSQL is not installed (npm ci in tests/googlesql)"
    return None


class GoogleSql:
    """A running GoogleSQL server with BigQuery's dialect, in time zone UTC.

    A context manager: the server runs inside the ``with`` block. Tables are named as the SQL names
    them; the parts of a name such as ``project.dataset.orders`` must be quoted together in the
    SQL: one pair of backticks around the whole name. Column types are those of ``values``.

    Entering raises ``RuntimeError`` if the server cannot be started. Methods raise
    ``RuntimeError`` if the server dies or does not answer within ``timeout`` seconds.
    """

    def __init__(self, timeout: float = 120.0) -> None:
        self._timeout = timeout

    def __enter__(self) -> Self:
        reason, binary = unavailable_reason(), _binary()
        if reason or binary is None:
            raise RuntimeError(reason)
        self._protocol = _Protocol(_LIBRARY / "protos")
        self._server = _Server(binary)
        try:
            self._server.wait_until_ready()
            self._language = self._bigquery_language()
        except BaseException:
            self._server.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop()

    def analyze(self, sql: str, tables: Mapping[str, pa.Schema]) -> None:
        """Check one statement against the tables' columns.

        Raises ``GoogleSqlError`` if it is not valid GoogleSQL, ``TypeError`` for a column type
        that ``values`` does not know.
        """
        request = self._request("AnalyzeRequest", tables)
        request.sql_statement = sql
        self._call("Analyze", request)

    def evaluate(self, sql: str, tables: Mapping[str, pa.Table]) -> pa.Table:
        """Run one query over the tables and return its rows, unnamed columns being named ``""``.

        Rows come in no particular order unless the query orders them. Raises ``GoogleSqlError``
        if the query is invalid, fails or is beyond the evaluator, ``TypeError`` for a column type
        that ``values`` does not know, ``ValueError`` if the tables exceed what the server takes:
        4 MiB, some ten bytes a value.
        """
        request = self._request("EvaluateQueryRequest", {name: table.schema for name, table in tables.items()})
        request.sql = sql
        for name, table in tables.items():
            data = request.table_content[name].table_data
            # Without this an empty table would count as one whose rows were never given.
            data.SetInParent()
            self._fill(data, table)
        if (size := request.ByteSize()) > _REQUEST_BYTES:
            raise ValueError(f"tables take {size} bytes; GoogleSQL accepts {_REQUEST_BYTES}")
        response = self._call("EvaluateQuery", request)
        return self._read(response.prepared.columns, response.content.table_data.row)

    def _request(self, name: str, schemas: Mapping[str, pa.Schema]) -> Any:
        request = self._protocol.message(f"zetasql.local_service.{name}")()
        request.options.language_options.CopyFrom(self._language)
        request.options.default_timezone = "UTC"
        # Enum arguments of built-in functions (date parts, rounding modes) are described there.
        request.descriptor_pool_list.definitions.add().builtin.SetInParent()
        catalog = request.simple_catalog
        catalog.name = "catalog"
        catalog.builtin_function_options.language_options.CopyFrom(self._language)
        for table_name, schema in schemas.items():
            table = catalog.table.add(name=table_name)
            for field in schema:
                kind = values.for_arrow(field.name, field.type).kind
                table.column.add(name=field.name, type={"type_kind": kind})
        return request

    def _fill(self, data: Any, table: pa.Table) -> None:
        codecs = [values.for_arrow(field.name, field.type) for field in table.schema]
        columns = [codec.encode(column) for codec, column in zip(codecs, table.columns, strict=True)]
        for row in zip(*columns, strict=True):
            add = data.row.add().cell.add
            for codec, value in zip(codecs, row, strict=True):
                # A cell with no field set is NULL; a keyword of None sets none.
                add(**{codec.field: value})

    def _read(self, columns: Any, rows: Any) -> pa.Table:
        kinds = self._protocol.enum("zetasql.TypeKind").values_by_number
        codecs = [values.for_kind(c.name, kinds[c.type.type_kind].name) for c in columns]
        arrays = [
            codec.decode([_cell(row.cell[index], codec.field) for row in rows]) for index, codec in enumerate(codecs)
        ]
        return pa.Table.from_arrays(arrays, names=[column.name for column in columns])

    def _bigquery_language(self) -> Any:
        """Return the server's fullest ``LanguageOptions``, brought closer to BigQuery's."""
        request = self._protocol.message("zetasql.local_service.LanguageOptionsRequest")
        language = self._call("GetLanguageOptions", request(maximum_features=True))
        product_modes = self._protocol.enum("zetasql.ProductMode").values_by_name
        language.product_mode = product_modes["PRODUCT_EXTERNAL"].number
        # An empty list allows every kind of statement, not only queries.
        language.ClearField("supported_statement_kinds")
        features = self._protocol.enum("zetasql.LanguageFeature").values_by_name
        # BigQuery's timestamps stop at microseconds, and it has INTERVAL.
        language.enabled_language_features.remove(features["FEATURE_TIMESTAMP_NANOS"].number)
        language.enabled_language_features.append(features["FEATURE_INTERVAL_TYPE"].number)
        return language

    def _call(self, method: str, request: Any) -> Any:
        path, response = self._protocol.method(method)
        stub = self._server.channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        try:
            return stub(request, timeout=self._timeout)
        except grpc.RpcError as error:
            status, message = error.code(), error.details()
            if status in _SQL_STATUSES:
                raise GoogleSqlError(status.name, message) from None
            raise self._server.failure(f"{method}: {status.name}: {message}") from error


class _Protocol:
    """The server's messages, from its ``.proto`` files.

    The classes live in a descriptor pool of their own and no Python module is generated, so that
    neither ``sys.path`` nor protobuf's global registry is touched.
    """

    def __init__(self, protos: Path) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in _compile(protos, "local_service.proto").file:
            self._pool.AddSerializedFile(file.SerializeToString())

    def message(self, name: str) -> Any:
        """Return the class of a message by its full name."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))

    def enum(self, name: str) -> Any:
        """Return the descriptor of an enum by its full name."""
        return self._pool.FindEnumTypeByName(name)

    def method(self, name: str) -> tuple[str, Any]:
        """Return the gRPC path of a method of the service and the class of its response."""
        service = self._pool.FindServiceByName("zetasql.local_service.ZetaSqlLocalService")
        output = service.FindMethodByName(name).output_type
        return f"/{service.full_name}/{name}", message_factory.GetMessageClass(output)


class _Server:
    """The server process and the channel to it."""

    def __init__(self, binary: Path) -> None:
        address = f"localhost:{_free_port()}"
        # A file rather than a pipe: nobody reads it while the server runs, so a pipe would fill.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [binary, *address.split(":")],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)

    def wait_until_ready(self) -> None:
        """Return once the server accepts calls. Raises ``RuntimeError`` if it exits or is slow."""
        ready = grpc.channel_ready_future(self.channel)
        for _ in range(int(_READY_SECONDS * 10)):
            try:
                ready.result(timeout=0.1)
                return
            except grpc.FutureTimeoutError:
                if self._process.poll() is not None:
                    break
        ready.cancel()
        raise self.failure(f"not ready within {_READY_SECONDS:.0f} s")

    def failure(self, what: str) -> RuntimeError:
        """Return an error that says what went wrong, whether the server lives, and what it said."""
        code = self._process.poll()
        state = "still running" if code is None else f"exited with {code}"
        self._log.seek(0)
        said = self._log.read()[-2000:].decode(errors="replace")
        return RuntimeError(f"GoogleSQL server: {what} ({state})\n{said}")

    def stop(self) -> None:
        """End the process, by force if it does not end when asked."""
        self.channel.close()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _binary() -> Path | None:
    name = _BINARIES.get((platform.system(), platform.machine()))
    return None if name is None else _LIBRARY / name


def _cell(cell: Any, field: str) -> Any:
    return getattr(cell, field) if cell.HasField(field) else None


def _compile(protos: Path, name: str) -> Any:
    """Return a ``.proto`` file and all it imports as a ``FileDescriptorSet``."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "descriptors")
        # In a process of its own: beside other libraries that were loaded before it, the compiler has crashed the tests.
        compiler = subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--proto_path={protos}",
                f"--proto_path={files('grpc_tools') / '_proto'}",
                f"--descriptor_set_out={output}",
                "--include_imports",
                name,
            ],
            capture_output=True,
            text=True,
        )
        if compiler.returncode:
            raise RuntimeError(f"protoc could not read {name} in {protos}: {compiler.stderr}")
        return descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
