"""What goes wrong between boto3 and Amazon Personalize, over a real connection, sorted by what is to be done about it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, InvalidRegionError
from botocore.parsers import ResponseParserError

from orchestration.refresh import personalize
from orchestration.refresh.local_personalize.core import AT_ONCE, Durations, Fault, ServiceError
from orchestration.refresh.personalize import Personalize
from orchestration.refresh.personalize_errors import sorted_errors
from orchestration.refresh.service import AlreadyExists, Busy, Lost, NoAccess, Refused
from tests.orchestration.refresh.test_personalize_world import World, a_world

Call = Callable[[Personalize], object]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with a_world(monkeypatch, AT_ONCE) as made:
        yield made


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with a_world(monkeypatch, Durations(3600, 3600, 3600)) as made:
        yield made


def an_import(service: Personalize) -> object:
    return service.start_import("one", "s3://shop/1/", "FULL")


def a_training(service: Personalize) -> object:
    return service.start_training("one", "FULL")


def a_deployment(service: Personalize) -> object:
    return service.deploy(service.campaign().version)


def a_look(service: Personalize) -> object:
    return service.campaign()


CHANGES = [
    ("CreateDatasetImportJob", an_import),
    ("CreateSolutionVersion", a_training),
    ("UpdateCampaign", a_deployment),
]
LOOKS: list[tuple[str, Call]] = [
    ("DescribeSolution", lambda service: service.problems()),
    ("ListDatasetImportJobs", lambda service: service.find_import("one")),
    ("ListSolutionVersions", lambda service: service.find_training("one")),
    ("DescribeCampaign", a_look),
    ("GetSolutionMetrics", lambda service: service.metrics(service.campaign().version)),
    ("DescribeSolutionVersion", lambda service: service.training_progress(service.campaign().version)),
]


def outcome(call: Call, service: Personalize) -> Exception:
    """What it raised, which has to be one of ours, with its cause, in one line."""
    with pytest.raises((Busy, Refused, AlreadyExists, NoAccess)) as told:
        call(service)
    line = str(told.value)
    assert "\n" not in line and line.strip() and len(line) < 900 and told.value.__cause__ is not None
    return told.value


@pytest.mark.parametrize(("operation", "call"), [*CHANGES, *LOOKS])
class TestEveryCall:
    @pytest.mark.parametrize(
        ("kind", "code"), [("throttled", "ThrottlingException"), ("quota", "LimitExceededException")]
    )
    def test_throttling_and_quotas_are_busy(
        self, world: World, operation: str, call: Call, kind: str, code: str
    ) -> None:
        world.service.faults.append(Fault(operation, kind))
        found = outcome(call, world.once())
        assert type(found) is Busy and str(found).startswith(f"{operation}: {code}: ")

    def test_a_request_without_an_answer(self, world: World, operation: str, call: Call) -> None:
        world.service.faults.append(Fault(operation, "lost_reply"))
        found = outcome(call, world.once())
        assert type(found) is Lost and f"{operation}: ConnectionClosedError: " in str(found)

    def test_an_answer_that_comes_too_late(self, world: World, operation: str, call: Call) -> None:
        released = threading.Event()
        ask = world.service.call
        world.service.call = lambda name, given: (name == operation and released.wait(5), ask(name, given))[1]  # type: ignore[method-assign]
        found = outcome(call, world.once(read_timeout=0.1))
        released.set()
        assert type(found) is Lost and f"{operation}: ReadTimeoutError: " in str(found)

    def test_one_failure_is_tried_again_by_boto3(self, world: World, operation: str, call: Call) -> None:
        world.service.faults += [Fault(operation, "throttled"), Fault(operation, "unavailable")]
        call(world.connect())
        assert [each.outcome for each in world.service.calls if each.operation == operation][-3:] == [
            "ThrottlingException", "ServiceUnavailableException", "ok",
        ]  # fmt: skip

    def test_nobody_there(self, world: World, operation: str, call: Call) -> None:
        world.server.close()
        service = world.once()
        found = outcome(call, service)
        assert type(found) is Busy and "EndpointConnectionError" in str(found)


class TestAttempts:
    """What the last of three attempts says is not what became of the call, where an earlier one was not answered."""

    @pytest.mark.parametrize(("operation", "call"), CHANGES[1:])
    @pytest.mark.parametrize(
        "then", ["ThrottlingException", "LimitExceededException", "ResourceInUseException", "InvalidInputException"]
    )
    def test_not_answered_and_then_refused_is_lost(self, world: World, operation: str, call: Call, then: str) -> None:
        world.service.faults.append(Fault(operation, "lost_reply"))
        service = world.connect()
        ask, said = world.service.call, ServiceError(then, "Not now.")

        def answer(name: str, given: Any) -> dict[str, Any]:
            lost = any((each.operation, each.outcome) == (operation, "lost_reply") for each in world.service.calls)
            if name == operation and lost:
                raise said
            return ask(name, given)

        world.service.call = answer  # type: ignore[method-assign]
        found = outcome(call, service)
        assert type(found) is Lost and then in str(found)

    @pytest.mark.parametrize(("operation", "call"), CHANGES)
    def test_not_answered_and_then_no_access_is_no_access(self, world: World, operation: str, call: Call) -> None:
        world.service.faults.append(Fault(operation, "lost_request"))
        service = world.connect()
        ask = world.service.call

        def answer(name: str, given: Any) -> dict[str, Any]:
            lost = any((each.operation, each.outcome) == (operation, "lost_request") for each in world.service.calls)
            if name == operation and lost:
                raise ServiceError("ExpiredTokenException", "The security token has expired.")
            return ask(name, given)

        world.service.call = answer  # type: ignore[method-assign]
        assert type(outcome(call, service)) is NoAccess

    @pytest.mark.parametrize(("operation", "call"), CHANGES[:2])
    def test_a_lost_reply_of_what_has_a_name_ends_as_taken_and_made_once(
        self, slow: World, operation: str, call: Call
    ) -> None:
        slow.service.faults.append(Fault(operation, "lost_reply"))
        service = slow.connect()
        assert type(outcome(call, service)) is AlreadyExists
        assert slow.service.count(operation) == 3  # the shop's first, the lost one, and the one that was told
        assert (service.find_import if operation == "CreateDatasetImportJob" else service.find_training)("one")

    def test_a_lost_reply_of_an_update_ends_as_in_use_which_is_lost(self, slow: World) -> None:
        slow.service.faults.append(Fault("UpdateCampaign", "lost_reply"))
        found = outcome(a_deployment, slow.connect())
        assert type(found) is Lost and "ResourceInUseException" in str(found)

    def test_the_doubt_is_of_one_call_alone(self, slow: World) -> None:
        slow.service.faults.append(Fault("UpdateCampaign", "lost_reply"))
        service = slow.connect()
        outcome(a_deployment, service)
        slow.clock.pass_by(10)
        assert type(outcome(a_deployment, service)) is Busy

    def test_the_doubt_is_of_one_thread_alone(self, slow: World) -> None:
        slow.service.faults.append(Fault("CreateSolutionVersion", "lost_reply", times=3))
        service, found = slow.connect(), dict[str, Exception]()
        training = threading.Thread(target=lambda: found.update(lost=outcome(a_training, service)))
        training.start()
        while training.is_alive():
            slow.service.answers["UpdateCampaign"] = [ServiceError("ResourceInUseException", "Wait.")]
            assert type(outcome(a_deployment, service)) is Busy
        assert type(found["lost"]) is Lost

    @pytest.mark.parametrize(
        ("status", "kind", "look"), [(503, Busy, Busy), (500, Lost, Busy), (502, Lost, Busy), (504, Lost, Busy)]
    )
    def test_what_fails_at_the_service_may_have_been_done_unless_it_was_not_taken_on(
        self, world: World, status: int, kind: type, look: type
    ) -> None:
        failed = ServiceError("InternalFailure", "It failed.", status)
        world.service.answers = {"UpdateCampaign": [failed], "DescribeSolutionVersion": [failed]}
        assert type(outcome(a_deployment, world.once())) is kind
        assert type(outcome(lambda service: service.training_progress("v"), world.once())) is look

    def test_an_unanswered_look_is_lost_and_with_that_busy(self, world: World) -> None:
        world.service.faults.append(Fault("DescribeCampaign", "lost_request", times=9))
        found = outcome(a_look, world.connect())
        assert isinstance(found, Busy) and world.service.count("DescribeCampaign") >= 3


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("AccessDeniedException", 400, "needs the permission personalize:CreateDatasetImportJob and iam:PassRole"),
        ("AccessDenied", 403, "permission"),
        ("SomethingNew", 403, "permission"),
        ("SomethingNew", 401, "permission"),
        ("ExpiredTokenException", 400, "sign in again"),
        ("ExpiredToken", 403, "sign in again"),
        ("UnrecognizedClientException", 400, "check AWS_PROFILE"),
        ("InvalidClientTokenId", 403, "check AWS_PROFILE"),
        ("MissingAuthenticationTokenException", 403, "check AWS_PROFILE"),
        ("SignatureDoesNotMatch", 403, "this machine's clock"),
        ("InvalidSignatureException", 400, "this machine's clock"),
    ],
)
def test_access(world: World, code: str, status: int, says: str) -> None:
    world.service.answers["CreateDatasetImportJob"] = [ServiceError(code, "No\nway.", status)]
    found = outcome(an_import, world.once())
    assert type(found) is NoAccess and says in str(found)
    assert str(found).startswith(f"CreateDatasetImportJob: {code}: No way.; ")
    assert found.exit_code == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InvalidInputException", 400), ("ResourceNotFoundException", 400), ("TooManyTagsException", 400),
        ("ValidationException", 400), ("UnknownOperationException", 404), ("NobodyKnowsThisOne", 400),
        ("NotACTIVE ThrottlingExceptionNot", 418), ("", 400),
    ],
)  # fmt: skip
def test_every_other_word_of_the_service_is_its_last(world: World, code: str, status: int) -> None:
    world.service.answers["UpdateCampaign"] = [ServiceError(code, "No.", status)]
    found = outcome(a_deployment, world.once())
    assert type(found) is Refused and str(found).startswith("UpdateCampaign: ") and "No." in str(found)


@pytest.mark.parametrize("status", [408, 425, 429])
def test_not_now_by_the_status_alone(world: World, status: int) -> None:
    world.service.answers["UpdateCampaign"] = [ServiceError("Whatever", "Later.", status)]
    assert type(outcome(a_deployment, world.once())) is Busy


def test_a_page_that_is_gone_means_to_list_anew(world: World) -> None:
    world.service.answers["ListSolutionVersions"] = [ServiceError("InvalidNextTokenException", "Gone.")]
    assert type(outcome(lambda service: service.find_training("one"), world.once())) is Busy


class TestCredentials:
    @pytest.fixture(autouse=True)
    def nobody(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world: World) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    def test_none(self, world: World) -> None:
        found = outcome(a_look, world.connect())
        assert type(found) is NoAccess and "NoCredentialsError" in str(found) and "set AWS_PROFILE" in str(found)

    def test_half_of_them(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        with pytest.raises(NoAccess, match="PartialCredentialsError"):
            world.connect().campaign()

    def test_a_profile_that_is_not_there(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(NoAccess, match=r"ProfileNotFound.*nobody.*set AWS_PROFILE"):
            world.connect()

    def test_a_program_that_gives_none(self, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "config").write_text("[default]\ncredential_process = false\n")
        with pytest.raises(NoAccess, match="CredentialRetrievalError"):
            world.connect().campaign()


@pytest.mark.parametrize(("operation", "call"), [*CHANGES, *LOOKS])
def test_an_answer_that_is_none_of_the_service(world: World, operation: str, call: Call) -> None:
    service = world.once()
    world.service.other_answers.add(operation)
    with pytest.raises(Lost, match=f"{operation}: the answer has no .* proxy"):
        call(service)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ResponseParserError("not JSON"), Lost),
        (BotoCoreError(), NoAccess),
        (InvalidRegionError(region_name="!"), NoAccess),
    ],
)
def test_what_never_reaches_the_service(error: Exception, kind: type) -> None:
    with pytest.raises(kind) as told, sorted_errors("UpdateCampaign", changes=True):
        raise error
    assert type(told.value) is kind


def test_a_parameter_that_cannot_be_sent_is_refused(world: World) -> None:
    with pytest.raises(Refused, match="CreateDatasetImportJob: ParamValidationError"):
        world.connect().start_import("", "s3://shop/1/", "FULL")


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), sorted_errors("UpdateCampaign"):
        raise ZeroDivisionError


def test_the_names_of_methods() -> None:
    assert personalize._method("CreateDatasetImportJob") == "create_dataset_import_job"
    assert personalize._method("GetSolutionMetrics") == "get_solution_metrics"
