"""Tells people and programs of an event: a failure, a decision about the champion, a publish.

An event is one JSON object: version (1), id (the same for a repeat of the same event), event, at (UTC), step, run, link,
figures (an object), reason (one line, or empty). A sink is

  log:                    one line of this process's log
  http(s)://...           a POST with the object as its body
  pubsub://PROJECT/TOPIC  a message of Cloud Pub/Sub, with the attributes event and step

Where the variable CLV_NOTIFY_SECRET is set, a POST has the header X-CLV-Signature: sha256=HMAC, in hex, of the body with
that secret. A sink may get an event twice (its answer was lost), in which case the id tells; and it may be named more
than once. What fails is logged, and neither fails nor holds up the caller for more than a minute.

example, to try sinks:
  python -m orchestration.notify --sink log: --sink https://example.com/hooks/clv --sink pubsub://my-project/clv-events
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import logging
import math
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transforms.cli import ArgumentParser, exit_code
from transforms.errors import JobFailed, UsageError, one_line, rejected

VERSION = 1
SECRET = "CLV_NOTIFY_SECRET"
SIGNATURE = "X-CLV-Signature"
ACCEPTED = "log:, an http:// or https:// address, or pubsub://PROJECT/TOPIC"
_ATTEMPTS = 3
_SECONDS = 10.0  # for each answer
_PAUSE_SECONDS = 1.0  # at most, after the first attempt; twice that after the second
_MOST_SECONDS = 40.0  # for all sinks together; what a scheduler calls it gives 50
_BUSY = (408, 425, 429)  # and all from 500 on: worth another attempt
_PUBSUB = re.compile(r"pubsub://(?P<project>[a-z][a-z0-9-]{4,28}[a-z0-9])/(?P<topic>(?!goog)[A-Za-z][\w.~+%-]{2,254})")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What happened.

    Attributes:
      event: its kind, such as "failed" or "published".
      step: of ``orchestration.steps``, or an Airflow task's id.
      run: which run, such as an Airflow DAG's id and its run's.
      link: where a person reads more, or empty.
      figures: numbers and names; what JSON has no word for becomes text, and what is no number null.
      reason: one line, or empty.
      at: when, by the caller's clock; UTC unless it says otherwise.
    """

    event: str
    step: str
    run: str
    link: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    at: datetime.datetime = field(kw_only=True)

    def content(self) -> dict[str, Any]:
        """The JSON object."""
        at = self.at if self.at.tzinfo else self.at.replace(tzinfo=datetime.UTC)
        content = {
            "event": self.event,
            "at": at.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z"),
            "step": self.step,
            "run": self.run,
            "link": self.link,
            "figures": _plain(self.figures),
            "reason": one_line(self.reason, 1000),
        }
        # Not when it was told, nor where its log is: a task that is tried again tells the same once more.
        lasting = {name: value for name, value in content.items() if name not in ("at", "link")}
        digest = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()
        return {"version": VERSION, "id": digest[:32], **content}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None  # not JSON's, and many a reader's end
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


@dataclass(frozen=True)
class Sink:
    """Where events go. ``shown`` is its name in a log: an address may hold somebody's secret behind its host."""

    shown: str
    deliver: Callable[[Mapping[str, Any], bytes], None]


def parse(uri: str) -> Sink:
    """Opens no connection.

    Raises:
      UsageError: it is no sink.
    """
    from urllib.parse import urlsplit

    if uri == "log:":
        return Sink(uri, lambda _, body: _LOG.info("event %s", body.decode()))
    if found := _PUBSUB.fullmatch(uri):
        return Sink(uri, lambda content, body: _publish(found["project"], found["topic"], content, body))
    try:
        parts = urlsplit(uri)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    # What is not printable ASCII no request line can hold; a name and password in it would be left out.
    if not usable or not re.fullmatch(r"[!-~]+", uri) or "@" in parts.netloc:
        raise rejected("the sink", uri, ACCEPTED)
    return Sink(f"{parts.scheme}://{parts.netloc}/...", lambda _, body: _post(uri, body))


def send(event: Event, sinks: Sequence[str]) -> dict[str, str]:
    """Tells every sink, all at the same time. Nothing is raised: what fails is one line of the log.

    Returns:
      The sinks that did not take it, and why.
    """
    failures: dict[str, str] = {}
    try:
        content = event.content()
        body = json.dumps(content, ensure_ascii=False).encode()
    except Exception as error:  # a caller's odd figures
        _LOG.warning("event %r cannot be sent: %s", event.event, one_line(repr(error)))
        return dict.fromkeys(sinks, one_line(repr(error)))
    # A daemon: what hangs in spite of its time limits must not keep the process alive.
    threads = {
        uri: threading.Thread(target=_told, args=(uri, content, body, failures), daemon=True)
        for uri in dict.fromkeys(sinks)
    }
    until = time.monotonic() + _MOST_SECONDS
    for thread in threads.values():
        thread.start()
    for uri, thread in threads.items():
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            failures[uri] = f"no answer within {_MOST_SECONDS:g} s"
            _LOG.warning("event %r was not sent to %s: %s", event.event, _shown(uri), failures[uri])
    return dict(failures)


def _told(uri: str, content: Mapping[str, Any], body: bytes, failures: dict[str, str]) -> None:
    try:
        parse(uri).deliver(content, body)
    except Exception as error:  # whatever it is: an event is not worth a run
        # Ours say all in their text; of others' the kind may be all they say.
        text = str(error) if isinstance(error, (JobFailed, UsageError)) else f"{type(error).__name__}: {error}"
        failures[uri] = one_line(text)
        _LOG.warning("event %r was not sent to %s: %s", content["event"], _shown(uri), failures[uri])


def _shown(uri: str) -> str:
    try:
        return parse(uri).shown
    except UsageError:
        return "an unusable sink"


def _post(uri: str, body: bytes) -> None:
    """Raises: JobFailed where no attempt was taken."""
    for attempt in range(1, _ATTEMPTS + 1):
        failure, again = _posted(uri, body)
        if failure is None:
            return
        if not again or attempt == _ATTEMPTS:
            raise JobFailed(f"{failure}, attempt {attempt} of {_ATTEMPTS}")
        # At random, so that the callers whom one fault hit do not come back as one.
        time.sleep(random.uniform(0, _PAUSE_SECONDS * 2 ** (attempt - 1)))


def _posted(uri: str, body: bytes) -> tuple[str | None, bool]:
    """Why one attempt failed, if it did, and whether another may do better."""
    import http.client
    import urllib.error
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        # It would be followed by a GET, without the event.
        def redirect_request(self, *_: Any) -> None:
            return None

    headers = {"Content-Type": "application/json", "User-Agent": "clv-pipelines"}
    if secret := os.environ.get(SECRET):
        headers[SIGNATURE] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    request = urllib.request.Request(uri, data=body, headers=headers, method="POST")
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=_SECONDS):
            return None, False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code in _BUSY or error.code >= 500
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", None) or error
        return f"{type(cause).__name__}: {cause}", True


def _publish(project: str, topic: str, content: Mapping[str, Any], body: bytes) -> None:
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.api_core.retry import Retry, if_transient_error
    from google.cloud import pubsub_v1  # type: ignore[attr-defined]

    retry = Retry(if_transient_error, timeout=_ATTEMPTS * _SECONDS)
    client = pubsub_v1.PublisherClient()
    try:
        future = client.publish(
            client.topic_path(project, topic), body, retry=retry, timeout=_SECONDS, event=content["event"], step=content["step"]
        )  # fmt: skip
        future.result(timeout=(_ATTEMPTS + 1) * _SECONDS)
    except RetryError as error:
        raise JobFailed(str(error.cause or error)) from error
    except GoogleAPICallError as error:
        raise JobFailed(f"{error.code or ''} {error.message}".strip()) from error
    finally:
        client.stop()


def run(argv: list[str] | None = None) -> None:
    """Sends one event and says which sinks took it.

    Raises:
      UsageError: unusable arguments; nothing was sent.
      JobFailed: a sink did not take it.
    """
    parser = ArgumentParser("python -m orchestration.notify", description=__doc__)
    parser.add_argument("--sink", action="append", required=True, metavar="URI", help=f"{ACCEPTED}; may be repeated")
    parser.add_argument("--event", default="test", metavar="NAME", help="the event's kind")
    parser.add_argument("--step", default="notify", metavar="NAME", help="the step it is of")
    parser.add_argument("--run", default="by hand", metavar="TEXT", help="the run it is of")
    parser.add_argument("--link", default="", metavar="URL", help="where to read more")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, in one line")
    options = parser.parse_args(argv)
    shown = {uri: parse(uri).shown for uri in options.sink}
    # Nobody else has asked for this process's log.
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO, force=True)
    now = datetime.datetime.now(datetime.UTC)
    event = Event(options.event, options.step, options.run, options.link, {}, options.reason, at=now)
    failures = send(event, options.sink)
    for uri, name in shown.items():
        print(f"{name}: {'not sent' if uri in failures else 'sent'}")
    if failures:
        raise JobFailed(f"{len(failures)} of {len(shown)} sinks did not take the event: the lines above say why")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
