"""DynamoDB's errors and boto3's as what is to be done about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestration.refresh.ledger import Conflict
from orchestration.refresh.service import Busy, Lost, NoAccess
from transforms.errors import JobFailed, UsageError, one_line

_THROTTLED = frozenset(
    {
        "LimitExceededException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottledException",
        "Throttling", "ThrottlingException", "TransactionConflictException", "TransactionInProgressException",
    }
)  # fmt: skip
_NO_ACCESS = frozenset(
    {
        "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignatureException",
        "InvalidClientTokenId", "InvalidSignatureException", "MissingAuthenticationToken",
        "MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired", "SubscriptionRequiredException",
        "UnrecognizedClientException",
    }
)  # fmt: skip
# botocore's own, by name: each with those that are made of it.
_NO_CREDENTIALS = (
    "CredentialRetrievalError", "LoginError", "MetadataRetrievalError", "NoAuthTokenError", "NoCredentialsError",
    "PartialCredentialsError", "RefreshWithMFAUnsupportedError", "SSOError", "TokenRetrievalError",
)  # fmt: skip
_NO_ANSWER = ("CapacityNotAvailableError", "ChecksumError", "ConnectionError", "HTTPClientError", "IncompleteReadError")


def create_command(table: str, region: str | None) -> str:
    """What makes a ledger's table, with AWS's own command."""
    return (
        f"aws dynamodb create-table --table-name {table} --billing-mode PAY_PER_REQUEST "
        "--key-schema AttributeName=campaign_name,KeyType=HASH AttributeName=base_date,KeyType=RANGE "
        "--attribute-definitions AttributeName=campaign_name,AttributeType=S AttributeName=base_date,AttributeType=S"
        + (f" --region {region}" if region else "")
    )


@contextmanager
def told(table: str, region: str | None) -> Iterator[None]:
    """Around one request.

    Raises:
      Conflict: its condition does not hold.
      Lost: no answer came, or none that tells whether it was done. Busy: it was not done.
      NoAccess, UsageError, JobFailed: it will not be, before somebody changes something.
    """
    try:
        yield
    except (UsageError, JobFailed):
        raise
    except Exception as error:
        meant = _meaning(error, f"the ledger 'dynamodb://{table}'", create_command(table, region))
        if meant is None:
            raise
        raise meant from error


def _meaning(error: Exception, ledger: str, command: str) -> Exception | None:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    said = f"{ledger}: {one_line(str(error))}"
    if isinstance(error, ClientError):
        return _meaning_of_answer(error.response, said, command)
    kinds = {each.__name__ for each in type(error).__mro__}
    if isinstance(error, ResponseParserError) or not kinds.isdisjoint(_NO_ANSWER):
        return Lost(said)
    if not kinds.isdisjoint(_NO_CREDENTIALS):
        return NoAccess(
            f"{said}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role"
        )
    # What is left is wrong in the settings: the region, the profile, the endpoint (a plain ValueError).
    return UsageError(said) if isinstance(error, (BotoCoreError, ValueError)) else None


def _meaning_of_answer(answer: dict[str, Any], said: str, command: str) -> Exception:
    code = answer.get("Error", {}).get("Code", "")
    about = answer.get("ResponseMetadata", {})
    if code == "ConditionalCheckFailedException":
        return Conflict(said)
    if code in _NO_ACCESS:
        return NoAccess(said)
    if code in _THROTTLED:
        # The answer is the last try's: one before it may have been done.
        return Lost(said) if about.get("RetryAttempts") else Busy(said)
    if about.get("HTTPStatusCode", 0) >= 500:
        return Lost(said)
    if code == "ResourceNotFoundException":
        return UsageError(f"{said}; there is no such table, or it is not ready; this makes it: {command}")
    if code == "ValidationException" and " key" in said:
        return UsageError(f"{said}; its keys are not a ledger's; this makes a table with them: {command}")
    return JobFailed(said)
