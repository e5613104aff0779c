"""Runs a Beam job to its end, or sends it on its way, and tells a person what a person can mend."""

from __future__ import annotations

import logging
import re

import apache_beam as beam

from pipelines import dataflow_job, dataflow_options
from transforms import progress
from transforms.errors import JobFailed, UsageError


def execute(pipeline: beam.Pipeline, name: str) -> bool:
    """Runs the job with its progress shown under ``name``, and waits for its end, on Dataflow too.

    Returns:
      Whether the job has ended: False where it goes on by itself (``dataflow_options.waits``).

    Raises:
      UsageError: a worker met unusable input; its message alone, without the traceback around it.
      JobFailed: a worker met a failure that is told in one line, or the job on Dataflow was not done at its end.
    """
    if not dataflow_options.waits(pipeline.options):
        dataflow_job.submit(pipeline, name)
        return False
    log = logging.getLogger("apache_beam.runners.common")
    log.addFilter(_not_of_usage)
    # "No shards found" only says that there was no dead letter.
    logging.getLogger("apache_beam.io.filebasedsink").setLevel(logging.ERROR)
    try:
        with progress.shown(name):
            if dataflow_options.chosen(pipeline.options):
                dataflow_job.run(pipeline, name)
            else:
                pipeline.run().wait_until_finish()
        return True
    except Exception as error:
        meant = _meant(error)
        if meant is None:
            raise
        raise meant from error
    finally:
        log.removeFilter(_not_of_usage)


def _meant(error: Exception) -> UsageError | JobFailed | None:
    """The error that a person is meant to read: a runner hands on a worker's only as the text of its traceback."""
    text = f"{error}\n{error.__cause__}"
    for kind in (UsageError, JobFailed):
        names = "|".join(each.__name__ for each in (kind, *_subclasses(kind)))
        found = re.findall(rf"^(?:[\w.]+\.)?(?:{names}): (.*)$", text, re.MULTILINE)
        if isinstance(error, kind) or found:
            return kind((found[-1] if found else str(error)).split(" [while running")[0])
    return None


def _subclasses(kind: type[Exception]) -> list[type[Exception]]:
    return [found for direct in kind.__subclasses__() for found in [direct, *_subclasses(direct)]]


def _not_of_usage(record: logging.LogRecord) -> bool:
    """Whether a log record of a worker tells of more than what a person is meant to read, which needs no traceback."""
    return not isinstance(record.msg, UsageError | JobFailed)
