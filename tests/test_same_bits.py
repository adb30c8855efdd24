"""Fits of the shipped sample give, bit for bit, the parameters that they gave when they were kept.

The digests in golden/same_bits.json are of the code of commit 9b22732. `python
tests/test_same_bits.py --write` makes them again, where numbers are meant to change: another
directory in PYTHONPATH stands for the code of this one.

The last bits of a sum depend on the instructions of the processor, so the fits run in a process
of their own, whose numpy, BLAS and C library use those that every x86-64 processor has had since
2008.  With another numpy, or another BLAS in it, the digests mean nothing, and the test is skipped.
"""

import hashlib
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden" / "same_bits.json"
SAMPLE = HERE / "data" / "movietweetings" / "ratings.parquet"
OLDEST_PROCESSOR = {
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENBLAS_NUM_THREADS": "1",
    "NPY_ENABLE_CPU_FEATURES": "X86_V2",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-FMA,-FMA4",
}


def test_the_parameters_are_those_that_were_kept(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    if golden["of"] != arithmetic():
        pytest.skip(f"the digests are of {golden['of']}, and here it is {arithmetic()}")
    assert digests_of_a_process(tmp_path) == golden["digests"]


def arithmetic():
    """What else the bits depend on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    library = f"{blas['name']} {blas['version']}"
    return {"processor": platform.machine(), "numpy": np.__version__, "blas": library}


def digests_of_a_process(directory):
    """The digests, from a process that takes its processor for an old one."""
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    modules = os.pathsep.join(map(os.path.abspath, [*given, HERE.parent]))
    done = subprocess.run(
        [sys.executable, __file__, str(directory)],
        env=os.environ | OLDEST_PROCESSOR | {"PYTHONPATH": modules},
        cwd=directory,  # workers look for modules in the working directory first
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "digests.json").read_text())


def sha256(*arrays):
    """Of numbers as doubles, which float32 and integers become without rounding."""
    whole = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array, "<f8")
        whole.update(repr(array.shape).encode() + array.tobytes())
    return whole.hexdigest()


def factors(model):
    """The digest of α and all rows."""
    arrays = [model.globalBias]
    for frame in (model.userFactors, model.itemFactors):
        rows = frame.orderBy("id").collect()
        arrays += [[row[name] for row in rows] for name in ("id", "bias", "features")]
    return sha256(*arrays)


def fit(model):
    """The digests of a fit: of its parameters, of f after every step, and of all restarts."""
    is_network = hasattr(model, "weights")
    ends = [restart.objective for restart in model.summary.restarts]
    return {
        "parameters": sha256(model.weights.toArray()) if is_network else factors(model),
        "f": sha256(model.summary.objectiveHistory),
        "restarts": [model.summary.best, sha256(ends)],
    }


def table(frame, *order):
    """The digest of a table of numbers and of lists of pairs."""
    rows = frame.orderBy(*order).collect()
    return sha256(*([np.ravel(row[name]) for row in rows] for name in frame.columns))


def fit_in_two_parts(estimator, data, path, interval=1):
    """Press Ctrl-C at the first line of the log after the first checkpoint, and fit again."""

    class CtrlC(logging.Handler):
        pressed = False

        def emit(self, record):
            if not self.pressed and path.is_dir() and any(path.glob("[!.]*")):
                self.pressed = True
                signal.raise_signal(signal.SIGINT)

    log, handler = logging.getLogger("nonconvex"), CtrlC()
    level = log.level
    estimator = estimator.copy()
    estimator.setCheckpointPath(str(path)).setCheckpointInterval(interval)
    log.setLevel("INFO")
    log.addHandler(handler)
    try:
        estimator.fit(data)
    except KeyboardInterrupt:
        assert handler.pressed
        assert any(path.glob("[!.]*")), "an interrupted fit leaves a checkpoint"
    else:
        raise AssertionError("the fit was not interrupted")
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return estimator.fit(data)


def main(directory):
    """Fit everything, and leave the digests in a file."""
    from nonconvex.neural_network import MultilayerPerceptronClassifier
    from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel
    from nonconvex.session import get_session

    settings = {
        "spark.master": "local[2]",
        "spark.driver.memory": "1g",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.default.parallelism": "2",
        "spark.sql.warehouse.dir": str(directory / "warehouse"),
    }
    settings |= {f"spark.executorEnv.{name}": value for name, value in OLDEST_PROCESSOR.items()}
    spark = get_session("same bits", settings)
    spark.sparkContext.setLogLevel("ERROR")
    ratings = spark.read.parquet(str(SAMPLE)).where("user % 16 = 0")
    ratings = ratings.selectExpr("*", "timestamp % 10 = 0 AS held").cache()

    def factorization(**params):
        usual = {"solver": "als", "rank": 4, "maxIter": 2, "updates": "driver", "kernel": "numpy"}
        return MatrixFactorization(**{**usual, **params})

    held = {"validationIndicatorCol": "held"}
    last = {**held, "patience": 0}  # of the iterations, as when the digests were made
    als = factorization(**last, maxIter=3, numRestarts=2, keepRestarts=True)
    model = als.copy({als.updates: "executors"}).fit(ratings)
    digests = {"als": fit(model), "als restarts": [factors(kept) for kept in model.restarts]}
    pairs = model.transform(ratings).select("user", "item", "prediction")
    digests["als predictions"] = table(pairs, "user", "item")
    digests["als recommendations"] = table(model.recommendForAllUsers(5), "user")
    model.write().save(str(directory / "model"))
    loaded = MatrixFactorizationModel.load(str(directory / "model"))
    assert fit(loaded) == digests["als"]
    again = loaded.transform(ratings).select("user", "item", "prediction")
    assert table(again, "user", "item") == digests["als predictions"]

    assert fit(fit_in_two_parts(als, ratings, directory / "als")) == digests["als"]
    by_shuffle = {"maxIter": 3, "updates": "executors", "exchange": "shuffle"}
    best = factorization(**last, **by_shuffle, firstRestart=model.summary.best).fit(ratings)
    assert factors(best) == digests["als"]["parameters"]
    assert sha256(best.summary.objectiveHistory) == digests["als"]["f"]

    few = {"numBurnIn": 6, "numSamples": 3, "numKept": 2, "numRestarts": 2}
    gibbs = MatrixFactorization(
        rank=4, updates="driver", kernel="numpy", solver="gibbs", **few, **held
    )
    sampled = gibbs.setPredictionStdCol("std").fit(ratings)
    digests["gibbs"] = fit(sampled)
    spread = sampled.transform(ratings.where("held")).select("user", "item", "prediction", "std")
    digests["gibbs predictions"] = table(spread, "user", "item")
    # A checkpoint of the first five sweeps, which hold Λ still, does not say at what they hold it.
    resumed = fit_in_two_parts(gibbs, ratings, directory / "gibbs", interval=6)
    assert fit(resumed) == digests["gibbs"]
    for name, params in {
        "als-coordinate": {"solver": "als-coordinate"},
        "gd": {"solver": "gd", "miniBatchFraction": 0.5},
        "implicit": {"implicitPrefs": True, "regUser": 1e-4, "regItem": 1e-4},
        "nonnegative": {"nonnegative": True},
        "float64": {"precision": "float64", "regExponent": 0.5},
    }.items():
        digests[name] = fit(factorization(**params).fit(ratings))

    examples = ratings.selectExpr("user", "item", "timestamp", "int(rating) AS label", "held")
    for gradients in ("executors", "driver"):
        classifier = MultilayerPerceptronClassifier(
            regParam=0.0,
            featuresCol=["user", "item", "timestamp"],
            layers=[8],
            batchSize=512,
            maxIter=3,
            tol=0.0,
            optimizer="adam",
            learningRate=1e-3,
            schedule="constant",
            initialization="he-uniform",
            numRestarts=2,
            gradients=gradients,
            **last,
        )
        digests[f"network on {gradients}"] = fit(classifier.fit(examples))
    resumed = fit_in_two_parts(classifier, examples, directory / "network")
    assert fit(resumed) == digests["network on driver"]
    spark.stop()
    (directory / "digests.json").write_text(json.dumps(digests))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            found = {"of": arithmetic(), "digests": digests_of_a_process(Path(scratch))}
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
