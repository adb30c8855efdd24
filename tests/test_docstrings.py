"""The examples in the docstrings run, and show what they say they show.

An example may use what it does not make itself, by these names:

``spark``
    The session.
``ratings``
    A dataframe ``user, item, rating, timestamp``: 603 ratings of 20 films, from the shipped sample.
``prepared``, ``model``
    These ratings, prepared, and a factorization that was fitted on them.
``examples``, ``classifier``
    The 150 flowers of scikit-learn, an `ExampleTable`, and a network that was trained on them.

If it uses one of them, it runs in a directory with ``ratings.parquet``, ``flowers.parquet`` and
what a job of training leaves of the first, ``prepared/films`` and ``runs/films``.  Else it runs in
an empty one.
"""

import ast
import csv
import doctest
import importlib
from contextlib import chdir
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_iris

from nonconvex.pipeline.factorization.config import (
    FactorizationConfig,
    PreparedSection,
    RatingsSection,
)
from nonconvex.pipeline.factorization.results import metrics_json
from nonconvex.pipeline.network.config import ExampleSplitSection, ExamplesSection, NetworkConfig
from nonconvex.pipeline.release import Release
from nonconvex.pipeline.runs import METRICS
from nonconvex.pipeline.sections import OutputSection, SplitSection
from tests.factories import most_rated
from tests.test_architecture import FILES

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
GIVEN = {"spark", "ratings", "prepared", "model", "examples", "classifier"}
SAMPLE = Path(__file__).parent / "data" / "movietweetings"
MODULES = [name for name in FILES if name.startswith("nonconvex")]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module, request, tmp_path, monkeypatch):
    of = importlib.import_module(module)
    asked = sorted(_asked_for(of))
    if asked:
        request.getfixturevalue("films")
    monkeypatch.chdir(request.getfixturevalue("workplace") if asked else tmp_path)
    given = {name: request.getfixturevalue(name) for name in asked}
    result = doctest.testmod(of, extraglobs=given, optionflags=OPTIONS)
    assert result.failed == 0


def test_no_example_is_skipped():
    modules = map(importlib.import_module, MODULES)
    docstrings = [docstring for one in modules for docstring in doctest.DocTestFinder().find(one)]
    assert sum(len(docstring.examples) for docstring in docstrings) > 120
    skipped = [d.name for d in docstrings if any(e.options.get(doctest.SKIP) for e in d.examples)]
    assert not skipped


def _asked_for(module):
    """Return which of `GIVEN` the examples of a module use without making them."""
    asked = set()
    for docstring in doctest.DocTestFinder().find(module):
        code = ast.parse("".join(example.source for example in docstring.examples))
        names = [node for node in ast.walk(code) if isinstance(node, ast.Name)]
        made = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        asked |= {name.id for name in names} - made
    return asked & (GIVEN - set(vars(module)))


@pytest.fixture(scope="module")
def workplace(spark, tmp_path_factory):
    """A directory that paths begin at in Java, which takes no notice of where Python is."""
    directory = tmp_path_factory.mktemp("workplace")
    java = spark._jvm
    files = java.org.apache.hadoop.fs
    local = files.FileSystem.getLocal(spark._jsc.hadoopConfiguration()).getRaw()

    def begin_at(path):
        java.System.setProperty("user.dir", path)
        local.setWorkingDirectory(files.Path(path))

    before = java.System.getProperty("user.dir")
    begin_at(str(directory))
    # Ratings of the 20 films of the sample with most of them, by 40 users.
    ratings = most_rated(pq.read_table(SAMPLE / "ratings.parquet"), items=20, users=40)
    titles = dict(csv.reader((SAMPLE / "titles.csv").read_text(encoding="utf-8").splitlines()))
    called = pa.array([titles[str(item)] for item in ratings["item"].to_pylist()])
    rated = ratings["rating"].cast(pa.float64())
    ratings = ratings.set_column(1, "item", called).set_column(2, "rating", rated)
    pq.write_table(ratings, directory / "ratings.parquet")
    iris = load_iris()
    flowers = {"features": iris.data.tolist(), "label": iris.target_names[iris.target]}
    pq.write_table(pa.table(flowers), directory / "flowers.parquet")
    yield directory
    begin_at(before)


@pytest.fixture(scope="module")
def films(spark, workplace):
    """The prepared ratings and the model, both published there, as the job of training does it."""
    short = {"rank": 2, "maxIter": 8, "numRestarts": 2, "patience": 0}
    config = FactorizationConfig(
        ratings=RatingsSection(path="ratings.parquet", minimum=0, maximum=10),
        split=SplitSection(validation=0.1, test=0.1, seed=2),
        prepared=PreparedSection(path="prepared/films"),
        factorization={"regUser": 0.012, "regItem": 0.012, "biasRegRatio": 0.5, **short},
        output=OutputSection(path="runs/films"),
    )
    with chdir(workplace):
        prepared = config.prepare(spark)
        model = config.estimator().fitPrepared(prepared)
        release = Release(spark, config.output)
        with release.run() as run:
            model.write().save(run.model)
            metrics = metrics_json(run.id, prepared, model, None)
            release.files.write_text(f"{run.path}/{METRICS}", metrics)
        release.publish(run, {}, [])
    return prepared, model


@pytest.fixture(scope="module")
def prepared(films):
    return films[0]


@pytest.fixture(scope="module")
def model(films):
    return films[1]


@pytest.fixture(scope="module")
def ratings(spark, workplace):
    return spark.read.parquet(str(workplace / "ratings.parquet"))


@pytest.fixture(scope="module")
def flowers(spark, workplace):
    """The examples and the network that was trained on them."""
    config = NetworkConfig(
        examples=ExamplesSection(path="flowers.parquet", task="classification"),
        split=ExampleSplitSection(test=0.2),
        network={"layers": [8], "maxIter": 20, "numRestarts": 2, "learningRate": 0.05},
        output=OutputSection(path="runs/flowers"),
    )
    examples = config.table(spark)
    return examples, config.estimator(examples).fit(examples.training)


@pytest.fixture(scope="module")
def examples(flowers):
    return flowers[0]


@pytest.fixture(scope="module")
def classifier(flowers):
    return flowers[1]
