"""Jobs run in this process, and a published run for the tests that only read it."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from nonconvex.distributed.data.prepare import prepare_ratings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.pipeline.factorization.results import metrics_json
from nonconvex.pipeline.runner import run
from nonconvex.pipeline.runs import METRICS, new_run, publish_run
from nonconvex.recommendation import MatrixFactorization


class Ended(NamedTuple):
    """The exit status of a job, the lines it printed but the last, that as an object, its log."""

    status: int
    printed: list[str]
    outcome: dict[str, Any]
    log: str

    def refused(self, status, message):
        """Assert the exit status, and what the one sentence says."""
        assert message in self.outcome["error"], self.outcome
        assert self.status == status


@pytest.fixture(scope="session")
def run_job(spark):
    """Run a job with a configuration and values for --set; return an `Ended`."""
    del spark  # the job finds it

    def run_job(main, config_type, config, *overrides):
        argv = ["--config", str(config)]
        argv += [word for override in overrides for word in ("--set", override)]
        out, log = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(log):
            status = run(main, config_type, description="", argv=argv)
        *printed, last = out.getvalue().splitlines()
        outcome = json.loads(last)
        assert outcome["exit"] == status
        if status:
            assert "\n" not in outcome["error"], outcome
        if status in (2, 3):  # of what is given to a job, which is no defect and prints nothing
            assert "Traceback" not in log.getvalue(), log.getvalue()
            assert printed == []
        return Ended(status, printed, outcome, log.getvalue())

    return run_job


class Films(NamedTuple):
    """Ratings with weights in ``root/ratings.parquet``, and the model in ``root/runs``.

    The user ü3 has rated every item.
    """

    root: Any
    table: pd.DataFrame
    model: Any

    def prepare(self, spark, target, seed):
        """Prepare the ratings in ``root/target``."""
        return prepare_ratings(
            read_source(spark, str(self.root / "ratings.parquet")),
            str(self.root / target),
            columns=Columns(weight="weight"),
            rules=Rules(),
            split=Split("random", validation=0.2, test=0.2, seed=seed),
        )


@pytest.fixture(scope="session")
def films(spark, tmp_path_factory):
    """A published run, beside the prepared ratings that its model was trained on."""
    root = tmp_path_factory.mktemp("films")
    draw = np.random.default_rng(8)
    table = pd.DataFrame(np.argwhere(draw.random((30, 12)) < 0.5), columns=["user", "item"])
    table = pd.concat([table[table["user"] != 3], pd.DataFrame({"user": 3, "item": range(12)})])
    table["rating"] = draw.integers(1, 6, len(table)).astype(float)
    table["weight"] = 0.5 + table["user"] % 2
    table["user"] = table["user"].map("ü{}".format)
    table.to_parquet(root / "ratings.parquet")
    prepared = Films(root, table, None).prepare(spark, "prepared", seed=3)
    model = MatrixFactorization(rank=3, maxIter=2).fitPrepared(prepared)
    with new_run(spark, str(root / "runs")) as this:
        model.write().save(this.model)
        text = metrics_json(this.id, prepared, model, None)
        (root / "runs" / f"run_id={this.id}" / METRICS).write_text(text, encoding="utf-8")
    publish_run(spark, str(root / "runs"), this, after=None)
    return Films(root, table, model)
