"""Runs a Beam job to its end, and tells a person what a person can mend."""

from __future__ import annotations

import logging

import apache_beam as beam

from pipelines import dataflow_job, dataflow_options
from transforms import progress
from transforms.errors import UsageError


def execute(pipeline: beam.Pipeline, name: str) -> None:
    """Runs the job with its progress shown under ``name``, and waits for its end, on Dataflow too.

    Raises:
      UsageError: a worker met unusable input; its message alone, without the traceback around it.
      JobFailed: the job on Dataflow was not done at its end.
    """
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
    except Exception as error:
        # A runner hands on a worker's error only as the text of its traceback.
        lines = [line for line in f"{error}\n{error.__cause__}".splitlines() if "UsageError: " in line]
        if isinstance(error, UsageError) or lines:
            message = lines[-1].split("UsageError: ", 1)[1] if lines else str(error)
            raise UsageError(message.split(" [while running")[0]) from error
        raise
    finally:
        log.removeFilter(_not_of_usage)


def _not_of_usage(record: logging.LogRecord) -> bool:
    """Whether a log record of a worker tells of more than unusable input, which needs no traceback."""
    return not isinstance(record.msg, UsageError)
