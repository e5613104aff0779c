"""What a person is told of a failed job; how jobs end for real is in test_dataflow."""

from __future__ import annotations

import pytest

from pipelines import dataflow_job
from transforms.errors import JobFailed

WORKER = """Dataflow pipeline failed. State: FAILED, Error:
Error message from worker: Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1514, in apache_beam.runners.common.DoFnRunner.process
  File "/usr/local/lib/python3.12/site-packages/transforms/aggregate.py", line 120, in process
    raise RuntimeError("lines do not add up")
RuntimeError: lines do not add up [while running 'CleanAndRoute/ParDo(CleanAndRoute)-ptransform-43']

The above exception was the direct cause of the following.
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (WORKER, "RuntimeError: lines do not add up"),
        ("Dataflow pipeline failed. State: FAILED, Error:\nNone", "no reason was given"),
        ("Dataflow pipeline failed. State: FAILED, Error:\n", "no reason was given"),
        (
            "Dataflow pipeline failed. State: FAILED, Error:\nWorkflow failed. Causes: no capacity: try another zone.",
            "Workflow failed. Causes: no capacity: try another zone.",
        ),
    ],
)
def test_the_reason_is_the_error_without_what_stands_around_it(text: str, told: str) -> None:
    assert dataflow_job.reason(text) == told


def test_files_that_cannot_be_uploaded_are_told_in_one_line() -> None:
    """Beam tries for minutes before it says so; here it has."""

    class Refused:
        def run(self) -> None:
            raise OSError("Could not upload to GCS path gs://b/t: access denied.\n Please verify your credentials")

    with pytest.raises(JobFailed) as error:
        dataflow_job.submit(Refused(), "features")  # type: ignore[arg-type]
    assert str(error.value) == (
        "the job's files were not written: Could not upload to GCS path gs://b/t: access denied. Please verify your credentials"
    )


class Interrupted:
    """A job whose wait is interrupted, and whose service loses the first connections."""

    def __init__(self, lost: int) -> None:
        self.lost, self.cancelled = lost, False

    def is_in_terminal_state(self) -> bool:
        if self.lost:
            self.lost -= 1
            raise ConnectionResetError("the connection was lost")
        return False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("lost", [0, 2, 3])
def test_a_lost_connection_does_not_keep_a_job_from_being_cancelled(
    lost: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataflow_job, "_PAUSE_SECONDS", 0.0)
    job = Interrupted(lost)
    dataflow_job._cancel(job, "features", "https://page")
    told = capsys.readouterr().err
    assert job.cancelled == (lost < 3)
    assert told == (
        "features: cancelling the job\n"
        if lost < 3
        else "features: the job was not cancelled (the connection was lost): do it on https://page\n"
    )
