"""Vertex AI over REST: which address it has, how what was refused for now is repeated, and Google's errors in one line."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from transforms.cli import say
from transforms.errors import JobFailed, UsageError, one_line, rejected

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1 import JobServiceClient, ModelServiceClient

T = TypeVar("T")

KEY_LABEL = "clv-key"  # holds a job's key, by which it is found again

CALL_SECONDS = 60.0
# A quota counts by the minute, and an outage that lasts longer than this is for whoever is on duty.
RETRY_SECONDS = 300.0
# A new job may be missing from a list for a moment: who looks for a lost one looks a little later.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 30.0
_PROJECT, _REGION = r"[a-z0-9][a-z0-9.:-]*", r"[a-z]+-[a-z]+[0-9]+"
_ENDPOINT = re.compile(r"(?:(https?)://)?((?:[A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(?::[0-9]{1,5})?)/?")
_LOOPBACK = re.compile(r"(?:localhost|127\.0\.0\.1)(?::[0-9]+)?")
_NAME = re.compile(
    rf"projects/(?P<project>{_PROJECT})/locations/(?P<region>{_REGION})/(?P<kind>[A-Za-z]+)/(?P<id>[A-Za-z0-9_-]+)"
    r"(?:@[A-Za-z0-9-]+)?"
)


@dataclass(frozen=True)
class Vertex:
    """Vertex AI in one project and region.

    ``api_endpoint``: a host, where it is not the region's own: a private endpoint, or http://localhost:PORT.
    """

    project: str
    region: str
    api_endpoint: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(_PROJECT, self.project):
            raise rejected("--project", self.project, "a project's id, such as my-project")
        if not re.fullmatch(_REGION, self.region):
            raise rejected("--region", self.region, "a region, such as europe-west1")
        scheme, host = self._address
        if scheme == "http" and not _LOOPBACK.fullmatch(host):
            raise rejected("--api_endpoint", self.api_endpoint, "a host name; http:// for this machine alone")

    @classmethod
    def of(cls, name: str, api_endpoint: str | None = None) -> Vertex:
        """The one that has the resource of this full name."""
        found = parts(name)
        return cls(found["project"], found["region"], api_endpoint)

    @property
    def parent(self) -> str:
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def _address(self) -> tuple[str, str]:
        given = self.api_endpoint or f"{self.region}-aiplatform.googleapis.com"
        found = _ENDPOINT.fullmatch(given)
        if not found:
            raise rejected("--api_endpoint", given, "a host name, such as europe-west1-aiplatform.googleapis.com")
        return found[1] or "https", found[2]

    @functools.cached_property
    def _credentials(self) -> Any:
        import google.auth
        from google.auth.credentials import AnonymousCredentials

        if self._address[0] == "http":
            return AnonymousCredentials()  # type: ignore[no-untyped-call]  # nobody's token goes over a wire unencrypted
        return google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])[0]

    @property
    def _transport(self) -> dict[str, Any]:
        scheme, host = self._address
        return {"host": host, "url_scheme": scheme, "credentials": self._credentials}

    @functools.cached_property
    def jobs(self) -> JobServiceClient:
        from google.cloud.aiplatform_v1 import JobServiceClient
        from google.cloud.aiplatform_v1.services.job_service.transports.rest import JobServiceRestTransport

        with spoken("Vertex AI"):
            return JobServiceClient(transport=JobServiceRestTransport(**self._transport))

    @functools.cached_property
    def models(self) -> ModelServiceClient:
        from google.cloud.aiplatform_v1 import ModelServiceClient
        from google.cloud.aiplatform_v1.services.model_service.transports.rest import ModelServiceRestTransport

        with spoken("Vertex AI"):
            return ModelServiceClient(transport=ModelServiceRestTransport(**self._transport))

    def operation(self, name: str) -> dict[str, Any]:
        """A long-running operation as JSON, asked for once.

        The service clients would look for it under /ui/, which is the console's; Google's client of operations refuses an
        answer with a field that is newer than itself.
        """
        from google.api_core.exceptions import from_http_response
        from google.auth.transport.requests import AuthorizedSession

        scheme, host = self._address
        with AuthorizedSession(self._credentials) as session:  # type: ignore[no-untyped-call]
            answer = session.get(f"{scheme}://{host}/v1/{name}", timeout=CALL_SECONDS)
        if answer.status_code >= 400:
            raise from_http_response(answer)
        return dict(answer.json())


def parts(name: str, argument: str = "the name") -> dict[str, str]:
    """project, region, kind and id of a resource's full name, which may end in @version.

    Args:
      argument: what gave the name, for the error.

    Raises:
      UsageError: it is none.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise rejected(argument, name, "projects/PROJECT/locations/REGION/customJobs/NUMBER")
    return found.groupdict()


def call(method: Callable[..., T], request: Any, what: str) -> T:
    """Calls something that may be done twice; repeats it where it was refused or lost on the way, with jitter.

    Raises:
      UsageError: Google says that there is no such thing, or that the request is wrong.
      JobFailed: it was not allowed, or refused for ``RETRY_SECONDS``.
    """
    with spoken(what):
        return again(lambda: method(request=request, retry=None, timeout=CALL_SECONDS), what)


def call_list(method: Callable[..., Any], request: Any, what: str, most: int | None = None) -> list[Any]:
    """The first ``most`` resources that a listing method answers with, over as many pages as it takes."""
    import itertools

    with spoken(what):
        return again(
            lambda: list(itertools.islice(method(request=request, retry=None, timeout=CALL_SECONDS), most)), what
        )


def again(attempt: Callable[[], T], what: str) -> T:
    """Repeats an attempt while it fails in passing; Google's error as it is where that does not end."""
    for pause in pauses():
        try:
            return attempt()
        except Exception as error:
            if not is_passing(error) or pause is None:
                raise
            say(f"{what}: {text(error)}; again in {pause:.0f} s")
        time.sleep(pause)
    raise AssertionError("the pauses end with None")


def create_once(find: Callable[[], T | None], create: Callable[[], T], what: str) -> tuple[T, bool]:
    """What ``find`` finds, or else what ``create`` makes, and whether it was found.

    Vertex AI takes no id for what is created: where the answer was lost, it is looked for before it is made again.
    """
    for pause in pauses():
        if (found := find()) is not None:
            return found, True
        try:
            return create(), False
        except Exception as error:
            if not is_passing(error) or pause is None:
                raise
            say(f"{what}: {text(error)}; looking for it in {pause:.0f} s, then again")
        time.sleep(pause)
    raise AssertionError("the pauses end with None")


def pauses() -> Iterator[float | None]:
    """Seconds to wait after each attempt, growing and never alike on two machines; None after the last one."""
    deadline, longest = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        pause = longest * random.uniform(0.5, 1)
        yield pause if time.monotonic() + pause < deadline else None
        longest = min(longest * 2, LONGEST_PAUSE_SECONDS)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may be answered otherwise soon."""
    import requests  # type: ignore[import-untyped]
    from google.api_core import exceptions
    from google.auth.exceptions import TransportError

    return isinstance(
        error,
        exceptions.TooManyRequests | exceptions.ServerError | requests.ConnectionError | requests.Timeout
        | requests.exceptions.ChunkedEncodingError | TransportError,
    )  # fmt: skip


def is_lost(error: BaseException) -> bool:
    """Whether the request of a failure in passing may have been carried out all the same."""
    from google.api_core import exceptions

    return is_passing(error) and not isinstance(error, exceptions.TooManyRequests | exceptions.ServiceUnavailable)


@contextlib.contextmanager
def spoken(what: str) -> Iterator[None]:
    """Google's errors as one line each, beginning with what was asked for."""
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

    try:
        yield
    except (exceptions.BadRequest, exceptions.NotFound) as error:
        raise UsageError(f"{what}: {text(error)}") from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise JobFailed(f"{what} is not allowed: {text(error)}") from error
    except exceptions.GoogleAPICallError as error:
        raise JobFailed(f"{what}: {text(error)}") from error
    except DefaultCredentialsError as error:
        raise UsageError(f"{what}: no credentials here: gcloud auth application-default login makes some") from error
    except (GoogleAuthError, requests.RequestException) as error:
        raise JobFailed(f"{what}: {text(error)}") from error


def text(error: BaseException) -> str:
    """What Google says, without the address it was asked at."""
    message = str(getattr(error, "message", None) or error)
    code = getattr(error, "code", None)
    plain = re.sub(r"^(?:GET|POST|PATCH|DELETE) \S+: ", "", message)
    return one_line(f"{int(code)} {plain}" if code else f"{type(error).__name__}: {plain}")


def checked_labels(labels: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The labels that ``--labels`` gives.

    Raises:
      UsageError: one breaks Google's rules, is ours, or comes twice.
    """
    found: dict[str, str] = {}
    for key, value in labels:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            accepted = (
                "key=value of lower-case letters, digits, - and _, the key starting with a letter, at most 63 each"
            )
            raise rejected("--labels", f"{key}={value}", accepted)
        if key == KEY_LABEL:
            raise rejected("--labels", f"{key}={value}", f"another key: {KEY_LABEL} is set from --key")
        if key in found:
            raise rejected("--labels", f"{key}={found[key]},{key}={value}", "each key once")
        found[key] = value
    return found
