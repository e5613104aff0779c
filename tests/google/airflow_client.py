"""What Airflow's Google operators call, without a scheduler: run by an interpreter that has Airflow.

    python -P airflow_client.py

reads lines of ["function", {its arguments}] and answers each with a line of {"answer": ...} or {"error": ...}. One process
serves many calls, since its imports take seconds of processor time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from typing import Any


def launch(body: dict[str, Any], project: str, location: str) -> dict[str, Any]:
    from airflow.providers.google.cloud.hooks.dataflow import DataflowHook

    return DataflowHook().launch_job_with_flex_template(body=body, project_id=project, location=location)


def jobs(project: str, location: str, **query: str) -> list[dict[str, Any]]:
    """Every page of the list that this query asks for."""
    from airflow.providers.google.cloud.hooks.dataflow import DataflowHook

    calls = DataflowHook().get_conn().projects().locations().jobs()
    request, found = calls.list(projectId=project, location=location, **query), []
    while request is not None:
        answer = request.execute()
        found += answer.get("jobs", [])
        request = calls.list_next(previous_request=request, previous_response=answer)
    return found


def messages(project: str, location: str, job: str) -> list[str]:
    """What a job says, warnings and worse, by the asynchronous hook."""
    from airflow.providers.google.cloud.hooks.dataflow import AsyncDataflowHook
    from google.cloud.dataflow_v1beta3 import JobMessageImportance

    async def said() -> list[str]:
        pager = await AsyncDataflowHook().list_job_messages(
            job,
            project_id=project,
            location=location,
            minimum_importance=JobMessageImportance.JOB_MESSAGE_WARNING,
        )
        return [message.message_text async for message in pager]

    return asyncio.run(said())


def dataflow_event(project: str, location: str, job: str) -> Any:
    """What the operator's trigger tells it of the job."""
    from airflow.providers.google.cloud.triggers.dataflow import TemplateJobStartTrigger

    return asyncio.run(_first(TemplateJobStartTrigger(job, project, location, poll_sleep=1)))


def vertex_event(project: str, location: str, job: str) -> Any:
    from airflow.providers.google.cloud.triggers.vertex_ai import CustomJobTrigger

    return asyncio.run(_first(CustomJobTrigger(project, location, job, poll_interval=1)))


def vertex_job(project: str, location: str, job: str) -> dict[str, str]:
    from airflow.providers.google.cloud.hooks.vertex_ai.custom_job import CustomJobAsyncHook

    hook = CustomJobAsyncHook(gcp_conn_id="google_cloud_default")
    found = asyncio.run(hook.wait_for_custom_job(project, location, job, poll_interval=1))
    return {"name": found.name, "state": found.state.name, "display_name": found.display_name}


async def _first(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    return None


def main() -> None:
    # Airflow's log goes to standard output: from here on that is another file, and the answers have this one alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        function, arguments = json.loads(line)
        try:
            answer = {"answer": globals()[function](**arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
