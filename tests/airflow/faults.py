"""What goes wrong on request: a task's tries, an answer of Dataflow's, a Dataflow job."""

from __future__ import annotations

import http.client
import http.server
import threading
import urllib.parse
from pathlib import Path
from typing import Any, Self

from tests.dataflow.stub import DataflowStub, Ending, Job

# Airflow's own way to change every task of an installation: see "Cluster Policies" in its documentation.
POLICY = '''
"""Each task's first try fails before it has done anything, the second when it has done all."""

from airflow.exceptions import AirflowException


def before(context, *_):
    if context["ti"].try_number == 1:
        raise AirflowException("scripted: before the work")


def after(context, *_):
    if context["ti"].try_number == 2:
        raise AirflowException("scripted: after the work")


def task_policy(task):
    if hasattr(task, "partial_kwargs"):
        task.partial_kwargs.update(pre_execute=before, post_execute=after)
    else:
        task._pre_execute_hook, task._post_execute_hook = before, after
'''


def write_policy(home: Path) -> None:
    """Has every task of this Airflow fail twice."""
    (home / "config").mkdir()
    (home / "config" / "airflow_local_settings.py").write_text(POLICY)


class Lossy:
    """Hands requests on to a server; ``drop`` loses the answer to the next one whose path ends so, once done."""

    def __init__(self, target: str) -> None:
        self._target = urllib.parse.urlsplit(target).netloc
        self._drop: list[str] = []

    def drop(self, path_end: str) -> None:
        self._drop.append(path_end)

    @property
    def pending(self) -> list[str]:
        """What was asked for and has not happened yet."""
        return list(self._drop)

    @property
    def url(self) -> str:
        return f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._server = http.server.ThreadingHTTPServer(("localhost", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _is_dropped(self, path: str) -> bool:
        for end in self._drop:
            if urllib.parse.urlsplit(path).path.endswith(end):
                self._drop.remove(end)
                return True
        return False

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        lossy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = http.client.HTTPConnection(lossy._target, timeout=60)
                connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if lossy._is_dropped(self.path):
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json; charset=UTF-8")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

            def log_message(self, *_: Any) -> None:
                """Silence."""

        return Handler


class FailOnce:
    """The next Dataflow job whose name begins so fails when its workers have started, while the ``with`` block lasts."""

    def __init__(self, service: DataflowStub, name: str) -> None:
        self._service, self._name, self.failed = service, name, list[Job]()

    def __enter__(self) -> Self:
        self._run = self._service.run
        self._service.run = self._once
        return self

    def __exit__(self, *_: object) -> None:
        self._service.run = self._run

    def _once(self, job: Job) -> Ending:
        if not self.failed and str(job.body["name"]).startswith(self._name):
            self.failed.append(job)
            return Ending("JOB_STATE_FAILED", "Workflow failed. Causes: the workers lost contact with the service.")
        return self._run(job)
