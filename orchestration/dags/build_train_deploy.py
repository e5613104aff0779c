"""Orders -> features -> a model, and a new champion where it is better than the one there is.

Every day the shop's order files are loaded and cleaned. The rest is skipped unless a training is due: so many days or
so many order lines after the last one. A challenger that loses stops at the gate, which is a success: the champion stays.
Trigger it by hand with other parameters; backfill a missed day with Airflow's own backfill.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages lie beside this one, wherever that is

from airflow.providers.common.compat.sdk import AirflowSkipException, chain, dag, task, task_group

from orchestration import dag_events, dag_plans, dag_runs, deployment
from orchestration.dag_operators import LaunchTemplate, RunCommand, RunOnVertex, attempted, training_is_due
from orchestration.dag_settings import HOUR, START, TAGS, champion, cron, parameters, task_defaults

SETTINGS = deployment.load()
CHAMPION = champion(SETTINGS)
STEPS = ("create_dataset", "load_orders", "clean_orders")


@dag(
    schedule=cron(SETTINGS.schedule.build_train_deploy),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=96 * HOUR,
    on_failure_callback=dag_events.on_timeout(SETTINGS),
    default_args=task_defaults(SETTINGS),
    params=parameters(dag_plans.build_parameters(SETTINGS)),
    tags=TAGS,
    doc_md=__doc__,
)
def build_train_deploy():
    @task(multiple_outputs=True)
    def plan(**context):
        """The steps that are known before anything is looked at; a parameter of no use is told of here."""
        day, params = dag_runs.day(context), context["params"]
        check = {"training_due": dag_plans.training_due(SETTINGS, params, day)}
        return {**dag_plans.prepare(SETTINGS, params, day), **check, "deploy": dag_plans.deploy(SETTINGS, params)}

    @task.short_circuit
    def training_due(step, **context):
        """Passes on what it found where a training is due; else the rest is skipped."""
        found = dag_plans.directory(SETTINGS, dag_runs.day(context), dag_runs.key(context)) + "/training_due.json"
        return training_is_due(step, context["params"]["train"] == dag_plans.ALWAYS, found, dag_runs.LOG)

    @task(multiple_outputs=True)
    def snapshots(found, **context):
        """The dates to learn from and to be judged on, by the orders there are."""
        day, run = dag_runs.day(context), dag_runs.key(context)
        return attempted(lambda: dag_plans.build(SETTINGS, context["params"], day, run, found))

    @task_group
    def orders(planned):
        """Steps 1 to 3: the day's files -> clean orders in BigQuery; one day at a time, also in a backfill."""
        chain(*[RunCommand(task_id=name, step=planned[name], max_active_tis_per_dag=1) for name in STEPS])

    @task_group
    def features(steps):
        """Steps 4 to 6: features, split and export; the others apply the transform that the first analysed."""

        @task
        def listed(others):
            """One step a snapshot; Airflow maps tasks over what a task returns, and over nothing inside it."""
            return others

        first = LaunchTemplate(task_id="analysed", step=steps["first"], deployment=SETTINGS)
        others = LaunchTemplate.partial(task_id="others", deployment=SETTINGS, max_active_tis_per_dagrun=4)
        first >> others.expand(step=listed(steps["others"]))

    @task.short_circuit
    def challenger_won(decision, **context):
        """Ends the run here, well, where the gate kept the champion."""
        import json

        from transforms import storage

        decided = json.loads(storage.read_bytes(decision))
        context["ti"].xcom_push(key="decision", value=decided)
        if not decided["promoted"]:
            dag_events.send(SETTINGS, context, "champion kept", decided["figures"] or {}, decided["reason"])
        return decided["promoted"]

    @task(outlets=[CHAMPION])
    def announce(deployed, **context):
        """Tells people and predict_serve of the new champion; the latter only of one of its own registry."""
        dag_events.send(SETTINGS, context, "new champion", deployed)
        if not dag_plans.is_default_registry(SETTINGS, context["params"]):
            raise AirflowSkipException("a champion of another horizon, history or dataset than predict_serve's")
        context["outlet_events"][CHAMPION].extra = deployed

    planned = plan()
    found = training_due(planned["training_due"])
    steps = snapshots(found)
    made = features(steps)
    train = RunOnVertex(
        task_id="train", step=steps["train"], deployment=SETTINGS, trains=True,
        execution_timeout=24 * HOUR, trigger_rule="none_failed_min_one_success",  # there may be no other snapshots
    )  # fmt: skip
    report = RunOnVertex(task_id="report", step=steps["report"], deployment=SETTINGS)

    @task_group
    def deploy():
        """Step 8: the gate, and only for a challenger that won, Vertex AI's registry and the asset."""
        gate = RunOnVertex(task_id="gate", step=steps["gate"], deployment=SETTINGS, max_active_tis_per_dag=1)
        deployed = RunCommand(task_id="champion", step=planned["deploy"])
        chain(gate, challenger_won(steps["decision"]), deployed, announce(deployed.output))

    if SETTINGS.orders.files:
        chain(planned, orders(planned), found)
    chain(made, train, [report, deploy()])


build_train_deploy()
