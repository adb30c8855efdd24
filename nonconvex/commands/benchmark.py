"""The job that measures."""

from typing import Any

from pyspark.sql import SparkSession

from nonconvex.benchmark.measure import ratios
from nonconvex.benchmark.run import (
    BenchmarkConfig,
    benchmark_json,
    benchmark_table,
    draw_costs,
    run_benchmark,
)
from nonconvex.distributed.files import FileSystem
from nonconvex.pipeline.runs import METRICS, new_run
from nonconvex.report.run import write_figures


def benchmark_job(spark: SparkSession, config: BenchmarkConfig) -> dict[str, Any]:
    """Measure this library beside its peers: same data, same cores, same session.

    Contenders take turns, after a round that is not counted, and each turn begins with a fit that
    is not either.  The tables show medians, and how many times better than each peer this library
    is, or worse where that is below 1. All numbers are written as JSON under output.path, and
    pictures beside it, if they are asked for.
    """
    files = FileSystem(spark, config.output.path)
    with new_run(spark, config.output.path) as this:
        found = run_benchmark(spark, config, f"{this.path}/scratch")
        files.delete(f"{this.path}/scratch")
        result = f"{this.path}/{METRICS}"
        files.write_text(result, benchmark_json(spark, this.id, config, found))
        if config.factorization is not None and config.factorization.pictures:
            write_figures(files, this.path, draw_costs(found))
    for measurements in found.measurements.values():
        print(benchmark_table(measurements), end="\n\n")
    print("\n".join(found.remarks))
    print(f"all numbers: {result}")
    return {
        "run_id": this.id,
        "numbers": result,
        "data": found.data,
        "remarks": found.remarks,
        "ratios": [ratio._asdict() for ratio in ratios(found.all)],
    }
