"""The front judged by programs that know nothing of it but its environment variables."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dataflow.service_account import write_key_file
from tests.google import front
from tests.google.rest_server import RestServer

ROOT = Path(__file__).resolve().parents[2]
HOST, OTHER = "dataflow.googleapis.com", "europe-west1-aiplatform.googleapis.com"
GRPC = """
import grpc, os
from google.auth.credentials import AnonymousCredentials
from google.cloud.dataflow_v1beta3 import JobsV1Beta3Client
print(JobsV1Beta3Client(credentials=AnonymousCredentials()).get_job(dict(project_id="p", location="l", job_id="j")).id)
"""
HTTP = "import requests, sys; print(requests.get(sys.argv[1], timeout=30).text)"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RestServer, RestServer]]:
    with RestServer() as one, RestServer() as two:
        one.answer, two.answer = (200, b'{"id": "of the first"}'), (200, b'{"id": "of the second"}')
        yield one, two


@pytest.fixture(scope="module")
def google(
    servers: tuple[RestServer, RestServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[front.Variables]:
    hosts = {HOST: servers[0].url, OTHER: servers[1].url, "oauth2.googleapis.com": servers[1].url}
    with front.opened(hosts, tmp_path_factory.mktemp("google")) as variables:
        yield variables


@pytest.fixture
def run(google: front.Variables) -> Run:
    def one(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        google.refused.clear()
        environment = {**os.environ, **google, **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return one


def python(run: Run, program: str, *arguments: str, **variables: str) -> str:
    """What it printed, or the last line of its error."""
    done = run(sys.executable, "-c", program, *arguments, **variables)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_http_goes_to_each_host_s_server(
    run: Run, google: front.Variables, servers: tuple[RestServer, RestServer]
) -> None:
    assert python(run, HTTP, f"https://{HOST}/a?b=c") == '{"id": "of the first"}'
    assert python(run, HTTP, f"https://{OTHER}/") == '{"id": "of the second"}'
    assert (servers[0].asked[-1].address, servers[0].asked[-1].headers["host"]) == ("/a?b=c", HOST)
    assert google.refused == []


def test_grpc_becomes_rest(run: Run, google: front.Variables, servers: tuple[RestServer, RestServer]) -> None:
    assert python(run, GRPC) == "of the first"
    assert servers[0].asked[-1].address == "/v1b3/projects/p/locations/l/jobs/j"
    assert google.refused == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_who_knows_both_protocols_gets_http(run: Run) -> None:
    assert run("curl", "--silent", f"https://{HOST}/").stdout == '{"id": "of the first"}'


def test_a_service_account_s_token_comes_from_here(
    run: Run, servers: tuple[RestServer, RestServer], tmp_path: Path
) -> None:
    key = write_key_file(tmp_path / "key.json", "https://oauth2.googleapis.com/token")
    program = """
import google.auth
from google.auth.transport.requests import Request
credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
credentials.refresh(Request())
print(credentials.token)
"""
    servers[1].answer = (200, b'{"access_token": "nobody", "expires_in": 3600, "token_type": "Bearer"}')
    assert python(run, program, GOOGLE_APPLICATION_CREDENTIALS=str(key)) == "nobody"
    assert (servers[1].asked[-1].verb, servers[1].asked[-1].address) == ("POST", "/token")
    servers[1].answer = (200, b'{"id": "of the second"}')


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("https://storage.googleapis.com/", "CONNECT storage.googleapis.com:443 HTTP/1."),
        (f"https://{HOST}:8443/", f"CONNECT {HOST}:8443 HTTP/1."),
        (f"http://{HOST}/", f"GET http://{HOST}/ HTTP/1."),
        ("http://169.254.169.254/", "GET http://169.254.169.254/ HTTP/1."),
    ],
)
def test_anything_else_is_refused_and_told(run: Run, google: front.Variables, url: str, refused: str) -> None:
    assert "502" in python(run, "import requests, sys; print(requests.get(sys.argv[1], timeout=30).status_code)", url)
    assert google.refused and all(line.startswith(refused) for line in google.refused)


def test_grpc_to_another_host_is_refused_and_told(run: Run, google: front.Variables) -> None:
    program = GRPC.replace("job_id=\"j\")", "job_id=\"j\"), timeout=3, retry=None").replace(
        "credentials=", "client_options=dict(api_endpoint='pubsub.googleapis.com'), credentials="
    )  # fmt: skip
    assert "of the first" not in python(run, program)
    assert "CONNECT pubsub.googleapis.com:443 HTTP/1.1" in google.refused


def test_this_machine_s_own_servers_are_asked_past_it(run: Run, google: front.Variables) -> None:
    with RestServer() as server:
        assert python(run, HTTP, server.url) == "{}"
    assert google.refused == []


def test_a_client_that_does_not_trust_it_is_told_so_and_the_next_is_served(run: Run) -> None:
    import certifi

    assert "CERTIFICATE_VERIFY_FAILED" in python(run, HTTP, f"https://{HOST}/", REQUESTS_CA_BUNDLE=certifi.where())
    assert python(run, HTTP, f"https://{HOST}/") == '{"id": "of the first"}'


def test_bytes_that_are_no_request_do_no_harm(run: Run, google: front.Variables) -> None:
    port = int(google["https_proxy"].rpartition(":")[2])
    for said in (
        b"",
        b"\r\n\r\n",
        b"\0" * 100_000,
        b"CONNECT\r\n\r\n",
        f"CONNECT {HOST}:443 HTTP/1.1\r\n\r\nno TLS".encode(),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, contextlib.suppress(OSError):
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert python(run, HTTP, f"https://{HOST}/") == '{"id": "of the first"}'


def test_it_ends_with_the_block_though_a_client_stays(tmp_path: Path) -> None:
    with RestServer() as server, front.opened({HOST: server.url}, tmp_path) as google:
        port = int(google["https_proxy"].rpartition(":")[2])
        client = socket.create_connection(("127.0.0.1", port), timeout=30)
        client.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    with client:
        assert not client.recv(4096)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_the_transcoder_ends_with_whoever_started_it_however_that_dies(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from tests.google import front
with front.opened({{{HOST!r}: "http://localhost:9"}}, Path({str(tmp_path)!r})):
    print(Path(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read_text().split()[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    until = time.monotonic() + 30
    while _lives(int(done.stdout)):
        assert time.monotonic() < until, "the transcoder is still there"
        time.sleep(0.05)


def _lives(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "transcode" in Path(f"/proc/{process}/cmdline").read_text()
    return False


def test_an_interpreter_without_grpc_is_named(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho no grpc >&2\nexit 3\n")
    other.chmod(0o755)
    with pytest.raises(RuntimeError, match="exit code 3"), front.opened({HOST: "http://localhost:9"}, tmp_path, other):
        pass


def test_a_server_needs_a_port(tmp_path: Path) -> None:
    told = f"the server for {HOST} needs a host and a port"
    with pytest.raises(ValueError, match=told), front.opened({HOST: "http://localhost"}, tmp_path):
        pass


def test_every_library_s_variable_names_the_same_authorities(google: front.Variables) -> None:
    bundles = {name for name in google if name.endswith(("BUNDLE", "CERTS", "FILE", "PATH"))}
    assert {google[name] for name in bundles} == {google["SSL_CERT_FILE"]} and len(bundles) == 5
