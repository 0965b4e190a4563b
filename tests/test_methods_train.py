"""The methods on digits: each trains, goes on from its file, and logs."""

import functools
import re

import keras
import numpy as np
import pytest
from sklearn import datasets
from test_methods import fit as fit_in_batches
from thrift import cases

from keras_smkd import gates
from keras_smkd import methods

SIZE = 48
fit = functools.partial(fit_in_batches, batch_size=16)
CROSS_ENTROPY = "sparse_categorical_crossentropy"


def net():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(8, activation="relu", name="features"),
            keras.layers.Dropout(0.2, seed=3),
            keras.layers.Dense(10),
        ]
    )


def sgd():
    return keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.001)


# From a test's name to (what makes the model, logs beside loss and labels').
DISTILLED = {"distillation_loss"}
SELECTED = DISTILLED | {"selection_rate", "threshold"}
MODELS = {
    "dml": (lambda: methods.dml([net(), net()]), DISTILLED),
    "smkd_static": (lambda: methods.smkd_static([net(), net()]), SELECTED),
    "smkd_progressive": (
        lambda: methods.smkd_progressive([net(), net()]),
        SELECTED,
    ),
    "kdcl_naive": (lambda: methods.kdcl([net(), net()], "naive"), DISTILLED),
    "kdcl_linear": (lambda: methods.kdcl([net(), net()], "linear"), DISTILLED),
    "kdcl_min_logit": (lambda: methods.kdcl([net(), net()]), DISTILLED),
    "kdcl_general": (
        lambda: methods.kdcl([net(), net()], "general"),
        DISTILLED,
    ),
    "pcl": (lambda: methods.pcl([net(), net()], "features"), DISTILLED),
    "ffl": (lambda: methods.ffl([net(), net()], "features"), DISTILLED),
    "mean_teacher": (lambda: methods.mean_teacher(net()), DISTILLED),
    "temporal_ensembling": (
        lambda: methods.temporal_ensembling(net(), SIZE),
        DISTILLED,
    ),
    "m_correction": (lambda: methods.m_correction(net(), SIZE), set()),
    "early_learning": (
        lambda: methods.early_learning(net(), SIZE),
        DISTILLED,
    ),
    "divide_mix": (lambda: methods.divide_mix([net(), net()], SIZE), set()),
    "distillation": (lambda: methods.distillation(net(), net()), DISTILLED),
    "logit_matching": (
        lambda: methods.logit_matching(net(), [net(), net()]),
        DISTILLED,
    ),
    "model_compression": (
        lambda: methods.model_compression(net(), [net(), net()]),
        DISTILLED,
    ),
    "teacher_free_self": (
        lambda: methods.teacher_free(net(), net()),
        DISTILLED,
    ),
    "teacher_free_reg": (lambda: methods.teacher_free(net()), set()),
    "mc_dropout": (lambda: methods.mc_dropout([net(), net()], 2), SELECTED),
    "afd": (
        lambda: methods.afd([net(), net()], "features"),
        DISTILLED | {"feature_loss"},
    ),
    "co_teaching": (lambda: methods.co_teaching([net(), net()], 0.4), set()),
    "co_teaching_plus": (
        lambda: methods.co_teaching_plus([net(), net()], 0.4),
        set(),
    ),
    "mentornet": (lambda: methods.mentornet(net()), set()),
    "mentornet_learned": (
        lambda: methods.mentornet(net(), gates.mentor_network()),
        set(),
    ),
    "label_smoothing": (lambda: methods.label_smoothing(net()), set()),
    "bootstrapping": (lambda: methods.bootstrapping(net()), set()),
    "bootstrapping_hard": (
        lambda: methods.bootstrapping(net(), hard=True),
        set(),
    ),
    "posterior_smkd": (
        lambda: methods.posterior_smkd([net(), net()], SIZE),
        DISTILLED,
    ),
    "proselflc": (lambda: methods.proselflc(net()), set()),
    # These come compiled.
    "gce": (lambda: methods.gce(net(), sgd()), set()),
    "sce": (lambda: methods.sce(net(), sgd()), set()),
    "active_passive": (lambda: methods.active_passive(net(), sgd()), set()),
    "confidence_penalty": (
        lambda: methods.confidence_penalty(net(), sgd()),
        set(),
    ),
    "cdr": (lambda: methods.cdr(net(), sgd(), 0.4), set()),
}
WITHOUT_LABELS = ("logit_matching", "model_compression")


# From a test's name to what trains it in stages, for an epoch each.
STAGES = {
    "forward_correction": lambda x, y, **fit: methods.forward_correction(
        net, sgd(), x, y, warm_up=1, **fit
    ),
    "forward_correction_known": lambda x, y, **fit: methods.forward_correction(
        net, sgd(), x, y, 0.6 * np.eye(10) + 0.04, **fit
    ),
    "dual_t": lambda x, y, **fit: methods.dual_t(
        net, keras.optimizers.Adam(0.03), x, y, warm_up=40, **fit
    ),
    "t_revision": lambda x, y, **fit: methods.t_revision(
        net, sgd(), x, y, warm_up=1, **fit
    ),
    "dmi": lambda x, y, **fit: methods.dmi(net(), sgd(), x, y, 1, **fit),
    "joint_optimization": lambda x, y, **fit: methods.joint_optimization(
        net, sgd(), x, y, start=0.5, retraining=2, **fit
    ),
    "fitnets": lambda x, y, **fit: methods.fitnets(
        net(), net(), "features", "features", sgd(), x, y, 1, **fit
    ),
}


@pytest.fixture(scope="module")
def data():
    x, y = datasets.load_digits(return_X_y=True)
    return (x[:SIZE] / 16.0).astype("float32"), y[:SIZE]


def check_that_it_goes_on(model, data, path):
    """Two epochs more are equal, from the file and without."""
    model.save(path)
    loaded = keras.saving.load_model(path)
    again = {"initial_epoch": 2, "epochs": 3}
    assert fit(loaded, *data, **again) == fit(model, *data, **again)


# With states, loops or gradients of their own.
FEW = (
    "afd",
    "cdr",
    "co_teaching_plus",
    "divide_mix",
    "ffl",
    "kdcl_linear",
    "m_correction",
    "mc_dropout",
    "mentornet_learned",
    "smkd_progressive",
    "teacher_free_self",
    "temporal_ensembling",
)


@pytest.mark.parametrize("name", cases(MODELS, FEW))
def test_each_trains_and_goes_on_from_its_file(name, data, tmp_path):
    make, logs = MODELS[name]
    model = make()
    if not model.compiled:
        model.compile("adam", CROSS_ENTROPY)
    history = fit(model, *data, epochs=2)
    expected = {"loss", *logs}
    if name not in WITHOUT_LABELS:
        expected.add("supervised_loss")
    assert history.keys() == expected
    assert np.all(np.isfinite(history["loss"]))
    check_that_it_goes_on(model, data, tmp_path / "model.keras")


@pytest.mark.parametrize(
    "name", cases(STAGES, ["t_revision", "joint_optimization", "fitnets"])
)
def test_each_of_stages_trains_and_goes_on(name, data, tmp_path, capsys):
    model = STAGES[name](
        *data, epochs=2, batch_size=16, shuffle=False, verbose=2
    )
    shown = capsys.readouterr().out
    for word in ("Stage 1 of", "Epoch 2/2"):
        assert word in shown
    assert model.epoch == 2
    if name == "joint_optimization":
        # It is trained on the labels that the first stage found.
        data = data[0], np.eye(10, dtype="float32")[data[1]]
    logs = model.evaluate(*data, verbose=0, return_dict=True)
    assert np.isfinite(logs["loss"])
    if name == "t_revision":
        assert model.loss.revised_matrix.shape == (10, 10)
        return  # Its loss is to be attached anew to what a file gives.
    check_that_it_goes_on(model, data, tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("method", "options", "epochs", "networks"),
    [
        ("forward_correction", {"warm_up": 2}, [2, 3], 2),
        ("t_revision", {"warm_up": 2}, [2, 3, 3], 1),
        ("joint_optimization", {"start": 0.5, "retraining": 2}, [3, 2], 2),
    ],
)
def test_stages_have_their_epochs_and_begin_anew_or_go_on(
    data, capsys, method, options, epochs, networks
):
    made = []

    def make():
        made.append(net())
        return made[-1]

    fit = {"epochs": 3, "batch_size": 16, "verbose": 2}
    model = getattr(methods, method)(make, sgd(), *data, **options, **fit)
    shown = re.findall(r"^Epoch 1/(\d+)", capsys.readouterr().out, re.M)
    assert [int(number) for number in shown] == epochs
    assert len(made) == networks
    assert model.peers == [made[-1]]


def test_hints_have_their_epochs_and_the_teacher_fades_out(data, capsys):
    model = methods.fitnets(
        net(),
        net(),
        "features",
        "features",
        sgd(),
        *data,
        hint_epochs=3,
        epochs=2,
        verbose=2,
    )
    shown = re.findall(r"^Epoch 1/(\d+)", capsys.readouterr().out, re.M)
    assert shown == ["3", "2"]
    weights = [model.distillation_weight(t) for t in (0.0, 0.5, 1.0)]
    assert weights == [4.0, 2.5, 1.0]


def test_cross_validation_and_co_teaching_on_what_it_kept(data):
    sizes = []

    def train(model, x, y):
        sizes.append((len(model.peers), len(x)))
        model.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY)
        model.fit(x, y, epochs=20, batch_size=8, verbose=0)

    model, found = methods.incv(
        net, *data, train, iterations=1, noise_rate=0.2, verbose=0
    )
    assert sizes == [(1, 24), (1, 24), (2, len(found.kept))]
    # 0.2^2 / 9 to 0.8^2.
    assert model.gate.rate.rate == pytest.approx((0.04 / 9) / (0.64 + 0.04 / 9))
    assert np.isfinite(model.predict(data[0], verbose=0)).all()


def test_every_method_is_tried_here():
    tried = {*MODELS, *STAGES, "incv"}
    # Of their own files, and what one of them returns.
    elsewhere = {
        "born_again",
        "iterative_cross_validation",
        "CrossValidation",
    }
    for name in set(methods.__all__) - elsewhere:
        assert any(test.startswith(name) for test in tried), name
