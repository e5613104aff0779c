"""Launching: what is checked before anything starts, the command, and what gcloud makes of it."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import labels
from templates import launch
from tests.templates.values import LEAST

ROOT = Path(__file__).resolve().parents[2]
WHERE = ["--template", "gs://shop/templates/t.json", "--project", "my-project", "--region", "europe-west1"]


def command(name: str = "publish", *more: str, **changed: str) -> list[str]:
    parameters = LEAST[name] | changed
    given = [f"{key}={value}" for key, value in parameters.items()]
    return [name, *WHERE, "--parameters", *given, *more]


def printed(capsys: pytest.CaptureFixture[str], *given: str) -> list[str]:
    assert launch.main([*given, "--print_only"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return shlex.split(line)


def refusal(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """The one line of a launch that is refused; gcloud is not reached."""
    assert launch.main([*given, "--print_only"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err.removeprefix("error: ").strip()


def read_list(text: str) -> dict[str, str]:
    """gcloud's list syntax, as `gcloud topic escaping` describes it."""
    found = re.fullmatch(r"\^(?P<delimiter>[^^]+)\^(?P<rest>.*)", text, re.DOTALL)
    delimiter, rest = (found["delimiter"], found["rest"]) if found else (",", text)
    return dict(item.split("=", 1) for item in rest.split(delimiter))


def test_the_bare_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(
        capsys, *command("publish", "--temp_location", "gs://shop/temp", "--max_workers", "4", "--disable_public_ips",
        "--job_name", "publish-1", stage_only="true"),
    )  # fmt: skip
    assert found[:5] == ["gcloud", "dataflow", "flex-template", "run", "publish-1"]
    flags = dict(flag.partition("=")[::2] for flag in found[5:])
    assert read_list(flags.pop("--parameters")) == LEAST["publish"] | {"stage_only": "true"}
    assert flags == {
        "--template-file-gcs-location": "gs://shop/templates/t.json", "--project": "my-project", "--region": "europe-west1",
        "--temp-location": "gs://shop/temp", "--max-workers": "4", "--disable-public-ips": "", "--format": "json",
    }  # fmt: skip


def test_an_empty_parameter_is_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, *command(registry="", override=""))
    (listed,) = [flag for flag in found if flag.startswith("--parameters=")]
    assert read_list(listed.removeprefix("--parameters=")) == LEAST["publish"]


@given(
    st.dictionaries(st.from_regex("[a-z_]{1,8}", fullmatch=True), st.text(",;|~#@%+!*=^[ab", max_size=12), min_size=1)
)
def test_any_value_survives_gcloud_s_lists(parameters: dict[str, str]) -> None:
    assert read_list(launch.joined(parameters)) == parameters


@pytest.mark.parametrize(("name", "date"), [("publish", ""), ("features", "2011-08-08-"), ("predict", "")])
def test_default_job_names_are_unique_and_fit_into_labels(
    name: str, date: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {printed(capsys, *command(name))[4] for _ in range(2)}
    assert len(names) == 2
    for found in names:
        assert re.fullmatch(rf"clv-{name}-{date}[0-9a-f]{{8}}", found)
        assert len(found) <= labels.MOST_CHARACTERS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (command(predictons="gs://a/b"), "--parameters predictons is unknown to the template publish: did you mean predictions?"),
        (command(qqq="1"), "--parameters qqq is unknown to the template publish: accepted are predictions, serving, "),
        (command(dry_run="true"), "--parameters dry_run is not offered by the template publish: it prints a plan"),
        (command(ttl_days="0"), "--parameters ttl_days '0' is not usable: accepted is a whole number from 1 to 100000"),
        (command(serving="sqlite://a.db"), "--parameters serving 'sqlite://a.db' is not usable: accepted is datastore://"),
        (command(predictions="work/predictions"), "predictions 'work/predictions' is not usable: accepted is a gs:// directory"),
        (command(stage_only="yes"), "--parameters stage_only 'yes' is not usable: accepted is true or false"),
        (command(dead_letters="gs://shop/dead#x"), "--parameters dead_letters 'gs://shop/dead#x' is not usable: accepted is a gs:// directory"),
        (command("publish", "--temp_location", "gs://shop/t*"), "'gs://shop/t*' is not usable: accepted is a gs:// directory"),
        (command(predictions=""), "the template publish needs --parameters predictions=...: accepted is a gs:// directory"),
        (["publish", *WHERE], "the template publish needs --parameters predictions=...: accepted is a gs:// directory"),
        (command(bigquery_table="my-project.shop.t"), "--bigquery_table needs a gs:// directory beside it"),
        (command(override="customers=a;customers=b"), "one reason for each guard"),
        (command("features", cutoff="2011-02-29"), "--parameters cutoff '2011-02-29' is not usable: accepted is a date"),
        (command("features", orders=""), "one of the arguments --orders --orders_query is required"),
        (command("features", orders_query="gs://shop/a.sql"), "--orders_query: not allowed with argument --orders"),
        (command("predict", output=""), "the template predict needs --parameters output=...: accepted is a gs:// directory"),
        ([*command(), "serving=datastore://my-project"], "serving was given as 'datastore://my-project' and as"),
        ([*command(), "stray"], "--parameters 'stray' is not usable: accepted is name=value"),
        (["publishing", *WHERE], "invalid choice: 'publishing'"),
        (command("publish", "--job_name", "Publish_1"), "'Publish_1' is not usable: accepted are lower-case letters"),
        (command("publish", "--temp_location", "/tmp"), "'/tmp' is not usable: accepted is a gs:// directory"),
        (command("publish", "--max_workers", "0"), "'0' is not usable: accepted is a whole number of at least 1"),
        (command("publish", "--max-workers", "3"), "--max-workers"),
    ],
)  # fmt: skip
def test_mistakes_cost_nothing(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal(capsys, *given)


def test_the_examples_work(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "flex_templates.md").read_text()
    text = re.sub(r"\\\n\s*", " ", f"{page}\n{launch.__doc__}")
    examples = re.findall(r"python -m templates.launch (.*)", text)
    assert len(examples) == 3
    for example in examples:
        given = [word for word in shlex.split(example) if word != "--print_only"]
        assert printed(capsys, *given)[:4] == ["gcloud", "dataflow", "flex-template", "run"]


def test_the_guards_file_is_not_opened(capsys: pytest.CaptureFixture[str]) -> None:
    assert "guards=gs://shop/guards.toml" in " ".join(printed(capsys, *command(guards="gs://shop/guards.toml")))


def test_without_gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.main(command()) == 2
    assert "error: gcloud cannot be run" in capsys.readouterr().err


class Service:
    """Remembers what gcloud sends, and answers as Dataflow does to a launch, or with what ``answer`` says instead."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.answer: tuple[int, dict[str, Any]] | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.sent.append((self.path, body))
                job = {"job": {"id": "2026-11-22_1", "name": body["launchParameter"]["jobName"]}}
                status, content = service.answer or (200, job)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    from tests.templates import gcloud

    service = Service()
    dataflow = f"http://127.0.0.1:{service.server.server_port}"
    for name, value in gcloud.environment(tmp_path / "gcloud", "http://127.0.0.1:1", dataflow).items():
        monkeypatch.setenv(name, value)
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.mark.emulators
def test_the_real_gcloud_sends_every_value_as_given(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "customers=closed, for once; zeros=a|b ~ \"c\" 'd'"
    assert (
        launch.main(command("publish", "--subnetwork", "regions/r/subnetworks/s", override=reason, ramp="0.5/0/1")) == 0
    )
    ((path, body),) = service.sent
    assert path.startswith("/v1b3/projects/my-project/locations/europe-west1/flexTemplates:launch")
    sent = body["launchParameter"]
    assert sent["parameters"] == LEAST["publish"] | {"override": reason, "ramp": "0.5/0/1"}
    assert sent["containerSpecGcsPath"] == "gs://shop/templates/t.json"
    assert sent["environment"]["subnetwork"] == "regions/r/subnetworks/s"
    assert capsys.readouterr().out.splitlines() == [
        "job   2026-11-22_1",
        f"name  {sent['jobName']}",
        "page  https://console.cloud.google.com/dataflow/jobs/europe-west1/2026-11-22_1?project=my-project",
    ]


@pytest.mark.emulators
def test_the_services_refusal_is_shown(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer = 400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "The template is too old."}}
    assert launch.main(command()) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: gcloud dataflow flex-template run ended with 1: ERROR:")
    assert "The template is too old." in last


@pytest.mark.emulators
def test_an_answer_without_a_job(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer = 200, {}
    assert launch.main(command()) == 1
    assert "error: gcloud did not say which job it launched" in capsys.readouterr().err
