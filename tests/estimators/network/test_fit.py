"""What Params of networks mean for examples, before any are read: no Spark."""

import math

import pytest

from nonconvex.distributed.data.examples import ExampleSchema, ExamplesError
from nonconvex.estimators.network.fit import complete_layers
from nonconvex.estimators.network.params import check_network
from nonconvex.estimators.network.summary import NetworkRestart, NetworkSummary
from nonconvex.estimators.params import ParamError
from nonconvex.neural_network import MultilayerPerceptronClassifier
from nonconvex.numerics.network.model import Classes
from tests.factories import network_summary


def test_params_of_mllib_are_accepted_by_name():
    from pyspark.ml.classification import MultilayerPerceptronClassifier as MLlib

    theirs = set(MLlib.__init__.__wrapped__.__kwdefaults__)
    ours = {param.name for param in MultilayerPerceptronClassifier().params}
    assert {"blockSize", "stepSize", "initialWeights", "solver"} <= theirs
    assert theirs <= ours


IRIS = ExampleSchema(150, 0, 4, 3, Classes("string", ("a", "b", "c")))
TWO = ExampleSchema(9, 0, 4, 2, Classes("double", (0.0, 1.0)))
TARGETS = ExampleSchema(9, 0, 4, 2, None)


LAYERS = [
    *((IRIS, [], (4, 3)), (IRIS, [7], (4, 7, 3)), (IRIS, [7, 5], (4, 7, 5, 3))),
    *((IRIS, [4, 7, 3], (4, 7, 3)), (IRIS, [4, 3], (4, 3)), (TWO, [], (4, 1))),
    *((TWO, [8], (4, 8, 1)), (TWO, [4, 8, 2], (4, 8, 2)), (TWO, [4, 8, 1], (4, 8, 1))),
    *((TARGETS, [8], (4, 8, 2)), (TARGETS, [4, 8, 2], (4, 8, 2))),
]


@pytest.mark.parametrize(("schema", "layers", "complete"), LAYERS)
def test_layers_with_and_without_their_ends(schema, layers, complete):
    assert complete_layers(layers, schema) == complete


def test_layers_that_fit_at_one_end_are_refused_with_both_spellings():
    with pytest.raises(ParamError) as raised:
        complete_layers([4, 8, 2], IRIS)
    assert str(raised.value) == (
        "layers=[4, 8, 2] begins with the 4 features and does not end with the 3 classes; set "
        "layers=[4, 8, 3] if they are all layers, and layers=[4, 4, 8, 2, 3] if they are the "
        "hidden ones"
    )
    with pytest.raises(ParamError, match=r"ends with the 2 targets and does not begin with the 4"):
        complete_layers([5, 2], TARGETS)
    shifted = TWO._replace(classes=Classes("double", (1.0, 2.0)))
    assert complete_layers([8], shifted) == (4, 8, 1)
    with pytest.raises(ExamplesError, match=r"the label 2 is outside 0 … 1, which labels are with"):
        complete_layers([4, 8, 2], shifted)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patience": 2}, "patience=2 needs validation rows; set"),
        ({"checkpointInterval": 2}, "checkpointInterval=2 needs checkpointPath"),
        ({"activation": "step"}, 'learned through it; choose .*stepGradient="straight-through"'),
        ({"stepGradient": "straight-through"}, "is for the activation step alone; unset it"),
        ({"initialWeights": [1.0], "numRestarts": 2}, "with initialWeights would repeat one fit"),
        ({"initialWeights": [1.0], "firstRestart": 1}, "firstRestart=1 is for random starts"),
        ({"optimizer": "gradient-descent", "momentum": 0.5}, "takes no settings, got momentum"),
        ({"schedule": "step"}, "schedule 'step' needs decaySteps; set it to"),
        ({"weightDecay": 0.1}, "got weightDecay=0.1; leave it unset"),
    ],
)
def test_params_that_contradict_each_other_are_refused_before_any_data_are_read(given, message):
    with pytest.raises(ParamError, match=message):
        check_network(MultilayerPerceptronClassifier(**given), has_validation=False, warm=False)


def test_two_names_of_a_param_are_one():
    given = MultilayerPerceptronClassifier(stepSize=0.03)
    assert given.getLearningRate() == 0.03
    assert given.copy({given.learningRate: 0.5}).getStepSize() == 0.5
    assert given.getStepSize() == 0.03
    given.set(given.stepSize, 0.25)
    assert given.getLearningRate() == 0.25
    given.clear(given.learningRate)
    assert not given.isSet("stepSize")
    with pytest.raises(ParamError, match=r"stepSize=0.1 is another name of learningRate, which is"):
        MultilayerPerceptronClassifier(stepSize=0.1, learningRate=0.2)


def test_a_restart_that_diverged_is_never_the_best_and_survives_json():
    def restart(number, objective, validation_loss):
        losses = objective, objective, 0.5, validation_loss, None
        return NetworkRestart(number, "why", 1, *losses, history=[])

    restarts = [restart(0, math.nan, None), restart(1, 0.5, None), restart(2, 0.25, None)]
    summary = network_summary(restarts=restarts, best=2)
    assert summary.spread() == {
        "best": 0.25, "worst": 0.5, "mean": 0.375, "deviation": 0.125, "diverged": 1,
    }  # fmt: skip
    assert restart(0, 1.0, math.inf).merit == math.inf
    assert restart(0, 9.0, 0.1).merit < restart(0, 0.1, 0.2).merit, "validation counts"
    again = NetworkSummary.from_json(summary.to_json())
    assert again.restarts[1:] == summary.restarts[1:]
    assert math.isnan(again.restarts[0].objective)
