"""The benchmark of robustness: its data, trials, lines and numbers."""

import gzip
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import keras_smkd
from keras_smkd import noise

# What is compared does not depend on the backend, and torch compiles nothing.
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="runs with the tests of torch"
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "robustness"
RATES = (0.001, 0.002, 0.005, 0.01)
TINY = {
    "dataset": "digits",
    "examples": 200,
    "test_examples": 60,
    "net": "mlp_8",
    "epochs": 2,
    "batch_size": 32,
    "optimizer": "adam",
    "schedule": "constant",
    "weight_decay": 0.0,
    "augment": "none",
    "peers": 2,
    "measure_every": 1,
    "noise": "symmetric:0.4",
    "seed": 3,
}


@pytest.fixture(scope="module")
def module():
    """Import a file of the benchmark by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module


# Data.


def write_idx(path, array):
    sizes = np.array(array.shape, ">u4").tobytes()
    content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
    path.write_bytes(
        gzip.compress(content) if path.suffix == ".gz" else content
    )


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_plain_and_packed(module, tmp_path, rng, ending):
    images = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    write_idx(tmp_path / f"images{ending}", images)
    read = module("pools").read_idx(tmp_path, "images")
    np.testing.assert_array_equal(read, images)


def test_idx_files_that_are_empty_count_as_absent(module, tmp_path):
    (tmp_path / "images.gz").touch()
    assert module("pools").read_idx(tmp_path, "images") is None


def test_idx_files_that_are_cut_are_refused(module, tmp_path):
    write_idx(tmp_path / "images", np.zeros((5, 4), np.uint8))
    content = (tmp_path / "images").read_bytes()
    (tmp_path / "images").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"`path` must be an idx file.*whole"):
        module("pools").read_idx(tmp_path, "images")


def test_noise_is_parsed(module):
    parse = module("data").parse_noise
    assert parse("none") == ("none", None)
    assert parse("pair:0.4") == ("pair", 0.4)
    assert parse("human:worst") == ("human", "worst")


@pytest.mark.parametrize(
    "text", ["none:0.1", "pair", "pair:40", "pair:0", "human:0.4", "other:0.4"]
)
def test_noise_that_is_none_is_refused(module, text):
    with pytest.raises(ValueError, match=f"`noise` must be .*{text}"):
        module("data").parse_noise(text)


def test_split_fills_whole_batches_and_keeps_the_rest(module):
    split = module("data").split_positions
    train, held = split(200, 32, 0)
    # 85 % of 200 are 170, of which five whole batches of 32.
    assert (len(train), len(held)) == (160, 40)
    assert sorted([*train, *held]) == list(range(200))
    np.testing.assert_array_equal(train, split(200, 32, 0)[0])
    assert np.any(train != split(200, 32, 1)[0])
    # Where nothing is chosen, what fills no batch is all that is held back.
    assert [len(part) for part in split(200, 32, 0, 0.0)] == [192, 8]
    with pytest.raises(ValueError, match=r"`batch_size` must leave.*=64"):
        split(64, 64, 0)


@pytest.mark.parametrize("fresh", [True, False])
def test_seeds_share_the_test_examples_or_nothing(module, fresh):
    data, pools = module("data"), module("pools")
    config = {**TINY, "examples": 0, "test_examples": 500, "batch_size": 64}
    config["fresh_test"] = fresh
    first, second, again = (
        data.load({**config, "seed": seed}, pools.Places())
        for seed in (0, 1, 0)
    )
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert first.sizes == (1088, 209, 500)
    assert first.inputs.max() == 1.0
    is_same = np.array_equal(first.inputs[-500:], second.inputs[-500:])
    assert is_same == (not fresh)
    assert np.any(first.inputs[:1088] != second.inputs[:1088])
    # None of them is trained on.
    digits = {image.tobytes() for image in first.inputs}
    assert len(digits) == 1797
    rate = np.mean(first.noisy_labels != first.clean_labels)
    assert 0.35 < rate < 0.45


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("none", [100, 100, 100, 100]),
        ("half:0.3", [30, 30, 100, 100]),
        ("long_tailed:8", [12, 25, 50, 100]),
    ],
)
def test_classes_are_made_rare(module, text, kept):
    labels = np.arange(400) % 4
    imbalanced = module("data").imbalanced
    places = imbalanced(labels, text, 4, 0)
    assert (np.diff(places) > 0).all()
    counts = np.bincount(labels[places], minlength=4)
    assert sorted(counts) == kept
    if text != "none":
        others = [
            tuple(np.bincount(labels[imbalanced(labels, text, 4, seed)]))
            for seed in range(5)
        ]
        assert len(set(others)) > 1


@pytest.mark.parametrize("text", ["half", "half:1", "long_tailed:1", "none:2"])
def test_imbalance_that_is_none_is_refused(module, text):
    with pytest.raises(ValueError, match=f"`imbalance` must be .*{text}"):
        module("data").parse_imbalance(text)


@pytest.mark.parametrize("dataset", ["digits", "fashion", "cifar10"])
def test_asymmetric_noise_touches_half_of_the_classes(module, dataset):
    matrix = module("data").transition_matrix(dataset, 0.4)
    noise.check_transition_matrix(matrix)
    assert (matrix.diagonal() == 0.6).sum() == 5
    assert matrix.diagonal().mean() == pytest.approx(0.8)


def test_clothing_noise_stays_among_what_resembles(module):
    matrix = module("data").clothing_matrix(0.4)
    noise.check_transition_matrix(matrix)
    np.testing.assert_allclose(
        matrix[0], [0.6, 0, 0.2 / 3, 0.2 / 3, 0.2 / 3, 0, 0.2, 0, 0, 0]
    )
    np.testing.assert_allclose(matrix[7], [0, 0, 0, 0, 0, 0.1, 0, 0.8, 0, 0.1])
    np.testing.assert_allclose(matrix[8, 8], 0.95)
    np.testing.assert_allclose(matrix[8, :8], 0.05 / 9)
    with pytest.raises(ValueError, match=r"`noise` must not be clothing"):
        module("data").load(
            {**TINY, "noise": "clothing:0.4"}, module("pools").Places()
        )


def write_fashion(folder, name, count):
    write_idx(
        folder / f"{name}-images-idx3-ubyte",
        np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2),
    )
    # More labels than images, as beside a file that was cut.
    labels = (np.arange(count + 5) % 10).astype(np.uint8)
    write_idx(folder / f"{name}-labels-idx1-ubyte", labels)


def test_fashion_takes_the_test_from_training_without_a_file(module, tmp_path):
    pools = module("pools")
    places = pools.Places(fashion_dir=str(tmp_path))
    write_fashion(tmp_path, "train", 30)
    pool = pools.load_pool("fashion", 20, 8, places)
    assert pool.images.shape == (12, 4)
    assert pool.test_images.shape == (8, 4)
    # The first pixel tells the image, hence its label.
    np.testing.assert_array_equal(pool.labels, pool.images[:, 0] // 4 % 10)
    held = pool.test_images[:, 0] // 4
    assert sorted([*pool.images[:, 0] // 4, *held]) == list(range(20))
    with pytest.raises(ValueError, match=r"`examples` must be <= 30.*=31"):
        pools.load_pool("fashion", 31, 8, places)


def test_fashion_uses_its_test_file(module, tmp_path):
    pools = module("pools")
    write_fashion(tmp_path, "train", 30)
    write_fashion(tmp_path, "t10k", 12)
    places = pools.Places(fashion_dir=str(tmp_path))
    pool = pools.load_pool("fashion", 0, 8, places)
    assert (len(pool.images), len(pool.test_images)) == (30, 8)


def write_cifar10(folder, count):
    """Write files of so many examples; return their planes and labels."""
    planes = np.random.default_rng(0).integers(0, 256, (6 * count, 3, 32, 32))
    planes = planes.astype("uint8")
    labels = (np.arange(6 * count) % 10).astype("uint8")
    rows = np.concatenate([labels[:, None], planes.reshape(-1, 3072)], axis=1)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for part, name in zip(np.split(rows, 6), names, strict=True):
        part.tofile(folder / name)
    return planes, labels


def test_binary_files_of_cifar10_are_read_in_their_order(module, tmp_path):
    pools = module("pools")
    planes, labels = write_cifar10(tmp_path, 2)
    places = pools.Places(cifar_dir=str(tmp_path))
    pool = pools.load_pool("cifar10", 0, 0, places)
    np.testing.assert_array_equal(pool.labels, labels[:10])
    np.testing.assert_array_equal(pool.index, range(10))
    for channel in range(3):
        np.testing.assert_array_equal(
            pool.images[..., channel], planes[:10, channel]
        )
        np.testing.assert_array_equal(
            pool.test_images[..., channel], planes[10:, channel]
        )
    (tmp_path / "cut").write_bytes(b"\0" * 3074)
    with pytest.raises(ValueError, match=r"`path` must be .*3074 bytes"):
        pools.read_cifar10([tmp_path / "cut"])


@pytest.mark.parametrize("num_classes", [20, 100])
def test_pairs_of_digits_have_more_classes(module, num_classes):
    data, pools = module("data"), module("pools")
    pool = pools.load_pool(f"pairs{num_classes}", 0, 0, pools.Places())
    assert pool.images.shape == (12_000, 128)
    assert len(pool.test_images) == 3000
    assert sorted(set(pool.labels)) == list(range(num_classes))
    # Each half is a digit; what the class says of it is true.
    digits = pools.load_pool("digits", 0, 500, pools.Places())
    known = {
        image.tobytes(): x
        for image, x in zip(
            np.concatenate([digits.images, digits.test_images]),
            np.concatenate([digits.labels, digits.test_labels]),
            strict=True,
        )
    }
    seen = []
    for images, labels in (
        (pool.images, pool.labels),
        (pool.test_images, pool.test_labels),
    ):
        halves = [images[:, :64], images[:, 64:]]
        halves = [[row.tobytes() for row in half] for half in halves]
        seen.append({*halves[0], *halves[1]})
        first, second = ([known[x] for x in half] for half in halves)
        for a, b, label in zip(first, second, labels, strict=True):
            expected = 10 * a + b if num_classes == 100 else 2 * a + (b > 4)
            assert label == expected
    assert not seen[0] & seen[1]
    config = {**TINY, "dataset": f"pairs{num_classes}", "examples": 2000}
    split = data.load(config, pools.Places())
    assert split.num_classes == num_classes
    assert split.noisy_labels.max() == num_classes - 1
    with pytest.raises(ValueError, match=r"`noise` must not be asymmetric"):
        data.load({**config, "noise": "asymmetric:0.4"}, pools.Places())


def test_human_labels_are_aligned_by_the_index(module, tmp_path):
    data, pools = module("data"), module("pools")
    clean = np.arange(40) % 10
    file = tmp_path / "human.npz"
    np.savez(file, clean_label=clean, worse_label=(clean + 1) % 10)
    index = np.array([7, 3, 25])
    pool = pools.Pool(np.zeros((3, 2)), clean[index], index, None, None, 1.0)
    places = pools.Places(human_labels=str(file))
    labels = data.make_labels("cifar10", pool, "human:worst", 0, places)
    assert labels.noisy_labels.tolist() == [8, 4, 6]
    pool = pools.Pool(np.zeros((3, 2)), clean[:3], index, None, None, 1.0)
    with pytest.raises(ValueError, match="whose clean labels differ"):
        data.make_labels("cifar10", pool, "human:worst", 0, places)


# Methods and trials.


def draw(module, name, count):
    knobs = module("methods").METHODS[name].knobs
    return module("trials").draw_trials(knobs, count, RATES)


def test_every_method_has_eight_different_trials(module):
    for name, method in module("methods").METHODS.items():
        trials = draw(module, name, 8)
        assert len({json.dumps(trial) for trial in trials}) == 8
        assert all(
            set(trial) == {"learning_rate", *method.knobs} for trial in trials
        )


def test_trials_try_all_values_equally_often(module):
    trials = draw(module, "smkd_s", 8)
    for knob in ("learning_rate", "distillation_weight", "threshold"):
        values = sorted(trial[knob] for trial in trials)
        assert values[::2] == values[1::2]
        assert len(set(values)) == 4


def test_exchanges_are_tried_with_the_same_rates_and_weights(module):
    knobs = ("learning_rate", "distillation_weight")
    tried = {
        name: [[t[k] for k in knobs] for t in draw(module, name, 8)]
        for name in ("all_knowledge", "smkd_s", "oracle")
    }
    assert tried["all_knowledge"] == tried["smkd_s"] == tried["oracle"]


def test_more_trials_begin_with_the_fewer(module):
    assert draw(module, "smkd_s", 12)[:8] == draw(module, "smkd_s", 8)


def test_learning_rates_alone_are_even_on_the_logarithmic_scale(module):
    trials = draw(module, "cross_entropy", 3)
    assert [t["learning_rate"] for t in trials] == [0.001, 0.00316, 0.01]
    only = module("trials").draw_trials({}, 3, (0.01,))
    assert only == [{"learning_rate": 0.01}]


def test_more_trials_than_combinations_are_refused(module):
    with pytest.raises(ValueError, match=r"`trials` must be <= 16.*, q.*=17"):
        draw(module, "gce", 17)


def test_every_method_makes_a_model_that_compiles(module):
    methods, networks = module("methods"), module("networks")
    for name, method in methods.METHODS.items():
        (knobs,) = draw(module, name, 1)
        peers = [
            networks.make_network("mlp_2", (3,), 10)
            for _ in range(1 if method.is_single else method.num_peers or 2)
        ]
        model = method.make_model(peers, knobs, np.arange(4))
        averages = method.optimizer(knobs)
        assert bool(averages) == (name.endswith("ema") and not method.make)
        model.compile(keras.optimizers.SGD(**averages), method.loss(knobs))
        split = types.SimpleNamespace(
            inputs=np.zeros((6, 3)), noisy_labels=np.arange(4)
        )
        acting = method.make_callbacks(knobs, split, 60)
        kinds = {type(call).__name__ for call in acting}
        assert ("SwapEMAWeights" in kinds) == bool(averages)
        has_mixture = name.startswith("divide_mix")
        assert ("FitMixture" in kinds) == has_mixture
        if has_mixture:
            assert acting[0].start_epoch == 2  # 10 of 300.
            assert len(acting[0].x) == 4
        is_smkd = isinstance(model, keras_smkd.SelectiveMutualDistillation)
        assert len(kinds - {"SwapEMAWeights", "FitMixture"}) == is_smkd
        if "distillation_weight" in knobs:
            weight = model.distillation_weight
            if "warm_up" in knobs:
                assert weight.length == knobs["warm_up"]
                weight = weight.end
            assert weight == knobs["distillation_weight"]
            assert (model.gate is not None) == ("_gate" in name)


def test_oracle_selects_what_is_right(module):
    methods, networks = module("methods"), module("networks")
    peers = [networks.make_network("mlp_2", (3,), 10) for _ in range(2)]
    (knobs,) = draw(module, "oracle", 1)
    model = methods.METHODS["oracle"].make_model(peers, knobs, np.array([4, 7]))
    log_probs = np.zeros((3, 2, 10), "float32")
    log_probs[[0, 1, 2], 0, [7, 4, 7]] = 1.0
    log_probs[[0, 1, 2], 1, [4, 4, 7]] = 1.0
    batch = keras_smkd.Batch(
        index=np.array([1, 0, 0]),
        knowledge=keras.ops.convert_to_tensor(log_probs),
    )
    selected = model.selection(batch)
    assert keras.ops.convert_to_numpy(selected).tolist() == [
        [1, 0],
        [1, 1],
        [0, 0],
    ]


def test_networks_are_named_by_their_sizes(module):
    network = module("networks").make_network("mlp_6_5", (4,), 10)
    assert network.count_params() == 4 * 6 + 6 + 6 * 5 + 5 + 5 * 10 + 10
    assert network.output_shape == (None, 10)


def test_networks_that_are_unknown_are_refused(module):
    for name in ("mlp", "mlp_x", "vgg_16"):
        with pytest.raises(ValueError, match=f"`net` must be .*'{name}'"):
            module("networks").make_network(name, (4,), 10)


# Records.


def record_of(method, validation, seed=1000, test=(0.5,), **changes):
    return {
        "config": {
            "dataset": "digits",
            "noise": "pair:0.4",
            "method": method,
            "knobs": {"learning_rate": changes.pop("rate", 0.1)},
            "seed": seed,
            "epochs": 4,
        },
        "epochs": {
            "validation_peer": list(validation),
            "validation_ensemble": list(validation),
            "test_peer": list(test),
            "test_ensemble": list(test),
        },
        "peers": 2,
        "shares_nothing": False,
        **changes,
    }


def test_keys_do_not_depend_on_the_order_of_names(module):
    key_of = module("records").key_of
    assert key_of({"b": 1, "a": {"d": 2.0, "c": None}}) == (
        '{"a":{"c":null,"d":2.0},"b":1}'
    )
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_lines_survive_an_interruption(module, tmp_path):
    records, path = module("records"), tmp_path / "new" / "runs.jsonl"
    first, second = record_of("a", [0.1]), record_of("b", [0.2])
    records.append(path, first)
    with path.open("a") as file:
        file.write(json.dumps(second)[:40])
    assert records.read([path, tmp_path / "absent"]) == [first]
    records.append(path, second)
    assert records.read([path]) == [first, second]
    assert len(path.read_text().splitlines()) == 3


def test_errors_give_way_to_records_but_not_the_reverse(module, tmp_path):
    records, path = module("records"), tmp_path / "runs.jsonl"
    good = record_of("a", [0.1])
    bad = {"config": good["config"], "error": "ValueError: no"}
    records.append(path, bad)
    assert records.read([path]) == [bad]
    records.append(path, good)
    records.append(path, bad)
    assert records.read([path]) == [good]


def test_kept_lines_are_whole_but_for_the_beginning_of_trials(module, tmp_path):
    records = module("records")
    trial, final = record_of("a", range(9)), record_of("a", range(9), seed=0)
    bad = {"config": {**trial["config"], "seed": 1}, "error": "ValueError: no"}
    records.keep([trial, bad, final], tmp_path / "kept")
    (path,) = records.files(tmp_path / "kept")
    assert path.name == "runs-digits-pair-0.4.jsonl.gz"
    kept = {r["config"]["seed"]: r for r in records.read([path])}
    assert kept.keys() == {0, 1000}
    assert kept[0] == final
    short = {k: v[-5:] for k, v in trial["epochs"].items()}
    assert kept[1000] == {**trial, "epochs": short}
    score = records.validation_score
    assert score(kept[1000]) == score(trial)
    content = path.read_bytes()
    records.keep([final, trial], tmp_path / "kept")
    assert path.read_bytes() == content


def test_choice_is_by_the_last_noisy_validation_accuracies(module):
    records = module("records")
    early = record_of("a", [1.0, 0.2, 0.2, 0.2, 0.2, 0.2], rate=0.1)
    late = record_of("a", [0.0, 0.2, 0.2, 0.2, 0.2, 0.3], rate=0.2)
    other = record_of("b", [0.1])
    fresh = record_of("a", [0.9], seed=0, rate=0.3)
    best = records.choose([early, late, other, fresh])
    problem = records.problem_of(early["config"])
    assert best == {
        (problem, "pair:0.4", "a"): late,
        (problem, "pair:0.4", "b"): other,
    }
    equal = record_of("a", late["epochs"]["validation_peer"], rate=0.15)
    assert records.choose([late, equal]) == records.choose([equal, late])


def test_shards_share_out_what_has_no_record(module):
    left_to_run = module("records").left_to_run
    done = [record_of(name, [0.1]) for name in "abcde"]
    configs = [record["config"] for record in done]
    assert left_to_run(configs, [], 0, 2) == configs[::2]
    assert left_to_run(configs, [], 1, 2) == configs[1::2]
    failed = {"config": configs[2], "error": "ValueError: no"}
    assert left_to_run(configs, done[:2], 0, 1) == configs[2:]
    assert left_to_run(configs, [*done[:2], failed], 0, 2) == configs[2::2]


# Measurements and tables.


def test_reader_stacks_the_probabilities_of_the_peers(module, rng):
    make_network = module("networks").make_network
    peers = [make_network("mlp_2", (3,), 10) for _ in range(2)]
    inputs = rng.normal(size=(4, 3)).astype("float32")
    probs = module("training").make_reader(peers).predict_on_batch(inputs)
    assert probs.shape == (4, 2, 10)
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, rtol=1e-5)
    logits = peers[1].predict_on_batch(inputs)
    np.testing.assert_allclose(
        np.log(probs[:, 1]) - np.log(probs[:, 1, :1]),
        logits - logits[:, :1],
        atol=1e-5,
    )


def test_chunks_have_one_size(module):
    chunks, count = module("training").equal_chunks(np.arange(10)[:, None], 4)
    assert [len(chunk) for chunk in chunks] == [4, 4, 4]
    joined = np.concatenate(chunks)[:, 0]
    assert joined.tolist() == [*range(10), 0, 0]
    assert count == 10


def test_accuracy_is_of_the_ensemble_or_of_the_mean_peer(module):
    accuracy = module("training").accuracy
    labels = np.array([0, 1])
    probs = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.8, 0.2], [0.1, 0.9]]])
    assert accuracy(labels, probs.mean(axis=1)) == 1.0
    assert accuracy(labels[:, None], probs) == 0.5
    assert np.isnan(accuracy(labels[:0, None], probs[:0]))


def test_gap_recovered_is_between_noisy_and_clean(module):
    gap = module("tables").gap_recovered
    assert gap(85.0, 80.0, 90.0) == 50.0
    assert gap(75.0, 80.0, 90.0) == -50.0
    assert gap(90.0, 89.5, 90.0) is None


def test_stopped_and_best_are_of_other_epochs(module):
    tables = module("tables")
    run = record_of("a", [0.3, 0.5, 0.5, 0.1], test=[0.6, 0.7, 0.9, 0.2])
    assert tables.last(run, "test_peer") == 20.0
    assert tables.stopped(run, "peer") == 70.0
    assert tables.best(run, "test_peer") == 90.0


def test_differences_are_of_the_same_seeds(module):
    runs = [record_of("a", [0], seed=s, test=[s / 10]) for s in (1, 2, 3)]
    others = [record_of("b", [0], seed=s, test=[0.1]) for s in (3, 1)]
    differences = module("tables").paired_differences(runs, others)
    assert differences == pytest.approx([0.0, 20.0])


def test_costs_of_peers_that_share_nothing_are_their_own(module):
    costs = module("tables").costs
    assert costs(record_of("a", [0])) == (8, 8)
    assert costs(record_of("a", [0], shares_nothing=True)) == (4, 8)


def test_spread_is_over_the_seeds(module):
    tables = module("tables")
    assert tables.mean_and_spread([90.0, 92.0]) == "91.0 ± 1.4"
    assert tables.mean_and_spread([90.0]) == "90.0"
    assert tables.mean_and_spread([90.0, None]) == "-"
    runs = [{"epochs": {"selection_rate": [0.0, 0.25, None, 1.0]}}]
    assert tables.over_time(runs, "selection_rate") == "0 → - → 100"
    assert tables.over_time(runs, "gate_rate") == "-"


# Whole runs.


def test_oracle_drops_wrong_labels_only(module):
    training, pools = module("training"), module("pools")
    config = {
        **TINY,
        "method": "oracle_gate",
        "knobs": {
            "learning_rate": 0.02,
            "distillation_weight": 2.0,
            "gate_agreement": False,
        },
    }
    record = training.execute(config, pools.Places())
    assert record["config"] == config
    assert record["sizes"] == [96, 44, 60]
    assert 0.3 < record["noise_rate"] < 0.5
    epochs = record["epochs"]
    assert epochs["epoch"] == [1, 2]
    assert epochs["selection_precision"] == [1.0, 1.0]
    assert epochs["gate_precision"] == [1.0, 1.0]
    peers = record["test_of_each_peer"]
    assert np.mean(peers) == pytest.approx(epochs["test_peer"][-1], abs=1e-5)
    assert 0.0 < record["ece_ensemble"] < 1.0
    json.dumps(record, allow_nan=False)


@pytest.fixture(scope="module")
def averaged(module):
    """Return two records of one run, whose weights are averaged slowly."""
    knobs = {"learning_rate": 0.05, "ema_momentum": 0.999999}
    config = {**TINY, "method": "ema", "knobs": knobs}
    places = module("pools").Places()
    return [module("training").execute(config, places) for _ in range(2)]


def test_the_kept_report_is_that_of_the_kept_lines(module, tmp_path):
    results = FOLDER / "results"
    records, report = module("records"), module("report")
    found = records.read(records.files(results))
    assert not [record for record in found if "error" in record]
    text = report.write_report(tmp_path, found, 1000, "independent", ())
    kept = (results / "report.md").read_text()
    pictures = [line for line in kept.splitlines() if line.startswith("![")]
    for line in pictures:
        name = line.partition("(")[2].rstrip(")")
        assert (results / name).exists()
        kept = kept.replace(f"\n\n{line}", "")
    assert text == kept


def gaps_of(module, name):
    """Return the kept lines of a folder and the table made from them."""
    records, gaps = module("records"), module("gaps")
    folder = FOLDER / "results" / name
    found = records.read(records.files(folder))
    text = "\n".join(gaps.table(found)).rstrip() + "\n"
    assert text == (folder / "gaps.md").read_text()
    return found, text


@pytest.mark.parametrize("name", ["rate_0.003", "longer"])
def test_the_gaps_of_other_trainings_are_those_of_the_kept_lines(module, name):
    found, text = gaps_of(module, name)
    assert {r["config"]["method"] for r in found} == {
        "cross_entropy",
        "posterior",
    }
    assert text.count("mean of the four") == 4


def test_the_gaps_at_defaults_are_those_of_the_kept_lines(module):
    gaps = module("gaps")
    found, text = gaps_of(module, "defaults")
    # One cell by hand.
    values = {
        name: [
            100 * r["epochs"]["test_peer"][-1]
            for r in found
            if r["config"]["dataset"] == "digits"
            and "imbalance" not in r["config"]
            and (r["config"]["noise"], r["config"]["method"]) == name
        ]
        for name in (
            ("none", "cross_entropy"),
            ("pair:0.4", "cross_entropy"),
            ("pair:0.4", "posterior"),
        )
    }
    clean, noisy, own = (np.mean(values[name]) for name in values)
    gap = 100 * (own - noisy) / (clean - noisy)
    (row,) = [
        line
        for line in text.partition("digits (all examples), imbalance none")[
            2
        ].splitlines()
        if line.startswith("| posterior | pair:0.4 |")
    ][:1]
    assert f"| {gap:.0f} |" in row
    assert f"| {own:.1f} ± " in row
    # Student's t for five seeds, from a table.
    error = np.std(values["pair:0.4", "posterior"], ddof=1) / 5**0.5
    assert f"| {2.776 * error:.1f} | {gap:.0f} |" in row
    # The figure's mark is the same, and its bar.
    marks = gaps.draw(found).axes[0].containers[0]
    line, (lower, upper), _ = marks
    np.testing.assert_allclose(line.get_ydata()[2], gap, rtol=1e-6)
    for cap, sign in ((lower, -1), (upper, 1)):
        expected = gap + sign * 2.776445 * error * 100 / (clean - noisy)
        np.testing.assert_allclose(cap.get_ydata()[2], expected, rtol=1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None,
    reason="the lines are of JAX, which is not installed",
)
def test_the_table_of_weights_is_that_of_the_kept_lines():
    grid = {
        "learning_rate": [0.001],
        "distillation_weight": [1.0, 2.0],
        "scale": [0.5],
        "gate_agreement": [False],
    }
    done = subprocess.run(
        [
            sys.executable,
            str(FOLDER / "grid.py"),
            "--list",
            "--fresh_test=false",
            f"--out={FOLDER / 'results' / 'grid'}",
            "--methods=smkd_p_loosening_gate",
            "--noises=asymmetric:0.4",
            f"--grid={json.dumps(grid)}",
        ],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    cells = [line.split(" | ")[-1] for line in done.stdout.splitlines()]
    assert cells[2:] == ["88.9 ± 5.8 |", "88.9 ± 5.9 |"]


def test_runs_can_be_made_again_from_their_configuration(averaged):
    first, second = averaged
    assert first["config"] == second["config"]
    assert first["epochs"] == second["epochs"]
    assert first["ece_peer"] == second["ece_peer"]


class Cut(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("method", ["cross_entropy", "posterior"])
def test_a_run_goes_on_from_where_it_was_cut_short(
    module, tmp_path, monkeypatch, method
):
    training = module("training")
    write_cifar10(tmp_path, 16)
    places = module("pools").Places(cifar_dir=str(tmp_path))
    config = {
        **TINY,
        "dataset": "cifar10",
        "examples": 0,
        "test_examples": 0,
        "net": "conv_2",
        "policy": "mixed_bfloat16",
        "augment": "flip_crop",
        "epochs": 4,
        "measure_every": 2,
        "method": method,
        "knobs": {"learning_rate": 0.05},
    }
    whole = training.execute(config, places)["epochs"]
    end = training.Measurements.on_epoch_end
    done = []

    def cut_before_the_last_backup(self, epoch, logs=None):
        end(self, epoch, logs)
        done.append(epoch)
        if done == [0, 1, 2, 3]:
            raise Cut

    monkeypatch.setattr(
        training.Measurements, "on_epoch_end", cut_before_the_last_backup
    )
    with pytest.raises(Cut):
        training.execute(config, places, tmp_path / "backups")
    resumed = training.execute(config, places, tmp_path / "backups")
    assert done == [0, 1, 2, 3, 3]
    assert resumed["epochs"] == whole
    assert whole["epoch"] == [2, 4]


def test_averaged_weights_are_what_is_measured(averaged):
    epochs = averaged[0]["epochs"]
    assert epochs["loss"][1] < epochs["loss"][0]
    # The average hardly leaves where the first step put it.
    assert epochs["test_peer"][1] == epochs["test_peer"][0]


def test_runs_are_tuned_and_reported(module, tmp_path):
    records, report = module("records"), module("report")
    command = [sys.executable, FOLDER / "run.py", f"--out={tmp_path}"]
    command += ["--noises=none", "--methods=cross_entropy", "--trials=2"]
    command += ["--examples=200", "--test_examples=60", "--net=mlp_8"]
    command += ["--epochs=2", "--batch_size=32", "--seeds=0"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tune: 2 runs, 2 left" in done.stdout
    assert "final: 1 runs, 1 left" in done.stdout
    found = records.read([tmp_path / "runs.jsonl"])
    assert len(found) == 3
    configs = [record["config"] for record in found]
    assert records.left_to_run(configs, found, 0, 1) == []
    (last,) = [r for r in found if r["config"]["seed"] == 0]
    text = report.write_report(tmp_path, found, 1000, "independent", ())
    assert (tmp_path / "report.md").read_text() == text
    assert "Every method was tuned by 2 trials." in text
    accuracy = f"{100 * last['epochs']['test_peer'][-1]:.1f}"
    assert f"| cross_entropy | 1 | 2, 2 | {accuracy} | {accuracy} |" in text


def test_the_flags_for_a_gpu_are_five_runs(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            FOLDER / "run.py",
            f"--flagfile={FOLDER / 'gpu.flags'}",
            f"--out={tmp_path}",
            "--list",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "tune: 5 runs, 5 left to run here.\n"


# Every system, at its defaults and tuned.


def problem_of_system(method, **changes):
    return {
        "dataset": "digits",
        "method": method,
        "noise": "asymmetric:0.4",
        "epochs": 3,
        "batch_size": 64,
        "backend": "torch",
        **changes,
    }


def run_of_system(method, seed=1, **changes):
    knobs = changes.pop("knobs", {"learning_rate": 0.001})
    problem = problem_of_system(method, **changes)
    return {**problem, "knobs": knobs, "seed": seed}


def test_a_system_is_measured_after_every_epoch(module):
    found = [
        module("run_systems").execute(run_of_system(method, **changes))
        for method, changes in (
            ("cross_entropy", {}),
            ("incv", {}),
            # The same again is the same.
            ("cross_entropy", {}),
            ("fitnets", {"epochs": 2}),
            ("gce", {"knobs": {"learning_rate": 0.001, "q": 0.3}}),
            ("gce", {"knobs": {"learning_rate": 0.001, "q": 0.9}}),
        )
    ]
    for record, length in zip(found, (3, 3, 3, 2, 3, 3), strict=True):
        for name in ("validation_ensemble", "test_ensemble"):
            assert len(record["epochs"][name]) == length
            assert 0 < min(record["epochs"][name]) <= 1
        # Five of ten classes lose 40 % of their labels.
        assert record["noise_rate"] == pytest.approx(0.2, abs=0.03)
    tests = [record["epochs"]["test_ensemble"] for record in found]
    assert tests[0] == tests[2]
    # A knob reaches its system.
    assert tests[4] != tests[5]
    # Right on clean labels, hence less often on those some of which are wrong.
    assert tests[0][-1] > found[0]["epochs"]["validation_ensemble"][-1]


def test_every_system_with_knobs_has_its_trials(module):
    systems = module("systems")
    assert set(systems.KNOBS) < set(systems.SYSTEMS)
    for name, knobs in systems.KNOBS.items():
        assert 0 < len(knobs) <= 2, name
        trials = module("run_systems").tried(problem_of_system(name), 8)
        assert len(trials) == 8
        assert all(
            {"learning_rate", *knobs} == set(trial["knobs"]) for trial in trials
        )


def record_of_system(config, validation, test=(0.0,)):
    epochs = {"validation_ensemble": validation, "test_ensemble": list(test)}
    return {"config": config, "epochs": epochs}


def test_the_trial_of_a_system_is_chosen_by_noisy_labels(module):
    run_systems = module("run_systems")
    problems = [problem_of_system("sce"), problem_of_system("dmi")]
    done = []
    for problem in problems:
        trials = run_systems.tried(problem, 3)
        for trial, last in zip(trials, (0.5, 0.7, 0.6), strict=True):
            # Only the last five count.
            values = [*[1.0 - last] * 50, *[last] * 5]
            test = [1.0 - last]
            done.append(record_of_system(trial, values, test))
    best = run_systems.tried(problems[0], 3)[1]["knobs"]
    chosen = run_systems.tuned(problems, [4, 5], 3, done)
    assert chosen[:2] == [
        {**problems[0], "knobs": best, "seed": 4},
        {**problems[0], "knobs": best, "seed": 5},
    ]
    assert len(chosen) == 4
    # What lacks a trial is not chosen for.
    chosen = run_systems.tuned(problems, [4, 5], 3, done[:5])
    assert {config["method"] for config in chosen} == {"sce"}


def test_the_table_of_systems_has_means_and_deviations(module):
    run_systems = module("run_systems")
    problems = [problem_of_system("gce"), problem_of_system("dmi")]
    as_they_are = run_systems.untuned(problems, [0, 1, 2])
    chosen = [run_of_system("gce", seed, knobs={"q": 0.3}) for seed in (0, 1)]
    done = [
        record_of_system(config, [0.1], [0.9, last])
        for config, last in zip(as_they_are, (0.5, 0.6, 0.7), strict=False)
    ]
    done += [
        record_of_system(config, [0.1], [0.9, last])
        for config, last in zip(chosen, (0.7, 0.9), strict=True)
    ]
    lines = run_systems.table(done, as_they_are, chosen)
    assert lines[-2] == "| `gce` | 60.0 ± 10.0 | 90.0 ± 0.0 | 80.0 ± 14.1 |"
    assert lines[-1] == "| `dmi` | - | - | - |"


def test_every_function_of_the_methods_has_a_row_of_the_page(module):
    systems = module("systems").SYSTEMS
    functions = {n for n in keras_smkd.methods.__all__ if n.islower()}
    for name in functions - {"iterative_cross_validation"}:
        assert any(system.startswith(name) for system in systems), name


def test_the_table_of_systems_is_made_of_the_kept_lines(module):
    records, run_systems = module("records"), module("run_systems")
    done = records.read(records.files(FOLDER / "results" / "systems"))
    problems = [
        problem_of_system(name, noise=noise, epochs=100, backend="jax")
        for noise in run_systems.NOISES
        for name in module("systems").SYSTEMS
    ]
    seeds = [0, 1, 2]
    chosen = run_systems.tuned(problems, seeds, 8, done)
    # Under asymmetric noise not all have had their trials.
    noises = [config["noise"] for config in chosen]
    assert noises.count("symmetric:0.4") == 3 * len(problems) / 2
    lines = run_systems.table(
        done, run_systems.untuned(problems, seeds), chosen
    )
    assert all(line.count(" ± ") == 5 for line in lines[2:])
    page = (ROOT / "docs" / "methods.md").read_text()
    assert "\n".join(lines) in page


def test_tuned_systems_get_the_values_of_their_knobs(module):
    methods, networks = module("methods"), module("networks")

    def made(name, **knobs):
        peers = [networks.make_network("mlp_2", (3,), 10) for _ in range(2)]
        knobs = {"learning_rate": 0.5, **knobs}
        return methods.METHODS[name].make_model(peers, knobs, np.arange(4))

    early = made("early_learning_tuned", weight=7.0, momentum=0.9)
    assert early.distillation_weight == 7.0
    assert early.knowledge.momentum == 0.9
    mixed = made("divide_mix_tuned", temperature=0.25, threshold=0.3)
    assert (mixed.target.temperature, mixed.target.threshold) == (0.25, 0.3)
    weighed = made("posterior_tuned", distillation_weight=4.0, memory=0.7)
    assert weighed.distillation_weight == 4.0
    assert weighed.knowledge.momentum == 0.7
    assert (weighed.target.start, weighed.knowledge.routes) == (50, "others")
    assert made("posterior_agreed").target.start is None
    # At their defaults.
    assert made("early_learning").distillation_weight == 3.0
    assert made("divide_mix").target.threshold == 0.5
