"""The job that predicts a table."""

from typing import Any

from pyspark.sql import SparkSession

from nonconvex.distributed.files import FileSystem, publish
from nonconvex.pipeline.models import OUTPUT_MANIFEST, check_place, load_model, predict_table
from nonconvex.pipeline.runs import find_model
from nonconvex.pipeline.sections import PredictionConfig
from nonconvex.pipeline.text import strict_json


def predict_job(spark: SparkSession, config: PredictionConfig) -> dict[str, Any]:
    """Predict every row of a table with a published model, a network or a factorization.

    Writes Parquet with the columns of the table and those of the predictions. The directory
    appears, or is replaced, at once.
    """
    asked, output, table = config.predictions, config.output, config.table
    check_place(spark, output.path, overwrite=output.overwrite)
    path = find_model(spark, config.model.path)
    model = load_model(spark, path, handle_invalid=asked.invalid)
    predicted = predict_table(model, table.read(spark), asked.keep)
    with publish(spark, output.path, replace=output.overwrite) as directory:
        predicted.write.parquet(f"{directory}/predictions")
        rows = spark.read.parquet(f"{directory}/predictions").count()
        manifest = {"model": path, "table": table.path, "rows": rows}
        FileSystem(spark, directory).write_text(
            f"{directory}/{OUTPUT_MANIFEST}", strict_json(manifest)
        )
    return {"path": output.path, **manifest}
