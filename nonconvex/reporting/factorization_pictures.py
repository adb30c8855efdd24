"""The figures of a factorization."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nonconvex.distributed.calibration import Agreement
from nonconvex.estimators.factorization.summary import RestartSummary, TrainingSummary
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.metrics import Scores
from nonconvex.reporting import charts
from nonconvex.reporting.landmarks import Landmarks
from nonconvex.reporting.pictures import SIZE, Picture, picture

__all__ = [
    "agreement_picture",
    "bias_picture",
    "count_pictures",
    "course_pictures",
    "map_picture",
    "norm_picture",
]

_BINS = 40


def course_pictures(summary: TrainingSummary) -> list[Picture]:
    """Draw what the restarts went through, and how far apart they ended."""
    sampled = summary.sampling is not None
    unit = "sweep" if sampled else "iteration"
    drawn = [
        _course(
            summary, "objective", "Objective", "f",
            "What is minimized, at the end of every iteration."
            if not sampled
            else "f with the ridge that was drawn, at the end of every sweep.",
            unit,
        )
    ]  # fmt: skip
    if sampled:
        drawn = [
            _course(
                summary, "tau", "Precision of ratings", "τ",
                "What each sweep drew. A chain has come to rest where this no longer drifts.", unit,
            )
        ]  # fmt: skip
    if any(step["validation_rmse"] is not None for step in _ends(summary.restarts[summary.best])):
        drawn.append(
            _course(
                summary, "validation_rmse", "Validation error", "RMSE",
                "Of the mean of all samples so far."
                if sampled
                else "On ratings that training has not seen; restarts are chosen by it.",
                unit,
            )
        )  # fmt: skip
    else:
        drawn.append(
            _course(summary, "train_rmse", "Training error", "RMSE", "On training ratings.", unit)
        )
    if summary.restarts[1:] and not sampled:
        drawn.append(_spread(summary))
    return drawn


def count_pictures(by_side: Sequence[tuple[str, dict[str, Scores]]]) -> list[Picture]:
    """Draw the test error by how many training ratings the user, or the item, has."""
    drawn = []
    for side, bins in by_side:
        if not bins:
            continue
        model = [scores.rmse["model"] for scores in bins.values()]
        biases = [scores.rmse["biases"] for scores in bins.values()]
        ticks = [f"{label}\n{_short(scores.ratings)}" for label, scores in bins.items()]
        first, *_, last = [*bins, *bins]
        drawn.append(
            picture(
                f"error-by-{side}",
                f"Error by ratings of the {side}",
                f"Under each number of training ratings of the {side}: how many test ratings the "
                "error is of.",
                f"Test RMSE of the model is {model[0]:.3f} for {side}s with {first} training "
                f"ratings and {model[-1]:.3f} for those with {last}; α and biases alone reach "
                f"{biases[0]:.3f} and {biases[-1]:.3f}.",
                partial(
                    charts.bars,
                    series={"model": model, "α + biases": biases},
                    ticks=ticks,
                    y="test RMSE",
                ),
            )
        )
    return drawn


def agreement_picture(agreed: Agreement, correlation: str) -> Picture:
    """Draw predictions against actual ratings."""
    return picture(
        "predicted-actual",
        "Predicted against actual",
        "Test ratings; the stronger a tile, the more of them. On the dashed line predictions are "
        "right.",
        f"Tiles of predictions by actual rating. {correlation}",
        partial(
            charts.tiles,
            counts=agreed.counts,
            columns=agreed.predicted,
            rows=agreed.actual,
            x="prediction",
            y="actual rating",
        ),
    )


def bias_picture(factors: Factors) -> Picture:
    """Draw how β_u and β_i are distributed."""
    sides = {"β of users": factors.users[:, 0], "β of items": factors.items[:, 0]}
    values = np.concatenate([*sides.values()]).astype(np.float64)
    edges = np.linspace(*_padded(np.quantile(values, [0.002, 0.998])), _BINS + 1)
    series = {
        name: (np.histogram(np.clip(side, edges[0], edges[-1]), edges)[0], edges)
        for name, side in sides.items()
    }
    spreads = " and ".join(f"{np.std(side):.2f} for {name}" for name, side in sides.items())
    return picture(
        "biases",
        "Biases",
        "How much higher than α users rate and items are rated, in units of ratings.",
        f"Histograms of biases about 0. Their standard deviations are {spreads}.",
        partial(charts.densities, series=series, x="bias"),
    )


def norm_picture(factors: Factors, counts: Sequence[NDArray[np.integer]]) -> Picture:
    """Draw how long γ is, by how many ratings a row has."""
    series, ends = {}, []
    for name, rows, degrees in zip(("users", "items"), factors[1:], counts, strict=True):
        norms = np.linalg.norm(rows[:, 1:].astype(np.float64), axis=1)
        places, bands = _by_count(degrees, norms)
        series[name] = places, bands
        ends.append(f"of {name} from {bands[0, 1]:.2f} to {bands[-1, 1]:.2f}")
    return picture(
        "norms",
        "Length of γ",
        "Median, and the middle 80 %. Who has few ratings stays near 0, where a prediction is of α "
        "and biases.",
        f"The median length of γ goes {' and '.join(ends)} as the number of ratings grows.",
        partial(charts.bands, series=series, x="training ratings", y="‖γ‖"),
    )


def map_picture(shown: Landmarks, names: Sequence[str]) -> Picture:
    """Draw the most rated items along the first two axes; `names` are those of `shown.mapped`."""
    sizes = np.linspace(90, 12, len(shown.mapped))
    labels = {int(place): _shortened(names[place]) for place in shown.named()}
    shares = [f"{share:.0%}" for share in shown.shares[:2]]
    return picture(
        "map",
        "Map of the items",
        "The most rated items, larger if rated more, along the two axes that tell them apart best: "
        f"they are {' and '.join(shares)} of all γ_u·γ_i. Near each other are items that the same "
        "users like.",
        f"A map of the {len(shown.mapped)} most rated items on two axes. The table of axes names "
        "the items at their ends.",
        partial(charts.ends, points=shown.places, sizes=sizes, names=labels),
        (SIZE[0], 4.0),
    )._replace(wide=True)


def _course(
    summary: TrainingSummary, field: str, title: str, symbol: str, caption: str, unit: str
) -> Picture:
    courses = [
        [(step["iteration"], step[field]) for step in _ends(restart) if _finite(step[field])]
        for restart in summary.restarts
    ]
    first, last = courses[summary.best][0], courses[summary.best][-1]
    number = len(courses)
    which = "The kept start" if number > 1 else title
    return picture(
        title.lower().replace(" ", "-"),
        title,
        caption,
        f"{which} goes from {first[1]:.4g} at {unit} {first[0]} to {last[1]:.4g} at {unit} "
        f"{last[0]}" + (f", beside {number - 1} others." if number > 1 else "."),
        partial(charts.courses, of_restarts=courses, best=summary.best, x=unit, y=symbol),
    )


def _spread(summary: TrainingSummary) -> Picture:
    validated = all(restart.validation_rmse is not None for restart in summary.restarts)
    values = [
        restart.validation_rmse if restart.validation_rmse is not None else restart.objective
        for restart in summary.restarts
    ]
    finite = [place for place, value in enumerate(values) if np.isfinite(value)]
    shown = [values[place] for place in finite]
    what = "validation RMSE" if validated else "f"
    names = [f"start {summary.restarts[place].restart}" for place in finite]
    return picture(
        "spread",
        "Spread of the starts",
        f"Where each random start ended, by what they are chosen by: {what}.",
        f"{len(shown)} starts ended between {min(shown):.4g} and {max(shown):.4g} in {what}; the "
        "least is kept.",
        partial(
            charts.dots,
            values=shown,
            names=names,
            best=finite.index(summary.best),
            x=what,
        ),
        (SIZE[0], max(1.9, 0.9 + 0.22 * min(30, len(shown)))),
    )


def _ends(restart: RestartSummary) -> list[dict[str, Any]]:
    return [step for step in restart.history if step["side"] != "items"]


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def _padded(limits: NDArray[np.float64]) -> tuple[float, float]:
    least, most = float(limits[0]), float(limits[1])
    pad = 0.02 * (most - least) or 0.5
    return least - pad, most + pad


def _by_count(
    counts: NDArray[np.integer], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentiles of values in bins of counts that grow by half."""
    edges = np.unique(np.ceil(1.5 ** np.arange(0, 40)).astype(np.int64))
    places, bands = [], []
    for low, high in pairwise(edges):
        members = (counts >= low) & (counts < high)
        if members.sum() >= 5:
            places.append(float(np.mean(counts[members])))
            bands.append(np.percentile(values[members], [10, 50, 90]))
    if not places:
        return np.array([float(counts.mean())]), np.percentile(values, [10, 50, 90])[None]
    return np.array(places), np.array(bands)


def _short(number: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _shortened(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"
