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
from keras_smkd import losses
from keras_smkd import selection
from keras_smkd import targets

BACKEND = keras.backend.backend()
# What runs without a graph or a compiler is soonest done.
NORMALLY = {"torch": "50", "tensorflow": "5", "jax": "5"}
CASES = int(os.environ.get("FUZZ_CASES", NORMALLY[BACKEND]))
# Even without a database, hypothesis has notes that it would leave here.
HOME = tempfile.mkdtemp()
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
configuration.set_hypothesis_home_dir(HOME)

FEATURES = 3
POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]
if BACKEND != "jax":  # It has no float64 unless it is told so at its start.
    POLICIES.append("float64")
MEASURES = st.sampled_from(["entropy", "probability", "margin"])
THRESHOLDS = st.sampled_from([0.0, 1e-6, 0.3, 0.9, 1.0, 1.5])
SELECTIONS = st.one_of(
    st.builds(selection.ConfidentKnowledge, MEASURES, THRESHOLDS),
    st.builds(
        selection.MostConfidentShare, MEASURES, THRESHOLDS, st.booleans()
    ),
)
GATES = st.one_of(
    st.none(),
    st.builds(
        selection.LabelGate, st.sampled_from([0.0, 0.3, 1.0]), st.booleans()
    ),
)
TARGETS = {
    "none": lambda size: None,
    "proselflc": lambda size: targets.ProSelfLC(),
    "smoothing": lambda size: targets.LabelSmoothing(0.1),
    "hard": lambda size: targets.HardBootstrapping(),
    "ensembling": targets.TemporalEnsembling,
    "joint": lambda size: targets.JointOptimizationLabels(size, window=2),
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
        "peers": st.integers(2, 4),
        "classes": st.sampled_from([2, 3, 10, 1000]),
        "batch_size": st.integers(1, 33),
        "batches": st.integers(1, 3),
        "missing": st.integers(0, 32),  # Of the last batch.
        "from_logits": st.booleans(),
        "temperature": st.sampled_from([0.05, 1.0, 4.0, 100.0]),
        "distillation_weight": st.sampled_from([0.0, 1.0, 9.0]),
        "supervised_weight": st.sampled_from([0.0, 1.0]),
        "selection": SELECTIONS,
        "gate": GATES,
        "schedule": SCHEDULES,
        "target": st.sampled_from(sorted(TARGETS)),
        "loss": st.sampled_from(sorted(LOSSES)),
        "labels": st.sampled_from(["integer", "column", "one-hot", "soft"]),
        "index": st.booleans(),
        # Whether what does not fit together is left so.
        "misfit": st.integers(0, 7).map(lambda k: k == 0),
        "weighted": st.booleans(),
        "policy": st.sampled_from(POLICIES),
        "one_optimizer": st.booleans(),
        "scale": st.sampled_from([1e-3, 1.0, 100.0]),
        "seed": st.integers(0, 1000),
    }
)


def fitting(case):
    """Return the configuration with what contradicts something else mended."""
    case = dict(case)
    if case["misfit"]:
        return case
    if case["loss"] == "misfit":
        case["loss"] = "gce"
    everything = case["selection"].threshold > 1.0
    if isinstance(case["schedule"], callbacks.StaticThreshold):
        everything = everything or case["schedule"].threshold > 1.0
    if isinstance(case["schedule"], callbacks.ProgressiveThreshold):
        # A scale of 1.5 with little sharpness.
        values = [case["schedule"].value(progress) for progress in (0.0, 1.0)]
        everything = everything or min(values) > 1.0
    if everything:
        case["gate"] = None
    if case["target"] in ("ensembling", "joint"):
        case["index"] = True
    if case["loss"] in ("sparse", "categorical"):
        sparse = case["labels"] in ("integer", "column")
        case["loss"] = "sparse" if sparse else "categorical"
    return case


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


def train(case):
    """Train as configured; return the logs."""
    rng = np.random.default_rng(case["seed"])
    batch_size = case["batch_size"]
    size = batch_size * case["batches"] - case["missing"] % batch_size
    x = case["scale"] * rng.normal(size=(size, FEATURES)).astype("float32")
    y = labels_of(case, rng, size)
    if case["index"]:
        y = {"label": y, "index": np.arange(size)}
    activation = None if case["from_logits"] else "softmax"
    peers = [
        keras.Sequential(
            [
                keras.Input((FEATURES,)),
                keras.layers.Dense(case["classes"], activation=activation),
            ]
        )
        for _ in range(case["peers"])
    ]
    model = keras_smkd.SelectiveMutualDistillation(
        peers,
        from_logits=case["from_logits"],
        target=TARGETS[case["target"]](size),
        selection=case["selection"],
        gate=case["gate"],
        temperature=case["temperature"],
        distillation_weight=case["distillation_weight"],
        supervised_weight=case["supervised_weight"],
    )
    optimizers = [keras.optimizers.SGD(0.01) for _ in peers]
    model.compile(
        optimizers[0] if case["one_optimizer"] else optimizers,
        LOSSES[case["loss"]](case["from_logits"]),
        metrics=["accuracy"],
        run_eagerly=BACKEND != "jax",
    )
    history = model.fit(
        x,
        y,
        batch_size=batch_size,
        sample_weight=rng.uniform(size=size) if case["weighted"] else None,
        callbacks=[case["schedule"]] if case["schedule"] else None,
        verbose=0,
    ).history
    return {**history, "predictions": model.predict(x, verbose=0)}


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
