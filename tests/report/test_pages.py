"""Pages of runs: what is on them, that they need nothing else, and that everybody can read them."""

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from nonconvex.distributed.data.prepared import Manifest
from nonconvex.estimators.factorization.summary import RestartSummary
from nonconvex.estimators.network.summary import NetworkRestart
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.metrics import BINS, Evaluation, PredictedVsActual, Scores
from nonconvex.pipeline.runs import Run, RunMetadata
from nonconvex.report.charts import Reliability, item_map
from nonconvex.report.factorization import (
    FactorizationPageData,
    extreme_items,
    factorization_page,
    map_picture,
    verdict_of,
)
from nonconvex.report.network import NetworkPageData, _verdict, network_page
from nonconvex.report.page import COLOURS, render
from tests.factories import network_summary, training_summary

METADATA = RunMetadata(
    Run("20261122T103600Z-7e2733", "runs/run_id=20261122T103600Z-7e2733"),
    '[output]\npath = "runs/<films>"\n',
    {"train": 71.2, "evaluate": 3.0},
    versions={"nonconvex": "0.1.0", "Spark": "4.1.0"},
)
TITLE = "Fast & <Furious>"
LISTS = {
    "k": 10, "users": 1200,
    "model": {"ndcgAtK": 0.0712, "recallAtK": 0.08, "precisionAtK": 0.02, "coverageAtK": 0.31},
    "biases": {"ndcgAtK": 0.0345, "recallAtK": 0.04, "precisionAtK": 0.01, "coverageAtK": 0.02},
    "popularity": {"ndcgAtK": 0.08, "recallAtK": 0.1, "precisionAtK": 0.02, "coverageAtK": 0.01},
}  # fmt: skip


def factorization_summary(restarts, sampling=None):
    def restart(number):
        history = [
            {
                "iteration": iteration, "side": side, "objective": 2 + (1 + number / 9) / iteration,
                "alpha": 3.0, "train_rmse": 1 + 1 / iteration, "step_norm": 1.0,
                "validation_rmse": 1.5 + 0.5 / iteration + number / 99 if side == "users" else None,
                "gradient_norm": None, "seconds": 0.1, "tau": 0.5 if sampling else None,
            }
            for iteration in range(1, 7)
            for side in ("items", "users")
        ]  # fmt: skip
        end = history[-1]
        return RestartSummary(
            number, "reached maxIter", 6, end["objective"], end["train_rmse"],
            end["validation_rmse"], history,
        )  # fmt: skip

    return training_summary(
        ratings=5000, total=5000.0, users=60, mean=3.2, deviation=1.1, sampling=sampling,
        restarts=[restart(number) for number in range(restarts)],
    )  # fmt: skip


def factorization_run(restarts=3, **changes):
    rng = np.random.default_rng(4)
    factors = Factors(3.2, rng.normal(size=(60, 4)), rng.normal(size=(40, 4)))
    counts = rng.integers(1, 200, 60), rng.integers(1, 200, 40)

    def scores(ratings):
        rmse = {"model": 0.9, "biases": 1.0}
        return Scores(ratings, rmse, {"model": 0.7, "biases": 0.8}, {"biases": 0.013})

    evaluation = Evaluation(
        scores(500), {name: scores(60) for name in BINS}, {name: scores(99) for name in BINS[2:]}, 7
    )
    manifest = Manifest(
        configuration={}, types={}, mean=3.2, minimum=1.0, maximum=5.0, weight=None,
        fingerprint="f", source={}, users=60, items=40, user_blocks=1, item_blocks=1,
        counts={
            "read": 6000, "accepted": 5900, "rejected": {"null rating": 100, "unused": 0},
            "duplicates": {"rows": 12, "pairs": 6, "conflicting": 3}, "train": 5000,
            "validation": 400, "test": 500,
        },
        unknown={"validation": {"user": 4, "item": 5}, "test": {"user": 6, "item": 8}},
    )  # fmt: skip
    agreed = PredictedVsActual(
        rng.integers(0, 40, (5, 30)), np.arange(0.5, 6), np.linspace(1, 5, 31)
    )
    shown = extreme_items(factors, counts[1])
    run = FactorizationPageData(
        manifest=manifest, summary=factorization_summary(restarts), evaluation=evaluation,
        histogram=agreed, factors=factors, counts=counts, extremes=shown,
        names=lambda: {index: f"{TITLE} {index}" for index in range(40)}, solver="als",
        clipped=True, coverage=(0.9, 0.897), metadata=METADATA, lists=LISTS,
    )  # fmt: skip
    return replace(run, **changes)


def network_run(**changes):
    history = [
        {
            "epoch": epoch, "steps": 9 * epoch, "loss": 1 / epoch, "objective": 1.1 / epoch,
            "learning_rate": 0.01 / epoch, "gradient_norm": 1.0, "validation_loss": 1.2 / epoch,
            "validation_metric": 0.9, "seconds": 0.1,
        }
        for epoch in range(1, 9)
    ]  # fmt: skip
    restarts = [
        NetworkRestart(
            number, "reached maxIter", 8, 0.2, 0.1, 0.95, 0.15 + number / 50, 0.9, history
        )
        for number in range(3)
    ]
    errors = {"accuracy": 0.9, "logLoss": 0.3, "rows": 50, "unpredicted": 2}
    errors["classes"] = [
        {"label": label, "precision": 0.9, "recall": 0.8, "f1": 0.85} for label in ("a", "<b>", "c")
    ]
    errors["confusionMatrix"] = [[20.0, 1.0, 0.0], [0.0, 14.0, 3.0], [0.0, 0.0, 12.0]]
    baseline = errors | {"accuracy": 0.6}
    run = NetworkPageData(
        summary=network_summary(restarts=restarts), source="flowers.csv",
        counts={"train": 300, "validation": 40, "test": 50, "rejected": 3},
        reasons={"a feature is NaN": 3}, comparison={"model": errors, "baseline": baseline},
        calibration=Reliability(np.array([9, 41]), np.array([0.6, 0.95]), np.array([0.5, 0.97])),
        histograms=[], metadata=METADATA,
    )  # fmt: skip
    return replace(run, **changes)


@pytest.fixture(scope="module")
def factorization():
    return factorization_page(factorization_run())


@pytest.fixture(scope="module")
def network():
    return network_page(network_run())


@pytest.fixture(scope="module", params=["factorization", "network"])
def html(request):
    return render(request.getfixturevalue(request.param))


class Reader(HTMLParser):
    """What a browser takes from a page: ids, links to them, open tags, and what figures say."""

    VOID = ("meta", "br", "img", "link", "use", "path", "rect")

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.open, self.images, self.styles = [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        about = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in about:
            self.ids.append(about["id"])
        for name in ("href", "xlink:href"):
            if about.get(name, "").startswith("#"):
                self.links.append(about[name][1:])
        for value in about.values():
            self.links += re.findall(r"url\(#([^)]+)\)", value or "")
        if tag == "svg":
            self.images.append(about)
        self.styles.append(about.get("style") or "")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_a_page_is_whole_and_needs_nothing_else(html):
    page = Reader(html)
    assert page.open == []
    assert not re.search(r"<script|<link|@import|\bsrc=", html)
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", html)
    repeated = [name for name, times in Counter(page.ids).items() if times > 1]
    assert repeated == []
    assert set(page.links) <= set(page.ids)


def test_figures_are_described_and_read_in_light_and_dark(html):
    page = Reader(html)
    assert len(page.images) >= 4
    for image in page.images:
        assert image["role"] == "img"
        assert len(image["aria-label"]) > 30
    drawn = html[html.index("<main>") :]
    used = set(re.findall(r'style="[^"]*(?:fill|stroke): (#[0-9a-f]{6})\b', drawn))
    assert COLOURS["blue"][0] in used
    for colour in used:  # each has a rule that replaces it in the dark
        assert f'[style*="fill: {colour}"] {{fill: #' in drawn
        assert f'[style*="stroke: {colour}"] {{stroke: #' in drawn
    assert "prefers-color-scheme: dark" in html
    assert '<meta name="viewport"' in html


FACTORIZATION = [
    "Run 20261122T103600Z-7e2733", "5,000 ratings of 40 items by 60 users", "10.0% ± 1.3% less",
    "Worth publishing: its test RMSE is 10.0% ± 1.3% less than that of α + biases.</p>",
    "31.0% of items", "Lists of the most popular items are better than those of this model",
    "The best 10 items for 1,200 users", "<td>0.0345</td><td>0.0400</td><td>0.0100</td>", "± 1.60%",
    "Inside the 90% interval", "89.7%", "7 more are left out", "rejected: null rating",
    "pairs with conflicting ratings", "208.33%", "user not in training", "4.1.0", "1 min 11 s",
    "path = &#34;runs/&lt;films&gt;&#34;", "Fast &amp; &lt;Furious&gt; ",
]  # fmt: skip
NETWORK = [
    ">Worth publishing: its test accuracy is 0.9000 against 0.6000", "2 more have no prediction",
    "layers 4–8–3 with 67 parameters", "Test accuracy",
    "Most frequent error: &lt;b&gt; predicted as c, in 3 of 17 rows", "rejected: a feature is NaN",
]  # fmt: skip
PICTURES = (
    "predicted-actual error-by-user error-by-item objective validation-error spread biases norms "
    "map"
)


@pytest.mark.parametrize(
    ("kind", "pictures", "texts"),
    [
        ("factorization", PICTURES, FACTORIZATION),
        ("network", "confusion calibration loss starts spread learning-rate", NETWORK),
    ],
)
def test_what_a_page_shows(request, kind, pictures, texts):
    page = request.getfixturevalue(kind)
    html = render(page)
    assert [picture.name for picture in page.pictures()] == pictures.split()
    assert [text for text in texts if text not in html] == []
    assert "rejected: unused" not in html
    assert "<Furious>" not in html


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out what takes longest, where the words are what is tested."""
    monkeypatch.setattr("nonconvex.report.charts._files", lambda figure: ("<svg></svg>", b""))


@pytest.mark.usefixtures("undrawn")
def test_a_sampled_model_shows_its_chains():
    sampling = {
        "burnIn": 5, "samples": 20, "thinning": 1, "kept": 4,
        "effectiveSize": {"tau": 12.4, "alpha": None, "train_rmse": 8.0},
        "rHat": {"tau": 1.0312, "alpha": None, "train_rmse": 1.2},
    }  # fmt: skip
    page = factorization_page(factorization_run(summary=factorization_summary(2, sampling)))
    html = render(page)
    assert "mean of 40 posterior samples, drawn after 5 burn-in sweeps" in html
    assert re.search(r"τ</th><td>1\.031</td><td>12</td>", html)
    assert re.search(r"α</th><td>–</td><td>–</td>", html)
    assert "spread" not in [picture.name for picture in page.pictures()]


def rows_missing(html, rows):
    return [row for row in rows if f'scope="row">{row}</td></tr>' not in html]


@pytest.mark.usefixtures("undrawn")
def test_drift_is_against_the_run_published_before():
    """Which may have trained something else."""
    before = {"ratings": 4000, "users": 60, "items": 40, "mean": 3.0, "deviation": 1.1}
    before |= {"minimum": 1.0, "maximum": 5.0}
    drift = {
        "train": {"before": 4000, "now": 5000}, "rejected": {"before": 50, "now": 100},
        "unknown user in test": {"before": None, "now": 0.0125},
        "new users": {"before": None, "now": 7},
    }  # fmt: skip
    previous = {"run_id": "20261121T000000Z-000000", "summary": before}
    metadata = replace(METADATA, previous=previous, drift=drift)
    html = render(factorization_page(factorization_run(metadata=metadata)))
    assert "Changes since run 20261121T000000Z-000000" in html
    rows = [
        "training ratings</th><td>5,000</td><td>4,000</td><td>+25.0%",
        "density</th><td>208.33%</td><td>166.67%</td><td>+25.0%",
        "rejected</th><td>100</td><td>50</td><td>+100.0%",
        "unknown user in test</th><td>1.25%</td><td></td><td>",
        "new users</th><td>7</td><td></td><td>",
    ]
    assert rows_missing(html, rows) == []
    assert ">train</th><td>5,000</td><td>4,000" not in html, "told once"
    metadata = replace(METADATA, previous={"run_id": "a", "summary": {"layers": [3, 8, 3]}})
    html = render(factorization_page(factorization_run(metadata=metadata)))
    assert "training ratings</th><td>5,000</td><td></td><td></td>" in html


@pytest.mark.usefixtures("undrawn")
def test_drift_of_a_network_follows_its_shape():
    before = {"layers": [3, 8, 3], "constant_features": 0, "weight": 3e5}
    drift = {"shift of feature 3": {"before": None, "now": 0.031}}
    metadata = replace(METADATA, previous={"run_id": "a", "summary": before}, drift=drift)
    rows = [
        "features</th><td>4</td><td>3</td><td>+33.3%",
        "weight of the training rows</th><td>300</td><td>300,000</td><td>-99.9%",
        "shift of feature 3</th><td>0.031</td><td></td><td>",
    ]
    assert rows_missing(render(network_page(network_run(metadata=metadata))), rows) == []


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_there_is_left_out():
    factors = factorization_run().factors
    flat = Factors(factors.alpha, factors.users[:, :1] * 0, factors.items[:, :1] * 0)
    manifest = factorization_run().manifest
    manifest = replace(manifest, counts=manifest.counts | {"test": 0})
    run = factorization_run(
        1, evaluation=None, histogram=None, coverage=None, factors=flat, extremes=None, names={},
        lists=None, manifest=manifest,
    )  # fmt: skip
    page = factorization_page(run)
    assert [part.title for part in page.parts][:3] == ["Training", "The model", "Data"]
    assert [picture.name for picture in page.pictures()] == ["objective", "validation-error"]
    assert "Test RMSE" not in render(page)
    assert "Not measured: there are no test ratings" in render(page)
    network = network_page(network_run(comparison=None, calibration=None))
    assert [part.title for part in network.parts][:2] == ["Training", "Data"]
    assert network.parts[0].text.endswith(". Gradients on the driver, as was asked for.")


@pytest.mark.parametrize(
    ("rmse", "share", "said"),
    [
        ({"biases": 0.999}, 0.1, "Worth publishing: its test RMSE is 0.39% ± 0.10% less than that"),
        ({"biases": 0.996}, 0.1, "Hardly worth publishing: its test RMSE is 0.09% ± 0.10% less "
         "than that of α + biases, within two standard errors."),
        ({"biases": 1.1, "published": 0.996}, 0.1, "Hardly worth publishing: its test RMSE is "
         "9.54% ± 0.10% less than that of α + biases and 0.09% ± 0.10% less than that of the "
         "published model, within two standard errors of the published model."),
        ({"biases": 0.9}, 0.1, "Not worth publishing: its test RMSE is 10.57% ± 0.10% more than"),
        ({"biases": 1.1, "published": 0.9}, 0.1, "Not worth publishing: its test RMSE is 9.54% ± "
         "0.10% less than that of α + biases and 10.57% ± 0.10% more than that of the published "
         "model."),
        ({"biases": 0.996}, 0.0, "Factors explain 0.0% of the variance of predictions, which is as "
         "good as none: lower regUser and regItem (regParam of ALS), or choose rank 0."),
    ],
)  # fmt: skip
def test_one_sentence_says_whether_a_model_is_worth_publishing(rmse, share, said):
    run = factorization_run()
    scores = Scores(500, {"model": 0.9951, **rmse}, {}, dict.fromkeys(rmse, 0.001))
    summary = replace(run.summary, effective_rank=int(share > 0), factor_share=share)
    data = replace(run, evaluation=Evaluation(scores, {}, {}, 0), summary=summary)
    assert said in verdict_of(data)


def test_implicit_feedback_is_not_judged_by_rmse():
    assert verdict_of(factorization_run(evaluation=None)) == (
        "Not judged by RMSE: feedback is implicit; see Lists."
    )


@pytest.mark.parametrize(
    ("metric", "model", "baseline", "said"),
    [
        ("accuracy", 0.6, 0.9, "Not worth publishing: its test accuracy is 0.6000 against 0.9000"),
        ("rmse", 0.6, 0.9, "Worth publishing: its test RMSE is 0.6000 against 0.9000"),
        ("rmse", 0.9, 0.6, "Not worth publishing: its test RMSE is 0.9000 against 0.6000"),
    ],
)
def test_one_sentence_says_whether_a_network_is_worth_publishing(metric, model, baseline, said):
    classes = {"classes": []} if metric == "accuracy" else {}
    errors = {"model": {metric: model, **classes}, "baseline": {metric: baseline, **classes}}
    assert _verdict(errors) == f"{said} of the best constant prediction."


HOSTILE = (
    "$x", "a $100 for $200", r"$\frac{1}{$", "NUL\x00", "bell\x07\x1b[31m", "\ud800 half", "\ufffe",
    "<script>alert(1)</script>", "]]>&amp;--><!--", "two\nlines\r\x85", '" onload="x', "$$", r"\$",
)  # fmt: skip


def test_a_title_does_not_cost_the_page():
    names = {index: f"{HOSTILE[index % len(HOSTILE)]} {index}" for index in range(40)}
    page = factorization_page(factorization_run(names=lambda: names))
    html = render(page)
    html.encode()
    assert "<script" not in html
    pictures = {picture.name: picture for picture in page.pictures()}
    for picture in pictures.values():
        ElementTree.fromstring(picture.svg)
    drawn = "".join(ElementTree.fromstring(pictures["map"].svg).itertext())
    assert "a $100 for $200" in drawn
    assert "\ufffd half" in drawn
    run = network_run()
    for one, label in zip(run.comparison["model"]["classes"], HOSTILE, strict=False):
        one["label"] = label
    confusion = next(network_page(run).pictures())
    assert "$x" in "".join(ElementTree.fromstring(confusion.svg).itertext())


@pytest.mark.usefixtures("undrawn")
def test_a_page_is_made_without_a_figure_that_cannot_be_drawn(monkeypatch, caplog):
    def fail(*_, **__):
        raise ZeroDivisionError("no room")

    monkeypatch.setattr("nonconvex.report.charts.item_map", fail)
    monkeypatch.setattr("nonconvex.report.factorization._by_count", fail)
    page = factorization_page(factorization_run())
    missing = [picture.title for picture in page.pictures() if not picture.svg]
    assert missing == ["Norm", "Map of the items"]
    assert render(page).count("This figure could not be drawn (ZeroDivisionError)") == 2
    assert "the figure 'Norm' could not be drawn, and the page is without it" in caplog.text


def test_a_name_in_a_crowd_of_points_is_not_on_the_map():
    crowd = np.random.default_rng(3).normal(0, 0.2, (200, 2))
    points = np.vstack([[[0.0, 0.0], [1.0, 1.0], [-1.0, 1.0]], crowd])
    axes = Figure().subplots()
    item_map(axes, points, {0: "lost in the crowd", 1: "apart", 2: "alone"})
    assert [text.get_text() for text in axes.texts] == ["apart", "alone"]


def test_the_same_run_gives_the_same_bytes(factorization):
    run = factorization_run()
    names = [run.names()[index] for index in run.extremes.mapped]
    assert map_picture(run.extremes, names) == list(factorization.pictures())[-1]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to look at the page with")
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_a_browser_shows_all_of_it(factorization, tmp_path, width, dark):
    """Nothing is wider than the window, as on a phone that would have to be scrolled sideways."""
    measure = (
        "<script>addEventListener('load', () => { const root = document.documentElement; "
        "document.title = [root.scrollWidth, innerWidth, "
        "document.querySelectorAll('figure svg').length, "
        "Math.min(...[...document.querySelectorAll('figure svg')].map(s => "
        "s.getBoundingClientRect().height)), "
        "getComputedStyle(document.querySelector('figure svg text')).fill].join(' '); })</script>"
    )
    html = render(factorization).replace("</head>", measure + "</head>")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    frame = (
        f"<iframe id=f src=page.html style='border:0;width:{width}px;height:900px' "
        'onload="document.title=this.contentDocument.title"></iframe>'
    )
    (tmp_path / "frame.html").write_text(f"<body>{frame}</body>", encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile", "--dump-dom",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--disable-background-networking", "--virtual-time-budget=4000",
            f"file://{tmp_path}/frame.html",
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    title = re.search(r"<title>([^<]*)</title>", done.stdout)
    assert title is not None, done.stderr[-2000:]
    scrolled, inside, figures, height = map(float, title[1].split()[:4])
    text = COLOURS["muted"][dark]
    assert f"rgb({int(text[1:3], 16)}, {int(text[3:5], 16)}, {int(text[5:], 16)})" in title[1]
    assert inside == width
    assert scrolled <= width
    assert figures == 9
    assert height > 100


def test_a_map_names_what_lies_farthest_out_however_the_axes_are_scaled():
    rng = np.random.default_rng(5)
    users, items = rng.normal(size=(400, 3)), rng.normal(size=(100, 3)) / 9
    items[:, 0], users[:, 0] = 0, 0  # biases
    items[:, 2] /= 9
    items[97, 1], items[98, 2] = 2.0, 0.3  # far along one axis each, among the least rated
    shown = extreme_items(Factors(3.0, users, items), np.arange(100, 0, -1))
    assert set(shown.mapped[shown.named()[:2]]) == {97, 98}
    assert {97, 98} <= set(shown.items())
    assert len(shown.named()) == 60
    drawn = map_picture(shown, [f"item {index}" for index in shown.mapped])
    assert ">item 97<" in drawn.svg
    assert ">item 98<" in drawn.svg
