"""Random small tables through the door and a fit, beside plain loops over their rows.

An example is one dataframe of many tables, as jobs take long: without ids in common and without
an intercept, no table depends on another.
"""

import math
from contextlib import ExitStack
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nonconvex.distributed.data.prepare import _check, _resolve
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.numerics.factorization.model import InitialRows, Side
from nonconvex.recommendation import MatrixFactorization
from tests.numerics.factorization import twins

RIDGE = 0.5
SEED = 7
IDS = ["a", "a ", " a", "A", "", "b", "\n", "\x00", "🎬", "e\u0301", "é", "null", "0", "00", "`"]
RATINGS = [0.0, -0.0, 1.0, 2.5, 5.0, -3.0, 1e-300, 5e-324, math.nan, math.inf, -math.inf]

ids = st.one_of(st.sampled_from(IDS), st.none(), st.text(max_size=3))
values = st.tuples(st.one_of(st.none(), st.sampled_from(RATINGS)), st.sampled_from([0, 1, 2]))


def rows_of(some):
    """Up to nine rows of a few users and items, so that many pairs are there several times."""
    pair = st.tuples(*map(st.sampled_from, some))
    return st.lists(st.tuples(pair, values).map(lambda row: row[0] + row[1]), max_size=9)


few = st.lists(ids, min_size=1, max_size=3)
tables = st.tuples(few, few).flatmap(rows_of)


def many(size):
    """As many tables, of which one rating at least is accepted."""
    return st.lists(tables, min_size=size, max_size=size).filter(some_rating)


def some_rating(tables):
    return any(reason(row) is None for table in tables for row in table)


def reason(row):
    """Why a row is refused, by the words of the documentation."""
    user, item, rating, _ = row
    if user is None:
        return "user is null"
    if item is None:
        return "item is null"
    if rating is None:
        return "rating is null"
    if math.isnan(rating):
        return "rating is NaN"
    return "rating is infinite" if math.isinf(rating) else None


def accepted(table, policy):
    """{(user, item): (rating, weight)} of the rows of a table that count."""
    pairs = {}
    for user, item, rating, weight in filter(lambda row: reason(row) is None, table):
        pairs.setdefault((user, item), []).append((rating + 0.0, float(weight)))
    if policy == "first":
        return {pair: rated[0] for pair, rated in pairs.items()}
    return {pair: mean(rated) for pair, rated in pairs.items()}


def mean(rated):
    total = sum(weight for _, weight in rated)
    if total == 0:
        return float(sum(Fraction(rating) for rating, _ in rated) / len(rated)), 0.0
    return float(sum(Fraction(r) * Fraction(w) for r, w in rated) / Fraction(total)), total


def fitted(model, counted):
    """The factors that loops over rows come to in one iteration from where the model started."""
    x, z = (
        InitialRows(len(ids), 2, 0.1, SEED, 0, side, np.float64, False).between(0, len(ids))
        for side, ids in zip(Side, model._ids, strict=True)
    )
    place = [{name: i for i, name in enumerate(side.to_pylist())} for side in model._ids]
    triples = [(place[0][u], place[1][i], *value) for (u, i), value in counted.items()]
    columns = list(zip(*triples, strict=True))
    for own, fixed, which in ((z, x, (1, 0)), (x, z, (0, 1))):
        grouped = twins.group(columns[which[0]], columns[which[1]], columns[2], columns[3])
        for row, rated in grouped.items():
            diagonal = [RIDGE] * own.shape[1]
            own[row] = twins.solve_row(rated, fixed, 0.0, diagonal)
    return x, z


def check(spark, directory, tables, policy):
    """Read, check and fit all tables at once; compare each with loops."""
    rows = [
        (*(None if of is None else f"{number}|{of}" for of in pair), rating, float(weight))
        for number, table in enumerate(tables)
        for *pair, rating, weight in table
    ]
    schema = [("user", "string"), ("item", "string"), ("rating", "double"), ("weight", "double")]
    names, types = zip(*schema, strict=True)
    columns = map(pa.array, zip(*rows, strict=True), map(pa.type_for_alias, types))
    path = directory / "ratings.parquet"
    pa.parquet.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
    counted = {}
    for number, table in enumerate(tables):
        for (user, item), value in accepted(table, policy).items():
            counted[f"{number}|{user}", f"{number}|{item}"] = value
    reasons = [why for table in tables for row in table if (why := reason(row)) is not None]
    with ExitStack() as cache:
        source = read_source(spark, str(path))
        checked = _check(source, Columns(weight="weight"), Rules(duplicates=policy), Split())
        checked = _resolve(cache, checked, policy)
        assert checked.report.rejected == {why: reasons.count(why) for why in sorted(set(reasons))}
        found = {(r.user, r.item): (r.rating, r.weight) for r in checked.ratings.collect()}
        assert found.keys() == counted.keys()
        pairs = sorted(counted)
        got, wanted = (np.array([of[pair] for pair in pairs]) for of in (found, counted))
        np.testing.assert_allclose(got, wanted, rtol=1e-15, atol=1e-15)
        total = sum(weight for _, weight in counted.values())
        if not total:
            return
        start = {"rank": 2, "maxIter": 1, "initScale": 0.1, "seed": SEED, "fitIntercept": False}
        ridge = {"regUser": RIDGE / total, "regItem": RIDGE / total}
        precise = {"precision": "float64", "weightCol": "weight"}
        estimator = MatrixFactorization(**start, **ridge, **precise)
        model = estimator.fit(checked.ratings)
    x, z = fitted(model, counted)
    np.testing.assert_allclose(model.factors.items, z, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(model.factors.users, x, rtol=1e-8, atol=1e-8)


def run(spark, tmp_path_factory, examples, size, policy):
    """Check as many examples of as many tables; return how many tables it were."""

    phases, health = [Phase.explicit, Phase.generate], list(HealthCheck)

    @settings(max_examples=examples, deadline=None, derandomize=True, phases=phases,
              suppress_health_check=health)  # fmt: skip
    @given(many(size))
    def test(tables):
        check(spark, tmp_path_factory.mktemp("tables"), tables, policy)
        seen.append(len(tables))

    seen = []
    test()
    return sum(seen)


def test_some_random_tables(spark, tmp_path_factory):
    run(spark, tmp_path_factory, 1, 25, "mean")


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["mean", "first"])
def test_two_thousand_random_tables(spark, tmp_path_factory, policy):
    assert run(spark, tmp_path_factory, 10, 100, policy) == 1000
