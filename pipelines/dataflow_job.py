"""A job on Dataflow seen from the machine that launches it: its page and, where it waits, its progress and its end."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transforms.errors import JobFailed, one_line

if TYPE_CHECKING:
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions

# Beam polls the job's state and messages every five seconds, and tells of them only here.
_LOGGER = "apache_beam.runners.dataflow.dataflow_runner"
_CANCELLATIONS, _PAUSE_SECONDS = 3, 1.0  # whoever interrupts a command waits for no more than that


def submit(pipeline: Pipeline, name: str) -> Any:
    """Submits the job and says on stderr where it is, or where the file is from which the service will start it.

    Returns:
      Beam's result, without a job (``has_job``) where there is only that file.

    Raises:
      JobFailed: the job was not accepted, or its files could not be written.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        result = pipeline.run()
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise JobFailed(f"Dataflow did not accept the job: {one_line(str(error))}") from error
    except OSError as error:  # Beam's, of what it could not upload
        raise JobFailed(f"the job's files were not written: {one_line(str(error))}") from error
    if result.has_job:
        page = job_page(result.job_id(), pipeline.options)
        print(f"{name}: Dataflow job {result.job_id()}: {page}", file=sys.stderr)
    else:
        template = pipeline.options.view_as(GoogleCloudOptions).template_location
        print(f"{name}: the job is written to {template}: the service starts it from there", file=sys.stderr)
    return result


def run(pipeline: Pipeline, name: str) -> None:
    """Submits the job, waits for its end and shows its state and messages on stderr.

    Whoever stops waiting stops the job: it is cancelled, because its scratch space goes with this command, and
    the next attempt takes its directory over.

    Raises:
      JobFailed: as ``submit``, or the job was not done at its end. Its ``__cause__`` holds the whole story.
    """
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    result = submit(pipeline, name)
    try:
        with _shown(name):
            result.wait_until_finish()
    except DataflowRuntimeException as error:
        page = job_page(result.job_id(), pipeline.options)
        raise JobFailed(f"the Dataflow job ended as {result.state}: {reason(str(error))}; more on {page}") from error
    except BaseException:
        _cancel(result, name, job_page(result.job_id(), pipeline.options))
        raise


def _cancel(result: Any, name: str, page: str) -> None:
    """Cancels a job that has not ended. Nothing is raised: why its caller stops matters more, and a person reads the rest."""
    for attempt in range(1, _CANCELLATIONS + 1):
        try:
            if not result.is_in_terminal_state():
                print(f"{name}: cancelling the job", file=sys.stderr)
                result.cancel()
            return
        except Exception as error:  # the service's, its client's, the network's
            if attempt == _CANCELLATIONS:
                print(f"{name}: the job was not cancelled ({one_line(str(error))}): do it on {page}", file=sys.stderr)
                return
            time.sleep(_PAUSE_SECONDS)


def page_of(job_id: str, region: str, project: str) -> str:
    """The console's page of a job."""
    return f"https://console.cloud.google.com/dataflow/jobs/{region}/{job_id}?project={project}"


def job_page(job_id: str, options: PipelineOptions) -> str:
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    cloud = options.view_as(GoogleCloudOptions)
    return page_of(job_id, str(cloud.region), str(cloud.project))


def reason(text: str) -> str:
    """What went wrong, in one line, from the text of a job's error: most often a worker's traceback."""
    # The first line repeats the state; Beam writes None where there was no message of an error.
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip() not in ("", "None")]
    # Dataflow adds what it did about an error; the error itself is the last line that names a class.
    named = [line for line in lines if line.split(": ", 1)[0].endswith(("Error", "Exception"))]
    return (named or lines or ["no reason was given"])[-1].split(" [while running")[0]


@contextlib.contextmanager
def _shown(name: str) -> Iterator[None]:
    """Beam's log of the job's states and messages as lines on stderr, whatever the logging is set to."""
    log = logging.getLogger(_LOGGER)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    handler.addFilter(_tells)
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _tells(record: Any) -> bool:
    # The page was named at the start, and the error comes once more as this command's own last line.
    return not record.getMessage().startswith("Console URL")
