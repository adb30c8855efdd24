"""Fits of the shipped sample give the parameters they gave before: refactoring changes no bit.

The digests were made by the code of commit 9b22732, and are made again by

    python tests/test_same_bits.py > tests/golden/bits.json

where a change of the arithmetic is meant.  Bits depend on the processor through the kernels of
OpenBLAS and numpy, so both are held to the ones that every x86-64 has.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ENVIRONMENT = {
    "OPENBLAS_CORETYPE": "Prescott",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
}
if __name__ == "__main__":  # before numpy reads it
    os.environ.update(ENVIRONMENT)

import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "bits.json"


def test_fits_have_the_bits_of_before():
    golden = json.loads(GOLDEN.read_text())
    if platform.machine() != "x86_64":
        pytest.skip("the digests are those of x86-64")
    if golden["numpy"] != np.__version__:
        pytest.skip(f"the digests are those of numpy {golden['numpy']}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == golden


def digest(*arrays):
    """Hash arrays, floats and what JSON can hold."""
    bits = hashlib.sha256()
    for one in arrays:
        bits.update(one.tobytes() if isinstance(one, np.ndarray) else repr(one).encode())
    return bits.hexdigest()[:16]


def factorization(model):
    """Digest the factors and the history of f of a factorization."""
    values = [
        np.concatenate([np.array([row.bias, *row.features]) for row in table.collect()])
        for table in (model.userFactors, model.itemFactors)
    ]
    history = [[step["objective"] for step in r.history] for r in model.summary.restarts]
    return digest(model.globalBias, *values, history)


def digests(spark, directory):
    """Fit in every way, and return the digest of each model by name."""
    from pyspark.sql import functions as F

    from nonconvex.neural_network import MultilayerPerceptronClassifier
    from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel

    ratings = spark.read.parquet(str(ROOT / "tests/data/movietweetings/ratings.parquet"))
    ratings = ratings.where("user % 12 = 1").withColumn(
        "held_out", F.xxhash64("user", "item") % 10 == 0
    )
    fixed = {"rank": 4, "maxIter": 4, "seed": 3, "validationIndicatorCol": "held_out"}
    fit = lambda **params: MatrixFactorization(**fixed | params).fit(ratings)  # noqa: E731
    model = fit(numRestarts=2)
    found = {"als": factorization(model)}
    found["predictions"] = digest(
        sorted(tuple(row) for row in model.transform(ratings.limit(500)).collect())
    )
    found["lists"] = digest(
        [
            (row.user, [tuple(one) for one in row.recommendations])
            for row in model.recommendForAllUsers(5).orderBy("user").limit(100).collect()
        ]
    )
    model.write().save(f"{directory}/model")
    assert factorization(MatrixFactorizationModel.load(f"{directory}/model")) == found["als"]
    found["executors"] = factorization(fit(updates="executors", numUserBlocks=3))
    found["shuffle"] = factorization(fit(exchange="shuffle", numUserBlocks=3))
    assert found["shuffle"] == found["executors"]
    found["als-coordinate"] = factorization(fit(solver="als-coordinate"))
    found["gd"] = factorization(fit(solver="gd", optimizer="adam", learningRate=0.05))
    found["implicit"] = factorization(fit(implicitPrefs=True))
    found["nonnegative"] = factorization(fit(nonnegative=True))
    del fixed["maxIter"]
    sweeps = {"numBurnIn": 3, "numSamples": 4, "numRestarts": 2}
    found["gibbs"] = factorization(fit(solver="gibbs", **sweeps))
    path = {"maxIter": 4, "checkpointPath": f"{directory}/checkpoint", "checkpointInterval": 2}
    try:
        interrupted(lambda: fit(numRestarts=2, **path))
    except KeyboardInterrupt:
        found["resumed"] = factorization(fit(numRestarts=2, **path))
    assert found["resumed"] == found["als"]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 6))
    y = np.argmax(x[:, :3] + 0.3 * generator.normal(size=(300, 3)), axis=1)
    rows = [(row.tolist(), int(label)) for row, label in zip(x, y, strict=True)]
    table = spark.createDataFrame(rows, "features array<double>, label int")
    network = MultilayerPerceptronClassifier(layers=[8], maxIter=5, numRestarts=2, seed=4)
    for gradients in ("driver", "executors"):
        trained = network.copy({network.gradients: gradients}).fit(table)
        found[f"network on {gradients}"] = digest(np.asarray(trained.weights))
    return found


def interrupted(fit):
    """Run a fit that gets SIGINT in its third iteration."""
    import logging
    import signal

    class Interrupt(logging.Handler):
        def emit(self, record):
            if "iteration   3" in record.getMessage():
                logger.removeHandler(self)
                signal.raise_signal(signal.SIGINT)

    logger = logging.getLogger("nonconvex")
    logger.setLevel(logging.INFO)
    logger.addHandler(Interrupt())
    fit()


if __name__ == "__main__":
    from nonconvex.session import get_session

    with tempfile.TemporaryDirectory() as place:
        session = get_session("bits", {"spark.master": "local[2]"}, conf_dir=ROOT / "conf")
        result = {"numpy": np.__version__, **digests(session, place)}
        session.stop()
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
