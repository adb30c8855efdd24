"""Ratings and helpers that several test modules use."""

import numpy as np
import pandas as pd

USERS, ITEMS = 40, 25  # of `triples`


def triples(seed=0, n=300):
    """Distinct pairs in a long-tailed pattern, with noisy ratings; every id occurs."""
    generator = np.random.default_rng(seed)
    pairs = generator.choice(USERS * ITEMS, n, replace=False)
    pairs = np.union1d(pairs, np.arange(USERS) * ITEMS + np.arange(USERS) % ITEMS)
    users, items = pairs // ITEMS, pairs % ITEMS
    gamma = generator.normal(size=(USERS + ITEMS, 2))
    signal = np.einsum("nk,nk->n", gamma[users], gamma[USERS + items])
    return users, items, 3 + signal + 0.1 * generator.normal(size=len(pairs))


def frame(spark, users, items, ratings, **more):
    columns = {"user": users, "item": items, "rating": ratings, **more}
    rows = list(zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True))
    return spark.createDataFrame(rows, list(columns))


def planted_table(users=60, items=40, rank=2, noise=0.5):
    """Ratings of planted factors with noise; those of the last user and item are held out."""
    generator = np.random.default_rng(3)
    x, z = (generator.normal(0, 0.8, (rows, 1 + rank)) for rows in (users, items))
    pairs = np.argwhere(generator.random((users, items)) < 0.7)
    table = pd.DataFrame(pairs, columns=["user", "item"])
    u, i = table["user"], table["item"]
    mean = 3 + x[u, 0] + z[i, 0] + (x[u, 1:] * z[i, 1:]).sum(axis=1)
    table["rating"] = mean + generator.normal(0, noise, len(table))
    unseen = (u == users - 1) | (i == items - 1)
    table["held_out"] = unseen | (generator.random(len(table)) < 0.2)
    return table


def same_bits(a, b):
    """Assert that the factors of two fits are equal to the bit."""
    assert a.alpha == b.alpha
    assert a.users.tobytes() == b.users.tobytes()
    assert a.items.tobytes() == b.items.tobytes()
