"""The model's doors: labels of every form, peers that cannot be, progress."""

import keras
import numpy as np
import pytest
from naive import naive_log_softmax
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd import PeerLearning
from keras_smkd import SelectiveMutualDistillation
from keras_smkd import callbacks

SIZE = 32


@pytest.fixture
def data(rng):
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    return x, rng.integers(0, 4, SIZE)


def compiled(*peers, optimizer="sgd", **kwargs):
    model = SelectiveMutualDistillation(
        list(peers) or [linear(), linear()], **kwargs
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


# Labels.


def pandas_column(labels):
    return pytest.importorskip("pandas").Series(labels)


def polars_column(labels):
    return pytest.importorskip("polars").Series(labels)


FORMS = {
    "int8": lambda y: y.astype("int8"),
    "uint8": lambda y: y.astype("uint8"),
    "uint64": lambda y: y.astype("uint64"),
    "whole floats": lambda y: y.astype("float32"),
    "a column": lambda y: y[:, None],
    "a list": lambda y: y.tolist(),
    "objects": lambda y: y.astype(object),
    "pandas": pandas_column,
    "polars": polars_column,
    "a tensor": keras.ops.convert_to_tensor,
    "a dictionary": lambda y: {"label": y},
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_every_form_are_the_same_labels(form, data):
    x, y = data
    peers = [linear(), linear()]
    losses = []
    for labels in (y, FORMS[form](y)):
        model = compiled(*peers, optimizer=keras.optimizers.SGD(0.0))
        history = model.fit(
            x,
            labels,
            batch_size=8,
            shuffle=False,
            verbose=0,
            validation_data=(x, labels),
        ).history
        losses.append((history["loss"], history["val_loss"]))
        assert model.evaluate(x, labels, verbose=0)[0] == pytest.approx(
            history["val_loss"][0], rel=1e-5
        )
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array(["cat", "dog"] * 16), TypeError, "must be class ids.*Encode"),
        (np.arange(SIZE) % 4 + 1, ValueError, "Received: y from 1 to 4"),
        (np.arange(SIZE) % 4 - 1, ValueError, "Received: y from -1 to 2"),
        (np.arange(SIZE) % 4 / 2, ValueError, r"Received: y\[1\]=0\.5"),
        (np.full(SIZE, np.nan), ValueError, r"Received: y\[0\]=nan"),
        (np.ones((SIZE, 4)), ValueError, "row 0 of y sums to 4"),
        (np.ones((SIZE, 3)) / 3, ValueError, r"y of shape \(32, 3\)"),
    ],
)
@pytest.mark.parametrize("door", ["fit", "evaluate", "train_on_batch"])
def test_what_is_no_label_is_refused_at_every_door(
    door, labels, error, message, data
):
    model = compiled()
    with pytest.raises(error, match=message):
        getattr(model, door)(data[0], labels)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_many_classes_in_a_narrow_type(dtype, rng):
    classes = 256
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    y = rng.integers(0, 256, SIZE)
    peers = [linear(classes=classes), linear(classes=classes)]
    model = compiled(*peers, gate=None, distillation_weight=0.0)
    found = model.evaluate(x, y.astype(dtype), verbose=0)[0]
    expected = 0.0
    for peer in peers:
        log_probs = naive_log_softmax(x @ peer.get_weights()[0])
        expected -= log_probs[np.arange(SIZE), y].mean()
    assert found == pytest.approx(expected, rel=1e-5)


class Stream(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 8

    def __getitem__(self, i):
        part = slice(8 * i, 8 * i + 8)
        return self.x[part], self.y[part]


@pytest.mark.parametrize("wrong", [4, -1, 1.5, 300])
@pytest.mark.parametrize("gate", ["label", None])
def test_a_wrong_label_in_a_stream_is_nan_on_every_backend(wrong, gate, data):
    x, y = data
    y = y.astype("float32" if wrong == 1.5 else "int32")
    y[9] = wrong
    model = compiled(gate=gate)
    history = model.fit(Stream(x, y), verbose=0, shuffle=False).history
    assert np.isnan(history["loss"][0])


# Peers.


def test_peers_that_share_weights_are_refused():
    backbone = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    peers = []
    for _ in range(2):
        inputs = keras.Input((6,))
        outputs = keras.layers.Dense(4)(backbone(inputs))
        peers.append(keras.Model(inputs, outputs))
    with pytest.raises(ValueError, match="`peers` must share no weights"):
        SelectiveMutualDistillation(peers)


def softmax_layer():
    return keras.Sequential([linear(), keras.layers.Softmax()])


def softmax_activation():
    return mlp(activation="softmax")


def functional_softmax():
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(4, activation="softmax")(inputs)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    "make", [softmax_layer, softmax_activation, functional_softmax]
)
def test_a_softmax_said_to_be_logits_is_warned_of(make):
    peers = [linear(), make()]
    peers[1].build((None, 6))
    with pytest.warns(UserWarning, match=r"peers\[1\] ends in a softmax"):
        SelectiveMutualDistillation(peers)
    SelectiveMutualDistillation([make(), make()], from_logits=False)


def test_layers_frozen_after_compile_stay_as_they_are(data):
    peers = [mlp(), mlp()]
    model = compiled(*peers)
    peers[0].layers[0].trainable = False
    before = peers[0].get_weights()
    model.fit(*data, verbose=0)
    moved = [
        bool(np.any(was != now))
        for was, now in zip(before, peers[0].get_weights(), strict=True)
    ]
    assert moved[:2] == [False, False] and moved[2]


# Progress.


class Watch(keras.callbacks.Callback):
    """Notes `(epoch, step, total)` at each epoch's end."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((epoch, self.model.step, self.model.total_steps))


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


@pytest.mark.parametrize("batch_size", [4, 8, 16, 32])
def test_a_resumed_schedule_stands_where_the_epochs_say(
    batch_size, data, tmp_path
):
    model = compiled()
    model.fit(
        *data, batch_size=8, epochs=6, verbose=0, callbacks=[StopAfter(2)]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    watch = Watch()
    history = loaded.fit(
        *data,
        batch_size=batch_size,
        initial_epoch=2,
        epochs=6,
        verbose=0,
        callbacks=[callbacks.ProgressiveThreshold(), watch],
    ).history
    steps = SIZE // batch_size
    assert watch.seen == [(k, (k + 1) * steps, 6 * steps) for k in range(2, 6)]
    schedule = callbacks.ProgressiveThreshold()
    expected = [
        np.mean([schedule((k * steps + s) / (6 * steps)) for s in range(steps)])
        for k in range(2, 6)
    ]
    np.testing.assert_allclose(history["threshold"], expected, rtol=1e-5)


def test_best_weights_do_not_turn_the_clock_back(data):
    x, y = data
    model = compiled(optimizer=keras.optimizers.SGD(3.0))
    best = keras.callbacks.EarlyStopping(
        "val_loss", patience=2, restore_best_weights=True
    )
    history = model.fit(
        x,
        y,
        validation_data=(x, (y + 1) % 4),
        batch_size=8,
        epochs=10,
        verbose=0,
        callbacks=[best],
    ).history
    done = len(history["loss"])
    assert done < 10 and model.step < 4 * done
    watch = Watch()
    model.fit(
        x,
        y,
        batch_size=8,
        initial_epoch=done,
        epochs=done + 1,
        verbose=0,
        callbacks=[watch],
    )
    assert watch.seen == [(done, 4 * (done + 1), 4 * (done + 1))]


def test_best_weights_of_another_epoch_go_on_as_in_keras(data, tmp_path):
    path = tmp_path / "best.weights.h5"
    model = compiled()
    model.fit(*data, batch_size=8, epochs=1, verbose=0)
    model.save_weights(path)
    later = compiled()
    later.load_weights(path)
    watch = Watch()
    later.fit(
        *data,
        batch_size=8,
        initial_epoch=3,
        epochs=4,
        verbose=0,
        callbacks=[watch],
    )
    assert watch.seen == [(3, 16, 16)]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_data_of_unknown_length_count_each_batch_once(jit_compile, data):
    tf = pytest.importorskip("tensorflow")
    x, y = data

    def batches():
        return tf.data.Dataset.from_generator(
            lambda: zip(x, y, strict=True),
            output_signature=(
                tf.TensorSpec((6,), tf.float32),
                tf.TensorSpec((), tf.int64),
            ),
        ).batch(8)

    model = SelectiveMutualDistillation([linear(), linear()], total_steps=20)
    model.compile(
        "adam", "sparse_categorical_crossentropy", jit_compile=jit_compile
    )
    # A second training counts from 0 again.
    for _ in range(2):
        watch = Watch()
        model.fit(
            batches(),
            epochs=5,
            shuffle=False,
            verbose=0,
            callbacks=[callbacks.ProgressiveThreshold(), watch],
        )
        assert watch.seen == [(k, 4 * (k + 1), 20) for k in range(5)]


class EndsInDisorder(keras.callbacks.CallbackList):
    """Ends an epoch's batches at its end, the last first, as threads may."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ended = []

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append((batch, logs))

    def on_epoch_end(self, epoch, logs=None):
        while self.ended:
            super().on_train_batch_end(*self.ended.pop())
            self._flush_futures()
        super().on_epoch_end(epoch, logs)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_may_end_in_any_order(data):
    def batches():
        for begin in range(0, SIZE, 8):
            yield tuple(part[begin : begin + 8] for part in data)

    model = compiled()
    watch = Watch()
    ends = EndsInDisorder([watch], model=model, epochs=1, add_history=True)
    model.fit(batches(), shuffle=False, verbose=0, callbacks=ends)
    assert watch.seen == [(0, SIZE // 8, None)]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_are_those_of_their_epoch(data):
    tf = pytest.importorskip("tensorflow")
    watch = Watch()
    watch.seen = []

    def batches():
        size = SIZE // 2 if watch.seen else SIZE
        for begin in range(0, size, 8):
            yield tuple(part[begin : begin + 8] for part in data)

    spec = (tf.TensorSpec((8, 6), tf.float32), tf.TensorSpec((8,), tf.int64))
    compiled().fit(
        tf.data.Dataset.from_generator(batches, output_signature=spec),
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[watch],
    )
    assert watch.seen == [(0, 4, None), (1, 6, None)]


@pytest.mark.parametrize("epoch", [0, 1])
def test_weights_from_inside_an_epoch(epoch, data, tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.now = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.now, batch) == (epoch, 2):
                raise KeyboardInterrupt

    model = compiled()
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            *data, batch_size=8, epochs=3, verbose=0, callbacks=[Interrupt()]
        )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    watch = Watch()
    loaded.fit(*data, batch_size=8, epochs=1, verbose=0, callbacks=[watch])
    assert watch.seen == [(0, 4, 4)]
    if epoch:
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        with pytest.raises(ValueError, match="saved inside an epoch"):
            loaded.fit(*data, initial_epoch=epoch, epochs=3, verbose=0)


# A gate that trusts everything.


@pytest.mark.parametrize(
    "selection",
    [
        keras_smkd.selection.ConfidentKnowledge("entropy", 1.01),
        keras_smkd.selection.ConfidentKnowledge("margin", 1.01),
        keras_smkd.selection.ConfidentKnowledge("probability", 0.8),
        keras_smkd.selection.MostConfidentShare(threshold=1.0),
        keras_smkd.selection.ConfidentKnowledge(
            threshold=keras_smkd.schedules.Linear(1.1, 1.2)
        ),
    ],
)
def test_a_gate_refuses_to_trust_everything(selection):
    with pytest.raises(ValueError, match="`gate` must be None where all"):
        SelectiveMutualDistillation([linear(), linear()], selection=selection)
    SelectiveMutualDistillation(
        [linear(), linear()], selection=selection, gate=None
    )


def test_a_gate_refuses_no_selection_and_a_later_threshold(data):
    with pytest.raises(ValueError, match="selection=None"):
        PeerLearning([linear(), linear()], knowledge="peers", gate="label")
    model = compiled(selection="most_confident_share")
    with pytest.raises(ValueError, match="`gate` must be None where all"):
        model.threshold = 1.0
    with pytest.raises(ValueError, match="`gate` must be None where all"):
        model.fit(*data, callbacks=[callbacks.StaticThreshold(1.0)], verbose=0)
    assert model.threshold == 0.5


def test_a_selection_without_knowledge_is_refused():
    with pytest.raises(ValueError, match="`selection` must be None without"):
        PeerLearning([linear()], selection="entropy")


def test_a_model_that_nothing_teaches_is_refused():
    with pytest.raises(ValueError, match="`supervised_weight` must be posit"):
        PeerLearning([linear()], supervised_weight=0)


# Parts that give the wrong shape, and heads that cannot be.


def wrong(shape):
    def part(batch):
        return keras.ops.zeros(shape)

    return part


@pytest.mark.parametrize(
    ("argument", "shape", "expected"),
    [
        ("selection", (8, 3), r"`selection` must give shape \(.*, 2\)"),
        ("divergence", (8,), r"`divergence` must give shape \(.*, 2\)"),
        ("target", (8, 4), r"`target` must give shape \(.*, 2, 4\)"),
        ("gate", (8, 1), r"`gate` must give shape \(.*, 2\)"),
        ("feature_loss", (8, 2), r"`feature_loss` must give shape \(.*,\)"),
    ],
)
def test_a_part_of_the_wrong_shape_is_named(argument, shape, expected, data):
    model = PeerLearning(
        [linear(), linear()],
        **{"knowledge": "peers", argument: wrong(shape)},
        total_steps=4,
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=f"{expected}.*Received: shape"):
        model.fit(*data, batch_size=8, verbose=0)


def test_a_feature_loss_is_added_and_logged(data):
    def of_inputs(batch):
        return batch.x[:, 0] ** 2

    peer = linear()
    losses = []
    for part in (None, of_inputs):
        model = PeerLearning([peer], feature_loss=part)
        model.compile(
            keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy"
        )
        losses.append(model.evaluate(*data, verbose=0, return_dict=True))
    expected = np.mean(data[0][:, 0] ** 2)
    assert losses[1]["feature_loss"] == pytest.approx(expected, rel=1e-5)
    assert losses[1]["loss"] == pytest.approx(
        losses[0]["loss"] + expected, rel=1e-5
    )
    assert "feature_loss" not in losses[0]


def test_heads_that_cannot_be_are_refused():
    with pytest.raises(TypeError, match="`head` must be a Keras layer"):
        PeerLearning([linear()], head=lambda features: features)
    with pytest.raises(ValueError, match="`head` must have `taps`"):
        PeerLearning([linear()], head=keras.layers.Dense(4))
    with pytest.raises(ValueError, match="maps"):
        PeerLearning(
            [linear()], head=keras_smkd.features.FeatureConcatenation("maps")
        )


def test_tapped_layers_of_a_subclassed_peer_are_refused():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4, name="maps")

        def call(self, inputs):
            return self.dense(inputs)

    peers = [Subclassed(), Subclassed()]
    for peer in peers:
        peer(np.zeros((1, 6), "float32"))
    with pytest.raises(ValueError, match="functional"):
        model = PeerLearning(
            peers, head=keras_smkd.features.FeatureConcatenation("maps")
        )
        model(np.zeros((1, 6), "float32"))


# Weights of examples.


@pytest.mark.parametrize("shape", [(SIZE, 2), (SIZE, 1, 1)])
def test_weights_of_another_shape_are_refused(data, shape):
    model = compiled()
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="`sample_weight` must have shape"):
            call(*data, sample_weight=np.ones(shape), verbose=0)


def test_a_column_of_weights_is_a_vector(data):
    model = compiled()
    weights = np.linspace(0, 1, SIZE)
    expected = model.evaluate(*data, sample_weight=weights, verbose=0)
    found = model.evaluate(*data, sample_weight=weights[:, None], verbose=0)
    assert found == expected


def test_a_batch_with_fewer_weights_is_refused(data):
    x, y = data

    def batches():
        yield x, y, np.ones(3)

    if keras.backend.backend() == "tensorflow":
        pytest.skip("a stream's batches have no known size there")
    with pytest.raises(ValueError, match="`sample_weight` must have shape"):
        compiled().evaluate(batches(), verbose=0)


def test_a_head_of_logits_beside_peers_of_probabilities_is_refused():
    peers = [linear(activation="softmax"), linear(activation="softmax")]
    head = keras_smkd.features.FeatureConcatenation("dense")
    with pytest.raises(ValueError, match="`from_logits` must be True"):
        PeerLearning(peers, head=head, from_logits=False)
