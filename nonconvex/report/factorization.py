"""The page of a run that trained a factorization: its data, from Spark, and its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.data.prepared import Manifest, PreparedRatings
from nonconvex.distributed.factorization.evaluate import Baselines, Comparison, rating_counts
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.numerics import Doubles, Ints
from nonconvex.numerics.factorization.explain import principal_axes
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.metrics import Evaluation, PredictedVsActual, Scores
from nonconvex.pipeline.factorization.results import predictor_title
from nonconvex.pipeline.runs import RunMetadata
from nonconvex.recommendation import MatrixFactorizationModel
from nonconvex.report import charts
from nonconvex.report.page import (
    Fact,
    Page,
    Part,
    Picture,
    Table,
    comparison_table,
    format_number,
    run_page,
    table_of_restarts,
    training_facts,
)

_AXES = 5  # in the table of axes
_ENDS = 4  # items at each end of an axis
_KNOWN = 1000  # the most rated items, among which ends are looked for
_MAPPED = 250  # the most rated items, which the map shows
_NAMED = 60  # candidates for a name on the map
_BIAS_BINS = 40
_LONGEST_NAME = 24  # characters, on the map
_LONGEST_TITLE = 200  # in the table of axes


class ExtremeItems(NamedTuple):
    """Items at the ends of the axes and items of the map, as dense indices."""

    shares: Doubles  # (K,): of each axis in all γ_u·γ_i
    low: NDArray[np.intp]  # (axes, e): at one end of the first axes, the farthest out first
    high: NDArray[np.intp]  # (axes, e): at the other
    mapped: NDArray[np.intp]  # (m,): the most rated items, the most rated first
    places: Doubles  # (m, 2): theirs on the first two axes, 0 without a second

    def items(self) -> list[int]:
        """Return all items that may be named, each once."""
        named = [self.low.ravel(), self.high.ravel(), self.mapped[self.named()]]
        return sorted({int(index) for part in named for index in part})

    def named(self) -> NDArray[np.intp]:
        """Return the positions in `mapped` that the map may name, the farthest out first."""
        reach = np.abs(self.places).max(axis=0)
        scaled = self.places / np.where(reach > 0, reach, 1.0)  # as the map is drawn
        return np.argsort(-np.hypot(scaled[:, 0], scaled[:, 1]), kind="stable")[:_NAMED]


@dataclass(frozen=True)
class FactorizationPageData:
    """The data of a page; nothing in it grows with the number of ratings."""

    metadata: RunMetadata
    manifest: Manifest
    summary: TrainingSummary
    evaluation: Evaluation | None  # None without test ratings, as is `histogram`
    lists: Mapping[str, Any] | None  # what `measure_lists` returns
    histogram: PredictedVsActual | None
    coverage: tuple[float, float] | None  # probability of intervals, share of ratings inside
    factors: Factors
    counts: tuple[Ints, Ints]  # ratings of users and of items
    extremes: ExtremeItems | None  # None without factors
    names: Callable[[], Mapping[int, str]]  # waits for those of `extremes.items()`
    solver: str
    clipped: bool


def collect_factorization(
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    measured: Comparison | None,
    baselines: Baselines | None,
    metadata: RunMetadata,
    names: DataFrame | None,
    lists: Mapping[str, Any] | None,
    solver: str,
    pool: Executor,
) -> FactorizationPageData:
    """Collect the data of a page with Spark; `names` has the columns ``id, name`` of items.

    The names that the page needs are looked for in a thread of the pool.
    """
    counts: Any = baselines and baselines.counts
    if baselines is None:
        counts = rating_counts(prepared, "users"), rating_counts(prepared, "items")
    extremes = extreme_items(model.factors, counts[1])
    look = inheritable_thread_target(prepared.spark)(_names)  # in the caller's group of jobs
    coverage = None
    if measured is not None and measured.covered is not None:
        coverage = model.getOrDefault("predictionInterval"), measured.covered
    return FactorizationPageData(
        metadata=metadata,
        manifest=prepared.manifest,
        summary=model.summary,
        evaluation=measured and measured.errors,
        lists=lists,
        histogram=measured and measured.histogram,
        coverage=coverage,
        factors=model.factors,
        counts=counts,
        extremes=extremes,
        names=pool.submit(look, model, extremes, names).result,
        solver=solver,
        clipped=model.getOrDefault("clipPredictions"),
    )


def extreme_items(factors: Factors, counts: Ints) -> ExtremeItems | None:
    """Choose the items to show, given the ratings of each (n_i,); None for a model without factors.

    Ends of axes are chosen among the thousand most rated items, as the factors of items with few
    ratings are mostly chance.
    """
    if factors.items.shape[1] < 2:
        return None
    coordinates, shares = principal_axes(factors.users[:, 1:], factors.items[:, 1:])
    if not shares.any():
        return None
    most = np.argsort(-counts, kind="stable")
    known, mapped = most[:_KNOWN], most[:_MAPPED]
    size = min(_ENDS, max(1, len(known) // 2))
    axes = range(min(_AXES, coordinates.shape[1]))
    order = [known[np.argsort(coordinates[known, axis], kind="stable")] for axis in axes]
    places = np.zeros((len(mapped), 2))
    width = min(2, coordinates.shape[1])
    places[:, :width] = coordinates[mapped, :width]
    low, high = (np.array([one[::step][:size] for one in order]) for step in (1, -1))
    return ExtremeItems(shares, low, high, mapped, places)


def _names(
    model: MatrixFactorizationModel, extremes: ExtremeItems | None, names: DataFrame | None
) -> dict[int, str]:
    """Return the name of each item, or its id if it has none."""
    items = [] if extremes is None else extremes.items()
    ids = [str(one) for one in model._ids.items.take(pa.array(items, pa.int64())).to_pylist()]
    found = {}
    if names is not None and ids:
        wanted = names.where(F.col("id").isin(ids)).collect()
        found = {row.id: row.name for row in wanted if row.name}
    return {
        index: _shortened(found.get(one, one), _LONGEST_TITLE)
        for index, one in zip(items, ids, strict=True)
    }


def factorization_page(data: FactorizationPageData) -> Page:
    """Put a page together."""
    summary = data.summary
    lead = (
        f"A factorization of rank {data.factors.items.shape[1] - 1}, trained by {data.solver} on "
        f"{summary.ratings:,} ratings of {summary.items:,} items by {summary.users:,} users."
    )
    errors = [] if data.evaluation is None else [_errors(data, data.evaluation)]
    lists = [] if data.lists is None else [_lists(data.lists)]
    parts = [*errors, *lists, _training(summary), _model(data), _data(data)]
    return run_page(data.metadata, lead, _facts(data), parts, verdict_of(data))


def verdict_of(data: FactorizationPageData) -> str:
    """Say whether the model is worth publishing: better than its rivals by two standard errors."""
    if data.evaluation is None and data.manifest.counts["test"]:
        return f"Not judged by RMSE: feedback is implicit{'; see Lists' if data.lists else ''}."
    if data.evaluation is None:
        return "Not measured: there are no test ratings that the model could be judged by."
    scores = data.evaluation.overall
    rivals = {"biases": "α + biases", "published": "the published model"}
    found = {name: title for name, title in rivals.items() if name in scores.rmse}
    said = " and ".join(
        f"{_than(scores, name)} than that of {title}" for name, title in found.items()
    )
    saved = {title: _saved(scores, name) for name, title in found.items()}
    close = [title for title, (share, error) in saved.items() if abs(share) <= 2 * error]
    if any(share < -2 * error for share, error in saved.values()):
        verdict = "Not worth"
    elif close:
        verdict = "Hardly worth"
        which = f" of {' and '.join(close)}" if len(found) > 1 else ""
        said += f", within two standard errors{which}"
    else:
        verdict = "Worth"
    factors = "" if data.summary.effective_rank else data.summary.of_factors()
    note = factors and f" {factors}."
    return f"{verdict} publishing: its test RMSE is {said}.{note}"


def _saved(scores: Scores, rival: str) -> tuple[float, float]:
    """Return how much less the RMSE of the model is, as a share, and the standard error of it."""
    other = scores.rmse[rival]
    share = (other - scores.rmse["model"]) / other if other else 0.0
    return share, scores.ratio_error.get(rival, 0.0)


def _than(scores: Scores, rival: str) -> str:
    share, error = _saved(scores, rival)
    digits = 2 if 0 < error < 0.005 else 1
    known = f" ± {error:.{digits}%}" if error else ""
    return f"{abs(share):.{digits}%}{known} {'less' if share >= 0 else 'more'}"


def _lists(lists: Mapping[str, Any]) -> Part:
    k = lists["k"]
    titles = {"ndcgAtK": f"NDCG@{k}", "recallAtK": f"recall@{k}", "precisionAtK": f"precision@{k}"}
    titles["coverageAtK"] = "coverage of the catalogue"
    text = (
        f"The best {k} items for {lists['users']:,} users with test ratings, without what they had "
        "rated before. Every item that a user rated in the test is relevant, whatever the rating. "
        "Coverage is the share of all items that are in any list."
    )
    if "biases" in lists and lists["popularity"]["ndcgAtK"] > lists["model"]["ndcgAtK"]:
        text += (
            " Lists of the most popular items are better than those of this model, which predicts "
            "ratings, not choices: for lists, train a second model, with implicitPrefs = true."
        )
    rows = [
        [predictor_title(name), *(format_number(of[metric]) for metric in titles)]
        for name, of in lists.items()
        if isinstance(of, Mapping)
    ]
    return Part("Lists", text, [], [Table(f"Lists of {k}", ["", *titles.values()], rows)])


def _facts(data: FactorizationPageData) -> list[Fact]:
    summary, facts = data.summary, []
    if data.evaluation is not None:
        overall = data.evaluation.overall
        change = f"{_than(overall, 'biases')} than α + biases"
        facts += [
            Fact("Test RMSE", f"{overall.rmse['model']:.4f}", change),
            Fact("Test MAE", f"{overall.mae['model']:.4f}", f"{overall.ratings:,} test ratings"),
        ]
    if data.lists is not None:
        k, of = data.lists["k"], data.lists["model"]
        facts.append(
            Fact(f"NDCG@{k}", f"{of['ndcgAtK']:.4f}", f"{of['coverageAtK']:.1%} of items listed")
        )
    validation = summary.restarts[summary.best].validation_rmse
    if validation is not None:
        facts.append(Fact("Validation RMSE", f"{validation:.4f}"))
    if data.coverage is not None:
        level, share = data.coverage
        facts.append(Fact(f"Inside the {level:.0%} interval", f"{share:.1%}", "of test ratings"))
    if summary.sampling is not None:
        return [*facts, *training_facts(summary, "sweeps", "chains")]
    return [*facts, *training_facts(summary, "iterations", "restarts")]


def _errors(data: FactorizationPageData, evaluation: Evaluation) -> Part:
    overall = evaluation.overall
    model = overall.rmse["model"]
    rows = [
        [
            predictor_title(name),
            f"{rmse:.4f}",
            f"{overall.mae[name]:.4f}",
            f"{(rmse - model) / model:+.1%}" if name != "model" and model else "",
            # of the inverse ratio
            f"± {overall.ratio_error[name] * (rmse / model) ** 2:.2%}"
            if name in overall.ratio_error
            else "",
        ]
        for name, rmse in overall.rmse.items()
    ]
    clipping = "clipped to the range of the training ratings" if data.clipped else "not clipped"
    text = f"Measured on {overall.ratings:,} test ratings. Predictions are {clipping}."
    if evaluation.unpredicted:
        text += f" {evaluation.unpredicted:,} more are left out because they have no prediction."
    pictures = []
    if data.histogram is not None:
        alt = f"Histogram of predicted against actual ratings. {_correlation(data.histogram)}"
        name, title = "predicted-actual", "Predicted against actual"
        pictures.append(charts.histogram_picture(name, title, "rating", alt, data.histogram))
    for side, scores in (("user", evaluation.by_user), ("item", evaluation.by_item)):
        if scores:
            pictures.append(_count_picture(side, scores))
    header = ["", "RMSE", "MAE", "RMSE relative to the model", "standard error"]
    return Part("Errors", text, pictures, [Table("Model and baselines", header, rows)])


def _training(summary: TrainingSummary) -> Part:
    columns = {
        "iteration": ("iteration", "d"),
        "f": ("objective", ".6f"),
        "training RMSE": ("train_rmse", ".4f"),
        "validation RMSE": ("validation_rmse", ".4f"),
    }
    pictures, sampling = _training_pictures(summary), summary.sampling
    if sampling is None:
        best = summary.restarts[summary.best]
        text = f"The model is iteration {best.iteration} of restart {best.restart} ({best.stop})."
        table = table_of_restarts(summary.restarts, summary.best, columns)
        return Part("Training", text, pictures, [table])
    text = (
        f"The prediction is the mean of {sampling['samples'] * len(summary.restarts):,} posterior "
        f"samples, drawn after {sampling['burnIn']} burn-in sweeps. R̂ near 1 means that the "
        "chains, or the two halves of one chain, agree. The effective sample size is the number of "
        "independent draws that would tell as much."
    )
    r_hat, size = sampling["rHat"], sampling["effectiveSize"]
    rows = [
        [symbol, format_number(r_hat[name], ".3f"), format_number(size[name], ".0f")]
        for name, symbol in (("tau", "τ"), ("alpha", "α"), ("train_rmse", "training RMSE"))
    ]
    header = ["", "R̂", "effective sample size"]
    return Part("Training", text, pictures, [Table("Convergence of the chains", header, rows)])


def _model(data: FactorizationPageData) -> Part:
    """Show biases, lengths of factors, and the items at the ends of the axes."""
    factors, shown, pictures = data.factors, data.extremes, []
    if factors.users[:, 0].any() or factors.items[:, 0].any():
        pictures.append(_bias_picture(factors))
    text = f"α is {factors.alpha:.4f}."
    if shown is None:
        return Part("The model", f"{text} The model has no factors.", pictures)
    factors_share = data.summary.of_factors()
    text += (
        f" {factors_share}{'.' if factors_share else ''}"
        " A single factor has no meaning, because factors can be rotated. The axes below come from "
        "the singular value decomposition of all γ_u·γ_i, the strongest first. The items at their "
        f"ends are chosen among the {_KNOWN:,} most rated ones."
    )
    names = data.names()
    named = [names.get(int(index), "") for index in shown.mapped]
    pictures += [_norm_picture(factors, data.counts), map_picture(shown, named)]
    rows = [
        [f"{axis} ({share:.0%})", *(" · ".join(names[int(index)] for index in end) for end in ends)]
        for axis, (share, *ends) in enumerate(
            zip(shown.shares, shown.low, shown.high, strict=False), start=1
        )
    ]
    header = ["axis (share)", "one end", "other end"]
    axes = Table("Items at the ends of the axes", header, rows, words=True)
    return Part("The model", text, pictures, [axes])


def _data(data: FactorizationPageData) -> Part:
    counts, manifest = data.manifest.counts, data.manifest
    rows = {
        "read": counts["read"],
        "accepted": counts["accepted"],
        **{f"rejected: {why}": rows for why, rows in counts["rejected"].items() if rows},
        "repeats of a (user, item) pair": counts["duplicates"]["rows"],
        "pairs with conflicting ratings": counts["duplicates"]["conflicting"],
        **{part: counts[part] for part in ("train", "validation", "test")},
    }
    tables = [Table("Ratings", ["", "rows"], [[name, f"{n:,}"] for name, n in rows.items()])]
    tables.append(_training_data(data))
    cold = [
        [part, f"{counts[part]:,}", f"{unknown['user']:,}", f"{unknown['item']:,}"]
        for part, unknown in manifest.unknown.items()
        if counts[part]
    ]
    if cold:
        header = ["part", "ratings", "user not in training", "item not in training"]
        tables.append(Table("Ratings of unknown users and items", header, cold))
    return Part("Data", "", [], tables)


def _training_data(data: FactorizationPageData) -> Table:
    fields = {
        "training ratings": "ratings",
        "users": "users",
        "items": "items",
        "density": "density",
        "mean rating": "mean",
        "standard deviation": "deviation",
        "lowest rating": "minimum",
        "highest rating": "maximum",
    }
    now, before = dict(vars(data.summary)), dict(data.metadata.previous.get("summary", {}))
    for one in (now, before):
        if "ratings" in one:
            one["density"] = one["ratings"] / (one["users"] * one["items"])
    figures = {name: (now[field], before.get(field)) for name, field in fields.items()}
    known = ("train", "users", "items", "mean", "minimum", "maximum")
    return comparison_table(data.metadata, figures, known)


def _training_pictures(summary: TrainingSummary) -> list[Picture]:
    """Draw the course of every restart, and how far apart they ended."""
    restarts, best = summary.restarts, summary.best
    kept = restarts[best].iteration
    steps = [[step for step in one.history if step["side"] != "items"] for one in restarts]
    validated = any(step["validation_rmse"] is not None for step in steps[best])
    if summary.sampling is not None:
        unit, front = "sweep", f"chain {restarts[best].restart}"
        caption = "Drawn in each sweep. A chain has converged where τ no longer drifts."
        first = ("tau", "precision-of-ratings", "Precision of ratings", "τ", caption)
        caption = "On the validation ratings, of the mean of all samples so far."
    else:
        unit, front = "iteration", "kept restart"
        caption = "The function f that training minimizes, at the end of each iteration."
        first = ("objective", "objective", "Objective", "f", caption)
        caption = "On the validation ratings, which training does not see."
    if validated:
        second = ("validation_rmse", "validation-error", "Validation error", "RMSE", caption)
    else:
        caption = "On the training ratings."
        second = ("train_rmse", "training-error", "Training error", "RMSE", caption)
    pictures = []
    for field, name, title, y, caption in (first, second):
        curves = [
            [(step["iteration"], step[field]) for step in history if step[field] is not None]
            for history in steps
        ]
        pictures.append(
            charts.curves_picture(name, title, caption, curves, best, unit, y, front=front, at=kept)
        )
    if restarts[1:] and summary.sampling is None:
        by_f = restarts[best].validation_rmse is None
        field, what = ("objective", "f") if by_f else ("validation_rmse", "validation RMSE")
        values = [getattr(one, field) for one in restarts]
        pictures.append(charts.spread_picture(restarts, values, best, what))
    return pictures


@charts.drawn
def _count_picture(side: str, scores: Mapping[str, Scores]) -> Picture:
    """Draw the test error by the number of training ratings of the user or the item."""
    model = [one.rmse["model"] for one in scores.values()]
    biases = [one.rmse["biases"] for one in scores.values()]
    series = {"model": model, "α + biases": biases}
    ticks = [f"{label}\n{_short(one.ratings)}" for label, one in scores.items()]
    first, *_, last = [*scores, *scores]
    return charts.picture(
        f"error-by-{side}",
        f"Error by ratings of the {side}",
        f"Upper labels: training ratings of the {side}. Lower labels: test ratings in that group.",
        f"Test RMSE of the model is {model[0]:.3f} for {side}s with {first} training ratings and "
        f"{model[-1]:.3f} for those with {last}; α + biases has {biases[0]:.3f} and "
        f"{biases[-1]:.3f}.",
        partial(charts.bins, series=series, ticks=ticks, y="test RMSE"),
    )


@charts.drawn
def _bias_picture(factors: Factors) -> Picture:
    sides = {"users": factors.users[:, 0], "items": factors.items[:, 0]}
    values = np.concatenate([*sides.values()]).astype(np.float64)
    least, most = np.quantile(values, [0.002, 0.998])
    pad = 0.02 * (most - least) or 0.5
    edges = np.linspace(least - pad, most + pad, _BIAS_BINS + 1)
    clipped = {name: np.clip(side, edges[0], edges[-1]) for name, side in sides.items()}
    counts = {name: np.histogram(side, edges)[0] for name, side in clipped.items()}
    spreads = " and ".join(f"{np.std(side):.2f} for {name}" for name, side in sides.items())
    return charts.picture(
        "biases",
        "Biases",
        "How far the ratings of each user and each item lie above or below α.",
        f"Histograms of biases around 0. Their standard deviations are {spreads}.",
        partial(charts.densities, series=counts, edges=edges, x="bias β"),
    )


@charts.drawn
def _norm_picture(factors: Factors, counts: Sequence[Ints]) -> Picture:
    """Draw the length of γ by the number of ratings of a user or an item."""
    series, ends = {}, []
    for name, rows, degrees in zip(("users", "items"), factors[1:], counts, strict=True):
        norms = np.linalg.norm(rows[:, 1:].astype(np.float64), axis=1)
        series[name] = _by_count(degrees, norms)
        medians = series[name][1][:, 1]
        ends.append(f"of {name} from {medians[0]:.2f} to {medians[-1]:.2f}")
    return charts.picture(
        "norms",
        "Length of the factors",
        "Median, and the middle 80 %. Factors of users and items with few ratings stay near 0; "
        "their predictions are mostly α + biases.",
        f"The median length of γ goes {' and '.join(ends)} as the number of ratings grows.",
        partial(charts.bands, series=series, x="training ratings", y="‖γ‖"),
    )


@charts.drawn
def map_picture(shown: ExtremeItems, names: Sequence[str]) -> Picture:
    """Draw the most rated items on the first two axes; `names` are those of `shown.mapped`."""
    labels = {int(place): _shortened(names[place]) for place in shown.named()}
    shares = " and ".join(f"{share:.0%}" for share in shown.shares[:2])
    return charts.picture(
        "map",
        "Map of the items",
        "The most rated items on the two strongest axes, which make up "
        f"{shares} of all γ_u·γ_i. Larger dots have more ratings. Items close together appeal to "
        "the same users.",
        f"A map of the {len(shown.mapped)} most rated items on two axes. The table of axes names "
        "the items at their ends.",
        partial(charts.item_map, points=shown.places, names=labels),
        (charts.SIZE[0], 3.7),
    )._replace(wide=True)


def _correlation(histogram: PredictedVsActual) -> str:
    """Describe the correlation of predicted and actual values, from their histogram."""
    x = (histogram.predicted[1:] + histogram.predicted[:-1]) / 2
    y = (histogram.actual[1:] + histogram.actual[:-1]) / 2
    total = histogram.counts.sum()
    if not total:
        return ""
    p = histogram.counts / total
    x, y = x - p.sum(axis=0) @ x, y - p.sum(axis=1) @ y
    spread = np.sqrt((p.sum(axis=0) @ x**2) * (p.sum(axis=1) @ y**2))
    return f"Their correlation is {y @ p @ x / spread:.2f}." if spread else ""


def _by_count(counts: Ints, values: Doubles) -> tuple[Doubles, Doubles]:
    """Return mean counts (b,) and percentiles of values (b, 3), in bins that grow by half."""
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


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _shortened(name: str, most: int = _LONGEST_NAME) -> str:
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"
