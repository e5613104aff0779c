"""Cloud Storage's failures as a scheduler has to hear of them: what a person must mend, and what may pass by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transforms.errors import JobFailed, UsageError, one_line, rejected

_TO_BE_MENDED = (FileNotFoundError, NotADirectoryError, PermissionError)
_PATIENCE_SECONDS = 30.0  # of a request that only tells a mistake from an empty place
_SERVICE = "google::cloud::Status("  # how Arrow begins what the service said


@contextlib.contextmanager
def explained(argument: str, uri: str) -> Iterator[None]:
    """For looking at what is there.

    Raises:
      UsageError: it is missing or forbidden.
      JobFailed: it cannot be looked at for the time being.
    """
    from pyarrow import ArrowInvalid

    said = f"{argument} {uri!r} is not readable"
    try:
        yield
    except (*_TO_BE_MENDED, ArrowInvalid) as error:
        raise UsageError(f"{said}: {one_line(str(error), 300)}") from error
    except OSError as error:
        raise _for_now(said, error) from error


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """For a file's content.

    Raises:
      UsageError: it is damaged, missing or forbidden.
      JobFailed: the service fails for the time being.
    """
    from pyarrow import ArrowException

    said = f"{path} is not readable"
    try:
        yield
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, _TO_BE_MENDED) and _SERVICE in str(error):
            raise _for_now(said, error) from error
        raise UsageError(f"{said}: {one_line(str(error), 300)}") from error


def require_bucket(argument: str, uri: str) -> None:
    """One request: the listing of a bucket that does not exist is empty, as that of a folder nothing is in yet.

    Args:
      uri: of gs://; of any other there is nothing to ask.

    Raises:
      UsageError: there is no such bucket, or it may not be listed.
      JobFailed: Cloud Storage fails for the time being.
    """
    if not uri.startswith("gs://"):
        return
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage import Client, retry  # type: ignore[import-untyped]
    from requests.exceptions import RequestException

    bucket, _, name = uri.removeprefix("gs://").removeprefix("anonymous@").partition("/")
    patient = retry.DEFAULT_RETRY.with_timeout(_PATIENCE_SECONDS)
    try:
        # The bucket's own metadata would need a right that readers of objects do not have.
        with Client(project=None) as client:
            next(iter(client.list_blobs(bucket, prefix=name, max_results=1, retry=patient)), None)
    except exceptions.NotFound as error:
        raise rejected(argument, uri, f"a place in a bucket that exists, and there is no bucket {bucket!r}") from error
    except exceptions.ClientError as error:
        raise UsageError(f"{argument} {uri!r} is not readable: {one_line(str(error), 300)}") from error
    except (exceptions.GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise _for_now(f"{argument} {uri!r} is not readable", error) from error


def _for_now(said: str, error: Exception) -> JobFailed:
    return JobFailed(f"{said} for the time being: {one_line(str(error), 300)}; running the command again goes on")
