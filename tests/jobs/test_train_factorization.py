"""The job from raw ratings to a published model, run in this process."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from nonconvex import recommendation
from nonconvex.commands import factorization
from nonconvex.distributed.data.prepared import PreparedRatings, seen_pairs
from nonconvex.distributed.files import FileSystemError
from nonconvex.distributed.runtime import counted_jobs
from nonconvex.pipeline.config import ConfigError, load
from nonconvex.pipeline.factorization.config import FactorizationConfig
from nonconvex.pipeline.runs import POINTER, find_model
from nonconvex.recommendation import MatrixFactorizationModel

CONFIG = """
ratings = {{ path = "{root}/ratings.csv", user = "who" }}
split = {{ validation = 0.15, test = 0.25 }}
prepared.path = "{root}/prepared"
output.path = "{root}/runs"
report.names = "{root}/titles.csv"
factorization = {{rank = 1, maxIter = 2, numRestarts = 2, ensemble = true, clipPredictions = true}}
"""
ALONE = "factorization.numRestarts=1", "factorization.ensemble=false"
SAMPLED = """
prepared.path = "{root}/prepared"
output.path = "{tmp_path}/runs"
[factorization]
solver = "gibbs"
rank = 1
numBurnIn = 1
numSamples = 4
numKept = 2
predictionStdCol = "std"
predictionIntervalCol = "interval"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    rows = [f"u{u},{i},{1 + (u * i + u) % 5}" for u in range(12) for i in range(9) if (u + i) % 4]
    (root / "ratings.csv").write_text("\n".join(["who,item,rating", *rows, ""]))
    titles = [f"{item},Film <{item}>" for item in range(1, 9)]  # one is missing
    (root / "titles.csv").write_text("\n".join(["item,title", *titles, ""]))
    (root / "config.toml").write_text(CONFIG.format(root=root))
    return root


@pytest.fixture(scope="module")
def train(run_job, root):
    """Run the job, without the page, which takes as long as the rest, where it is not tested."""

    def train(*overrides, config=root / "config.toml", report=False):
        overrides += () if report else ("report.write=false",)
        return run_job(factorization.train_job, FactorizationConfig, config, *overrides)

    return train


@pytest.fixture(scope="module")
def first(train):
    """The first run, which the others come after."""
    status, printed, outcome, log = train(report=True)
    assert status == 0, outcome
    return printed, outcome, log


def run_directory(outcome):
    return Path(outcome["model"]).parent


def digest(directory):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def entries(directory):
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def test_what_is_printed(first):
    printed, outcome, log = first
    text = "\n".join(printed)
    number = r" +\d+\.\d+"
    assert re.match(r"[\d,]+ users, [\d,]+ items, [\d,]+ ratings: trained in ", printed[0])
    assert re.fullmatch(r"restart +iteration +f +train RMSE +validation RMSE +stopped", printed[1])
    assert sum(line.startswith(("0 ", "1 ")) for line in printed) == 2
    assert sum(line.startswith(("0 * ", "1 * ")) for line in printed) == 1
    for title in ("model", "best start", "α \\+ biases", "user mean", "global mean"):
        assert re.search(rf"^{title}{number}{number}$", text, re.MULTILINE)
    rmse = outcome["metrics"]["rmse"]["model"]
    assert re.search(rf"^model +{rmse:.4f} ", text, re.MULTILINE)
    assert "test ratings, predictions clipped to the range of training" in text
    assert printed[-2:] == [f"model: {outcome['model']}", f"report: {outcome['report']}"]
    assert len(re.findall(r"restart \d  iteration   \d  f .* validation RMSE", log)) == 4
    assert "Traceback" not in log


def test_a_sampled_model_is_trained_and_published(train, root, first, tmp_path, monkeypatch):
    del first  # which has prepared the ratings
    monkeypatch.setattr("nonconvex.report.charts._files", lambda figure: ("<svg></svg>", b""))
    config = tmp_path / "gibbs.toml"
    config.write_text(SAMPLED.format(root=root, tmp_path=tmp_path))
    status, printed, outcome, log = train(config=config, report=True)
    assert status == 0, outcome
    assert re.match(r"chain +sweeps +τ +train RMSE +validation RMSE of the mean", printed[1])
    assert outcome["iterations"] == 5
    assert outcome["metrics"]["rmse"].keys() == {"model", "biases", "user_mean", "global_mean"}
    assert len(re.findall(r"chain 0  sweep   \d  τ .* train RMSE", log)) == 5
    assert MatrixFactorizationModel.load(outcome["model"]).getPredictionStdCol() == "std"
    assert "Inside the 90% interval" in Path(outcome["report"]).read_text()


def test_what_a_run_leaves(first, root, spark):
    _, outcome, _ = first
    directory = run_directory(outcome)
    assert directory == root / "runs" / f"run_id={outcome['run_id']}"
    left = {"model", "config.toml", "metrics.json", "report.html", "figures"}
    assert left <= entries(directory)
    assert outcome["model"] == find_model(spark, str(root / "runs"))
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["run_id"] == outcome["run_id"]
    assert metrics["evaluation"]["overall"] == outcome["metrics"]
    assert metrics["evaluation"]["by_user"].keys() <= {"1–2", "3–5", "6–10"}
    assert [restart["restart"] for restart in metrics["summary"]["restarts"]] == [0, 1]
    manifest = json.loads((root / "prepared" / "manifest.json").read_text())
    assert metrics["prepared"]["fingerprint"] == manifest["fingerprint"]
    assert outcome["metrics"]["ratings"] == manifest["counts"]["test"] > 0
    model = MatrixFactorizationModel.load(outcome["model"])
    assert model.rank == 2, "an ensemble of two starts of rank 1"
    assert model.summary.objective == outcome["objective"]
    assert model.userFactors.schema["id"].dataType.simpleString() == "string"


def test_lists_of_the_test_ratings(first, root, spark):
    _, outcome, _ = first
    prepared = PreparedRatings.open(spark, f"{root}/prepared")
    model = MatrixFactorizationModel.load(outcome["model"])
    seen = seen_pairs(prepared, ("train", "validation"), "user", "item")
    told = model.copy({model.coldStartStrategy: "bias"}).evaluate(prepared.test, k=10, exclude=seen)
    lists = json.loads((run_directory(outcome) / "metrics.json").read_text())["lists"]
    assert lists == outcome["lists"]
    assert (lists["k"], lists["users"]) == (10, told["users"])
    assert lists["model"] == {key: told[key] for key in lists["model"]}
    assert lists["biases"].keys() == lists["model"].keys()


def test_a_training_job_takes_few_spark_jobs(train, tmp_path, spark):
    """Those of reading, preparing and measuring; on files of this machine, training takes none."""
    with counted_jobs(spark) as jobs:
        train(f"output.path={tmp_path}/runs", f"prepared.path={tmp_path}/prepared", *ALONE)
        assert jobs() == 5


def test_the_page_names_items_and_has_its_figures_as_files(first):
    _, outcome, _ = first
    page = Path(outcome["report"])
    assert page == run_directory(outcome) / "report.html"
    html = page.read_text()
    for text in ("Film &lt;1&gt;", outcome["run_id"], f"{outcome['metrics']['rmse']['model']:.4f}"):
        assert text in html
    for name in ("objective", "predicted-actual", "error-by-user", "map", "spread"):
        assert (page.parent / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG\r\n")
        assert "<svg" in (page.parent / f"figures/{name}.svg").read_text()


def test_the_resolved_configuration_loads_back(first, root):
    _, outcome, _ = first
    given = load(FactorizationConfig, root / "config.toml")
    resolved = load(FactorizationConfig, run_directory(outcome) / "config.toml")
    assert resolved == given.resolved()
    assert resolved.factorization["rank"] == 1
    assert resolved.factorization["tol"] == 1e-4  # a default
    assert "regUser" not in resolved.factorization  # a rule, whose outcome is in the metrics
    assert not resolved.estimator().isSet("confidence")


@pytest.fixture
def unevaluated(monkeypatch):
    """Leave out what takes longest, where it is not what is tested."""
    monkeypatch.setattr(factorization, "compare_trained", lambda *arguments: None)


@pytest.mark.usefixtures("unevaluated")
def test_the_next_run_is_published_and_the_earlier_one_stays(
    train, first, root, spark, monkeypatch
):
    """Also where its page cannot be made."""
    _, before, _ = first
    kept = digest(run_directory(before))
    prepared = digest(root / "prepared")
    monkeypatch.setattr("nonconvex.report.factorization.extreme_items", lambda *about: 1 / 0)
    status, printed, outcome, log = train(
        *("factorization.seed=7", *ALONE), config=run_directory(before) / "config.toml", report=True
    )
    assert status == 0
    assert outcome["report"] is None
    assert "the report could not be written, and the run goes on without it" in log
    assert "restart" not in "\n".join(printed)
    assert "holds these ratings already" in log
    assert digest(root / "prepared") == prepared
    assert digest(run_directory(before)) == kept
    assert outcome["run_id"] != before["run_id"]
    assert find_model(spark, str(root / "runs")) == outcome["model"]


def test_ratings_prepared_already_give_the_same_model(train, first, root, tmp_path, monkeypatch):
    """Also without the packages that make the page, which the log says how to get."""
    _, before, _ = first
    monkeypatch.setattr("nonconvex.estimators.display.find_spec", lambda name: None)
    config = tmp_path / "config.toml"
    text = CONFIG.format(root=root)
    config.write_text(text[text.index("prepared.path") :])
    status, printed, outcome, log = train(
        f"output.path={tmp_path}/runs", config=config, report=True
    )
    assert status == 0
    assert outcome["report"] is None
    assert printed[-1].startswith("model: ")
    advice = "jinja2 and matplotlib are not installed: pip install 'nonconvex[report]'"
    assert f"there is no report.html, as {advice}" in log
    assert outcome["metrics"] == before["metrics"]
    assert outcome["objective"] == before["objective"]
    assert entries(tmp_path / "runs") == {POINTER, f"run_id={outcome['run_id']}"}


def test_implicit_feedback_has_no_errors_of_ratings(train, first, root, tmp_path):
    del first
    status, printed, outcome, _ = train(
        *("factorization.implicitPrefs=true", *ALONE),
        *("factorization.clipPredictions=false", f"output.path={tmp_path}/runs"),
    )
    assert status == 0
    assert outcome["metrics"] is None
    assert printed == [f"model: {outcome['model']}"]
    assert outcome["report"] is None
    metrics = json.loads((run_directory(outcome) / "metrics.json").read_text())
    assert metrics["evaluation"] is None


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["factorization.rnak=3"], 2, "unknown key factorization.rnak; did you mean factorization"),
        (["factorization.weightCol=w"], 2, "unknown key factorization.weightCol"),
        (["factorization.rank=-1"], 2, "factorization: rank must be an integer ≥ 0, got -1"),
        (["factorization.solver=sgd"], 2, "factorization: solver must be one of auto"),
        (["factorization.seed=x"], 2, "factorization: "),
        (
            *(["factorization.solver=vb", "factorization.nonnegative=true"], 2),
            "nonnegative=True has no meaning with solver='vb'",
        ),
        (["gate.metric=r2"], 2, "gate.metric must be rmse or mae, got r2"),
        (
            *(["gate.metric=mae", "factorization.implicitPrefs=true"], 2),
            "[gate] compares errors of ratings, and factorization.implicitPrefs predicts",
        ),
        (
            ["start.model=published", "factorization.rank=7", *ALONE],
            *(2, "and this fit rank 7; they must be equal"),
        ),
        (["start.model=no/such", *ALONE], 3, "there is nothing at no/such"),
        (["output.paths=x"], 2, "unknown key output.paths; did you mean output.path?"),
        (["split.method=time"], 2, "split 'time': this needs timestamps, name their column"),
        (["evaluation.part=train"], 2, "evaluation.part must be 'test' or 'validation'"),
        (["report.names=no/such.csv"], 3, "there is nothing at no/such.csv"),
        (["report.id=film"], 3, "report.id"),
        (["ratings.path=no/such.csv"], 3, "there is nothing at no/such.csv"),
        (["split.seed=99"], 3, "holds other prepared ratings (configuration"),
    ],
)
def test_bad_input_publishes_nothing(train, first, root, overrides, status, message):
    del first
    before = digest(root / "runs")
    train(*overrides).refused(status, message)
    assert digest(root / "runs") == before


def test_what_is_for_preparing_is_refused_without_ratings(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('[prepared]\npath = "p"\noverwrite = true\n[output]\npath = "o"\n')
    with pytest.raises(ConfigError, match=r"are for preparing ratings: say in \[ratings\] which"):
        load(FactorizationConfig, config)
    assert load(FactorizationConfig, config, ["prepared.overwrite=false"]).ratings is None


def test_a_model_that_does_not_pass_the_gate_is_kept_and_not_published(train, first, root, spark):
    """It begins at the published model, is measured beside it, and old runs go after the next."""
    del first
    published = find_model(spark, str(root / "runs"))
    common = (*ALONE, *("start.model=published", "gate.metric=rmse", "gate.baseline=9"))
    status, printed, outcome, log = train(*common, "gate.published=-9")
    assert status == 4
    assert re.fullmatch(
        r"rmse [\d.]+ is not within -9 of [\d.]+, that of the published model: the run is not "
        rf"published, and kept in {root}/runs/run_id={outcome['run_id']}",
        outcome["error"],
    )
    assert re.search(r"^published +\d\.\d+", "\n".join(printed), re.MULTILINE)
    assert find_model(spark, str(root / "runs")) == published
    kept = MatrixFactorizationModel.load(outcome["model"])
    assert kept.summary.warm_start["users"]["kept"] > 0
    assert "Traceback" not in log
    status, _, after, _ = train(*common, "gate.published=9", "output.keep=2")
    assert status == 0, after
    assert find_model(spark, str(root / "runs")) == after["model"]
    left = {f"run_id={outcome['run_id']}", f"run_id={after['run_id']}"}
    assert entries(root / "runs") == left | {POINTER}


@pytest.mark.usefixtures("unevaluated")
def test_a_failure_while_writing_publishes_nothing(train, first, root, monkeypatch):
    del first
    before, runs = digest(root / "runs"), entries(root / "runs")

    def fail(*arguments):
        assert entries(root / "runs") > runs  # when the new one is there in part
        raise OSError("no space left on device")

    monkeypatch.setattr(factorization, "metrics_json", fail)
    status, printed, outcome, log = train(*ALONE)
    assert status == 1
    assert outcome["error"] == "OSError: no space left on device"
    assert printed == []
    assert entries(root / "runs") == runs
    assert digest(root / "runs") == before
    assert "Traceback" in log  # a defect, or the machine


@pytest.mark.parametrize(
    ("module", "step", "error"),
    [
        ("nonconvex.commands.factorization", "compare_trained", KeyboardInterrupt()),
        ("nonconvex.commands.factorization", "metrics_json", OSError("no space left on device")),
        ("nonconvex.pipeline.release", "publish_run", FileSystemError("no")),
    ],
)
def test_what_fails_after_the_training_does_not_train_again(
    train, first, tmp_path, monkeypatch, module, step, error
):
    del first
    path = tmp_path / "checkpoint"
    where = [f"output.path={tmp_path}/runs", f"factorization.checkpointPath={path}"]

    def fail(*arguments, **named):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{step}", fail)
        outcome = train(*where).outcome
    assert outcome["exit"] == (130 if step == "compare_trained" else 1)
    assert outcome["error"].endswith(
        f"; what was trained is kept in {path}: start the job again to go on from there"
    )
    _, _, outcome, log = train(*where)
    assert outcome["exit"] == 0, outcome
    assert f"the fit was complete: its result is in {path}" in log
    assert "  iteration  " not in log, "α + biases are not fitted again, either"
    assert not path.exists()
    (path / "beside/iteration=9").mkdir(parents=True)  # of an earlier fit that was killed
    complaint = train(*where, "gate.metric=rmse", "gate.baseline=-9").outcome["error"]
    assert complaint.endswith(f"kept in {tmp_path}/runs/run_id={complaint[-23:]}")
    assert not path.exists(), "the model is kept, and nothing was lost"


def test_an_output_that_cannot_be_written_is_refused_before_training(train, first, root):
    del first
    (root / "file").touch()
    status, printed, outcome, log = train(f"output.path={root}/file/runs")
    assert (status, printed) == (1, [])
    assert f"{root}/file/runs cannot be written (" in outcome["error"]
    assert outcome["error"].endswith("): name another directory")
    assert "iteration" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(("step", "kept"), [("load_prepared", False), ("compare_trained", True)])
def test_prepared_ratings_that_vanish(train, first, tmp_path, monkeypatch, step, kept):
    del first
    module = recommendation if step == "load_prepared" else factorization
    path, prepared, go_on = tmp_path / "checkpoint", tmp_path / "prepared", getattr(module, step)

    def vanish(*arguments, **named):
        shutil.rmtree(prepared)
        return go_on(*arguments, **named)

    monkeypatch.setattr(module, step, vanish)
    where = [f"output.path={tmp_path}/runs", f"prepared.path={prepared}"]
    _, printed, outcome, log = train(*where, f"factorization.checkpointPath={path}")
    assert (outcome["exit"], printed) == (3, []), (outcome, log)
    assert "Traceback" not in log
    assert (f"what was trained is kept in {path}" in outcome["error"]) == kept
    assert path.exists() == kept
