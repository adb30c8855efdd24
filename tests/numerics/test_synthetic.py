"""Planted ratings and examples: how many, how spread, and the same in whatever parts."""

from collections import Counter

import numpy as np
import pytest

from nonconvex.numerics.synthetic import PlantedExamples, PlantedRatings, PowerLaw

LAW = PlantedRatings.of_size(20_000, seed=3)


@pytest.fixture(scope="module")
def ratings():
    return LAW.of_users(np.arange(LAW.users))


def test_as_many_ratings_as_asked_and_no_pair_twice(ratings):
    users, items, _ = ratings
    pairs = set(zip(users.tolist(), items.tolist(), strict=True))
    assert len(pairs) == len(users) == LAW.ratings
    assert 0 <= users.min() <= users.max() < LAW.users
    assert 0 <= items.min() <= items.max() < LAW.items


def test_a_few_users_and_items_have_many_ratings(ratings):
    for ids in ratings[:2]:
        counts = sorted(Counter(ids.tolist()).values())
        assert counts[-1] > 3 * counts[len(counts) // 2]
    assert max(Counter(ratings[0].tolist()).values()) == LAW.most_active


def test_ratings_of_users_are_the_same_in_any_company(ratings):
    parts = [LAW.of_users(np.arange(first, LAW.users, 3)) for first in range(3)]
    for whole, *of_parts in zip(ratings, *parts, strict=True):
        rows = [np.flatnonzero(ratings[0] % 3 == first) for first in range(3)]
        np.testing.assert_array_equal(whole[np.concatenate(rows)], np.concatenate(of_parts))


def test_ratings_are_spread_as_the_law_says(ratings):
    # 2 · 0.4² of biases, 8 · 0.35² · 0.6² of factors, 0.6² of noise
    assert ratings[2].mean() == pytest.approx(3.5, abs=0.15)
    assert ratings[2].var() == pytest.approx(2 * 0.16 + 8 * 0.35**2 * 0.36 + 0.36, rel=0.15)
    other = PlantedRatings.of_size(20_000, seed=4).of_users(np.arange(LAW.users))
    assert not np.array_equal(other[2], ratings[2])


def test_a_user_who_has_rated_everything():
    law = PlantedRatings(200, 20, PlantedRatings(200, 20, 200, 0).most_active, 0)
    users, items, _ = law.of_users(np.arange(20))
    full = Counter(users.tolist()).most_common(1)[0][0]
    assert sorted(items[users == full]) == list(range(law.items))
    with pytest.raises(ValueError, match=r"the most active of 20 users has \d+ of the 200"):
        PlantedRatings(200, 20, law.items - 1, 0)


def test_the_share_of_a_power_law_is_its_integral():
    law = PowerLaw(50, 3.0, 0.7)
    fine = (np.arange(50_000) + 0.5) / 1000
    density = (fine + law.shift) ** -law.exponent
    below = density[fine < 20].sum() / density.sum()
    assert law.share(np.array(20.0)) == pytest.approx(below, rel=1e-6)
    np.testing.assert_allclose(law.share(np.array([0.0, 50.0])), [0, 1])


def test_examples_are_the_same_in_any_company_and_can_be_told_apart():
    law = PlantedExamples(features=20, classes=3, seed=1)
    x, y = law.examples(np.arange(600))
    some = np.array([5, 599, 17])
    np.testing.assert_array_equal(law.examples(some)[0], x[some])
    np.testing.assert_array_equal(law.examples(some)[1], y[some])
    assert sorted(set(y.tolist())) == [0, 1, 2]
    # the nearest of other examples is mostly of the same class
    apart = ((x[:, None] - x[None]) ** 2).sum(2)
    np.fill_diagonal(apart, np.inf)
    assert (y[apart.argmin(1)] == y).mean() > 0.9
