"""Imports of the local Amazon Personalize that read their data: what is accepted, and the reason of what is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from orchestration.refresh.local_personalize.core import LocalPersonalize, s3_reader
from orchestration.refresh.local_personalize.interactions_csv import DataRefused, checked_rows, schema_fields
from orchestration.refresh.local_personalize.resources import SCHEMA
from tests.orchestration.refresh.test_local_personalize_world import a_world

HEADER = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE"
FIELDS = schema_fields(json.dumps(SCHEMA))


def rows(count: int = 1000) -> list[str]:
    return [f"u{number % 50},i{number},{1_700_000_000 + number},buy,{number / 4}" for number in range(count)]


def csv_file(*lines: str, header: str = HEADER) -> bytes:
    return "\n".join([header, *lines, ""]).encode()


def test_good_data_is_counted_over_all_files() -> None:
    files = [csv_file(*rows(400)), csv_file(*rows(600)[:-1], 'u1,"an, item",1700000000,buy,')]
    assert checked_rows(files, FIELDS, "FULL") == 1000
    assert checked_rows([csv_file(*rows()).replace(b"\n", b"\r\n")], FIELDS, "FULL") == 1000


def one_row(row: str) -> bytes:
    return csv_file(*rows(), row)


BAD_DATA = {
    "too few": (csv_file(*rows(999)), "has 999 rows: at least 1000"),
    "empty": (b"", "The header of file 1 is ''"),
    "quoted header": (csv_file(*rows(), header=HEADER.replace("USER_ID", '"USER_ID"')), "unquoted"),
    "another name": (csv_file(*rows(), header=HEADER.replace("USER_ID", "user_id")), "the schema needs 'USER_ID,"),
    "another order": (csv_file(*rows(), header=HEADER.replace("USER_ID,ITEM_ID", "ITEM_ID,USER_ID")), "header"),
    "one column more": (csv_file(*rows(), header=HEADER + ",DISCOUNT"), "header"),
    "short row": (one_row("u1,i1,1700000000"), "Row 1002 of file 1 has 3 fields: the schema has 5"),
    "milliseconds": (one_row("u1,i1,1700000000000,buy,1"), "'1700000000000' of TIMESTAMP"),
    "a date": (one_row("u1,i1,2026-01-01,buy,1"), "'2026-01-01' of TIMESTAMP"),
    "before 1970": (one_row("u1,i1,-1,buy,1"), "'-1' of TIMESTAMP"),
    "no user": (one_row(",i1,1700000000,buy,1"), "'' of USER_ID"),
    "long item": (one_row(f"u1,{'i' * 257},1700000000,buy,1"), "of ITEM_ID"),
    "no type": (one_row("u1,i1,1700000000,,1"), "'' of EVENT_TYPE"),
    "no number": (one_row("u1,i1,1700000000,buy,much"), "'much' of EVENT_VALUE"),
    "not finite": (one_row("u1,i1,1700000000,buy,nan"), "'nan' of EVENT_VALUE"),
    "not UTF-8": (csv_file(*rows()) + b"\xff", "not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_with_its_place(case: str) -> None:
    data, reason = BAD_DATA[case]
    with pytest.raises(DataRefused) as caught:
        checked_rows([data], FIELDS, "FULL")
    assert reason in str(caught.value)


def test_no_files_and_too_many_bytes() -> None:
    with pytest.raises(DataRefused, match="no CSV files"):
        checked_rows([], FIELDS, "FULL")

    class Huge(bytes):
        def __len__(self) -> int:
            return 1000**3 + 1

    with pytest.raises(DataRefused, match="larger than 1000000000 bytes"):
        checked_rows([Huge(csv_file(*rows()))], FIELDS, "INCREMENTAL")
    assert checked_rows([Huge(csv_file(*rows()))], FIELDS, "FULL") == 1000


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="shop")
    yield client
    server.stop()


def test_imports_read_what_is_in_s3(s3: Any) -> None:
    s3.put_object(Bucket="shop", Key="run/2/a.csv", Body=csv_file(*rows(500)))
    s3.put_object(Bucket="shop", Key="run/2/b.csv", Body=csv_file(*rows(700)))
    s3.put_object(Bucket="shop", Key="run/2/manifest.json", Body=b"{}")
    s3.put_object(Bucket="shop", Key="run/20/a.csv", Body=b"nonsense")
    s3.put_object(Bucket="shop", Key="interactions/a.csv", Body=csv_file(*rows()))
    with a_world(read_data=s3_reader(s3)) as world:
        good = [
            world.start_import(f"good-{number}", location=place)
            for number, place in enumerate(("s3://shop/run/2/", "s3://shop/run/2"))
        ]
        bad = world.start_import("bad", location="s3://shop/run/20/")
        none = world.start_import("none", location="s3://shop/nothing/")
        lost = world.start_import("lost", location="s3://other/run/")
        assert world.job(bad)["status"] == "CREATE PENDING"  # it shows when the time is over
        world.clock.pass_by(3)
        assert [world.job(arn)["status"] for arn in good] == ["ACTIVE", "ACTIVE"]
        assert world.service.imports[good[0]].rows == 1200
        failed = [world.job(arn) for arn in (bad, none, lost)]
        assert [job["status"] for job in failed] == ["CREATE FAILED"] * 3
        reasons = [job["failureReason"] for job in failed]
        assert "header of file 1 is 'nonsense'" in reasons[0] and "no CSV files" in reasons[1]
        assert "s3://other/run/ cannot be read" in reasons[2] and "NoSuchBucket" in reasons[2]


def test_a_failed_import_is_no_data() -> None:
    files = {"s3://shop/interactions/": [csv_file(*rows())], "s3://shop/bad/": [b"nonsense"]}
    with a_world("in_process", read_data=lambda location: files[location]) as world:
        world.start_import("bad", location="s3://shop/bad/")
        world.clock.pass_by(3)
        arn = world.start_training()
        assert [job.rsplit("/", 1)[1] for job in world.service.versions[arn].trained_on] == ["shop-first"]


def test_without_a_reader_every_import_is_taken_to_be_good() -> None:
    service = LocalPersonalize()
    assert service.imports == {}
    with a_world("in_process") as world:
        arn = world.start_import("anything", location="s3://nowhere/")
        world.clock.pass_by(3)
        assert world.job(arn)["status"] == "ACTIVE"
        assert world.service.imports[arn].rows is None
