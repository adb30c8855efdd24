"""A fit that was interrupted, by Ctrl-C too, goes on from its checkpoint to the same bits."""

import signal
from pathlib import Path

import numpy as np
import pytest

from nonconvex.distributed import checkpoints
from nonconvex.distributed.checkpoints import CheckpointError, Checkpoints, Interrupted, State
from nonconvex.distributed.factorization.state import FitState
from nonconvex.distributed.files import ConcurrencyError, FileSystem, FileSystemError, verify
from nonconvex.neural_network import MultilayerPerceptronRegressor
from nonconvex.recommendation import MatrixFactorization
from tests.factories import fit_killed_after, same_bits, same_ridge_posterior


@pytest.mark.parametrize(
    "params",
    [
        {"numRestarts": 2, "validationIndicatorCol": "held", "patience": 2, "regUser": 1e-4},
        {"solver": "gd", "miniBatchFraction": 0.5},
    ],
)
def test_the_same_bits_as_without_interruption(ratings, tmp_path, monkeypatch, params, caplog):
    path = tmp_path / "checkpoint"
    estimator = MatrixFactorization(rank=2, maxIter=5, tol=0.0, **params)
    whole = estimator.fit(ratings)
    estimator.setCheckpointPath(str(path)).setCheckpointInterval(2)
    fit_killed_after(1, monkeypatch, estimator, ratings)
    names = [entry.name for entry in path.iterdir()]
    assert [name for name in names if name[0] != "."] == ["iteration=2"]
    estimator.setNumUserBlocks(3)  # changes no bit, so it may change
    with caplog.at_level("INFO", logger="nonconvex"):
        resumed = estimator.fit(ratings)
    assert "continuing after iteration 2" in caplog.text
    same_bits(resumed.factors, whole.factors)
    same_ridge_posterior(resumed, whole)
    assert resumed.summary.objectiveHistory == whole.summary.objectiveHistory
    again = iterations_of(estimator, ratings, monkeypatch, expected=0)
    same_bits(again.factors, whole.factors)
    same_ridge_posterior(again, whole)
    assert again.summary.restarts[0].stop == whole.summary.restarts[0].stop
    again.write().save(str(tmp_path / "model"))
    assert not path.exists(), "a saved model leaves no checkpoint"


def iterations_of(estimator, ratings, monkeypatch, *, expected):
    """Fit, and count the iterations that are made for it."""
    made = []
    end_iteration = FitState.end_iteration
    with monkeypatch.context() as patch:
        patch.setattr(FitState, "end_iteration", lambda *all: made.append(end_iteration(*all)))
        model = estimator.fit(ratings)
    assert len(made) == expected
    return model


class TestUntilTheModelIsSaved:
    """A complete fit keeps its checkpoint, and gives way to other fits."""

    @pytest.fixture
    def estimator(self, tmp_path):
        return MatrixFactorization(rank=2, maxIter=3, tol=0.0, checkpointPath=str(tmp_path / "c"))

    def test_the_caller_may_keep_it_or_clear_it(self, ratings, estimator, tmp_path, monkeypatch):
        model = estimator.fit(ratings)
        model.write().option("clearCheckpoint", False).save(str(tmp_path / "model"))
        model = iterations_of(estimator, ratings, monkeypatch, expected=0)
        model.clearCheckpoint()
        assert not (tmp_path / "c").exists()
        model.clearCheckpoint()

    @pytest.mark.parametrize("change", [{"rank": 1}, {"maxIter": 2}, {"maxIter": 4}])
    def test_another_fit_replaces_it(self, ratings, estimator, monkeypatch, caplog, change):
        earlier, other = estimator.fit(ratings), estimator.copy().setParams(**change)
        model = iterations_of(other, ratings, monkeypatch, expected=other.getMaxIter())
        assert "is of another fit, which was complete and whose model was not saved" in caplog.text
        earlier.clearCheckpoint()  # of the other fit now
        iterations_of(other, ratings, monkeypatch, expected=0)
        model.clearCheckpoint()
        iterations_of(other, ratings, monkeypatch, expected=other.getMaxIter())

    def test_of_models_fitted_together_the_last_one_clears_it(self, ratings, estimator, tmp_path):
        maps = [{estimator.regUser: reg} for reg in (0.1, 0.2)]
        one, other = (model for _, model in estimator.fitMultiple(ratings, maps))
        one.clearCheckpoint()
        assert list((tmp_path / "c").iterdir())
        other.write().save(str(tmp_path / "model"))
        assert not (tmp_path / "c").exists()

    def test_a_place_that_cannot_be_written_is_refused_before(
        self, ratings, estimator, tmp_path, monkeypatch
    ):
        (tmp_path / "file").touch()
        estimator.setCheckpointPath(str(tmp_path / "file/c/d"))
        monkeypatch.setattr(FitState, "begin", None)
        with pytest.raises(FileSystemError, match=r"c/d cannot be written \(.*\): name another"):
            estimator.fit(ratings)
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_ctrl_c_in_the_last_iteration_ends_the_fit_and_loses_nothing(
    ratings, tmp_path, monkeypatch
):
    estimator = MatrixFactorization(rank=2, maxIter=2, tol=0.0, checkpointPath=str(tmp_path / "c"))
    with monkeypatch.context() as patch:
        patch.setattr(FitState, "end_iteration", interrupted_at(2, FitState.end_iteration))
        with pytest.raises(Interrupted, match="after iteration 2, which is saved in"):
            estimator.fit(ratings)
    iterations_of(estimator, ratings, monkeypatch, expected=0)


def interrupted_at(iteration, end_iteration):
    def interrupt(self, rule):
        if len(self.history) > 2 * (iteration - 1):  # of half-steps
            signal.raise_signal(signal.SIGINT)
        end_iteration(self, rule)

    return interrupt


def test_ctrl_c_finishes_the_iteration_and_says_how_to_go_on(ratings, tmp_path, monkeypatch):
    estimator = MatrixFactorization(rank=2, maxIter=4, tol=0.0)
    whole = estimator.fit(ratings)
    path = tmp_path / "c"
    saving = estimator.copy({estimator.checkpointPath: str(path)})
    with monkeypatch.context() as patch:
        patch.setattr(FitState, "end_iteration", interrupted_at(2, FitState.end_iteration))
        with pytest.raises(Interrupted, match=rf"after iteration 2, which is saved in {path}; run"):
            saving.fit(ratings)
    resumed = saving.fit(ratings)
    assert resumed.factors.users.tobytes() == whole.factors.users.tobytes()


def test_another_fit_is_refused_and_says_what_differs(ratings, tmp_path, monkeypatch):
    estimator = MatrixFactorization(
        rank=2, maxIter=4, checkpointPath=str(tmp_path / "c"), checkpointInterval=1
    )
    fit_killed_after(1, monkeypatch, estimator, ratings)
    with pytest.raises(CheckpointError, match="another fit: rank of fit 0 was 2 and is 3; use"):
        estimator.copy({estimator.rank: 3}).fit(ratings)
    with pytest.raises(CheckpointError, match="is of another fit: ratings was"):
        estimator.fit(ratings.where("user > 0"))


@pytest.mark.parametrize(
    "estimator",
    [
        MatrixFactorization(rank=2, maxIter=2),
        MatrixFactorization(rank=2, solver="gibbs", numSamples=2),
        MultilayerPerceptronRegressor(
            featuresCol=["user", "item"], labelCol="rating", layers=[2], maxIter=2
        ),
    ],
)
def test_a_state_of_another_version_is_refused(ratings, tmp_path, monkeypatch, estimator):
    estimator.setCheckpointPath(str(tmp_path / "c")).fit(ratings)
    read = Checkpoints._read
    monkeypatch.setattr(Checkpoints, "_read", lambda *ask: read(*ask)._replace(values={}))
    with pytest.raises(CheckpointError, match=r"not one of this version .* delete .* start anew"):
        estimator.fit(ratings)


def test_states_come_back_to_the_bit_and_damage_is_seen(spark, tmp_path, monkeypatch):
    saved = Checkpoints(spark, str(tmp_path / "c"), 1, {"rank": 2})
    assert saved.load() is None
    arrays = {"a": np.random.default_rng(0).normal(size=(3, 2)), "n": np.array(7), "e": np.zeros(0)}
    saved.save(State(1, {}, {}))
    saved.save(State(2, arrays, {"x": 0.1 + 0.2, "none": None}))
    state = saved.load()
    assert (state.iteration, state.values) == (2, {"x": 0.1 + 0.2, "none": None})
    for name, values in arrays.items():
        assert state.arrays[name].tobytes() == values.tobytes()
        assert (state.arrays[name].shape, state.arrays[name].dtype) == (values.shape, values.dtype)
    manifest = tmp_path / "c" / "iteration=2" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("0.30000000000000004", "0.30000000000000002"))
    (manifest.parent / ".manifest.json.crc").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged.* to start anew"):
        saved.load()
    manifest.write_text(text)
    moved = manifest.parent.rename(tmp_path / "c" / "iteration=7")
    with pytest.raises(CheckpointError, match=r"manifest is of iteration 2.* to start anew"):
        saved.load()
    moved.rename(manifest.parent)
    [array] = (manifest.parent / "arrays").glob("part-*")
    array.write_bytes(array.read_bytes()[:-1] + b"2")
    with pytest.raises(CheckpointError, match=r"arrays/part-.*Checksum error.* to start anew"):
        saved.load()
    with monkeypatch.context() as patch:  # killed in a removal
        patch.setattr(FileSystem, "delete", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            saved.clear(running=True)
    assert saved.load() is None


class TestOfTwoProcesses:
    """The other one is played by a step in the middle of reading."""

    @pytest.fixture
    def saved(self, spark, tmp_path):
        saved = Checkpoints(spark, str(tmp_path / "c"), 1, {"rank": 2})
        saved.save(State(1, {}, {}))
        return saved

    def test_what_the_other_has_replaced_is_read_from_where_that_is(self, saved, monkeypatch):
        def read_late(spark, place):
            if place.endswith("=1"):
                saved.save(State(2, {}, {}))
            verify(spark, place)

        monkeypatch.setattr(checkpoints, "verify", read_late)
        assert saved.load().iteration == 2

    def test_one_that_always_loses_says_so(self, saved, monkeypatch):
        def read_late(spark, place):
            saved.save(State(int(place.rpartition("=")[2]) + 1, {}, {}))
            verify(spark, place)

        monkeypatch.setattr(checkpoints, "verify", read_late)
        with pytest.raises(ConcurrencyError, match="another process saves and removes checkpoints"):
            saved.load()

    def test_a_complete_fit_leaves_what_the_other_is_saving(self, spark, saved, tmp_path):
        other = Path(FileSystem(spark, saved.path).sibling(f"{saved.path}/iteration=2")[5:])
        other.mkdir()
        saved.clear(running=True)
        assert list((tmp_path / "c").iterdir()) == [other]
        other.rmdir()
        saved.clear(running=True)
        assert not (tmp_path / "c").exists()
