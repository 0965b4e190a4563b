"""What happens around the steps: schedules, counting, resuming, optimizers."""

import keras
import numpy as np
import pytest
from peers import copies
from peers import linear
from peers import mlp
from thrift import cases

import keras_smkd
from keras_smkd.callbacks import ProgressiveThreshold
from keras_smkd.callbacks import StaticThreshold
from keras_smkd.callbacks import ThresholdSchedule
from keras_smkd.selection import ConfidentKnowledge

BACKEND = keras.backend.backend()
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}
STEPS = 5  # per epoch, of 8 examples

several_steps_per_call = pytest.param(
    4,
    marks=pytest.mark.skipif(
        BACKEND == "torch", reason="torch runs one step per call"
    ),
)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(8 * STEPS, 6)).astype("float32")
    return x, rng.integers(0, 4, size=8 * STEPS)


def model_of(peers=None, optimizer="sgd", compile_args=None, **kwargs):
    model = keras_smkd.SelectiveMutualDistillation(
        peers or [linear(), linear()], **{"gate": None, **kwargs}
    )
    model.compile(
        optimizer, "sparse_categorical_crossentropy", **(compile_args or {})
    )
    return model


def thresholds(schedule, first, last, total):
    return [schedule.value(step / total) for step in range(first, last)]


def by_learner(batch, targets):
    targets = keras.ops.expand_dims(targets, axis=1)
    return keras.ops.repeat(targets, batch.num_learners, axis=1)


class Recorder(keras.callbacks.Callback):
    """Keeps the threshold and the step after every batch."""

    def __init__(self):
        super().__init__()
        self.thresholds = []
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        model = self.model
        self.thresholds.append(model.threshold)
        self.steps.append(model.step)


@pytest.mark.parametrize("sharpness", [8.0, -8.0, 0.0])
def test_schedule_takes_effect_at_every_step(data, sharpness):
    schedule = ProgressiveThreshold(0.5, sharpness, 0.25)
    recorder = Recorder()
    model_of().fit(*data, epochs=2, callbacks=[schedule, recorder], **FIT)
    np.testing.assert_allclose(
        recorder.thresholds, thresholds(schedule, 0, 10, 10), rtol=1e-6
    )
    assert recorder.steps == list(range(1, 11))


@pytest.mark.parametrize("steps_per_execution", [1, several_steps_per_call])
@pytest.mark.parametrize("accumulation", [None, 2])
def test_every_step_uses_its_own_threshold(
    data, steps_per_execution, accumulation
):
    # The logged threshold is the mean over the batches of the epoch, so it
    # also tells of the steps between two calls.
    schedule = ProgressiveThreshold(0.5, 8.0)
    model = model_of(
        optimizer=keras.optimizers.SGD(
            0.1, gradient_accumulation_steps=accumulation
        ),
        compile_args={"steps_per_execution": steps_per_execution},
    )
    history = model.fit(*data, epochs=2, callbacks=[schedule], **FIT)
    per_step = accumulation or 1
    values = thresholds(schedule, 0, 10 // per_step, 10 // per_step)
    by_batch = np.repeat(values, per_step)
    np.testing.assert_allclose(
        history.history["threshold"],
        [by_batch[:5].mean(), by_batch[5:].mean()],
        rtol=1e-5,
    )
    assert model.step == model.total_steps == 10 // per_step
    assert model.threshold == pytest.approx(values[-1])


def test_schedule_selects_by_its_threshold(data):
    class AllThenNothing(ThresholdSchedule):
        def value(self, progress):
            return 2.0 * keras.ops.cast(progress < 0.5, "float32")

    history = model_of().fit(
        *data, epochs=2, callbacks=[AllThenNothing()], **FIT
    )
    assert history.history["selection_rate"] == [1.0, 0.0]
    assert history.history["distillation_loss"][0] > 0.0
    assert history.history["distillation_loss"][1] == 0.0


def test_schedule_lasts_for_one_fit(data):
    model = model_of()
    assert model.threshold == 0.5
    model.fit(*data, callbacks=[StaticThreshold(0.25)], **FIT)
    assert model.threshold == 0.25
    history = model.fit(*data, **FIT)
    assert history.history["threshold"] == [0.25]
    model.threshold = 0.75
    schedules = [StaticThreshold(0.1), ProgressiveThreshold(0.2, 0.0)]
    for schedule, value in zip(schedules, (0.1, 0.2), strict=True):
        history = model.fit(*data, callbacks=[schedule], **FIT)
        assert history.history["threshold"][0] == pytest.approx(value)


def test_a_fit_that_failed_leaves_no_schedule(data):
    def stop(epoch, logs):
        raise KeyboardInterrupt

    model = model_of()
    stopping = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, callbacks=[StaticThreshold(0.25), stopping], **FIT)
    history = model.fit(*data, callbacks=[StaticThreshold(0.125)], **FIT)
    assert history.history["threshold"] == [0.125]


def test_progress_ends_at_1(data):
    schedule = keras_smkd.schedules.Linear(0.0, 1.0)
    selection = ConfidentKnowledge(threshold=schedule)
    model = model_of(selection=selection, total_steps=2)
    found = []
    for _ in range(4):
        model.train_on_batch(*data)
        found.append(model.threshold)
    assert found == [0.0, 0.5, 1.0, 1.0]


def test_an_evaluation_moves_no_threshold(data):
    schedule = keras_smkd.schedules.Linear(0.25, 0.75)
    selection = ConfidentKnowledge(threshold=schedule)
    model = model_of(selection=selection, total_steps=2)
    model.train_on_batch(*data)
    assert (model.threshold, model.step) == (0.25, 1)
    model.evaluate(*data, verbose=0)
    assert model.threshold == 0.25


def test_total_steps_that_were_given_outlast_a_fit(data):
    model = model_of()
    model.fit(*data, **FIT)
    assert model.total_steps == STEPS
    assert model.get_config()["total_steps"] is None
    model.total_steps = 20
    model.fit(*data, **FIT)
    assert model.total_steps == 20
    assert model.get_config()["total_steps"] == 20


@pytest.mark.skipif(BACKEND != "torch", reason="of torch's generator")
def test_every_epoch_of_arrays_has_an_order_of_its_own(data):
    losses = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
    )
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[keep])
    first, second = np.reshape(losses, (2, STEPS))
    np.testing.assert_allclose(first[-1], second[-1], rtol=1e-5)
    assert np.abs(first - second)[:-1].max() > 1e-3


def test_batches_that_several_optimizers_accumulate_are_one_step(data):
    optimizers = [
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
        for _ in range(2)
    ]
    recorder = Recorder()
    model = model_of(optimizer=optimizers)
    model.fit(*data, epochs=2, callbacks=[recorder], **FIT)
    assert recorder.steps == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly")
def test_nothing_is_traced_again_while_training(data):
    traces = []

    def counting_target(batch):
        traces.append(batch.progress)
        return by_learner(batch, batch.labels)

    model = model_of(target=counting_target)
    after_first = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: after_first.append(len(traces))
    )
    schedule = ProgressiveThreshold()
    model.fit(*data, epochs=3, callbacks=[schedule, count], **FIT)
    model.fit(*data, epochs=2, callbacks=[schedule, count], **FIT)
    assert after_first[0] > 0
    assert set(after_first) == {after_first[0]}
    model.fit(*data, callbacks=[ProgressiveThreshold(), count], **FIT)
    assert after_first[-1] > after_first[0]


def test_without_fit_the_threshold_is_a_number(data):
    x, y = data
    model = model_of(selection=ConfidentKnowledge(threshold=2.0))
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["threshold"] == 2.0
    assert logs["selection_rate"] == 1.0
    model.threshold = 0.0
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["threshold"] == logs["selection_rate"] == 0.0
    assert model.step == 2


def test_progress_of_targets_follows_the_steps(data):
    seen = model_of(
        target=lambda batch: (
            keras.ops.ones_like(batch.logits) * (1.0 - batch.progress) / 4.0
        )
    )
    # The target's rows sum to 1 - progress, so the loss tells the progress
    # where the logits are equal: (1 - progress) * log 4 for each peer.
    for peer in seen.peers:
        peer.set_weights([np.zeros((6, 4))])
    history = seen.fit(*data, epochs=2, **FIT)
    progress = np.arange(10) / 10
    expected = 2 * np.log(4) * (1 - progress)
    np.testing.assert_allclose(
        history.history["supervised_loss"],
        [expected[:5].mean(), expected[5:].mean()],
        rtol=1e-5,
    )


def test_initial_epoch_moves_a_new_counter(data):
    schedule = ProgressiveThreshold()
    recorder = Recorder()
    model = model_of()
    model.fit(
        *data,
        epochs=4,
        initial_epoch=3,
        callbacks=[schedule, recorder],
        **FIT,
    )
    assert recorder.steps == [16, 17, 18, 19, 20]
    np.testing.assert_allclose(
        recorder.thresholds, thresholds(schedule, 15, 20, 20), rtol=1e-6
    )
    model.fit(*data, epochs=1, **FIT)
    assert (model.step, model.total_steps) == (5, 5)


@pytest.mark.parametrize("optimizers", ["one", "one per peer"])
def test_resumed_run_ends_like_the_uninterrupted_one(
    data, tmp_path, optimizers
):
    def fresh():
        optimizer = keras.optimizers.Adam(0.01)
        if optimizers == "one per peer":
            optimizer = [optimizer, keras.optimizers.SGD(0.1, momentum=0.9)]
        return model_of(
            copies(peers), optimizer, target=keras_smkd.targets.ProSelfLC()
        )

    def fit(model, epochs, initial_epoch=0, callbacks=()):
        return model.fit(
            *data,
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=[ProgressiveThreshold(), *callbacks],
            **FIT,
        )

    peers = [mlp(dropout=0.3), mlp(5, dropout=0.5)]
    whole = fresh()
    expected = fit(whole, 4).history
    path = tmp_path / "model.keras"

    class StopAfterTwo(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.save(path)
                self.model.stop_training = True

    fit(fresh(), 4, callbacks=[StopAfterTwo()])
    loaded = keras.saving.load_model(path)
    assert (loaded.step, loaded.total_steps) == (10, 20)
    resumed = fit(loaded, 4, initial_epoch=2).history
    for name, values in expected.items():
        assert resumed[name] == values[2:], name
    for ours, theirs in zip(
        loaded.get_weights(), whole.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_each_peer_can_have_its_own_optimizer(data):
    x, y = data
    peers = [mlp(), mlp(5), mlp(12)]
    alone = copies(peers)

    def optimizers():
        return [
            keras.optimizers.Adam(0.01),
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.optimizers.RMSprop(0.001),
        ]

    model = model_of(
        peers, optimizers(), selection=ConfidentKnowledge(threshold=0.0)
    )
    model.fit(x, y, epochs=2, **FIT)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for peer, single, optimizer in zip(peers, alone, optimizers(), strict=True):
        single.compile(optimizer, loss)
        single.fit(x, y, epochs=2, **FIT)
        for ours, theirs in zip(
            peer.get_weights(), single.get_weights(), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert model.step == 10


def test_one_adam_for_all_peers_equals_one_for_each(data):
    peers = [mlp(), mlp(5)]
    copy = copies(peers)
    together = model_of(peers, keras.optimizers.Adam(0.01))
    apart = model_of(copy, [keras.optimizers.Adam(0.01) for _ in range(2)])
    for model in (together, apart):
        model.fit(*data, epochs=2, **FIT)
    for ours, theirs in zip(
        together.get_weights(), apart.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("optimizers", ["one", "one per peer"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_close_to_float32(data, policy, optimizers):
    def optimizer():
        if optimizers == "one":
            return keras.optimizers.SGD(0.1)
        return [keras.optimizers.SGD(0.1) for _ in range(2)]

    peers = [mlp(), mlp(5)]
    exact = model_of(copies(peers), optimizer())
    expected = exact.fit(*data, epochs=3, **FIT).history["loss"]
    keras.config.set_dtype_policy(policy)
    try:
        mixed_peers = [mlp(), mlp(5)]
        for mixed, peer in zip(mixed_peers, peers, strict=True):
            mixed.set_weights(peer.get_weights())
        mixed = model_of(mixed_peers, optimizer())
        losses = mixed.fit(
            *data, epochs=3, callbacks=[StaticThreshold(0.5)], **FIT
        ).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(losses, expected, rtol=0.1)
    if policy == "mixed_float16":
        assert isinstance(mixed.optimizer, keras.optimizers.LossScaleOptimizer)
    # Loss scaling may skip a step at the start, while it finds its scale; the
    # schedules go by the epochs.
    inner = getattr(mixed.optimizer, "inner_optimizer", mixed.optimizer)
    inner = getattr(inner, "optimizers", [inner])[0]
    assert 13 <= int(inner.iterations) <= 15
    assert mixed.step == 15


def test_a_step_skipped_by_loss_scaling_does_not_count(data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1), initial_scale=2.0**120
        )
        model = model_of([mlp(), mlp(5)], optimizer)
        model.train_on_batch(*data)
        assert model.step == int(optimizer.iterations) == 0
        recorder = Recorder()
        model.fit(*data, epochs=2, callbacks=[recorder], **FIT)
    finally:
        keras.config.set_dtype_policy("float32")
    # An epoch begins where the epochs before it would have ended.
    assert int(optimizer.iterations) == 0
    assert recorder.steps == [0] * STEPS + [STEPS] * STEPS


@pytest.mark.parametrize("eagerly", [True, False])
def test_eager_and_compiled_steps_agree(data, eagerly):
    peers = [mlp(), mlp(5)]
    target = keras_smkd.targets.ProSelfLC()
    models = [
        model_of(
            copies(peers),
            keras.optimizers.Adam(0.01),
            compile_args=args,
            target=target,
        )
        for args in ({}, {"run_eagerly": eagerly, "jit_compile": not eagerly})
    ]
    if BACKEND == "torch" and not eagerly:
        pytest.skip("torch.compile needs a C++ tool chain and tens of seconds")
    histories = [
        model.fit(
            *data, epochs=2, callbacks=[ProgressiveThreshold()], **FIT
        ).history
        for model in models
    ]
    for name, values in histories[0].items():
        np.testing.assert_allclose(
            histories[1][name], values, rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "generator"])
def test_every_kind_of_data_feeds_fit(data, kind):
    x, y = data
    peers = [mlp(), mlp(5)]
    expected = model_of(copies(peers))
    expected.fit(x, y, epochs=2, **FIT)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return STEPS

        def __getitem__(self, index):
            part = slice(8 * index, 8 * index + 8)
            return x[part], y[part]

    def generator():
        while True:
            for index in range(STEPS):
                yield Batches()[index]

    steps = None
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    elif kind == "PyDataset":
        batches = Batches()
    else:
        batches, steps = generator(), STEPS
    model = model_of(copies(peers))
    model.fit(
        batches,
        epochs=2,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[StaticThreshold(0.5)],
    )
    assert model.total_steps == 10
    for ours, theirs in zip(
        model.get_weights(), expected.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_callback_list_is_taken_as_keras_takes_it(data):
    model = model_of()
    schedule = ProgressiveThreshold()
    callbacks = keras.callbacks.CallbackList(
        [schedule], model=model, epochs=2, steps=STEPS, add_history=True
    )
    before = list(callbacks.callbacks)
    model.fit(*data, epochs=2, callbacks=callbacks, **FIT)
    assert callbacks.callbacks == before
    assert (model.step, model.total_steps) == (10, 10)
    assert model.threshold == pytest.approx(schedule.value(0.9))


def test_noise_monitor_tells_what_clean_labels_tell(data):
    x, noisy = data
    clean = noisy.copy()
    clean[::3] = (clean[::3] + 1) % 4
    model = model_of([mlp(), mlp(5)])
    monitor = keras_smkd.callbacks.NoiseMonitor(x, noisy, clean, batch_size=16)
    history = model.fit(
        x,
        noisy,
        epochs=2,
        callbacks=[StaticThreshold(0.9), monitor],
        validation_data=(x, clean),
        **FIT,
    ).history
    probs = model.predict(x, verbose=0, output="all")
    selected, right = 0, 0
    for p in probs.values():
        confident = -(p * np.log(p)).sum(axis=1) / np.log(4) < 0.9
        selected += confident.sum()
        right += (confident & (p.argmax(axis=1) == clean)).sum()
    assert 0 < selected < 2 * len(x)
    ensemble = model.predict(x, verbose=0).argmax(axis=1)
    wrong = noisy != clean
    assert history["selection_precision"][-1] == pytest.approx(right / selected)
    assert history["memorization"][-1] == pytest.approx(
        (ensemble == noisy)[wrong].mean()
    )
    nothing = model.fit(
        x, noisy, callbacks=[StaticThreshold(0.0), monitor], **FIT
    ).history
    assert np.isnan(nothing["selection_precision"][0])
    with pytest.raises(ValueError, match="must have the same number"):
        keras_smkd.callbacks.NoiseMonitor(x, noisy, clean[:-1])


def test_each_output_of_predict_keeps_its_compiled_function(data):
    x, _ = data
    model = model_of()
    outputs = ("ensemble", "all", "peer_1")
    for output in outputs:
        model.predict(x, verbose=0, output=output)
    functions = dict(model._asked().functions)
    assert functions.keys() == set(outputs)
    assert len(set(map(id, functions.values()))) == 3
    for output in outputs:
        model.predict(x, verbose=0, output=output)
    assert model._asked().functions == functions
    # Unless it is compiled anew.
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert model._asked().functions == {}


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly")
@pytest.mark.parametrize("scheduled", [True, False])
def test_a_fit_is_traced_once(data, scheduled):
    traces = []

    def loss(y_true, y_pred):
        traces.append(len(y_pred.shape))
        return keras.ops.sparse_categorical_crossentropy(
            y_true, y_pred, from_logits=True
        )

    model = keras_smkd.PeerLearning(
        [mlp(), mlp()], knowledge="peers", selection="entropy"
    )
    model.compile("sgd", loss)
    schedules = [ProgressiveThreshold()] if scheduled else []
    model.fit(*data, epochs=2, callbacks=schedules, **FIT)
    # Once for each peer.
    assert len(traces) == 2


def test_a_selection_with_a_schedule_takes_no_second_one(data):
    own = keras_smkd.schedules.Linear(0.0, 0.5)
    model = model_of(selection=ConfidentKnowledge(threshold=own))
    recorder = Recorder()
    with pytest.raises(
        ValueError,
        match=r"must be given one threshold schedule at the most\. Received: "
        r".*StaticThreshold.* besides Linear\(",
    ):
        model.fit(*data, callbacks=[StaticThreshold(0.5), recorder], **FIT)
    with pytest.raises(ValueError, match="one threshold schedule at the most"):
        model_of().fit(
            *data,
            callbacks=[StaticThreshold(0.5), ProgressiveThreshold()],
            **FIT,
        )
    assert recorder.steps == []
    model.fit(*data, epochs=2, callbacks=[recorder], **FIT)
    np.testing.assert_allclose(
        recorder.thresholds, 0.5 * np.arange(10) / 10, rtol=1e-6
    )


class Batches(keras.utils.PyDataset):
    """Arrays, or a dictionary of them, in batches of eight."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 8

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        y = keras.tree.map_structure(lambda values: values[part], self.y)
        return self.x[part], y


CLASS_WEIGHT = {0: 0.25, 1: 3.0, 3: 0.0}


@pytest.mark.parametrize(
    ("kind", "form"),
    cases(
        [
            ("arrays", "ids"),
            ("arrays", "one-hot"),
            ("arrays", "labelled"),
            ("validation split", "with index"),
            ("tf.data", "ids"),
            ("tf.data", "with index"),
            ("PyDataset", "one-hot"),
            ("generator", "labelled"),
        ],
        [
            ("arrays", "one-hot"),
            ("validation split", "with index"),
            ("tf.data", "with index"),
            ("generator", "labelled"),
        ],
    ),
)
def test_class_weights_act_in_training_only(data, kind, form):
    """A plain model of Keras that is fitted with the same class weights."""
    x, y = data
    (train_x, x_val), (train_y, y_val) = (np.split(v, [24]) for v in data)
    one_hot = np.eye(4, dtype="float32")
    labels = {
        "ids": y,
        "one-hot": one_hot[y],
        "with index": {"label": y, "index": np.arange(len(y))},
        "labelled": {"label": y, "labelled": np.ones(len(y), "int32")},
    }[form]
    first = keras.tree.map_structure(lambda values: values[:24], labels)
    last = keras.tree.map_structure(lambda values: values[24:], labels)
    peer = mlp()
    (alone,) = copies([peer])
    alone.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    expected = alone.fit(
        train_x,
        train_y,
        validation_data=(x_val, y_val),
        class_weight=CLASS_WEIGHT,
        epochs=3,
        **FIT,
    ).history
    assert expected["loss"][0] != pytest.approx(expected["val_loss"][0], 0.01)

    def stream(x, y):
        if kind == "tf.data":
            tf = pytest.importorskip("tensorflow")
            return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        if kind == "PyDataset":
            return Batches(x, y)
        return (batch for _ in range(9) for batch in Batches(x, y))

    if kind == "validation split":
        given = {"x": x, "y": labels, "validation_split": 0.4, **FIT}
    elif kind == "arrays":
        given = {"x": train_x, "y": first, "validation_data": (x_val, last)}
        given.update(FIT)
    else:
        given = {
            "x": stream(train_x, first),
            "validation_data": stream(x_val, last),
            "shuffle": False,
            "verbose": 0,
        }
        if kind == "generator":
            given.update(steps_per_epoch=3, validation_steps=2)
    model = keras_smkd.PeerLearning([peer])
    loss = "categorical" if form == "one-hot" else "sparse_categorical"
    model.compile(keras.optimizers.SGD(0.1), f"{loss}_crossentropy")
    history = model.fit(class_weight=CLASS_WEIGHT, epochs=3, **given).history
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5)
    for ours, theirs in zip(
        peer.get_weights(), alone.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # They last for that `fit`.
    (alone,) = copies([peer])
    alone.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    alone.fit(train_x, train_y, **FIT)
    model.optimizer.learning_rate = 0.1
    model.fit(train_x, first, **FIT)
    for ours, theirs in zip(
        peer.get_weights(), alone.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["ids", "one-hot"])
def test_class_weights_of_examples_without_a_label(data, form):
    x, y = data
    labelled = np.arange(len(y)) % 2
    given = np.where(labelled, y, -1)
    loss = "sparse_categorical_crossentropy"
    if form == "one-hot":
        given, loss = np.eye(4, dtype="float32")[given], loss[7:]
    labels = {"label": given, "labelled": labelled}
    weight = np.where(
        labelled, [CLASS_WEIGHT.get(int(label), 1.0) for label in y], 1.0
    )
    peers = [linear(), linear()]
    by_class, by_sample = (model_of(copies(peers)) for _ in range(2))
    for model in (by_class, by_sample):
        model.compile("sgd", loss)
    by_class.fit(x, labels, class_weight=CLASS_WEIGHT, **FIT)
    by_sample.fit(x, labels, sample_weight=weight, **FIT)
    for ours, theirs in zip(
        by_class.get_weights(), by_sample.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_class_weights_that_cannot_be(data):
    x, y = data
    model = model_of()
    cases = [
        ({0: -1.0}, ValueError, r"`class_weight\[0\]` must be a finite"),
        ({4: 1.0}, ValueError, r"class ids in \[0, 4\) as keys.*key 4"),
        ({-1: 1.0}, ValueError, r"class ids in \[0, 4\) as keys.*key -1"),
        ({"0": 1.0}, ValueError, "as keys.*key '0'"),
        ([1.0] * 4, TypeError, "`class_weight` must be a dictionary"),
    ]
    for weights, error, message in cases:
        with pytest.raises(error, match=message):
            model.fit(x, y, class_weight=weights, **FIT)
    both = {"class_weight": {0: 1.0}, "sample_weight": np.ones(len(y))}
    with pytest.raises(ValueError, match="must not both be given"):
        model.fit(x, y, **both, **FIT)
    with pytest.raises(ValueError, match="must not both be given"):
        model.train_on_batch(x, y, **both)
    stream = ((x, y, np.ones(len(y))) for _ in range(2))
    with pytest.raises(ValueError, match="must not both be given"):
        model.fit(stream, class_weight={0: 1.0}, shuffle=False, verbose=0)
    free = model_of(supervised_weight=0.0)
    with pytest.raises(ValueError, match="must be given with labels"):
        free.fit(x, class_weight={0: 1.0}, **FIT)
    assert model.step == 0


@pytest.mark.parametrize(
    ("beside", "form"),
    [
        ({}, "ids"),
        ({}, "one-hot"),
        ({"validation_split": 0.25}, "ids"),
        ({"validation_split": 0.25}, "labelled"),
        ({"class_weight": CLASS_WEIGHT}, "ids"),
        ({"class_weight": CLASS_WEIGHT, "validation_split": 0.25}, "one-hot"),
        ({"sample_weight": np.ones(8 * STEPS)}, "ids"),
    ],
)
def test_fit_gives_each_example_of_arrays_its_place(data, beside, form):
    """With a learning rate of 0, what is remembered tells whose it is."""
    x, y = data
    labels = {
        "ids": y,
        "one-hot": np.eye(4, dtype="float32")[y],
        "labelled": {"label": y, "labelled": np.ones(len(y))},
    }[form]
    memory = keras_smkd.targets.TemporalEnsembling(len(x), momentum=0.75)
    model = keras_smkd.PeerLearning([linear(), linear()], target=memory)
    loss = "categorical" if form == "one-hot" else "sparse_categorical"
    model.compile(keras.optimizers.SGD(0.0), f"{loss}_crossentropy")
    model.fit(x, labels, **{**FIT, "shuffle": True}, **beside)
    probs = model.predict(x, verbose=0, output="all")
    expected = 0.25 * np.stack(list(probs.values()), axis=1)
    if "validation_split" in beside:
        expected[30:] = 0.0
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(memory.memory), expected, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["PyDataset", "generator"])
def test_a_stream_must_bring_its_index(data, kind):
    x, y = data
    memory = keras_smkd.targets.TemporalEnsembling(len(x), momentum=0.75)
    model = model_of(target=memory, total_steps=STEPS)
    model.optimizer.learning_rate = 0.0

    def stream(labels):
        batches = Batches(x, labels)
        if kind == "PyDataset":
            return batches
        return (batches[i] for i in range(STEPS))

    fit = {"steps_per_epoch": STEPS, "shuffle": False, "verbose": 0}
    with pytest.raises(ValueError, match="Received: labels without an index"):
        model.fit(stream(y), **fit)
    assert model.step == 0
    index = np.arange(len(y))[::-1].astype("int32")
    model.fit(stream({"label": y, "index": index}), **fit)
    probs = model.predict(x, verbose=0, output="all")
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(memory.memory)[index],
        0.25 * np.stack(list(probs.values()), axis=1),
        rtol=1e-5,
    )
