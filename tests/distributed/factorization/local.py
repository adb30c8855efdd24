"""The alternating loop without Spark: what the distributed one must equal, bit for bit."""

from nonconvex.distributed.factorization.state import Problem
from nonconvex.numerics.factorization.als import solve_rows, sweep_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, objective


def alternate(users, items, ratings, problem: Problem, iterations: int, dtype, weights=None):
    """Factors and the objective after every half-step, as a loop over two whole blocks."""
    by_user = RatingBlock.from_triples(users, items, ratings, weights, dtype=dtype)
    by_item = RatingBlock.from_triples(items, users, ratings, weights, dtype=dtype)
    alpha, x, z = problem.start
    drift, values = 0.0, []
    for _ in range(iterations):
        for block, ridge in ((by_item, problem.item_ridge), (by_user, problem.user_ridge)):
            alpha += drift if problem.intercept else 0.0
            fixed, own = (x, z) if block is by_item else (z, x)
            if problem.solver == "als":
                update = solve_rows(block, fixed, alpha, ridge, biases=problem.biases)
            else:
                update = sweep_rows(block, fixed, alpha, ridge, own, biases=problem.biases)
            if block is by_item:
                z = update.x
            else:
                x = update.x
            drift = float(update.residual.sum()) / float(update.weight.sum())
            factors = Factors(alpha, x, z)
            values.append(
                objective(
                    factors, users, items, ratings, problem.user_ridge, problem.item_ridge, weights
                )
            )
    return factors, values
