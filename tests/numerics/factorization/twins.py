"""Slow, obvious twins of the kernels: loops over single ratings, in float64.

Nothing is imported from the code under test.  A row's ratings are a list of (column, rating,
weight); implicit feedback is the same list with every column in it.
"""

from typing import NamedTuple

import numpy as np


class Rated(NamedTuple):
    column: int
    rating: float
    weight: float = 1.0


def group(rows, columns, ratings, weights=None):
    """Return {row: its ratings}, rows and columns ascending."""
    weights = np.ones(len(ratings)) if weights is None else weights
    grouped = {}
    for row, *rated in sorted(zip(rows, columns, ratings, weights, strict=True)):
        grouped.setdefault(int(row), []).append(Rated(int(rated[0]), *map(float, rated[1:])))
    return grouped


def degree(rated):
    return sum(r.weight for r in rated)


def ridges(ridge, degree, width):
    """n λ (d / d̄)^ν for each γ_k, and ρ times that for β."""
    gamma = ridge.total * ridge.reg * (degree / ridge.mean_degree) ** ridge.exponent
    return [ridge.bias_ratio * gamma] + [gamma] * (width - 1)


def predict(alpha, x, z):
    x, z = x.astype(float), z.astype(float)
    return alpha + x[0] + z[0] + sum(x[k] * z[k] for k in range(1, len(x)))


def penalty(x, rows, ridge):
    """Σ ridge x² over all coordinates of one side, rows without a rating too."""
    total = 0.0
    for r in range(len(x)):
        for value, weight in zip(
            x[r], ridges(ridge, degree(rows.get(r, [])), len(x[r])), strict=True
        ):
            total += weight * float(value) ** 2
    return total


def objective(alpha, x, z, rows, columns, ridge, column_ridge):
    """f, from {row: ratings} and {column: ratings}."""
    squares, n = 0.0, 0.0
    for r, rated in rows.items():
        for column, rating, weight in rated:
            squares += weight * (predict(alpha, x[r], z[column]) - rating) ** 2
            n += weight
    return (squares + penalty(x, rows, ridge) + penalty(z, columns, column_ridge)) / n


def design(rated, z, alpha, biases):
    """Design rows (1, γ_i) or (0, γ_i), targets R − α − β_i and weights of one row's ratings."""
    rows = [np.append(1.0 if biases else 0.0, z[r.column][1:]) for r in rated]
    targets = [r.rating - alpha - z[r.column][0] for r in rated]
    return np.array(rows), np.array(targets), np.array([r.weight for r in rated])


def solve_row(rated, z, alpha, diagonal, biases=True):
    """argmin Σ w (y − z·x)² + Σ ridge_k x_k², each ridge written as one more rating, of 0."""
    rows, targets, weights = design(rated, z, alpha, biases)
    stacked = np.vstack([rows * np.sqrt(weights)[:, None], np.diag(np.sqrt(diagonal))])
    wanted = np.append(targets * np.sqrt(weights), np.zeros(len(diagonal)))
    return np.linalg.lstsq(stacked, wanted, rcond=None)[0]


def sweep_row(rated, z, alpha, diagonal, start, biases=True, nonnegative=False):
    """One pass of the scalar closed forms over β, γ_1 … γ_K, each from the latest values."""
    rows, targets, weights = design(rated, z, alpha, biases=True)
    x = [float(v) for v in start]
    for k in range(0 if biases else 1, len(x)):
        numerator, denominator = 0.0, diagonal[k]
        for row, target, weight in zip(rows, targets, weights, strict=True):
            others = sum(x[j] * row[j] for j in range(len(x)) if j != k)
            numerator += weight * row[k] * (target - others)
            denominator += weight * row[k] ** 2
        if denominator > 0:
            x[k] = numerator / denominator
        if nonnegative and k > 0:
            x[k] = max(x[k], 0.0)
    return np.array(x)


def sums(rated, z, alpha, x):
    """Σ w e and Σ w e² of one row."""
    errors = [(r.weight, r.rating - predict(alpha, x, z[r.column])) for r in rated]
    return sum(w * e for w, e in errors), sum(w * e * e for w, e in errors)


def slope(rated, z, alpha, diagonal, x, k):
    """n/2 ∂f/∂x_k of one row, and the sum of the sizes of its terms: 0 is small beside that."""
    terms = [diagonal[k] * x[k]]
    for column, rating, weight in rated:
        factor = weight * (1.0 if k == 0 else z[column][k])
        parts = [alpha, x[0], z[column][0], *(x[1:] * z[column][1:]), -rating]
        terms += [factor * part for part in parts]
    return sum(terms), sum(abs(term) for term in terms)


def implicit_ratings(strengths, columns, confidence):
    """Every column of one row as a weighted rating: p with weight c = 1 + κ |R|."""
    return [
        Rated(j, float(strengths.get(j, 0.0) > 0), 1 + confidence * abs(strengths.get(j, 0.0)))
        for j in range(columns)
    ]
