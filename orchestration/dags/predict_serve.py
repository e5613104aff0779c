"""Everybody's forecast by the champion, every day and whenever there is a new one -> Datastore and BigQuery.

The model is the champion of the run's own time: a missed day that is backfilled gets the forecast it would have got. Its
predictions are kept; they are served only where nothing newer is.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages lie beside this one, wherever that is

from airflow.providers.common.compat.sdk import chain, dag, task

from orchestration import dag_events, dag_plans, dag_runs, dag_serving, deployment
from orchestration.dag_operators import LaunchTemplate, RunOnVertex, attempted
from orchestration.dag_settings import HOUR, START, TAGS, champion, on_time_or, parameters, task_defaults

SETTINGS = deployment.load()


@dag(
    schedule=on_time_or(SETTINGS.schedule.predict_serve, champion(SETTINGS)),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=48 * HOUR,
    on_failure_callback=dag_events.on_timeout(SETTINGS),
    default_args=task_defaults(SETTINGS),
    params=parameters(dag_plans.serve_parameters(SETTINGS)),
    tags=TAGS,
    doc_md=__doc__,
)
def predict_serve():
    @task(multiple_outputs=True)
    def plan(**context):
        """The model, and the steps with it."""
        params, day, run = context["params"], dag_runs.day(context), dag_runs.key(context)
        registry = dag_plans.registry(SETTINGS, params)
        model = attempted(lambda: dag_serving.model(registry, params["model_version"], dag_runs.moment(context)))
        return {**dag_plans.serve(SETTINGS, params, day, run, model["model"]), "model_version": model["version"]}

    @task.short_circuit
    def newest(**context):
        """Ends the run here, well, where predictions of a later day are served, or none of these are to be."""
        day, wanted = dag_runs.day(context), context["params"]["publish"]
        return attempted(lambda: dag_serving.is_to_be_served(SETTINGS.serving.store, day, wanted, dag_runs.LOG))

    @task
    def announce(**context):
        """Tells what is served now."""
        served = attempted(lambda: dag_serving.served(SETTINGS.serving.store))
        dag_events.send(SETTINGS, context, "published", served)
        return served

    steps = plan()
    predict = LaunchTemplate(task_id="predict", step=steps["predict"], deployment=SETTINGS)
    report = RunOnVertex(task_id="report", step=steps["report"], deployment=SETTINGS)
    publish = LaunchTemplate(task_id="publish", step=steps["publish"], deployment=SETTINGS)
    chain(predict, newest(), publish, announce())
    predict >> report


predict_serve()
