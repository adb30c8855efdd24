"""Linear regression in closed form beside the derivative of f, and beside numpy's lstsq."""

import numpy as np
import pytest

from nonconvex.numerics.convergence import FitError
from nonconvex.numerics.network.backprop import Examples, network_objective, sums
from nonconvex.numerics.network.least_squares import NormalSums, solve_least_squares
from nonconvex.numerics.network.model import Network


def problem(targets=2, rows=40):
    generator = np.random.default_rng(5)
    x, noise = generator.normal(2, 1, (rows, 3)), generator.normal(0, 1, (rows, targets))
    y = x @ generator.normal(0, 1, (3, targets)) + 1 + noise
    return Examples(x, y, generator.uniform(0, 2, rows))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_the_gradient_of_f_is_zero_at_the_solution(bias, reg):
    network, examples = Network((3, 2), (), "squared-error", bias=bias, reg=reg), problem()
    theta = solve_least_squares(network, NormalSums.of(network, examples))
    f, gradient = network_objective(network, theta[None], sums(network, theta[None], examples))
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    near = theta + np.random.default_rng(1).normal(0, 1e-3, theta.shape)
    assert network_objective(network, near[None], sums(network, near[None], examples))[0] > f


def test_parts_are_merged_and_columns_that_depend_have_the_shortest_solution():
    x, y, weight = problem(targets=1)
    x = np.column_stack([x, x[:, 0]])
    network = Network((4, 1), (), "squared-error")
    parts = [
        NormalSums.of(network, Examples(x[p], y[p], weight[p])) for p in (slice(9), slice(9, 40))
    ]
    theta = solve_least_squares(network, parts[0].merge(parts[1]))
    root = np.sqrt(weight)[:, None]
    design = np.column_stack([x, np.ones(len(x))])
    np.testing.assert_allclose(theta, np.linalg.lstsq(design * root, y * root)[0][:, 0], rtol=1e-5)


def test_sums_that_overflow_are_refused():
    network = Network((1, 1), (), "squared-error")
    huge = Examples(np.array([[1e200], [2e200]]), np.array([[1.0], [2.0]]))
    with np.errstate(over="ignore"), pytest.raises(FitError, match="squares of features or targ"):
        solve_least_squares(network, NormalSums.of(network, huge))
