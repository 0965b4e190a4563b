"""The table of suspicious labels, and what it comes to."""

import base64
import csv
import dataclasses
import io

import keras
import numpy as np
import pytest
from keras import ops
from naive import naive_log_softmax
from peers import linear

from keras_smkd import SelectiveMutualDistillation
from keras_smkd import data as data_room
from keras_smkd import estimators
from keras_smkd import report

SIZE, CLASSES = 20, 4
NAMES = ("cat", "dog", "owl", "eel")


@pytest.fixture
def logits(rng):
    return rng.normal(0.0, 2.0, (SIZE, CLASSES)).astype("float32")


@pytest.fixture
def labels(rng):
    return rng.integers(0, CLASSES, SIZE)


def echo(softmax=False):
    """A plain classifier whose logits are its inputs, or their softmax."""
    inputs = keras.Input((CLASSES,))
    outputs = ops.softmax(inputs) if softmax else 1.0 * inputs
    return keras.Model(inputs, outputs)


def naive_weighed(probs, labels):
    """Return predictions with the labels' say, example by example."""
    table = np.zeros((CLASSES, CLASSES))
    for c in range(CLASSES):
        own = [k for k in range(len(probs)) if probs[k].argmax() == c]
        own.sort(key=lambda k: -probs[k].max())
        for k in own[: -(-len(own) // 2)]:
            table[c, labels[k]] += 1
    table = table / table.sum() + 0.02 / CLASSES * np.eye(CLASSES)
    table = table / table.sum(axis=1, keepdims=True)
    table = 0.99 * table + 0.01 / CLASSES
    weights = np.array(
        [p**2 * table[:, y] for p, y in zip(probs, labels, strict=True)]
    )
    return weights / weights.sum(axis=1, keepdims=True)


def expected_rows(logits, labels, index=None, rule="posterior"):
    """Return `{index: (label, suggestion, score, probability)}`, by a loop."""
    rows = {}
    probs = np.exp(naive_log_softmax(logits.astype("float64")))
    if rule == "posterior":
        probs = naive_weighed(probs, labels)
    for k, (p, label) in enumerate(zip(probs, labels, strict=True)):
        other = max(
            (j for j in range(CLASSES) if j != label), key=p.__getitem__
        )
        suggestion = other if p[other] > p[label] else label
        rivals = 1.0 - p[label] if rule == "posterior" else p[other]
        rows[k if index is None else int(index[k])] = (
            int(label),
            int(suggestion),
            rivals - p[label],
            1.0 - p[label],
        )
    return rows


def check(table, expected):
    assert len(table) == len(expected)
    assert np.all(np.diff(table.score) <= 0)
    for i in range(len(table)):
        row = table[i]
        label, suggestion, score, probability = expected[row.index]
        assert (row.label, row.suggestion) == (label, suggestion)
        assert row.score == pytest.approx(score, abs=1e-6)
        assert row.probability == pytest.approx(probability, abs=1e-6)
        assert row.selected == (suggestion != label)


def suspects(logits, labels, **kwargs):
    return report.suspicious_labels(
        echo(), logits, labels, from_logits=True, batch_size=8, **kwargs
    )


def test_margins_by_hand():
    probs = np.float32([[0.2, 0.7, 0.1], [0.5, 0.5, 0.0], [0.1, 0.1, 0.8]])
    classes, largest = report.suspicion.likeliest(probs)
    assert classes.tolist() == [[1, 0, 2], [0, 1, 2], [2, 0, 1]]
    labels = np.array([0, 1, 2])
    suggestion, p_other = report.suspicion.margins(
        classes, largest, labels, probs[np.arange(3), labels]
    )
    assert suggestion.tolist() == [1, 1, 2]
    np.testing.assert_equal(p_other, np.float32([0.7, 0.5, 0.1]))


def test_a_label_that_is_not_among_the_likeliest_has_its_say():
    """Of seven classes the label is the least probable."""
    probs = np.float32([[0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02]])
    classes, largest = report.suspicion.likeliest(probs)
    assert classes.tolist() == [[0, 1, 2, 3, 4]]
    q, q_label = report.suspicion.weighed(
        classes, largest, np.array([6]), probs[:, 6], 7
    )
    # One example, predicted 0 and labelled 6: rows but the first are trusted.
    row = np.array([0.02 / 7, 0, 0, 0, 0, 0, 1.0]) / (1 + 0.02 / 7)
    table = np.vstack([row, np.eye(7)[1:]]) * 0.99 + 0.01 / 7
    weights = probs[0].astype("float64") ** 2 * table[:, 6]
    weights[5] = 0.0
    wanted = weights / weights.sum()
    np.testing.assert_allclose(q[0], wanted[:5], rtol=1e-5)
    np.testing.assert_allclose(q_label, wanted[6:], rtol=1e-5)


def test_labels_that_round_to_certainly_wrong_are_still_in_order():
    logits = np.float32([[0, 30, 0, 0], [0, 40, 0, 0], [0, 35, 0, 0]] * 2)
    table = suspects(logits, np.array([0, 0, 0, 1, 1, 1]))
    assert table.score[:3].tolist() == [1.0, 1.0, 1.0]
    assert table.index[:3].tolist() == [1, 2, 0]


@pytest.mark.parametrize("rule", ["posterior", "disagreement"])
@pytest.mark.parametrize("form", ["ids", "uint8", "column", "one-hot"])
def test_the_table_is_that_of_the_loop(logits, labels, form, rule):
    given = {
        "ids": labels,
        "uint8": labels.astype("uint8"),
        "column": labels[:, None].astype("float32"),
        "one-hot": np.eye(CLASSES)[labels],
    }[form]
    table = suspects(logits, given, rule=rule)
    check(table, expected_rows(logits, labels, rule=rule))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 8)

    def __getitem__(self, k):
        part = slice(8 * k, 8 * k + 8)
        if self.y is None:
            return self.x[part]
        y = keras.tree.map_structure(lambda values: values[part], self.y)
        return self.x[part], y


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data", "DataLoader", "list"])
@pytest.mark.parametrize("where", ["own", "given", "both", "index"])
def test_streams_are_read_as_arrays_are(logits, labels, kind, where, rng):
    index = rng.permutation(SIZE)
    y = {
        "own": labels,
        "given": None,
        "both": labels,
        "index": {"label": labels, "index": index},
    }[where]
    given = labels if where in ("given", "both") else None
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        parts = logits if y is None else (logits, y)
        x = tf.data.Dataset.from_tensor_slices(parts).batch(8)
    elif kind == "DataLoader":
        torch = pytest.importorskip("torch")
        x = torch.utils.data.DataLoader(
            [
                keras.tree.map_structure(
                    lambda values, k=k: values[k],
                    logits if y is None else (logits, y),
                )
                for k in range(SIZE)
            ],
            batch_size=8,
        )
    else:
        x = Batches(logits, y)
        x = x if kind == "PyDataset" else iter([x[k] for k in range(len(x))])
    found = suspects(x, given)
    check(
        found,
        expected_rows(logits, labels, index if where == "index" else None),
    )


def test_given_labels_follow_the_index_of_batches(logits, labels, rng):
    index = rng.permutation(SIZE)[:12]
    rows = logits[:12]
    y = {"label": labels[index], "index": index}
    found = suspects(iter([(rows, y)]), labels)
    # A part of the data set is not all of it.
    expected = expected_rows(rows, labels[index], index)
    check(found, expected)


def test_examples_without_label_are_left_out(logits, labels):
    y = {"label": labels - 1, "labelled": (labels > 0).astype("int32")}
    has = np.flatnonzero(labels > 0)
    found = suspects(Batches(logits, y), None)
    check(found, expected_rows(logits[has], labels[has] - 1, has))


def test_examples_have_their_canonical_index(rng):
    images = rng.integers(0, 256, (6, 2, 1, 2), dtype="uint8")
    labels = np.array([0, 1, 2, 3, 1, 0])
    examples = data_room.from_arrays(
        images, labels, class_names=NAMES, index=[50, 40, 30, 20, 10, 0]
    )
    inputs = keras.Input((2, 1, 2))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    found = report.suspicious_labels(model, examples, from_logits=True)
    logits = images.reshape(6, 4) / np.float32(255.0)
    check(found, expected_rows(logits, labels, examples.index))
    assert found.class_names == NAMES


def test_shuffled_pipelines_must_have_an_index(rng):
    pytest.importorskip("tensorflow")
    images = rng.random((8, 2, 1, 2), dtype="float32")
    labels = np.arange(8) % CLASSES
    inputs = keras.Input((2, 1, 2))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    options = {"batch_size": 3, "shuffle": True, "seed": 1}
    expected = expected_rows(images.reshape(8, 4), labels)
    for make in (data_room.PipelineSequence, data_room.make_pipeline):
        with pytest.raises(ValueError, match=r"must have an index.*shuffles"):
            report.suspicious_labels(
                model, make(images, labels, **options), from_logits=True
            )
        found = report.suspicious_labels(
            model,
            make(images, labels, with_index=True, **options),
            labels,
            from_logits=True,
        )
        check(found, expected)


def test_a_sample_is_a_part_of_the_table(logits, labels):
    # By the rule that judges each example by itself.
    rule = "disagreement"
    whole = expected_rows(logits, labels, rule=rule)
    found = suspects(logits, labels, sample=9, seed=4, rule=rule)
    check(found, {k: whole[k] for k in found.index})
    again = suspects(logits, labels, sample=9, seed=4, rule=rule)
    np.testing.assert_array_equal(found.index, again.index)
    other = suspects(logits, labels, sample=9, seed=5)
    assert set(found.index) != set(other.index)


def test_inputs_in_a_dictionary(logits, labels):
    first, second = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    model = keras.Model(
        {"a": first, "b": second}, ops.concatenate([first, second], axis=1)
    )
    found = report.suspicious_labels(
        model,
        {"a": logits[:, :2], "b": logits[:, 2:]},
        labels,
        from_logits=True,
        batch_size=8,
    )
    check(found, expected_rows(logits, labels))


def test_the_loss_says_what_a_plain_model_puts_out(logits, labels):
    model = keras.Sequential(
        [
            keras.Input((CLASSES,)),
            keras.layers.Dense(
                CLASSES, use_bias=False, kernel_initializer="identity"
            ),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(logits, labels, verbose=0)
    found = report.suspicious_labels(model, logits, labels)
    check(found, expected_rows(logits, labels))
    found = report.suspicious_labels(echo(softmax=True), logits, labels)
    check(found, expected_rows(logits, labels))


def test_peers_are_asked_as_an_ensemble(logits, labels):
    peers = [linear(CLASSES, CLASSES), linear(CLASSES, CLASSES)]
    model = SelectiveMutualDistillation(peers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="`model` must be fitted"):
        report.suspicious_labels(model, logits, labels)
    model.fit(logits, labels, verbose=0)
    found = report.suspicious_labels(model, logits, labels, batch_size=8)
    probs = model.predict(logits, verbose=0)
    check(found, expected_rows(np.log(probs), labels))
    given = report.to_cleanlab(model, logits, labels, batch_size=8)
    np.testing.assert_array_equal(given["labels"], labels)
    np.testing.assert_allclose(given["pred_probs"], probs, atol=1e-6)
    assert given["pred_probs"].dtype == np.float64
    np.testing.assert_allclose(given["pred_probs"].sum(axis=1), 1, rtol=1e-14)


def test_a_loaded_model_counts_as_fitted(logits, labels, tmp_path):
    model = SelectiveMutualDistillation(
        [linear(CLASSES, CLASSES), linear(CLASSES, CLASSES)]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(logits, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = report.suspicious_labels(loaded, logits, labels)
    again = report.suspicious_labels(model, logits, labels)
    np.testing.assert_array_equal(found.score, again.score)


def test_predictions_that_are_not_finite_are_last(logits, labels):
    logits[3, 1] = np.nan
    logits[7, 0] = np.inf
    with pytest.warns(UserWarning, match="for 2 of 20 examples, the first at"):
        found = suspects(logits, labels)
    assert found.index[-2:].tolist() == [3, 7]
    assert np.isnan(found.score[-2:]).all()
    assert found.suggestion[-2:].tolist() == [-1, -1]
    assert not found.selected[-2:].any()
    rest = np.delete(np.arange(SIZE), [3, 7])
    check(found[:-2], expected_rows(logits[rest], labels[rest], rest))
    assert "2 predictions are not finite" in repr(found)
    assert report.noise_rate(found) == found.selected[:-2].mean()
    assert report.corrected_labels(found)[3] == labels[3]
    assert report.transition_matrix(found, normalize=False).sum() == SIZE - 2
    with pytest.raises(ValueError, match="must predict finite probabilities"):
        report.to_cleanlab(echo(), logits, labels, from_logits=True)


@pytest.mark.parametrize("rule", ["beta_mixture", "gaussian_mixture"])
def test_mixtures_are_those_of_the_estimators(rule, rng):
    labels = np.arange(200) % CLASSES
    shown = np.where(np.arange(200) < 60, (labels + 1) % CLASSES, labels)
    logits = rng.normal(0, 0.5, (200, CLASSES)) + 4 * np.eye(CLASSES)[shown]
    logits = logits.astype("float32")
    if rule == "gaussian_mixture":
        pytest.importorskip("sklearn")
    found = suspects(logits, labels, rule=rule, seed=3)
    losses = -naive_log_softmax(logits.astype("float64"))[
        np.arange(200), labels
    ]
    if rule == "beta_mixture":
        mixture = estimators.fit_beta_mixture(losses)
        posterior = mixture.posterior_noisy(losses, lookup_points=10_000)
    else:
        posterior = estimators.gaussian_mixture_posterior(losses, 3)
    np.testing.assert_allclose(
        found.probability, posterior[found.index], atol=2e-3
    )
    np.testing.assert_array_equal(found.selected, found.probability > 0.5)
    assert found.selected.sum() == pytest.approx(60, abs=3)
    # The order is that of the margin, whatever the rule.
    assert np.all(np.diff(found.score) <= 0)


# What the table comes to.


def by_hand():
    return report.SuspiciousLabels(
        index=np.array([4, 0, 2, 3, 1]),
        label=np.array([1, 0, 1, 0, 0]),
        suggestion=np.array([0, 2, 1, 0, 0]),
        score=np.array([0.9, 0.2, -0.2, -0.5, -1.0], "float32"),
        probability=np.array([0.95, 0.6, 0.4, 0.25, 0.0], "float32"),
        selected=np.array([True, True, False, False, False]),
        num_classes=4,
        class_names=NAMES,
    )


def test_sums_by_hand():
    table = by_hand()
    assert report.noise_rate(table) == 0.4
    assert report.corrected_labels(table).tolist() == [2, 0, 1, 0, 0]
    counts = report.transition_matrix(table, normalize=False)
    expected = np.zeros((4, 4))
    expected[0, 1], expected[2, 0], expected[1, 1], expected[0, 0] = 1, 1, 1, 2
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_allclose(
        report.transition_matrix(table),
        [[2 / 3, 1 / 3, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]],
    )


def test_parts_of_the_table():
    table = by_hand()
    assert table[0] == table[-5]
    assert dataclasses.astuple(table[1])[:3] == (0, 0, 2)
    part = table[1:3]
    assert len(part) == 2 and part.index.tolist() == [0, 2]
    assert table[table.selected].index.tolist() == [4, 0]
    assert table[[4, 0]].label.tolist() == [0, 1]
    with pytest.raises(IndexError):
        table[5]


def test_csv_has_what_the_table_has(tmp_path):
    table = by_hand()
    path = tmp_path / "suspects.csv"
    names = ('a "cat", black', *NAMES[1:])
    dataclasses.replace(table, class_names=names).to_csv(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "index",
        "label",
        "suggestion",
        "score",
        "probability",
        "selected",
        "label_name",
        "suggestion_name",
    ]
    for row, i in zip(rows, range(5), strict=True):
        assert int(row["index"]) == table.index[i]
        assert np.float32(row["score"]) == table.score[i]
        assert np.float32(row["probability"]) == table.probability[i]
        assert row["selected"] == str(bool(table.selected[i]))
        assert row["label_name"] == names[table.label[i]]
        assert row["suggestion_name"] == names[table.suggestion[i]]
    assert [p.name for p in tmp_path.iterdir()] == ["suspects.csv"]
    with pytest.raises(ValueError, match="`path` must be the path of a file"):
        table.to_csv(tmp_path)


def test_a_long_file_is_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(report.table, "_ROWS", 2)
    by_hand().to_csv(tmp_path / "suspects.csv")
    with open(tmp_path / "suspects.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == by_hand().index.tolist()


def test_files_are_named(tmp_path, rng):
    pillow = pytest.importorskip("PIL.Image")
    images = rng.integers(0, 256, (8, 2, 1, 3), dtype="uint8")
    for k, image in enumerate(images):
        folder = tmp_path / "images" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(image).save(folder / f"{k}.png")
    examples = data_room.load_folder(tmp_path / "images", image_size=(2, 1))
    inputs = keras.Input((2, 1, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs)[:, :2])
    found = report.suspicious_labels(
        model, examples.take(rng.permutation(8)), from_logits=True
    )
    by_index = dict(zip(examples.index, examples.images, strict=True))
    assert found.paths.tolist() == [by_index[k] for k in found.index]
    assert found[2:4].paths.tolist() == found.paths[2:4].tolist()
    found.to_csv(tmp_path / "suspects.csv")
    with open(tmp_path / "suspects.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == found.paths.tolist()
    assert {row["label_name"] for row in rows} == {"a", "b"}


def test_pandas_has_what_the_table_has():
    pytest.importorskip("pandas")
    table = by_hand()
    frame = table.to_pandas()
    assert frame["suggestion_name"].tolist() == [
        NAMES[k] for k in table.suggestion
    ]
    np.testing.assert_array_equal(frame["score"], table.score)


def test_text_shows_the_first_ten(logits, labels):
    assert repr(by_hand()).splitlines() == [
        "2 of 5 labels are suspected (40.0%)",
        "index  label  suggestion   score  probability  selected",
        "    4  dog    cat          0.900        0.950       yes",
        "    0  cat    owl          0.200        0.600       yes",
        "    2  dog    dog         -0.200        0.400        no",
        "    3  cat    cat         -0.500        0.250        no",
        "    1  cat    cat         -1.000        0.000        no",
    ]
    assert len(repr(suspects(logits, labels)).splitlines()) == 12


def test_a_notebook_shows_names_as_they_are():
    table = dataclasses.replace(by_hand(), class_names=("x", "a <b>", "y", "z"))
    assert table._repr_html_().count("<td>a &lt;b&gt;</td>") == 3
    assert "image" not in table._repr_html_()


def test_a_notebook_shows_the_images_of_the_most_suspicious(rng):
    pillow = pytest.importorskip("PIL.Image")
    images = 8.0 * rng.random((140, 2, 2, 1), dtype="float32")
    labels = rng.integers(0, CLASSES, 140)
    inputs = keras.Input((2, 2, 1))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    found = report.suspicious_labels(
        model, images, labels, from_logits=True, batch_size=7
    )
    assert set(found.images) == set(found.index[:25].tolist())
    for key, image in found.images.items():
        np.testing.assert_array_equal(image, images[key])
    page = found._repr_html_()
    assert page.count("data:image/png;base64,") == 10
    first = page.split("base64,")[1].split('"')[0]
    shown = np.asarray(pillow.open(io.BytesIO(base64.b64decode(first))))
    image = images[found.index[0]][:, :, 0]
    stretched = (image - image.min()) / (image.max() - image.min())
    np.testing.assert_array_equal(
        shown[::32, ::32], np.round(255 * stretched).astype("uint8")
    )
    assert shown.shape == (64, 64)


# What is refused.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": None}, "`labels` must be given unless `x` has labels"),
        (
            {"labels": [0, 1]},
            "Received: 2 labels for 20",
        ),
        (
            {"labels": [9] * SIZE},
            r"whole numbers in \[0, 4\)",
        ),
        ({"labels": [0.5] * SIZE}, "must be class ids"),
        ({"labels": np.full((SIZE, 4), 0.25)}, "must name one class for each"),
        (
            {"class_names": ["a", "b"]},
            "Received: 2 names",
        ),
        ({"sample": 21}, "`sample` must be at most the number of examples, 20"),
        ({"sample": 0}, "`sample` must be an integer >= 1"),
        ({"rule": "mixture"}, "`rule` must be one of 'posterior', 'dis"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"from_logits": None}, "`from_logits` must be True for a model that"),
    ],
)
def test_wrong_arguments(logits, labels, given, message):
    given = {"labels": labels, "from_logits": True, **given}
    with pytest.raises(ValueError, match=message):
        report.suspicious_labels(echo(), logits, **given)


@pytest.mark.parametrize(
    ("batches", "given", "message"),
    [
        (lambda x, y: [x], None, "`labels` must be given unless `x` has"),
        (lambda x, y: [], None, "`x` must have an example"),
        (lambda x, y: [x], [0] * 21, "Received: 21 labels for 20 examples"),
        (lambda x, y: [x, x], [0] * 20, "20 labels for an example at place 39"),
        (lambda x, y: [(x, y + 9)], None, "`x's labels` must be class ids"),
        (
            lambda x, y: [(x, (y + 1) % CLASSES)],
            "own",
            r"must be those of the batches.*Received: labels\[0\]=",
        ),
        (
            lambda x, y: [(x, {"label": y, "index": 0 * y})],
            None,
            "each example once. Received: index 0 20 times",
        ),
        (
            lambda x, y: [(x, {"labels": y})],
            None,
            "must have the keys 'label' and",
        ),
    ],
)
def test_wrong_batches(logits, labels, batches, given, message):
    given = labels if given == "own" else given
    for function in (report.suspicious_labels, report.to_cleanlab):
        data = iter(batches(logits, labels))
        with pytest.raises(ValueError, match=message):
            function(echo(), data, given, from_logits=True)


def test_data_without_end_are_refused(logits, labels):
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((logits, labels))
    with pytest.raises(ValueError, match="`x` must end"):
        suspects(data.repeat().batch(8), None)


def test_a_sample_of_batches_is_refused(logits, labels):
    with pytest.raises(ValueError, match="`sample` must be None for examples"):
        suspects(Batches(logits, labels), None, sample=3)


def test_wrong_models(logits, labels):
    for function in (report.suspicious_labels, report.to_cleanlab):
        with pytest.raises(TypeError, match="`model` must be a keras"):
            function(lambda x: x, logits, labels)
        two = keras.Model(
            inputs := keras.Input((CLASSES,)), [1.0 * inputs, 2.0 * inputs]
        )
        with pytest.raises(ValueError, match=r"must put out \(examples, cla"):
            function(two, logits, labels)
        one = keras.Model(inputs, ops.sigmoid(inputs[:, :1]))
        with pytest.raises(ValueError, match="must have two classes or more"):
            function(one, logits, np.zeros(SIZE, "int32"))
        compiled = linear(CLASSES, CLASSES)
        compiled.compile("sgd", "sparse_categorical_crossentropy")
        with pytest.raises(ValueError, match="`model` must be fitted"):
            function(compiled, logits, labels)
    with pytest.raises(TypeError, match="Encode names as class ids"):
        suspects(logits, np.array(NAMES)[labels])


@pytest.mark.parametrize(
    "function",
    [report.noise_rate, report.transition_matrix, report.corrected_labels],
)
def test_wrong_tables(function):
    with pytest.raises(TypeError, match="`table` must be what `suspicious_la"):
        function([1, 2])
