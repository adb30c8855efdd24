"""The page of a run that trained a factorization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nonconvex.distributed.calibration import Agreement
from nonconvex.distributed.data.prepared import Manifest
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.metrics import Evaluation
from nonconvex.reporting.circumstances import Circumstances, parts_of_every_run, seconds
from nonconvex.reporting.factorization_pictures import (
    agreement_picture,
    bias_picture,
    count_pictures,
    course_pictures,
    map_picture,
    norm_picture,
)
from nonconvex.reporting.landmarks import Landmarks
from nonconvex.reporting.page import Fact, Page, Part, Table

__all__ = ["FactorizationRun", "factorization_page"]

_PREDICTORS = {"biases": "α + biases"}


@dataclass(frozen=True)
class FactorizationRun:
    """What a page shows of a run; nothing in it grows with the ratings.

    Parameters
    ----------
    manifest : Manifest
        Of the prepared ratings.
    summary : TrainingSummary
    evaluation : Evaluation or None
        On the test ratings, None if there are none.
    agreement : Agreement or None
        Likewise.
    factors : Factors
    counts : (int array, int array)
        Training ratings of each user, and of each item.
    landmarks : Landmarks or None
        None for a model without factors.
    names : mapping of int to str
        What to call items, by dense index: all of `Landmarks.items`.
    solver : str
    clipped : bool
        Whether predictions were clipped.
    coverage : (float, float) or None
        The probability of prediction intervals, and the share of test ratings within theirs.
    circumstances : Circumstances
    """

    manifest: Manifest
    summary: TrainingSummary
    evaluation: Evaluation | None
    agreement: Agreement | None
    factors: Factors
    counts: tuple[NDArray[np.integer], NDArray[np.integer]]
    landmarks: Landmarks | None
    names: Mapping[int, str]
    solver: str
    clipped: bool
    coverage: tuple[float, float] | None
    circumstances: Circumstances


def factorization_page(run: FactorizationRun) -> Page:
    """Put a page together.

    Examples
    --------
    >>> from nonconvex.factorization_report import gather
    >>> about = Circumstances("a", "", {"nonconvex": "1.0"}, {"train": 2.5}, None)
    >>> page = factorization_page(gather(model, prepared, None, about, None, "als"))
    >>> page.lead
    'A factorization of rank 2, by als, of 490 ratings by 40 users of 20 items.'
    >>> [part.title for part in page.parts]
    ['Training', 'The model', 'Data', 'Configuration', 'Versions and times']
    """
    summary = run.summary
    rank = run.factors.items.shape[1] - 1
    lead = (
        f"A factorization of rank {rank}, by {run.solver}, of {summary.ratings:,} ratings by "
        f"{summary.users:,} users of {summary.items:,} items."
    )
    parts = [
        *([_errors(run)] if run.evaluation is not None else []),
        _training(summary),
        _inside(run),
        _data(run),
        *parts_of_every_run(run.circumstances),
    ]
    return Page(
        f"Run {run.circumstances.run_id}", lead, _facts(run), parts, run.circumstances.footer()
    )


def _facts(run: FactorizationRun) -> list[Fact]:
    summary, facts = run.summary, []
    if run.evaluation is not None:
        overall = run.evaluation.overall
        model, biases = overall.rmse["model"], overall.rmse["biases"]
        facts += [
            Fact("Test RMSE", f"{model:.4f}", f"{_change(model, biases)} than α + biases"),
            Fact("Test MAE", f"{overall.mae['model']:.4f}", f"{overall.ratings:,} test ratings"),
        ]
    validation = summary.restarts[summary.best].validation_rmse
    if validation is not None:
        facts.append(Fact("Validation RMSE", f"{validation:.4f}"))
    if run.coverage is not None:
        level, share = run.coverage
        facts.append(Fact(f"In their {level:.0%} interval", f"{share:.1%}", "of test ratings"))
    restart = summary.restarts[summary.best]
    if summary.sampling is None:
        facts.append(
            Fact("Objective f", f"{summary.objective:.4f}", restart.stop.partition(":")[0])
        )
    starts = len(summary.restarts)
    noun = "sweeps" if summary.sampling is not None else "iterations"
    several = "chains" if summary.sampling is not None else "starts"
    facts.append(
        Fact(
            "Training took",
            seconds(summary.seconds),
            f"{summary.totalIterations} {noun}" + (f" of {starts} {several}" if starts > 1 else ""),
        )
    )
    return facts


def _errors(run: FactorizationRun) -> Part:
    evaluation = run.evaluation
    assert evaluation is not None
    overall = evaluation.overall
    rows = [
        [_title(name), f"{rmse:.4f}", f"{overall.mae[name]:.4f}", _against(rmse, overall.rmse)]
        for name, rmse in overall.rmse.items()
    ]
    text = f"On {overall.ratings:,} test ratings, predictions "
    text += "clipped to the range of training." if run.clipped else "not clipped."
    if evaluation.unpredicted:
        text += f" {evaluation.unpredicted:,} more are left out, which the model cannot predict."
    pictures = count_pictures([("user", evaluation.by_user), ("item", evaluation.by_item)])
    if run.agreement is not None:
        pictures.insert(0, agreement_picture(run.agreement, _correlation(run.agreement)))
    table = Table("Model and baselines", ["", "RMSE", "MAE", "RMSE, against the model"], rows)
    return Part("Errors", text, pictures, [table])


def _training(summary: TrainingSummary) -> Part:
    sampling = summary.sampling
    if sampling is not None:
        samples = sampling["samples"] * len(summary.restarts)
        text = (
            f"The prediction is the mean of {samples:,} samples, drawn after {sampling['burnIn']} "
            "sweeps that are forgotten. R̂ near 1 says that chains, or the halves of one, agree; "
            "effective samples tell as much as so many independent draws would."
        )
        symbols = {"tau": "τ", "alpha": "α", "train_rmse": "training RMSE"}
        chains = [
            [
                symbol,
                _number(sampling["rHat"][name], 3),
                _number(sampling["effectiveSize"][name], 0),
            ]
            for name, symbol in symbols.items()
        ]
        tables = [Table("Convergence of the chains", ["", "R̂", "effective samples"], chains)]
        return Part("Training", text, course_pictures(summary), tables)
    best = summary.restarts[summary.best]
    text = f"Training of the kept start ended at iteration {best.iteration} ({best.stop})."
    rows = [
        [
            f"{restart.restart}{' (kept)' if place == summary.best else ''}",
            f"{restart.iteration}",
            f"{restart.objective:.6f}",
            f"{restart.train_rmse:.4f}",
            _number(restart.validation_rmse, 4),
            restart.stop.partition(":")[0],
        ]
        for place, restart in enumerate(summary.restarts)
    ]
    header = ["start", "iteration", "f", "training RMSE", "validation RMSE", "stopped"]
    return Part("Training", text, course_pictures(summary), [Table("Random starts", header, rows)])


def _inside(run: FactorizationRun) -> Part:
    """Show biases, norms, and the items that axes tell apart."""
    shown = run.landmarks
    pictures = []
    if run.factors.users[:, 0].any() or run.factors.items[:, 0].any():
        pictures.append(bias_picture(run.factors))
    text = f"α is {run.factors.alpha:.4f}."
    if shown is None:
        return Part("The model", text + " It has no factors.", pictures)
    pictures.append(norm_picture(run.factors, run.counts))
    text += (
        " Single factors mean nothing, as they can be rotated; the axes below are those of the "
        "singular value decomposition of all γ_u·γ_i, the greatest first. Items are named that lie "
        "farthest out among the most rated."
    )
    names = [run.names.get(int(index), "") for index in shown.mapped]
    rows = [
        [
            f"{number + 1} ({shown.shares[number]:.0%})",
            " · ".join(run.names[int(index)] for index in low),
            " · ".join(run.names[int(index)] for index in high),
        ]
        for number, (low, high) in enumerate(zip(shown.low, shown.high, strict=True))
    ]
    axes = Table(
        "Items at the ends of the axes", ["axis (share)", "one end", "other end"], rows, words=True
    )
    pictures.append(map_picture(shown, names))
    return Part("The model", text, pictures, [axes])


def _data(run: FactorizationRun) -> Part:
    manifest, summary = run.manifest, run.summary
    counts = manifest.counts
    density = summary.ratings / (summary.users * summary.items)
    intake = [
        ["read", f"{counts['read']:,}"],
        ["accepted", f"{counts['accepted']:,}"],
        *(
            [f"rejected: {reason}", f"{rows:,}"]
            for reason, rows in counts["rejected"].items()
            if rows
        ),
        ["beyond the first of a pair", f"{counts['duplicates']['rows']:,}"],
        ["conflicting pairs", f"{counts['duplicates']['conflicting']:,}"],
        *([part, f"{counts[part]:,}"] for part in ("train", "validation", "test")),
    ]
    cold = [
        [part, f"{counts[part]:,}", f"{unknown['user']:,}", f"{unknown['item']:,}"]
        for part, unknown in manifest.unknown.items()
        if counts[part]
    ]
    tables = [Table("Ratings", ["", "rows"], intake), _shape(run, density)]
    if cold:
        header = ["part", "ratings", "user not in training", "item not in training"]
        tables.append(Table("Cold ids", header, cold))
    return Part("Data", "", [], tables)


def _shape(run: FactorizationRun, density: float) -> Table:
    """Show what the data are like, beside those of the run published before."""
    summary = run.summary
    now = {
        "training ratings": summary.ratings,
        "users": summary.users,
        "items": summary.items,
        "density": density,
        "mean rating": summary.mean,
        "standard deviation": summary.deviation,
        "least": summary.minimum,
        "greatest": summary.maximum,
    }
    before = (run.circumstances.previous or {}).get("summary") or {}
    fields = ("ratings", "users", "items", None, "mean", "deviation", "minimum", "maximum")
    rows = []
    for (name, value), key in zip(now.items(), fields, strict=True):
        row = [name, _figure(value)]
        if before:
            old = (
                before["ratings"] / (before["users"] * before["items"])
                if key is None
                else before[key]
            )
            row += [_figure(old), f"{(value - old) / old:+.1%}" if old else ""]
        rows.append(row)
    if not before:
        return Table("What was trained on", ["", "this run"], rows)
    caption = f"Drift since {(run.circumstances.previous or {}).get('run_id')}"
    return Table(caption, ["", "this run", "before", "change"], rows)


def _correlation(agreed: Agreement) -> str:
    """Say how predictions and actual values go together, from the tiles."""
    x = (agreed.predicted[1:] + agreed.predicted[:-1]) / 2
    y = (agreed.actual[1:] + agreed.actual[:-1]) / 2
    total = agreed.counts.sum()
    if not total:
        return ""
    p = agreed.counts / total
    mean_x, mean_y = p.sum(axis=0) @ x, p.sum(axis=1) @ y
    spread = np.sqrt((p.sum(axis=0) @ (x - mean_x) ** 2) * (p.sum(axis=1) @ (y - mean_y) ** 2))
    if not spread:
        return ""
    return f"Their correlation is {(y - mean_y) @ p @ (x - mean_x) / spread:.2f}."


def _title(predictor: str) -> str:
    return _PREDICTORS.get(predictor, predictor.replace("_", " "))


def _change(model: float, other: float) -> str:
    share = (other - model) / other if other else 0.0
    return f"{abs(share):.1%} {'less' if share >= 0 else 'more'}"


def _against(value: float, all_of: Mapping[str, float]) -> str:
    model = all_of["model"]
    return "" if value == model else f"{(value - model) / model:+.1%}"


def _number(value: Any, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _figure(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2%}" if 0 < value < 0.05 else f"{value:.4g}"
