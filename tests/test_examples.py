"""The examples, run as a user runs them: a process each."""

import csv
import dataclasses
import importlib
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from absl.testing import flagsaver
from thrift import with_torch

import keras_smkd
from keras_smkd import methods
from keras_smkd import noise

ROOT = pathlib.Path(__file__).resolve().parents[1]
BACKEND = keras.backend.backend()
EPOCHS = 3
SMALL = [
    "--train_size=128",
    "--test_size=128",
    f"--epochs={EPOCHS}",
]


def command(name, *arguments):
    return [sys.executable, str(ROOT / "examples" / name), *arguments]


def settings(folder):
    """Where and with what environment an example runs."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": BACKEND,
        "PYTHONPATH": str(ROOT),
    }
    return {"cwd": folder, "env": environment, "text": True}


def run(folder, name, *arguments):
    return subprocess.run(
        command(name, *arguments), capture_output=True, **settings(folder)
    )


def rows(run_dir):
    """Return the lines of a run's log, without what no two runs share."""
    with open(run_dir / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        assert float(line.pop("seconds")) > 0
    return lines


@with_torch
def test_quickstart_compares_five_methods(tmp_path):
    done = run(tmp_path, "quickstart.py", "--epochs=2", "--figure=course.png")
    assert done.returncode == 0, done.stderr
    for method in (
        "independent",
        "all knowledge",
        "SMKD-P",
        "SMKD-P, gated",
        "posterior labels",
    ):
        (row,) = [
            line
            for line in done.stdout.splitlines()
            if line.startswith(f"{method} ")
        ]
        assert row.count("(") == 3
    assert (tmp_path / "course.png").read_bytes().startswith(b"\x89PNG")


@with_torch
def test_mentornet_reports_its_mentor_and_three_methods(tmp_path):
    done = run(tmp_path, "mentornet.py", "--quick")
    assert done.returncode == 0, done.stderr
    (share,) = re.findall(r"right about (\d+\.\d) % of", done.stdout)
    assert 60 < float(share) < 100  # 60 % of the labels are right.
    for method in ("cross entropy", "predefined", "mentor"):
        row = re.search(rf"^{method} +(.*) s$", done.stdout, re.MULTILINE)
        last, best, spread, memorised, _ = map(
            float, re.findall(r"\d+\.\d", row.group(1))
        )
        assert 60 < last <= best <= 100
        assert spread == 0
        assert memorised < 20


def refusal(done):
    """Return the sentence with which an example ended."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


@with_torch
def test_cifar_without_data_says_what_to_do(tmp_path):
    done = run(tmp_path, "cifar.py", "--data_dir=nothing")
    assert refusal(done).startswith("No prepared data set 'cifar10' in")
    assert "`data_dir`" in refusal(done)
    assert list(tmp_path.iterdir()) == []


def test_cifar_lists_every_method_with_its_docstring_or_a_reason(cifar, capsys):
    cifar.FLAGS(["cifar.py", "--list_methods"])
    assert cifar.main([]) is None  # And so it exits with 0.
    lines = capsys.readouterr().out.splitlines()
    there, absent = lines.index("Offered:"), lines.index("Not offered:")
    offered = dict(line.split(maxsplit=1) for line in lines[there + 1 : absent])
    left_out = dict(line.split(maxsplit=1) for line in lines[absent + 1 :])
    baselines = {"independent", "smkd"}
    assert len(lines) == 2 + len(methods.__all__) + len(baselines)
    assert offered.keys() & left_out.keys() == set()
    assert {*offered, *left_out} - baselines == set(methods.__all__)
    assert list(offered) == sorted(offered)
    for name in offered.keys() - baselines:
        documented = inspect.getdoc(getattr(methods, name)).splitlines()[0]
        assert offered[name] == documented
    assert set(cifar.FLAGS["method"].parser.enum_values) == offered.keys()
    assert cifar.FLAGS["method"].default == "posterior_smkd"


@pytest.fixture
def cifar(monkeypatch):
    """The example as a module, whose functions can be called."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    module = importlib.import_module("cifar")
    # What one test gives must not last for the next.
    with flagsaver.flagsaver():
        yield module


def make_labels(cifar, num_classes, *arguments):
    generator = np.random.default_rng(0)
    labels = np.arange(400, dtype=np.int32) % num_classes
    cifar.FLAGS(["cifar.py", f"--dataset=cifar{num_classes}", *arguments])
    return cifar.make_labels(
        types.SimpleNamespace(
            images=generator.integers(0, 256, (400, 4, 4, 3), dtype=np.uint8),
            labels=labels,
            index=np.arange(400)[::-1],
            num_classes=num_classes,
        )
    )


@pytest.mark.parametrize(
    ("num_classes", "name", "kind"),
    [
        (10, "none", "none"),
        (10, "symmetric", "symmetric_excluding_true"),
        (10, "symmetric_including_true", "symmetric_including_true"),
        (100, "pair", "pair_flip"),
        (10, "asymmetric", "asymmetric_cifar10"),
        (100, "asymmetric", "asymmetric_cifar100"),
        (100, "asymmetric_blocks", "asymmetric_cifar100_blocks"),
        (10, "instance", "instance_dependent"),
    ],
)
def test_cifar_makes_every_kind_of_noise(cifar, num_classes, name, kind):
    labels = make_labels(cifar, num_classes, f"--noise={name}")
    assert labels.recipe["kind"] == kind
    assert labels.is_noisy.any() == (name != "none")
    if kind in noise.KINDS:
        again = noise.make_noisy(labels.clean_labels, **labels.recipe)
        np.testing.assert_array_equal(again.noisy_labels, labels.noisy_labels)


def test_cifar_refuses_blocks_of_a_hundred_classes_for_ten(cifar, tmp_path):
    cifar.FLAGS(["cifar.py", "--dataset=cifar10", "--noise=asymmetric_blocks"])
    with pytest.raises(SystemExit, match="needs --dataset cifar100"):
        cifar.check_run(tmp_path, {})


def test_cifar_aligns_human_labels_by_the_index(cifar, tmp_path):
    clean = np.arange(400)[::-1] % 10
    file = tmp_path / "human.npz"
    np.savez(file, clean_label=clean, worse_label=(clean + 1) % 10)
    labels = make_labels(cifar, 10, "--noise=human", f"--human_labels={file}")
    assert labels.recipe == {"kind": "worse_label"}
    assert labels.realized_noise_rate == 1
    np.testing.assert_array_equal(labels.clean_labels, np.arange(400) % 10)


def train(cifar, folder, method, epochs=1):
    """Train on 64 images, by the flags; return the model and its log."""
    cifar.FLAGS(["cifar.py", f"--method={method}", f"--epochs={epochs}"])
    generator = np.random.default_rng(0)
    images = generator.random((64, 32, 32, 3), dtype=np.float32)
    clean = np.arange(64, dtype=np.int32) % 10
    noisy = np.where(np.arange(64) < 16, (clean + 1) % 10, clean)
    folder.mkdir(exist_ok=True)
    model = cifar.train(folder, images, noisy, clean, (images[:8], clean[:8]))
    return model, cifar.read_log(folder / "log.csv")


@with_torch
def test_cifar_trains_one_network_by_a_loss(cifar, tmp_path, capsys):
    model, log = train(cifar, tmp_path, "gce")
    assert model.loss.q == 0.7
    assert model.num_peers == 1
    cifar.print_table(log)
    header, row = capsys.readouterr().out.splitlines()[-2:]
    titles = ["method", "ensemble", "peer", "0", "memorised", "seconds"]
    assert header.split() == titles
    last = f"{100 * log['val_accuracy'][0]:.1f}"
    assert row.split()[:2] == ["gce", last]


@with_torch
def test_cifar_tells_the_share_of_wrong_labels(cifar, tmp_path):
    model, log = train(cifar, tmp_path, "co_teaching")
    assert model.gate.rate(1.0) == 0.25  # 16 of 64.
    assert log["dropped_labels"] == [0.25]


@with_torch
def test_cifar_fits_the_mixtures_of_divide_mix(cifar, tmp_path):
    model, log = train(cifar, tmp_path, "divide_mix")
    assert isinstance(model.loss, keras_smkd.losses.JointOptimization)
    posterior = keras.ops.convert_to_numpy(model.target.posterior)
    assert posterior.shape == (64, 2)
    assert posterior.std() > 0.1
    assert 0 <= log["corrected_labels"][0] <= 1


@with_torch
def test_cifar_has_the_layers_that_feature_fusion_taps(cifar, tmp_path):
    model, log = train(cifar, tmp_path, "ffl")
    assert model.learner_names == ("peer_0", "peer_1", "head")
    assert model.head.tap == "features"
    assert 0 <= log["val_head_accuracy"][0] <= 1


@with_torch
def test_cifar_begins_with_the_weights_of_files(cifar, tmp_path):
    setting = cifar.cifar_models.Setting(
        "small", 10, None, None, 0.4, 1, 10, 0.05, 0, None
    )
    files, first = [], setting.pair()
    for name, net in zip("ab", first, strict=True):
        files.append(str(tmp_path / f"{name}.weights.h5"))
        net.get_layer("maps").save_weights(files[-1])
    second = dataclasses.replace(setting, weights=files).pair()
    for net, other in zip(first, second, strict=True):
        backbone, same = net.get_layer("maps"), other.get_layer("maps")
        for values, others in zip(
            backbone.get_weights(), same.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(values, others)
        # The last layer is new.
        assert np.any(net.get_weights()[-2] != other.get_weights()[-2])
    cifar.FLAGS(["cifar.py", f"--weights={files[0]}"])
    with pytest.raises(SystemExit, match="--weights needs two files"):
        cifar.check_run(tmp_path, {})


@with_torch
def test_cifar_trains_under_a_policy(cifar, tmp_path, monkeypatch):
    arguments = ["--policy=mixed_bfloat16", "--epochs=1", "--method=dml"]
    cifar.FLAGS(["cifar.py", *arguments, f"--run_dir={tmp_path / 'run'}"])
    generator = np.random.default_rng(0)
    labels = np.arange(64, dtype=np.int32) % 10
    images = generator.random((64, 32, 32, 3), dtype=np.float32)
    given = noise.NoisyLabels(labels, labels, 10, {"kind": "none"})
    monkeypatch.setattr(
        cifar,
        "prepare_data",
        lambda path: (given, (images, labels, labels, (images, labels))),
    )
    kept = keras.config.dtype_policy()
    try:
        cifar.main([])
    finally:
        keras.config.set_dtype_policy(kept)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    dtypes = {layer.compute_dtype for layer in model.peers[0].layers}
    assert dtypes == {"bfloat16", "float32"}
    assert model.peers[0].layers[-1].compute_dtype == "float32"


@with_torch
def test_cifar_goes_on_with_a_teacher_that_was_interrupted(
    cifar, tmp_path, monkeypatch, capsys
):
    whole, log = train(cifar, tmp_path / "whole", "distillation", epochs=2)
    said = re.findall(r"^(.*) \d/2", capsys.readouterr().out, re.MULTILINE)
    assert said == 2 * ["teacher epoch"] + 2 * ["epoch"]
    assert len(cifar.read_log(tmp_path / "whole/teacher_log.csv")["loss"]) == 2
    save, logger = cifar.SaveEpoch.on_epoch_end, keras.callbacks.CSVLogger
    loggers = []

    def log_to(*arguments, **kwargs):
        loggers.append(logger(*arguments, **kwargs))
        return loggers[-1]

    def stop(self, epoch, logs=None):
        save(self, epoch, logs)
        raise KeyboardInterrupt

    # In its first epoch, after its last one, and in the student's first.
    monkeypatch.setattr(keras.callbacks, "CSVLogger", log_to)
    monkeypatch.setattr(cifar.SaveEpoch, "on_epoch_end", stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(cifar, tmp_path / "cut", "distillation", epochs=2)
        loggers[-1].on_train_end()  # As the end of a process closes it.
    monkeypatch.setattr(cifar.SaveEpoch, "on_epoch_end", save)
    cut, log_of_cut = train(cifar, tmp_path / "cut", "distillation", epochs=2)
    assert {**log_of_cut, "seconds": 0} == {**log, "seconds": 0}
    for own, other in zip(cut.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.fixture(scope="module")
def data_dir(shared_dir):
    folder = shared_dir / "data" / "tfds"
    if not (folder / "cifar10").is_dir():
        pytest.skip("needs CIFAR-10, prepared by TFDS, in shared/data/tfds")
    return f"--data_dir={folder}"


@pytest.fixture(scope="module")
def whole_run(data_dir, tmp_path_factory):
    """A run without interruption: the finished process and its folder."""
    folder = tmp_path_factory.mktemp("cifar")
    done = run(folder, "cifar.py", data_dir, "--run_dir=whole", *SMALL)
    assert done.returncode == 0, done.stderr
    return done, folder / "whole"


@with_torch
def test_cifar_logs_draws_and_prints_the_run(whole_run):
    done, run_dir = whole_run
    assert "128 images of cifar10" in done.stdout
    (row,) = [x for x in done.stdout.splitlines() if x.startswith("posterior")]
    assert row.count("(") == 3
    assert {path.name for path in run_dir.iterdir()} == {
        "log.csv",
        "model.keras",
        "noisy_labels.npz",
        "run.png",
        "settings.json",
    }
    assert (run_dir / "run.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run_dir / "settings.json").read_text())["seed"] == 0
    labels = noise.NoisyLabels.load(run_dir / "noisy_labels.npz")
    assert repr(labels) in done.stdout.splitlines()
    assert labels.recipe["kind"] == "symmetric_excluding_true"
    assert len(labels) == 50_000
    log = rows(run_dir)
    assert [line["epoch"] for line in log] == ["0", "1", "2"]
    for name in ("val_peer_1_accuracy", "memorization", "corrected_labels"):
        assert 0 <= float(log[-1][name]) <= 1


@with_torch
def test_cifar_killed_and_resumed_ends_as_if_it_had_not_been(
    whole_run, data_dir, tmp_path
):
    arguments = (data_dir, "--run_dir=cut", *SMALL)
    with subprocess.Popen(
        command("cifar.py", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **settings(tmp_path),
    ) as process:
        # The line tells that the epoch is saved.
        assert any(line.startswith("epoch 1/") for line in process.stdout)
        process.kill()
    done = run(tmp_path, "cifar.py", *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert "epoch 1/" not in done.stdout
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout
    assert rows(tmp_path / "cut") == rows(whole_run[1])


def test_cifar_resumes_only_the_same_run(cifar, tmp_path):
    (tmp_path / "settings.json").write_text('{"seed": 0}')
    cifar.FLAGS(["cifar.py", f"--run_dir={tmp_path}"])
    with pytest.raises(SystemExit, match="is not empty: give --resume"):
        cifar.check_run(cifar.run_folder(), {"seed": 0})
    cifar.FLAGS(["cifar.py", f"--run_dir={tmp_path}", "--resume"])
    cifar.check_run(cifar.run_folder(), {"seed": 0})
    differs = r"differs in seed \(0 there, 1 here\)\.$"
    with pytest.raises(SystemExit, match=differs):
        cifar.check_run(cifar.run_folder(), {"seed": 1})
    with pytest.raises(SystemExit, match="There is no run to resume in"):
        cifar.check_run(tmp_path / "other", {"seed": 0})


def test_cifar_resumes_no_run_without_a_name(cifar):
    cifar.FLAGS(["cifar.py", "--resume"])
    with pytest.raises(SystemExit, match="--resume needs the folder"):
        cifar.run_folder()


@with_torch
def test_hub_texts_lists_suspects_by_presets_of_a_folder(tmp_path):
    hub = pytest.importorskip("keras_hub", reason="needs keras-hub")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = hub.models.BertTokenizer([*special, "good", "bad", "film"])
    for name, layers in (("a", 1), ("b", 2)):
        backbone = hub.models.BertBackbone(
            vocabulary_size=8,
            num_layers=layers,
            num_heads=1,
            hidden_dim=4,
            intermediate_dim=4,
            max_sequence_length=8,
        )
        for part in (backbone, tokenizer):
            part.save_to_preset(tmp_path / name)
    lines = ["text,label"] + ["a good film,yes", "a bad film,no"] * 4
    (tmp_path / "films.csv").write_text("\n".join(lines))
    done = run(
        tmp_path,
        "hub_texts.py",
        "--csv=films.csv",
        "--presets=a,b",
        "--sequence_length=6",
        "--epochs=1",
        "--policy=mixed_bfloat16",
        "--run_dir=run",
    )
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run" / "suspects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["index"]) for row in rows) == list(range(8))
    assert {row["label"] for row in rows} <= {"yes", "no", "0", "1"}
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    depths = [
        layer.num_layers
        for peer in model.peers
        for layer in peer.layers
        if isinstance(layer, hub.models.BertBackbone)
    ]
    assert depths == [1, 2]
    (tmp_path / "films.csv").write_text("words\n")
    done = run(tmp_path, "hub_texts.py", "--csv=films.csv", "--presets=a,b")
    assert refusal(done) == "--csv needs columns `text` and `label`, and lines."
