"""An Airflow DAG of the nightly jobs, each a spark-submit: an example, and all that needs Airflow.

Install this package beside Airflow, put this file where it looks for DAGs, and set the Variable
nonconvex_home to the checkout and nonconvex_archive to a packed environment. A task may be
repeated: a day that was published already begins at the model that it began at first, and comes
to the same one.
"""

from datetime import datetime, timedelta
from itertools import pairwise

from airflow import DAG
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

from nonconvex.commands.nightly import CHAIN, arguments, script

_HOME = "{{ var.value.nonconvex_home }}"

with DAG(
    "nonconvex_nightly",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,  # runs that overlap are refused when they publish
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
) as dag:
    tasks = [
        SparkSubmitOperator(
            task_id=name,
            application=f"{_HOME}/jobs/{script(name)}.py",
            application_args=arguments(name, "{{ ds }}"),
            py_files=f"{_HOME}/nonconvex.zip",
            archives="{{ var.value.nonconvex_archive }}#environment",
            conf={"spark.pyspark.python": "./environment/bin/python"},
        )
        for name in CHAIN
    ]
    for earlier, later in pairwise(tasks):
        earlier >> later
