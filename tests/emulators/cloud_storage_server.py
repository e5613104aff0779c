"""Starts gcp-storage-emulator, corrected where it differs from Cloud Storage in a way that matters here.

Run by the Python of the emulators' own environment, with the emulator's arguments. It ignores ifGenerationMatch,
by which a writer says which generation of an object it replaces (0: none): an upload in one request is now refused
with 412 where another generation is there. The emulator serves one request at a time, so that nothing can come
between the look and the write.

gcloud puts the boundary of a multipart upload between single quotes, which is no quoting to the emulator's parser
of mail: it then finds no parts, and breaks. Cloud Storage takes it; so does this.
"""

from __future__ import annotations

import re
import sys
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import __main__ as emulator
from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_plain_insert = objects.insert
_plain_read_data = server._read_data


def _generation(storage: Any, bucket: str, name: str) -> str:
    try:
        return str(storage.get_file_obj(bucket, name)["generation"])
    except NotFound:
        return "0"


def _name(request: Any) -> str:
    return request.query["name"][0] if "name" in request.query else request.data["meta"]["name"]


def insert(request: Any, response: Any, storage: Any) -> None:
    """``objects.insert`` under the request's precondition."""
    [wanted] = request.query.get("ifGenerationMatch", [None])
    if wanted is None or wanted == _generation(storage, request.params["bucket_name"], _name(request)):
        _plain_insert(request, response, storage)
        return
    _ = request.data  # a client that is not done with sending would not read the answer
    response.status = HTTPStatus.PRECONDITION_FAILED
    message = "At least one of the pre-conditions you specified did not hold."
    response.json({"error": {"code": 412, "message": message, "errors": [{"reason": "conditionNotMet"}]}})


def read_data(handler: Any, query: Any) -> Any:
    """``server._read_data`` where the boundary's quotes are single ones, too."""
    if content_type := handler.headers.get("Content-Type"):
        handler.headers.replace_header("Content-Type", re.sub(r"boundary='([^']*)'", r'boundary="\1"', content_type))
    return _plain_read_data(handler, query)


def teach() -> None:
    for _, handlers in server.HANDLERS:
        for method, handler in handlers.items():
            if handler is _plain_insert:
                handlers[method] = insert
    server._read_data = read_data
    objects.insert = insert  # what the router calls for uploads to paths of other clients


if __name__ == "__main__":
    teach()
    sys.exit(emulator.main())
