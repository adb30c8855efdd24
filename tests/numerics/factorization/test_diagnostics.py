"""Diagnostics of chains, on autoregressive chains whose effective size is known."""

import numpy as np
import pytest

from nonconvex.numerics.factorization.diagnostics import effective_size, split_r_hat


def autoregressive(rho, chains=4, length=2000, seed=0):
    noise = np.random.default_rng(seed).standard_normal((chains, length))
    draws = noise.copy()
    for t in range(1, length):
        draws[:, t] = rho * draws[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return draws


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_effective_size_of_an_autoregressive_chain(rho):
    exact = 8000 * (1 - rho) / (1 + rho)
    assert effective_size(autoregressive(rho)) == pytest.approx(exact, rel=0.15)
    assert split_r_hat(autoregressive(rho)) == pytest.approx(1, abs=0.01)


def test_chains_that_alternate_tell_the_mean_better_than_independent_draws():
    assert effective_size(autoregressive(-0.5)) > 1.5 * 8000


def test_r_hat_by_hand():
    # halves (0, 2), (4, 6), (0, 2), (0, 2): W = 2, means 1, 5, 1, 1 with B/n = 4
    draws = np.array([[0.0, 2, 4, 6], [0, 2, 0, 2]])
    assert split_r_hat(draws) == pytest.approx(np.sqrt((2 / 2 + 4) / 2))


def test_chains_apart_are_told_apart():
    draws = autoregressive(0.0)
    draws[0] += 3
    assert split_r_hat(draws) > 1.5
    assert effective_size(draws) < 20


def test_a_chain_that_drifts_is_told_by_its_own_halves():
    drifting = autoregressive(0.0, chains=1) + np.linspace(0, 5, 2000)
    assert split_r_hat(drifting) > 1.5


def test_an_odd_number_of_draws_leaves_out_the_one_in_the_middle():
    draws = autoregressive(0.5, length=101)
    assert split_r_hat(draws) == split_r_hat(np.delete(draws, 50, axis=1))


@pytest.mark.parametrize("diagnose", [split_r_hat, effective_size])
def test_too_few_draws_tell_nothing(diagnose):
    assert np.isnan(diagnose(np.zeros((2, 3))))


def test_a_quantity_that_does_not_move():
    still = np.ones((2, 10))
    assert split_r_hat(still) == 1.0
    assert effective_size(still) == 20
    still[0] = 2
    assert split_r_hat(still) == np.inf
    assert effective_size(still) == 4
