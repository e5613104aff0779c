"""pipelines.interactions to s3://, over the wire, and what a local export of the same orders says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pipelines import interactions
from tests.pipelines.features_data import refused
from tests.pipelines.interactions_data import manifest_of, shop, write_csv
from tests.pipelines.test_interactions_output import failed
from transforms import interactions_files

BUCKET = "clv-interactions"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for key in objects(client):  # the next server of this process would hold them too
        client.delete_object(Bucket=BUCKET, Key=key)
    server.stop()


def objects(s3: Any) -> dict[str, bytes]:
    found = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    # Arrow marks folders by empty objects; beside the files of an import there must not be one.
    assert not [each["Key"] for each in found if each["Key"].endswith("interactions/")]
    return {each["Key"]: s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read() for each in found if each["Size"]}


def test_the_same_export_as_here(tmp_path: Path, s3: Any) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), f"s3://{BUCKET}/2024/export"
    assert interactions.main(["--orders", orders, "--output", str(tmp_path / "out")]) == 0
    assert interactions.main(["--orders", orders, "--output", output]) == 0
    held = objects(s3)
    assert sorted(held) == [
        "2024/export/interactions/part-00000-0000.csv", "2024/export/manifest.json", "2024/export/schema.avsc",
    ]  # fmt: skip
    here = manifest_of(tmp_path / "out")
    there = json.loads(held["2024/export/manifest.json"])
    assert there["data"] == f"{output}/interactions"
    assert [file["path"] for file in there["files"]] == [f"{output}/interactions/part-00000-0000.csv"]
    same = ("fingerprint", "rows", "users", "unique_interactions", "lines", "bytes")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    for name in ("interactions/part-00000-0000.csv", "schema.avsc"):
        assert held[f"2024/export/{name}"] == (tmp_path / "out" / name).read_bytes()


def test_again_anew_and_refused(tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), f"s3://{BUCKET}/export"
    arguments = ["--orders", orders, "--output", output]
    assert interactions.main(arguments) == 0
    wanted = objects(s3)
    assert interactions.main(arguments) == 0
    assert objects(s3) == wanted
    assert "values was True, is False" in refused(capsys, interactions.main, [*arguments, "--no_event_value"])
    # What a killed attempt leaves.
    started = {
        "kind": "interactions",
        "arguments": json.loads(wanted["export/manifest.json"])["arguments"],
        "attempt": "x",
    }
    s3.delete_object(Bucket=BUCKET, Key="export/manifest.json")
    s3.put_object(Bucket=BUCKET, Key="export/_started.json", Body=json.dumps(started))
    s3.put_object(Bucket=BUCKET, Key="export/interactions/part-00007-0000.csv", Body=b"half")
    assert interactions.main(arguments) == 0
    assert sorted(objects(s3)) == sorted(wanted)


def test_a_bucket_that_does_not_exist_is_one_line(tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop()), "s3://no-such-bucket/export"
    said = failed(capsys, interactions.main, ["--orders", orders, "--output", output])
    assert said.startswith(f"--output {output!r} cannot be written: ") and "NO_SUCH_BUCKET" in said


def test_an_export_that_failed_its_checks_is_made_anew_from_mended_orders(
    tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    orders, output = write_csv(tmp_path / "orders.csv", shop(999)), f"s3://{BUCKET}/export"
    arguments = ["--orders", orders, "--output", output]
    assert "rows is 999" in refused(capsys, interactions.main, arguments)
    write_csv(tmp_path / "orders.csv", shop())
    assert interactions.main(arguments) == 0
    assert json.loads(objects(s3)["export/manifest.json"])["rows"] == 1500


def test_what_a_retried_piece_left_is_gone(tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    close = interactions_files.Parts.close

    def leaving(parts: interactions_files.Parts) -> None:
        close(parts)
        s3.put_object(Bucket=BUCKET, Key="export/interactions/part-orphan-0000.csv", Body=b"USER_ID\n")

    monkeypatch.setattr(interactions_files.Parts, "close", leaving)
    orders = write_csv(tmp_path / "orders.csv", shop())
    assert interactions.main(["--orders", orders, "--output", f"s3://{BUCKET}/export"]) == 0
    assert [key for key in objects(s3) if "/interactions/" in key] == ["export/interactions/part-00000-0000.csv"]


def test_dead_letters_go_there_too(tmp_path: Path, s3: Any) -> None:
    lines = shop()
    lines[5]["amount"] = "much"
    orders = write_csv(tmp_path / "orders.csv", lines)
    assert interactions.main(["--orders", orders, "--output", f"s3://{BUCKET}/export"]) == 0
    letter = json.loads(objects(s3)["export/dead_letters/part-00000.jsonl"])
    assert letter["reason"] == "bad_amount" and letter["payload"]["amount"] == "much"


def test_what_cannot_be_deleted_is_told_as_all_else_of_files(s3: Any) -> None:
    with pytest.raises(OSError, match=r"s3://no-such-bucket/x/part-a\.csv cannot be deleted: .*NoSuchBucket"):
        interactions_files._delete("s3://no-such-bucket/x", "no-such-bucket/x/part-a.csv")
