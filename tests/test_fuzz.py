"""Configurations drawn at random train, or are refused in a clear sentence.

`FUZZ_CASES=500 pytest tests/test_fuzz.py` draws as many, other ones each time.
"""

import atexit
import os
import shutil
import tempfile

import keras
import numpy as np
from hypothesis import HealthCheck
from hypothesis import configuration
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import divergences
from keras_smkd import features
from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import losses
from keras_smkd import optimizers
from keras_smkd import schedules
from keras_smkd import selection
from keras_smkd import targets

BACKEND = keras.backend.backend()
# What runs without a graph or a compiler is soonest done.
NORMALLY = {"torch": "30", "tensorflow": "5", "jax": "3"}
CASES = int(os.environ.get("FUZZ_CASES", NORMALLY[BACKEND]))
# Even without a database, hypothesis has notes that it would leave here.
HOME = tempfile.mkdtemp()
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
configuration.set_hypothesis_home_dir(HOME)

FEATURES = 3
POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]
if BACKEND != "jax":  # It has no float64 unless it is told so at its start.
    POLICIES.append("float64")
ONE_PASS = ("entropy", "probability", "margin")
MEASURES = st.sampled_from(ONE_PASS)
OF_PASSES = st.sampled_from(["mutual_information", "variation_ratio"])
THRESHOLDS = st.sampled_from([0.0, 1e-6, 0.3, 0.9, 1.0, 1.5])
WEIGHTS = st.one_of(
    st.sampled_from([0.0, 1.0, 9.0]),
    st.builds(schedules.RampUp, st.just(2.0), st.sampled_from([0.25, 1.0])),
)


def even_examples(batch):
    """A selection that is a function."""
    rows = keras.ops.arange(keras.ops.shape(batch.knowledge)[0])
    even = keras.ops.cast(rows[:, None] % 2 == 0, "float32")
    return keras.ops.repeat(even, batch.knowledge.shape[1], axis=1)


def small_losses(batch):
    """A gate that is a function."""
    return keras.ops.cast(batch.losses < 1.0, "float32")


def half_predictions(batch):
    """A target that is a function."""
    labels = keras.ops.expand_dims(batch.labels, axis=1)
    return 0.5 * labels + 0.5 * keras.ops.exp(batch.log_probs)


def total_variation(batch):
    """A divergence that is a function, of knowledge on its routes."""
    known = keras.ops.exp(batch.knowledge)[:, None]
    own = keras.ops.exp(batch.log_probs)[:, :, None]
    distance = 0.5 * keras.ops.sum(keras.ops.abs(known - own), axis=-1)
    weights = keras.ops.cast(batch.routes, distance.dtype)
    if batch.selected is not None:
        weights = weights * keras.ops.cast(
            batch.selected[:, None], distance.dtype
        )
    return keras.ops.sum(weights * distance, axis=-1)


def sharper_mean(batch):
    """Knowledge that is a function, of one source for all."""
    logits = keras.ops.mean(batch.logits, axis=1, keepdims=True)
    return knowledge.Knowledge(logits=2.0 * logits)


class SmallFeatures:
    """A loss of what an inner layer puts out."""

    taps = ("hidden",)

    def __call__(self, batch):
        # In half precision a square is soon infinite.
        found = [keras.ops.cast(f, "float32") for f in batch.features["hidden"]]
        return sum(keras.ops.mean(keras.ops.square(f), -1) for f in found)


SELECTIONS = st.one_of(
    st.none(),
    st.builds(selection.ConfidentKnowledge, MEASURES, THRESHOLDS),
    st.builds(
        selection.MostConfidentShare, MEASURES, THRESHOLDS, st.booleans()
    ),
    st.builds(
        selection.ConfidentKnowledge,
        MEASURES,
        st.builds(schedules.Linear, THRESHOLDS, THRESHOLDS),
    ),
    st.builds(selection.ConfidentKnowledge, OF_PASSES, THRESHOLDS),
    st.just(even_examples),
)
GATES = st.one_of(
    st.none(),
    st.builds(gates.LabelGate, st.sampled_from([0.0, 0.3, 1.0]), st.booleans()),
    st.builds(gates.TeacherConfidence),
    st.builds(gates.SmallLoss, st.sampled_from([0.0, 0.3, 0.9])),
    st.builds(
        gates.SmallLoss,
        st.builds(schedules.ForgetRate, st.just(0.4)),
        st.just(True),
        st.sampled_from([0.0, 0.5]),
    ),
    st.builds(
        gates.Curriculum,
        st.sampled_from(["self_paced", "linear", "focal", "predefined"]),
    ),
    st.builds(
        lambda: gates.Product([gates.SmallLoss(0.3), gates.Curriculum()])
    ),
    st.just(small_losses),
)
DIVERGENCES = st.one_of(
    st.builds(
        divergences.KullbackLeibler,
        st.sampled_from([0.05, 1.0, 4.0, 100.0]),
        st.booleans(),
    ),
    st.builds(divergences.SquaredError),
    st.builds(divergences.LogitSquaredError),
    st.just(total_variation),
)
# From the number of examples, and a network like the peers.
TARGETS = {
    "none": lambda size: None,
    "proselflc": lambda size: targets.ProSelfLC(),
    "smoothing": lambda size: targets.LabelSmoothing(0.1),
    "hard": lambda size: targets.HardBootstrapping(),
    "soft": lambda size: targets.SoftBootstrapping(),
    "teacher": lambda size: targets.VirtualTeacher(),
    "function": lambda size: half_predictions,
    "ensembling": targets.TemporalEnsembling,
    "joint": lambda size: targets.JointOptimizationLabels(size, window=2),
    "mixture": lambda size: targets.MixtureBootstrapping(size),
    "refinement": lambda size: targets.CoRefinement(size),
    "posterior": lambda size: targets.PosteriorLabels(size, start=1),
}
KNOWLEDGE = {
    "none": lambda size, network: None,
    "peers": lambda size, network: knowledge.PeerPredictions(),
    "averaged": lambda size, network: knowledge.AveragedPeers(0.9),
    "averaged all": lambda size, network: knowledge.AveragedPeers(0.9, "all"),
    "past": lambda size, network: knowledge.PastPredictions(size),
    "naive": lambda size, network: knowledge.NaiveEnsemble(),
    "linear": lambda size, network: knowledge.LinearEnsemble(),
    "min logit": lambda size, network: knowledge.MinLogitEnsemble(),
    "general": lambda size, network: knowledge.GeneralEnsemble(),
    "fused": lambda size, network: knowledge.FusedClassifier(),
    "teacher": lambda size, network: knowledge.Teacher(network()),
    "teachers": lambda size, network: knowledge.Teacher(
        [network(), network()], combine="mean"
    ),
    "permuted": lambda size, network: knowledge.PermutedKnowledge(
        knowledge.Teacher(network()), seed=0
    ),
    "dropout": lambda size, network: knowledge.DropoutPasses(2),
    "early": lambda size, network: knowledge.EarlyPredictions(size),
    "function": lambda size, network: sharper_mean,
    "several": lambda size, network: knowledge.Several(
        [knowledge.AveragedPeers(0.5), knowledge.Teacher(network())]
    ),
}
MEMORIES = {"early", "ensembling", "joint", "mixture", "past", "refinement"}
FEATURE_LOSSES = {
    "none": lambda network: None,
    "function": lambda network: SmallFeatures(),
    "hint": lambda network: features.Hint("hidden", network(), "hidden"),
    "adversaries": lambda network: features.FeatureAdversaries("hidden", 2),
}
LOSSES = {
    "sparse": lambda logits: "sparse_categorical_crossentropy",
    "categorical": lambda logits: "categorical_crossentropy",
    "gce": lambda logits: losses.GeneralizedCrossEntropy(from_logits=logits),
    "sce": lambda logits: losses.SymmetricCrossEntropy(from_logits=logits),
    "misfit": lambda logits: losses.GeneralizedCrossEntropy(
        from_logits=not logits
    ),
}
SCHEDULES = st.one_of(
    st.none(),
    st.builds(callbacks.StaticThreshold, THRESHOLDS),
    st.builds(
        callbacks.ProgressiveThreshold,
        THRESHOLDS,
        st.sampled_from([-8.0, 0.5, 1000.0]),
    ),
)
CONFIGURATIONS = st.fixed_dictionaries(
    {
        "peers": st.integers(1, 4),
        "classes": st.sampled_from([2, 3, 10, 1000]),
        "batch_size": st.integers(1, 33),
        "batches": st.integers(1, 3),
        "missing": st.integers(0, 32),  # Of the last batch.
        "from_logits": st.booleans(),
        # Whether it is the model of the paper, with its defaults.
        "selective": st.booleans(),
        "temperature": st.sampled_from([0.05, 1.0, 4.0, 100.0]),
        "distillation_weight": WEIGHTS,
        "supervised_weight": st.sampled_from([0.0, 1.0]),
        "knowledge": st.sampled_from(sorted(KNOWLEDGE)),
        "selection": SELECTIONS,
        "divergence": DIVERGENCES,
        "gate": GATES,
        "schedule": SCHEDULES,
        "target": st.sampled_from(sorted(TARGETS)),
        "head": st.booleans(),
        "feature_loss": st.sampled_from(sorted(FEATURE_LOSSES)),
        "critical": st.booleans(),
        "loss": st.sampled_from(sorted(LOSSES)),
        "labels": st.sampled_from(["integer", "column", "one-hot", "soft"]),
        "index": st.booleans(),
        "labelled": st.booleans(),
        # Whether what does not fit together is left so.
        "misfit": st.integers(0, 7).map(lambda k: k == 0),
        "weighted": st.sampled_from([None, "examples", "classes"]),
        "policy": st.sampled_from(POLICIES),
        "one_optimizer": st.booleans(),
        "scale": st.sampled_from([1e-3, 1.0, 100.0]),
        "seed": st.integers(0, 1000),
    }
)


def fitting(case):
    """Return the configuration with what contradicts something else mended."""
    case = dict(case)
    # Far from what it is to match, a step of gradient descent goes too far.
    squared = isinstance(case["divergence"], divergences.LogitSquaredError)
    if squared or case["feature_loss"] == "hint":
        case["scale"] = min(case["scale"], 1.0)
    if case["misfit"]:
        return case
    if case["loss"] == "misfit":
        case["loss"] = "gce"
    if case["peers"] == 1:
        case["selective"] = False
        if case["feature_loss"] == "adversaries":
            case["feature_loss"] = "none"
        if chooses(case["gate"]):
            case["gate"] = None
        if case["target"] == "refinement":
            case["target"] = "mixture"
    if case["selective"] and case["selection"] is None:
        case["selection"] = selection.ConfidentKnowledge()
    # A head puts out logits, and no memory is of it.
    remembers = MEMORIES & {case["knowledge"], case["target"]} or isinstance(
        case["gate"], (gates.Curriculum, gates.Product)
    )
    measure = getattr(case["selection"], "measure", "entropy")
    if case["knowledge"] != "dropout" and measure not in ONE_PASS:
        case["selection"] = selection.ConfidentKnowledge()
    if not case["from_logits"] or remembers or case["selective"]:
        case["head"] = False
    if case["knowledge"] == "fused" and not case["head"]:
        case["knowledge"] = "naive"
    if case["knowledge"] == "peers" and case["peers"] + case["head"] == 1:
        case["knowledge"] = "averaged"
    if case["knowledge"] == "none":
        case["selection"] = case["gate"] = None
    if callable(getattr(case["selection"], "threshold", None)):
        case["schedule"] = None
    if isinstance(case["gate"], gates.LabelGate) and selects_all(case):
        case["gate"] = None
    if case["knowledge"] == "none":
        case["selective"] = False
        if case["target"] == "posterior":
            case["target"] = "none"
        if case["feature_loss"] == "none":
            case["supervised_weight"] = 1.0
    if case["loss"] in ("sparse", "categorical"):
        sparse = case["labels"] in ("integer", "column")
        case["loss"] = "sparse" if sparse else "categorical"
    return case


def chooses(gate):
    """Return whether a gate has learners choose for each other."""
    return isinstance(gate, (gates.SmallLoss, gates.Product))


def selects_all(case):
    """Return whether all is selected, with each threshold of the training."""
    if case["selection"] is None:
        return True
    if case["selection"] is even_examples:
        return False
    own, schedule = case["selection"].threshold, case["schedule"]
    progresses = (0.0, 0.25, 0.5, 0.75, 1.0)
    kinds = [own] if schedule is None else [own, schedule]
    return any(
        all(
            case["selection"].selects_all(
                float(kind(t)) if callable(kind) else kind, case["classes"]
            )
            for t in progresses
        )
        for kind in kinds
    )


def labels_of(case, rng, size):
    classes = case["classes"]
    labels = rng.integers(0, classes, size)
    if case["labels"] == "column":
        return labels[:, None]
    if case["labels"] == "one-hot":
        return np.eye(classes, dtype="float32")[labels]
    if case["labels"] == "soft":
        return rng.dirichlet(np.ones(classes), size).astype("float32")
    return labels


def make_model(case, size):
    activation = None if case["from_logits"] else "softmax"

    def network():
        return keras.Sequential(
            [
                keras.Input((FEATURES,)),
                keras.layers.Dense(4, activation="relu", name="hidden"),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(case["classes"], activation=activation),
            ]
        )

    source = KNOWLEDGE[case["knowledge"]](size, network)
    for part in knowledge.parts_of(source):
        if isinstance(part, knowledge.Teacher):
            part.from_logits = case["from_logits"]
    arguments = {
        "from_logits": case["from_logits"],
        "target": TARGETS[case["target"]](size),
        "knowledge": source,
        "selection": case["selection"],
        "gate": case["gate"],
        "distillation_weight": case["distillation_weight"],
        "supervised_weight": case["supervised_weight"],
    }
    peers = [network() for _ in range(case["peers"])]
    if case["selective"]:
        return keras_smkd.SelectiveMutualDistillation(
            peers, temperature=case["temperature"], **arguments
        )
    return keras_smkd.PeerLearning(
        peers,
        divergence=case["divergence"],
        head=features.FeatureFusion("hidden") if case["head"] else None,
        feature_loss=FEATURE_LOSSES[case["feature_loss"]](network),
        **arguments,
    )


def train(case):
    """Train as configured; return the logs."""
    rng = np.random.default_rng(case["seed"])
    batch_size = case["batch_size"]
    size = batch_size * case["batches"] - case["missing"] % batch_size
    x = case["scale"] * rng.normal(size=(size, FEATURES)).astype("float32")
    y = labels_of(case, rng, size)
    if case["index"] or case["labelled"]:
        y = {"label": y}
    if case["index"]:
        y["index"] = np.arange(size)
    if case["labelled"]:
        y["labelled"] = rng.integers(0, 2, size)
        if y["label"].dtype.kind == "i":
            y["label"][y["labelled"] == 0] = -1
    weights = {
        None: {},
        "examples": {"sample_weight": rng.uniform(size=size)},
        "classes": {"class_weight": {0: 0.5, 1: 2.0}},
    }[case["weighted"]]
    model = make_model(case, size)
    each = [keras.optimizers.SGD(0.01) for _ in range(case["peers"])]
    if case["critical"]:
        each = [optimizers.CriticalGradients(own, 0.3) for own in each]
    model.compile(
        each[0] if case["one_optimizer"] else each,
        LOSSES[case["loss"]](case["from_logits"]),
        metrics=["accuracy"],
        run_eagerly=BACKEND != "jax",
    )
    history = model.fit(
        x,
        y,
        batch_size=batch_size,
        validation_data=(x, y),
        callbacks=[case["schedule"]] if case["schedule"] else None,
        verbose=0,
        **weights,
    ).history
    output = "averaged" if "averaged" in case["knowledge"] else "all"
    predictions = model.predict(x, verbose=0, output=output)
    for k, values in enumerate(keras.tree.flatten(predictions)):
        assert values.shape == (size, case["classes"])
        np.testing.assert_allclose(values.sum(axis=1), 1.0, atol=1e-2)
        history[f"prediction {k}"] = values
    return history


@settings(
    max_examples=CASES,
    deadline=None,
    derandomize="FUZZ_CASES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(case=CONFIGURATIONS)
def test_configurations_train_or_are_refused(case):
    case = fitting(case)
    keras.config.set_dtype_policy(case["policy"])
    try:
        logs = train(case)
    except (TypeError, ValueError) as error:
        assert case["misfit"], error
        # Ours: which argument, what it must be, what was received.
        assert "must" in str(error), error
        assert "Received: " in str(error), error
        return
    finally:
        keras.config.set_dtype_policy("float32")
        keras.utils.clear_session()
    for name, values in logs.items():
        assert np.isfinite(values).all(), name
