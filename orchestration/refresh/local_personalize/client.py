"""The service as an object like boto3's client, in process: the same methods, results and errors, and no HTTP.

It asks once: boto3's own retries are not imitated.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.errorfactory import ClientExceptionsFactory
from botocore.exceptions import ConnectionClosedError, OperationNotPageableError, ParamValidationError
from botocore.paginate import Paginator, PaginatorModel
from botocore.validate import ParamValidator

from orchestration.refresh.local_personalize.core import LocalPersonalize
from orchestration.refresh.local_personalize.faults import Dropped, ServiceError
from orchestration.refresh.local_personalize.shapes import Operation, operation, service_model

ENDPOINT = "http://in-process"


@functools.cache
def _operations() -> dict[str, str]:
    """Names of methods and of their operations."""
    return {xform_name(name): name for name in service_model().operation_names}


@functools.cache
def _pagination() -> PaginatorModel:
    loader = botocore.session.get_session().get_component("data_loader")
    return PaginatorModel(loader.load_service_model("personalize", "paginators-1"))


@functools.cache
def _exceptions() -> Any:
    return ClientExceptionsFactory().create_client_exceptions(service_model())


class Client:
    """What boto3.client("personalize") is for a caller: create_..., describe_..., get_paginator, exceptions, meta."""

    def __init__(self, service: LocalPersonalize) -> None:
        self._service = service
        self._numbers = itertools.count(1)
        self.exceptions = _exceptions()
        self.meta = SimpleNamespace(
            region_name=service.region, endpoint_url=ENDPOINT, service_model=service_model(), config=None
        )

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        asked = _operations().get(name)
        if asked is None:
            raise AttributeError(f"'Personalize' object has no attribute '{name}'")
        method = functools.partial(self._ask, asked)
        setattr(self, name, method)
        return method

    def can_paginate(self, name: str) -> bool:
        try:
            _pagination().get_paginator(_operations()[name])
        except (KeyError, ValueError):
            return False
        return True

    def get_paginator(self, name: str) -> Paginator:
        """botocore's own paginator, over this client's method."""
        if not self.can_paginate(name):
            raise OperationNotPageableError(operation_name=name)
        asked = _operations()[name]
        model = service_model().operation_model(asked)
        return Paginator(getattr(self, name), _pagination().get_paginator(asked), model)

    def close(self) -> None:
        pass

    def _ask(self, name: str, /, **parameters: Any) -> dict[str, Any]:
        model = operation(name)
        assert model is not None
        if model.problem(parameters):
            _must_be_sendable(name, parameters)
        try:
            response = self._service.call(name, parameters)
        except Dropped:
            # As with a real socket, the caller cannot tell whether the work was done.
            raise ConnectionClosedError(endpoint_url=ENDPOINT) from None
        except ServiceError as error:
            raise self._refused(error, name) from None
        return self._answer(model, response)

    def _answer(self, model: Operation, response: Mapping[str, Any]) -> dict[str, Any]:
        return {**model.with_dates(response), "ResponseMetadata": self._metadata(200)}

    def _metadata(self, status: int) -> dict[str, Any]:
        number = str(next(self._numbers))
        return {"RequestId": number, "HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0}

    def _refused(self, error: ServiceError, name: str) -> Exception:
        said = {"Message": error.message, "Code": error.code}
        response = {"Error": said, "ResponseMetadata": self._metadata(error.status), "message": error.message}
        return self.exceptions.from_code(error.code)(response, name)


def _must_be_sendable(name: str, parameters: Mapping[str, Any]) -> None:
    """What boto3 itself refuses, before anything is sent."""
    shape = service_model().operation_model(name).input_shape
    report = ParamValidator().validate(parameters, shape)
    if report.has_errors():
        raise ParamValidationError(report=report.generate_report())
