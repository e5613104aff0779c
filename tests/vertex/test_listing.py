"""Filters, orders, pages and masks, as the service's document words them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dataflow.discovery import Refused
from tests.vertex.listing import JOB_RULES, MODEL_RULES, VERSION_RULES, matcher, page

JOBS: list[dict[str, Any]] = [
    {"displayName": "my_job_1", "state": "JOB_STATE_SUCCEEDED", "createTime": "2021-05-17T00:00:00Z", "labels": {"team": "a"}},
    {"displayName": "my_job_2", "state": "JOB_STATE_FAILED", "createTime": "2021-05-18T00:00:00.5Z", "labels": {"team": "b", "clv-key": "0f3"}},
    {"displayName": "my job", "state": "JOB_STATE_RUNNING", "createTime": "2021-05-19T00:00:00Z"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [0, 1, 2]), ("  ", [0, 1, 2]),
        ('state="JOB_STATE_SUCCEEDED" AND display_name:"my_job_*"', [0]), ('state!="JOB_STATE_FAILED" OR display_name="my_job_2"', [0, 1, 2]),
        ('NOT display_name="my_job_1"', [1, 2]), ("-display_name=my_job_1", [1, 2]), ('create_time>"2021-05-18T00:00:00Z"', [1, 2]),
        ('create_time<="2021-05-17T02:00:00+02:00"', [0]), ("labels.team=a", [0]), ('labels.team = "b"', [1]), ("labels.team:*", [0, 1]),
        ("labels:team", [0, 1]), ("labels.clv-key=0f3", [1]), ('labels."clv-key"=0f3', [1]), ("labels.nobody=a", []),
        ('display_name="my job"', [2]), ('display_name="my_job_*"', []),
        # OR binds tighter than AND.
        ("labels.team=a OR labels.team=b AND state=JOB_STATE_FAILED", [1]),
        ("labels.team=a OR (labels.team=b AND state=JOB_STATE_SUCCEEDED)", [0]),
        ("(state=JOB_STATE_RUNNING OR state=JOB_STATE_FAILED) NOT labels:team", [2]),
    ],
)  # fmt: skip
def test_what_a_filter_finds(text: str, found: list[int]) -> None:
    test = matcher(text, JOB_RULES)
    assert [index for index, job in enumerate(JOBS) if test(job)] == found


@pytest.mark.parametrize(
    "text",
    [
        "displayName=x", "name=x", "state:JOB", "state<JOB", "labels=a", "labels.team!=a", "labels", "state=", "state",
        "(state=A", "state=A)", 'display_name="x', "AND state=A", "state=A OR", "create_time>yesterday", "create_time>2021-05-18T00:00:00",
        "update_time>2021-05-18T00:00:00Z",
    ],
)  # fmt: skip
def test_filters_that_cannot_be_read_say_what_can(text: str) -> None:
    with pytest.raises(Refused, match=r"invalid filter .*supported are: display_name .*labels") as refused:
        matcher(text, JOB_RULES)
    assert refused.value.status == 400


def test_models_take_both_spellings_and_the_models_id() -> None:
    model = {"name": "projects/1/locations/r/models/clv", "displayName": "x", "labels": {"a": "b"}}
    for text in ("displayName=x", "display_name=x", "model=clv", "model!=other", "labels.a=b"):
        assert matcher(text, MODEL_RULES)(model), text
    with pytest.raises(Refused):
        matcher("displayName=x", VERSION_RULES)


def test_pages_follow_one_another_and_belong_to_their_list() -> None:
    first = page(JOBS, "customJobs", {"pageSize": "2"}, JOB_RULES, [], 50)
    assert first["customJobs"] == JOBS[:2]
    rest = page(JOBS, "customJobs", {"pageToken": first["nextPageToken"]}, JOB_RULES, [], 50)
    assert rest == {"customJobs": JOBS[2:]}
    assert "nextPageToken" in page(JOBS, "customJobs", {"pageSize": "1000"}, JOB_RULES, [], 2), (
        "the service's own limit"
    )
    for token in ("x", first["nextPageToken"]):
        with pytest.raises(Refused, match="page_token"):
            page(JOBS, "customJobs", {"pageToken": token, "filter": "labels.team=a"}, JOB_RULES, [], 50)
    with pytest.raises(Refused, match="page_size -1"):
        page(JOBS, "customJobs", {"pageSize": "-1"}, JOB_RULES, [], 50)


def test_orders_and_masks() -> None:
    fields = ["displayName", "createTime"]
    answer = page(
        JOBS,
        "models",
        {"orderBy": "display_name, create_time desc", "readMask": "display_name"},
        MODEL_RULES,
        fields,
        50,
    )
    assert answer["models"] == [{"displayName": "my job"}, {"displayName": "my_job_1"}, {"displayName": "my_job_2"}]
    newest = page(JOBS, "models", {"orderBy": "create_time desc", "readMask": "createTime"}, MODEL_RULES, fields, 50)
    assert newest["models"][0] == {"createTime": "2021-05-19T00:00:00Z"}
    for query, named in (({"orderBy": "state"}, "'state' is not supported"), ({"orderBy": "create_time down"}, "not supported"), ({"readMask": "size"}, "unknown fields: size")):  # fmt: skip
        with pytest.raises(Refused, match=named):
            page(JOBS, "models", query, MODEL_RULES, fields, 50)
