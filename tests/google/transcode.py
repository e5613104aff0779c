"""gRPC in, REST out: Google's services as gRPC, answered by servers that know their REST API alone.

    python -P transcode.py http://localhost:8080 ...

prints one line of JSON, {URL: port of the gRPC server that asks this URL}, and ends with its standard input.

Google's own libraries say how a call becomes a request (google.api.http, which their REST clients carry); so this runs by
the interpreter whose gRPC clients it serves: what they send is read by the same version of the messages. It needs nothing
of ours for that.
"""

from __future__ import annotations

import functools
import http.client
import importlib
import json
import os
import sys
import typing
import urllib.parse
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
from google.api_core import path_template, rest_helpers
from google.protobuf import json_format  # type: ignore[import-untyped]

_THREADS = 16  # calls at a time, of one server
_SECONDS = 60.0  # for an answer, where the caller sets no limit
# Long-running operations are a part of every Vertex AI service.
_PACKAGES = {"google.longrunning.Operations": "google.cloud.aiplatform.v1.ModelService"}
# Errors that do not say it by name. https://cloud.google.com/apis/design/errors has the pairs.
_STATUS_OF_HTTP = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_FORWARDED = ("authorization", "x-goog-")


class Failed(Exception):
    """What the caller gets as an error: a code and a message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Method:
    """A method of a service: its messages' classes, and the requests that its calls may become."""

    request: Any
    response: Any
    bindings: list[dict[str, str]]

    @classmethod
    def of(cls, path: str) -> Method:
        """The method of ``/package.Service/Method``.

        Raises:
          Failed: the libraries of this interpreter have no such method, or none in REST.
        """
        service, _, name = path.lstrip("/").partition("/")
        package, _, client = _PACKAGES.get(service, service).rpartition(".")
        try:
            module = importlib.import_module(_module(package))
            transport = getattr(module, f"{client}Client").get_transport_class("rest")
            stub = getattr(transport, f"_{name}")
            # Browsers' addresses, which some libraries name first, are not in the documents.
            bindings = [dict(b) for b in stub._get_http_options() if not b["uri"].startswith("/ui/")]
        except (ImportError, AttributeError, KeyError) as problem:
            raise Failed(grpc.StatusCode.UNIMPLEMENTED, f"no REST method of {path}: {problem}") from None
        types = typing.get_type_hints(stub.__call__)
        return cls(_message(types["request"]), _message(types.get("return")), bindings)

    def asked(self, content: bytes) -> Request:
        """The request that a call with this content becomes.

        Raises:
          Failed: the content fits none of the addresses.
        """
        message = self.request.FromString(content)
        try:
            parts = path_template.transcode(self.bindings, message=message)
        except ValueError as problem:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, str(problem)) from None
        query = rest_helpers.flatten_query_params(_json(parts["query_params"]), strict=True)
        body = json.dumps(_json(parts["body"])).encode() if "body" in parts else None
        address = parts["uri"] + ("?" + urllib.parse.urlencode(query) if query else "")
        return Request(parts["method"].upper(), address, body)

    def answer(self, content: bytes) -> bytes:
        """A REST answer as the call's."""
        message = self.response()
        # A client knows nothing of what was added to the API after it, over gRPC as here.
        json_format.Parse(content or b"{}", message, ignore_unknown_fields=True)
        return bytes(message.SerializeToString())


@dataclass(frozen=True)
class Request:
    """What is asked of a REST server."""

    verb: str
    address: str
    body: bytes | None


def _module(package: str) -> str:
    """google.cloud.aiplatform.v1 -> google.cloud.aiplatform_v1, google.dataflow.v1beta3 -> google.cloud.dataflow_v1beta3."""
    name, _, version = package.removeprefix("google.").removeprefix("cloud.").rpartition(".")
    return f"google.cloud.{name}_{version}"


def _message(annotation: Any) -> Any:
    """The protobuf class behind an annotation, which may be of proto-plus; nothing is google.protobuf.Empty."""
    if annotation is None or annotation is type(None):
        from google.protobuf import empty_pb2

        return empty_pb2.Empty
    return annotation.pb() if hasattr(annotation, "pb") else annotation


def _json(message: Any) -> Any:
    """A message as the documents describe it: camel case, enums by name."""
    return json_format.MessageToDict(message, preserving_proto_field_name=False, use_integers_for_enums=False)


class Transcoder(grpc.GenericRpcHandler):
    """Serves every unary call of Google's services by asking the REST server at ``url``."""

    def __init__(self, url: str) -> None:
        self._host = urllib.parse.urlsplit(url).netloc
        self._method = functools.cache(Method.of)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        path = handler_call_details.method
        return grpc.unary_unary_rpc_method_handler(lambda content, context: self._serve(path, content, context))

    def _serve(self, path: str, content: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            method = self._method(path)
            headers = {k: v for k, v in context.invocation_metadata() if k.startswith(_FORWARDED)}
            answer = self._ask(method.asked(content), headers, context.time_remaining())
            return method.answer(answer)
        except Failed as failed:
            context.abort(failed.code, str(failed))
        except json_format.ParseError as problem:
            context.abort(grpc.StatusCode.INTERNAL, f"the answer is no message of {path}: {problem}")
        raise AssertionError("abort raises")

    def _ask(self, request: Request, headers: dict[str, str], seconds: float | None) -> bytes:
        """The body of the answer.

        Raises:
          Failed: the server refused, or did not answer.
        """
        # A caller without a limit is told of none, or of one so far away that sockets refuse it.
        connection = http.client.HTTPConnection(self._host, timeout=min(seconds or _SECONDS, _SECONDS))
        try:
            connection.request(
                request.verb, request.address, request.body, {**headers, "Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError:
            raise Failed(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer to {request.address} in time") from None
        except (OSError, http.client.HTTPException) as problem:
            raise Failed(grpc.StatusCode.UNAVAILABLE, f"no answer to {request.address}: {problem!r}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise _failed(answer.status, content)
        return content


def _failed(status: int, content: bytes) -> Failed:
    """Google's JSON error body as the error of a call; whatever else was answered by its HTTP status."""
    code = _STATUS_OF_HTTP.get(status, grpc.StatusCode.UNKNOWN)
    try:
        error = json.loads(content)["error"]
        return Failed(getattr(grpc.StatusCode, error.get("status", ""), code), error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return Failed(code, f"HTTP status {status}: {content[:200].decode(errors='replace')}")


def main() -> None:
    servers, ports = [], {}
    for url in sys.argv[1:]:
        server = grpc.server(
            futures.ThreadPoolExecutor(_THREADS),
            handlers=[Transcoder(url)],
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        ports[url] = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
    print(json.dumps(ports), flush=True)
    # Whoever started this holds the other end: it ends with them, however they end.
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
