"""What `fit` and `evaluate` print, to everybody and to who asks for more."""

import re

import keras
import numpy as np
import pytest
from peers import linear

import keras_smkd

MOST_CHARACTERS = 120
BATCH = 4
ENSEMBLE = ["accuracy", "loss"]
OF_FIT = [*ENSEMBLE, "val_accuracy", "val_loss"]


@pytest.fixture
def data(rng):
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, rng.integers(0, 4, size=24)


@pytest.fixture
def model():
    model = keras_smkd.SelectiveMutualDistillation(
        [linear(), linear(), linear(), linear()],
        # So that something is selected, and printed if it were.
        selection=keras_smkd.selection.ConfidentKnowledge(threshold=0.9),
    )
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def lines_of(printed):
    """Return lines as a terminal shows them, each state of one by itself."""
    text = re.sub("\x1b\\[[0-9;]*m|\b", "", printed)
    return [line.rstrip() for line in re.split("[\r\n]", text) if line.strip()]


def values_in(line):
    """Return what a line says, by its names, as text."""
    return dict(re.findall(r" - ([a-z_0-9]+): (-?[0-9.e+-]+)", line))


def all_names(model, prefixes=("", "val_")):
    return {p + name for name in model.metrics_names for p in prefixes}


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_fit_prints_the_ensemble_in_one_short_line(
    model, data, capsys, verbose
):
    fitted = model.fit(
        *data,
        batch_size=BATCH,
        epochs=2,
        validation_data=data,
        verbose=verbose,
    )
    lines = lines_of(capsys.readouterr().out)
    assert max(map(len, lines)) < MOST_CHARACTERS
    last = values_in(lines[-1])
    assert list(last) == OF_FIT
    for name, value in last.items():
        np.testing.assert_allclose(
            float(value), fitted.history[name][-1], atol=1e-4
        )
    for line in lines:
        assert set(values_in(line)) <= set(OF_FIT), line
    # The history has what the line leaves out.
    left_out = {"peer_3_accuracy", "val_peer_0_accuracy", "selection_rate"}
    assert left_out <= set(fitted.history)


def test_a_long_training_still_has_short_lines(model, data, capsys):
    """As many steps as CIFAR-10 has, and losses of two digits."""
    line = keras_smkd.model.progress.ProgressLine(["peer_0_accuracy"])
    line.set_model(model)
    line.set_params({"verbose": 1, "epochs": 1, "steps": 1563})
    line.on_train_begin()
    line.on_epoch_begin(0)
    logs = {name: 12.3456 for name in (*OF_FIT, "val_peer_0_accuracy")}
    line.on_train_batch_end(0, logs)
    line.progbar._start -= 1250
    line.on_epoch_end(0, logs)
    (*_, last) = lines_of(capsys.readouterr().out)
    assert last.startswith("1563/1563 ━") and "1250s" in last
    assert list(values_in(last)) == OF_FIT
    assert len(last) < MOST_CHARACTERS


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_evaluate_prints_the_ensemble_and_returns_all(
    model, data, capsys, verbose
):
    logs = model.evaluate(
        *data, batch_size=BATCH, verbose=verbose, return_dict=True
    )
    lines = lines_of(capsys.readouterr().out)
    assert max(map(len, lines)) < MOST_CHARACTERS
    last = values_in(lines[-1])
    assert list(last) == ENSEMBLE
    np.testing.assert_allclose(float(last["loss"]), logs["loss"], atol=1e-4)
    for line in lines:
        assert set(values_in(line)) <= set(ENSEMBLE), line
    assert {"peer_3_accuracy", "selection_rate"} <= set(logs)
    # By position, as Keras takes it: batch size, verbose, ..., callbacks.
    again = model.evaluate(*data, BATCH, 2, None, None, None, True)
    assert again == logs
    (line,) = lines_of(capsys.readouterr().out)
    assert list(values_in(line)) == ENSEMBLE


def test_a_logger_of_the_user_prints_everything(model, data, capsys):
    class Own(keras.callbacks.ProgbarLogger):
        pass

    for logger in (keras.callbacks.ProgbarLogger, Own):
        fitted = model.fit(
            *data, validation_data=data, verbose=2, callbacks=[logger()]
        )
        (line,) = lines_of(capsys.readouterr().out)
        assert set(values_in(line)) == set(fitted.history)
        logs = model.evaluate(
            *data, verbose=2, callbacks=logger(), return_dict=True
        )
        (line,) = lines_of(capsys.readouterr().out)
        assert set(values_in(line)) == set(logs)


def test_silence_is_kept(model, data, capsys):
    model.fit(*data, validation_data=data, verbose=0)
    model.evaluate(*data, verbose=0)
    assert capsys.readouterr().out == ""
    given = {"callbacks": None, "verbose": 0}
    keras_smkd.model.progress.add_line(model, given)
    assert given == {"callbacks": None, "verbose": 0}


def test_a_list_of_keras_prints_what_it_was_made_for(model, data, capsys):
    for add_progbar in (False, True):
        callbacks = keras.callbacks.CallbackList(
            add_history=True,
            add_progbar=add_progbar,
            model=model,
            verbose=2,
            epochs=1,
            steps=1,
        )
        history = model.fit(*data, verbose=2, callbacks=callbacks).history
        lines = lines_of(capsys.readouterr().out)
        printed = [set(values_in(line)) for line in lines]
        assert printed == ([set(history)] if add_progbar else [])


def test_other_callbacks_see_everything_and_print_their_own(
    model, data, capsys
):
    seen = {}

    class Other(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen["batch"] = set(logs)

        def on_epoch_end(self, epoch, logs=None):
            seen["epoch"] = set(logs)
            logs["of_the_user"] = 0.25

    history = model.fit(*data, verbose=2, callbacks=[Other()]).history
    assert "peer_0_accuracy" in seen["batch"]
    assert set(history) == seen["epoch"] | {"of_the_user"}
    (line,) = lines_of(capsys.readouterr().out)
    assert list(values_in(line)) == [*ENSEMBLE, "of_the_user"]
    assert values_in(line)["of_the_user"] == "0.2500"


def test_metrics_of_the_ensemble_are_told_from_those_of_named_peers(
    data, capsys
):
    model = keras_smkd.PeerLearning({"top": linear(), "b": linear()})
    model.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        metrics=[
            keras.metrics.SparseTopKCategoricalAccuracy(2, "top_2"),
            "accuracy",
        ],
    )
    history = model.fit(*data, verbose=2).history
    (line,) = lines_of(capsys.readouterr().out)
    assert set(values_in(line)) == {"top_2", "accuracy", "loss"}
    assert {"top_top_2", "top_accuracy", "b_top_2"} <= set(history)


def test_a_line_does_not_keep_batches_waiting(model):
    """Keras waits for callbacks that do not say they are safe."""
    given = {"callbacks": None}
    keras_smkd.model.progress.add_line(model, given)
    (line,) = given["callbacks"]
    assert isinstance(line, keras.callbacks.ProgbarLogger)
    assert line.async_safe


def test_a_model_that_is_not_compiled_says_so_itself(data):
    model = keras_smkd.PeerLearning([linear(), linear()])
    with pytest.raises(ValueError, match=r"call `compile\(\)` before"):
        model.fit(*data)
