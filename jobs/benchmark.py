"""Measure this project beside its peers: same data, same cores, same sitting.

Contenders take turns, after a round that is not counted, and each turn begins with a fit that is
not either.  What is shown are medians, and how many times better than each peer this project is,
or worse where that is below 1. All numbers are written as JSON under output.path, which a later run
can be compared with.
"""

import sys
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.benchmark_measurements import ratios
from nonconvex.benchmark_reports import (
    benchmark_json,
    benchmark_table,
    change_table,
    environment,
    read_ratios,
)
from nonconvex.benchmark_runs import run_benchmark
from nonconvex.benchmark_sections import BenchmarkConfig
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.pipeline.runner import run
from nonconvex.pipeline.runs import METRICS, new_run


def main(spark: SparkSession, config: BenchmarkConfig) -> dict[str, Any]:
    """Measure, write the numbers and print them."""
    earlier, files = config.output.compare, FileSystem(spark, config.output.path)
    before = None if earlier is None else read_ratios(spark, earlier)
    with new_run(spark, config.output.path) as this:
        found = run_benchmark(spark, config, f"{this.path}/scratch")
        files.delete(f"{this.path}/scratch")
        about = {"environment": environment(spark), "data": found.data, "remarks": found.remarks}
        result = f"{this.path}/{METRICS}"
        files.write_text(
            result, benchmark_json(this.id, config.model_dump(mode="json"), about, found.all)
        )
    for measurements in found.measurements.values():
        print(benchmark_table(measurements), end="\n\n")
    print("\n".join(found.remarks))
    if before is not None:
        print(f"\n{change_table(before, ratios(found.all))}\ncompared with {earlier}")
    print(f"all numbers: {result}")
    return {
        "run_id": this.id,
        "numbers": result,
        "data": found.data,
        "remarks": found.remarks,
        "ratios": [ratio._asdict() for ratio in ratios(found.all)],
    }


if __name__ == "__main__":
    sys.exit(run(main, BenchmarkConfig, description=__doc__))
