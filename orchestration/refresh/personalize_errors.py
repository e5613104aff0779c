"""Sorts what goes wrong between botocore and Amazon Personalize by what is to be done about it.

A call is made in up to three attempts, and only the last one's outcome is raised. Where an earlier attempt of a call that
changes something was sent and not answered, that outcome says nothing about the call: it is Lost, whatever came after.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestration.refresh.service import AlreadyExists, Busy, Lost, NoAccess, Refused
from transforms.errors import one_line

_TAKEN = frozenset({"ResourceAlreadyExistsException"})
_LATER = frozenset(
    {
        "LimitExceededException", "ResourceInUseException", "ServiceQuotaExceededException",  # until another one has ended
        "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
        "TooManyRequestsException", "RequestLimitExceeded", "SlowDown", "PriorRequestNotComplete",
        "RequestTimeout", "RequestTimeoutException",  # the request did not arrive as a whole
        "InvalidNextTokenException",  # a list has to begin anew
    }
)  # fmt: skip
_LATER_STATUS = frozenset({408, 425, 429})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_SIGNATURE = frozenset(
    {
        "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException",
        "RequestExpired", "RequestTimeTooSkewed", "RequestInTheFuture",
    }
)  # fmt: skip
_UNKNOWN = frozenset(
    {
        "UnrecognizedClientException", "UnrecognizedClient", "InvalidClientTokenId", "InvalidAccessKeyId", "InvalidToken",
        "MissingAuthenticationToken", "MissingAuthenticationTokenException", "AuthFailure",
    }
)  # fmt: skip
_DENIED = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "OptInRequired"}
)
_DENIED_STATUS = frozenset({401, 403, 407})
_FAILED_STATUS, _UNAVAILABLE_STATUS = 500, 503


class _Attempts(threading.local):
    """Of the call that this thread makes: whether an attempt of it may have been done though no answer says so."""

    doubtful = False


_ATTEMPTS = _Attempts()


def watch_attempts(client: Any) -> None:
    """Has a boto3 client tell of its single attempts; any other client is left as it is."""
    events = getattr(getattr(client, "meta", None), "events", None)
    if events is not None:
        events.register("needs-retry.personalize", _note_attempt, unique_id="clv-pipelines-attempts")


def _note_attempt(response: Any = None, caught_exception: Exception | None = None, **_: Any) -> None:
    if caught_exception is not None:
        _ATTEMPTS.doubtful |= not _unsent(caught_exception)
    elif response is not None:
        _ATTEMPTS.doubtful |= _half_done(response[0].status_code)


def _half_done(status: int) -> bool:
    # 503 refuses a request; after any other of the server's failures what was asked for may go on behind it.
    return status >= _FAILED_STATUS and status != _UNAVAILABLE_STATUS


def _unsent(error: Exception) -> bool:
    """Whether it came before anything of the request was sent."""
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError

    return isinstance(error, (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError))


@contextmanager
def sorted_errors(operation: str, *, changes: bool = False) -> Iterator[None]:
    """Around one call of the client.

    Args:
      operation: the service's name for it.
      changes: it changes something: what may have been done is Lost and not merely Busy.

    Raises:
      Busy, Lost, AlreadyExists, Refused, NoAccess: in one line, instead of what botocore raises.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    _ATTEMPTS.doubtful = False
    try:
        yield
    except ClientError as error:
        found = _of_answer(error, operation)
        raise _settled(found, changes and (_ATTEMPTS.doubtful or _half_done(_status(error)))) from error
    except (BotoCoreError, ResponseParserError) as error:
        found = _of_failure(error, operation)
        raise _settled(found, changes and _ATTEMPTS.doubtful) from error


def _settled(found: Exception, doubtful: bool) -> Exception:
    if doubtful and isinstance(found, (Busy, Refused)):
        return found if isinstance(found, Lost) else Lost(f"an attempt was not answered, and then: {found}")
    return found


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _of_answer(error: Any, operation: str) -> Exception:
    """Of what the service said. An error nobody knows is the service's last word, unless it is about access or its own failure."""
    code, status = str(error.response.get("Error", {}).get("Code", "")), _status(error)
    # Credentials may come from another service, which has its say inside our call.
    asked = error.operation_name or operation
    line = one_line(f"{asked}: {code}: {error.response.get('Error', {}).get('Message', '')}")
    if code in _TAKEN:
        return AlreadyExists(line)
    if code in _EXPIRED:
        return NoAccess(f"{line}; the credentials have expired: sign in again, or renew the session's token")
    if code in _SIGNATURE:
        return NoAccess(f"{line}; check AWS_SECRET_ACCESS_KEY (or the profile's) and this machine's clock")
    if code in _UNKNOWN:
        return NoAccess(f"{line}; check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN: nobody knows these")
    if code in _LATER or status in _LATER_STATUS or status >= _FAILED_STATUS:
        return Busy(line)
    if code in _DENIED or status in _DENIED_STATUS:
        also = " and iam:PassRole of role_arn" if asked == "CreateDatasetImportJob" else ""
        return NoAccess(f"{line}; whoever runs this needs the permission personalize:{operation}{also}")
    return Refused(line)


def _of_failure(error: Exception, operation: str) -> Exception:
    """Of what came of a call without an answer that can be read."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    line = one_line(f"{operation}: {type(error).__name__}: {error}")
    if isinstance(error, exceptions.ParamValidationError):
        return Refused(line)
    if _unsent(error):
        return Busy(line)
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError, ResponseParserError)):
        return Lost(line)
    credentials = (
        exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError, exceptions.NoAuthTokenError, exceptions.TokenRetrievalError, exceptions.SSOError,
        exceptions.ProfileNotFound,
    )  # fmt: skip
    if isinstance(error, credentials):
        return NoAccess(
            f"{line}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role"
        )
    # The rest of botocore's errors is about how it is set up here: no reason to give a refresh up.
    return NoAccess(f"{line}; check the AWS settings of this machine")
