"""What the DAGs' tasks are: a step as a Dataflow Flex Template, as a Vertex AI job, or as a command on the worker.

Imported by Airflow alone, whenever it reads the DAG files: nothing here may be slow to import. Google's Vertex AI
operators are (6 CPU-seconds), so their trigger is imported where it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator, Context
from airflow.providers.google.cloud.links.dataflow import DataflowJobLink
from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator

from orchestration import dag_runs, run_command
from orchestration.dag_plans import StepJson
from orchestration.deployment import Deployment
from transforms.errors import JobFailed, UsageError

_DONE = "JOB_STATE_DONE"
_ACTIVE = ("JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_CANCELLING", "JOB_STATE_DRAINING")
_CONFLICT = 409
_JOB = "job"
# What a job says of itself that another try would only repeat.
_HOPELESS = re.compile(r"GuardTripped|UsageError|(?:exit status|non-zero status of) 2\b")
_EVERY_JOB = ("service_account", "network")  # of deployment.vertex.options
_MOST_CHARACTERS = 63  # of a job's name, and of a label


class RunCommand(BaseOperator):
    """Runs a step's command on the worker; its answer, one JSON object, is the task's XCom.

    A bad argument (exit code 2) fails the task for good, everything else is tried again.

    Args:
      step: see ``dag_plans.StepJson``.
    """

    template_fields: Sequence[str] = ("step",)

    def __init__(self, *, step: StepJson, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        self._command: run_command.Command | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        self._command = run_command.Command(self.step["module"], self.step["arguments"])
        return attempted(lambda: self._command.run(self.log))

    def on_kill(self) -> None:
        if self._command:
            self._command.stop()


class LaunchTemplate(DataflowStartFlexTemplateOperator):
    """Launches a step of ``pipelines`` as a Flex Template, and waits for its job without holding a worker.

    The job's name follows from the run and the task. A try that finds an active job of its name (the answer to the
    launch was lost, a worker died) waits for that one instead of starting a second.

    Google's own trigger for templates waits for ever where a job was cancelled; the one for any job does not, and is used.

    Args:
      step: see ``dag_plans.StepJson``; its module's name is the template's.
    """

    template_fields: Sequence[str] = (*DataflowStartFlexTemplateOperator.template_fields, "step")

    def __init__(self, *, step: StepJson, deployment: Deployment, **kwargs: Any) -> None:
        super().__init__(
            body={}, project_id=deployment.project, location=deployment.region, deferrable=True, append_job_name=False,
            poll_sleep=deployment.dataflow.poll_seconds, **kwargs,
        )  # fmt: skip
        self.step = step
        self.deployment = deployment

    def execute(self, context: Context) -> None:
        template = self.step["module"].rpartition(".")[2]
        self.body = {
            "launchParameter": {
                "jobName": _job_name(template, self.step, context),
                "containerSpecGcsPath": self.deployment.template(template),
                "parameters": self.step["parameters"],
                "environment": {
                    "tempLocation": self.deployment.inside("temp"),
                    **self.deployment.dataflow.options,
                    "additionalUserLabels": _labels(context),
                },
            }
        }
        self.job = self._active() or self._launched()
        job_id = self.hook.extract_job_id(self.job)
        self.log.info("job %s: %s", job_id, self.body["launchParameter"]["jobName"])
        DataflowJobLink.persist(context=context, project_id=self.project_id, region=self.location, job_id=job_id)
        _keep_job(context, job_id)
        self._wait(job_id)

    def _wait(self, job_id: str) -> None:
        from airflow.providers.google.cloud.triggers.dataflow import DataflowJobStatusTrigger

        self.defer(
            trigger=DataflowJobStatusTrigger(
                job_id=job_id, expected_statuses={_DONE}, project_id=self.project_id, location=self.location,
                gcp_conn_id=self.gcp_conn_id, poll_sleep=self.poll_sleep, impersonation_chain=self.impersonation_chain,
            ),
            method_name="ended",
            timeout=self.execution_timeout,  # Airflow 3 does not see to it by itself
        )  # fmt: skip

    def _launched(self) -> dict[str, str]:
        from googleapiclient.errors import HttpError

        try:
            return self.hook.launch_job_with_flex_template(
                body=self.body, location=self.location, project_id=self.project_id
            )
        except HttpError as error:
            # Google's client repeats a launch whose answer was lost, and Dataflow then knows the name.
            active = self._active() if error.resp.status == _CONFLICT else None
            if active is None:
                raise
            return active

    def _active(self) -> dict[str, str] | None:
        """The job of this name that runs or is about to."""
        name = self.body["launchParameter"]["jobName"]
        request = self.hook.get_conn().projects().locations().jobs()
        listed = request.list(projectId=self.project_id, location=self.location, filter="ACTIVE", name=name)
        found = [
            job for job in listed.execute(num_retries=self.hook.num_retries).get("jobs", []) if job["name"] == name
        ]
        if found:
            self.log.info("adopting the job %s, which an earlier try launched", found[0]["id"])
        return found[0] if found else None

    def ended(self, context: Context, event: Mapping[str, Any]) -> dict[str, str]:
        """Raises: AirflowFailException where the job says that another try would end alike; else AirflowException."""
        job_id = _kept_job(context)
        job = self.hook.get_job(job_id=job_id, project_id=self.project_id, location=self.location)
        if job["currentState"] == _DONE:
            return {"job_id": job_id, "output": self.step["output"]}
        if job["currentState"] in _ACTIVE:
            self.log.info("%s: waiting on", event.get("message"))  # the trigger ends at its first lost answer
            self._wait(job_id)
        said = self._errors(job_id)
        hopeless = any(map(_HOPELESS.search, said))
        why = said[-1] if said else event.get("message", "it said nothing")
        raise (AirflowFailException if hopeless else AirflowException)(f"job {job_id} is {job['currentState']}: {why}")

    def _errors(self, job_id: str) -> list[str]:
        messages = self.hook.fetch_job_messages_by_id(job_id=job_id, project_id=self.project_id, location=self.location)
        return [each["messageText"] for each in messages if each.get("messageImportance") == "JOB_MESSAGE_ERROR"]


class RunOnVertex(BaseOperator):
    """Runs a step's command as a Vertex AI custom job, and waits for it without holding a worker.

    ``trainer.vertex_jobs`` submits it under a key of the run and the task: a try that finds a job with its key, one that
    runs or one whose output is there, takes that one.

    Args:
      step: see ``dag_plans.StepJson``.
      trains: whether it gets the machine, the accelerators and the time of the settings; others have the service's least.
    """

    template_fields: Sequence[str] = ("step",)

    def __init__(self, *, step: StepJson, deployment: Deployment, trains: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.deployment = deployment
        self.trains = trains

    def execute(self, context: Context) -> dict[str, str]:
        from trainer import vertex_jobs

        deployment = self.deployment
        given = deployment.vertex.options
        options = given if self.trains else {name: given[name] for name in _EVERY_JOB if name in given}
        request = vertex_jobs.JobRequest(
            project=deployment.project, region=deployment.region, image=deployment.image, module=self.step["module"],
            arguments=tuple(self.step["arguments"]), key=_task_key(context),
            display_name=_job_name(self.step["name"], self.step, context), labels=_labels(context), **options,
        )  # fmt: skip
        job = attempted(lambda: vertex_jobs.submit(request))
        self.log.info("job %s is %s: %s", job.name, job.state, job.page)
        if job.succeeded:
            return self._answer(job)
        _keep_job(context, job.name)
        return self._wait(context, job.name)

    def _wait(self, context: Context, name: str) -> Any:
        try:
            from airflow.providers.google.cloud.triggers.vertex_ai import CustomJobTrigger
        except ImportError:  # a provider before 22.6
            return self._hold_on(context, name)
        return self.defer(
            trigger=CustomJobTrigger(
                project_id=self.deployment.project, location=self.deployment.region, custom_job_id=name.rpartition("/")[2],
                poll_interval=self.deployment.vertex.poll_seconds,
            ),
            method_name="ended",
            timeout=self.execution_timeout,
        )  # fmt: skip

    def _hold_on(self, context: Context, name: str) -> dict[str, str]:
        import time

        from trainer import vertex_jobs

        while vertex_jobs.get(name).is_active:
            time.sleep(self.deployment.vertex.poll_seconds)
        return self.ended(context, {})

    def ended(self, context: Context, event: Mapping[str, Any]) -> dict[str, str]:
        """Raises: AirflowFailException where the job had a bad argument; AirflowException where it ended otherwise."""
        from trainer import vertex_jobs

        name = _kept_job(context)
        job = attempted(lambda: vertex_jobs.get(name))
        if job.succeeded:
            return self._answer(job)
        if job.is_active:
            self.log.info("%s: waiting on", event.get("message"))
            return self._wait(context, name)
        why = job.error or event.get("message", "it said nothing")
        hopeless = _HOPELESS.search(why)
        raise (AirflowFailException if hopeless else AirflowException)(f"{job.name} is {job.state}: {why} ({job.page})")

    def _answer(self, job: Any) -> dict[str, str]:
        return {"job": job.name, "page": job.page, "output": self.step["output"]}


def attempted(work: Any) -> Any:
    """Does it, with our errors as Airflow's: only what may go better the next time is tried again."""
    try:
        return work()
    except UsageError as error:
        raise AirflowFailException(str(error)) from error
    except JobFailed as error:
        raise AirflowException(str(error)) from error


def training_is_due(step: StepJson, always: bool, kept: str, log: logging.Logger) -> dict[str, Any] | None:
    """What the check found where a training is due, else None.

    A run that is to train goes on doing so when it is cleared, with the same orders: what was found is ``kept`` in a
    file. Asked again after its model was registered, the check would say that there was a training today.
    """
    from transforms import storage

    if storage.exists(kept):
        log.info("this run trains, as %s says", kept)
        return dict(json.loads(storage.read_bytes(kept)))
    found = attempted(lambda: run_command.run(step, log))
    log.info("%s", found["reason"])
    if not found["due"] and not (always and found["first_day"]):
        return None
    storage.compare_and_set(kept, json.dumps(found).encode(), None)
    return found


# A job that is waited for is kept as an XCom: `airflow dags test` forgets what is given to a task that goes on.
def _keep_job(context: Context, name: str) -> None:
    context["ti"].xcom_push(key=_JOB, value=name)


def _kept_job(context: Context) -> str:
    instance = context["ti"]
    return str(instance.xcom_pull(task_ids=instance.task_id, key=_JOB, map_indexes=instance.map_index))


def _task_key(context: Context) -> str:
    instance = context["ti"]
    return f"{instance.dag_id}/{instance.run_id}/{instance.task_id}/{instance.map_index}"


def _job_name(what: str, step: StepJson, context: Context) -> str:
    """``clv-<what>-<date>-<hash>``, the same for every try of a task."""
    dates = [step["parameters"][name] for name in ("cutoff", "as_of") if name in step["parameters"]]
    unique = hashlib.sha256(_task_key(context).encode()).hexdigest()[:8]
    words = "-".join(["clv", what, *(dates or [str(dag_runs.day(context))])])
    return f"{words[: _MOST_CHARACTERS - len(unique) - 1]}-{unique}"


def _labels(context: Context) -> dict[str, str]:
    return {
        "airflow-dag": context["ti"].dag_id.lower()[:_MOST_CHARACTERS],
        "airflow-date": str(dag_runs.day(context)),
        "airflow-run": dag_runs.key(context),
    }
