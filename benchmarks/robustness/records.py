"""Runs as lines of JSON: their keys, the file, the choice among trials."""

import fcntl
import gzip
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

TUNING_SEED = 1000
# Epochs whose noisy validation accuracies are averaged to choose a trial.
CHOICE_EPOCHS = 5


def key_of(config: dict[str, Any]) -> str:
    """Return the key of a configuration: JSON with its names in order."""
    return json.dumps(
        config, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Return the files of lines in a folder, plain and packed."""
    return sorted(
        path
        for path in pathlib.Path(folder).glob("runs*.jsonl*")
        if path.suffix in (".jsonl", ".gz")
    )


def append(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Append a record as one line; several processes may do so at once.

    A line that an interruption cut short is closed first.
    """
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
            if stream.read(1) != b"\n":
                line = b"\n" + line
        stream.write(line)


def read(paths: Iterable[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Return the whole records of files, the last of each key.

    What is no whole line is left out, and so is a file that is not there.
    Records of failed runs, with `error`, give way to others.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        file = pathlib.Path(path)
        if not file.exists():
            continue
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        for line in content.decode().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            key = key_of(record["config"])
            if key not in found or "error" not in record:
                found[key] = record
    return list(found.values())


def keep(
    found: Iterable[dict[str, Any]],
    folder: pathlib.Path,
    tuning_seed: int = TUNING_SEED,
) -> None:
    """Write records to packed files, one a data set and noise.

    Of trials, only the epochs that the choice goes by: reports need no more.

    Args:
        found: Records; those of failed runs are left out.
        folder: Where to write `runs-DATASET-NOISE.jsonl.gz`.
        tuning_seed: Seed of the trials.
    """
    lines: dict[str, list[str]] = {}
    for record in found:
        if "error" in record:
            continue
        config, epochs = record["config"], record["epochs"]
        if config["seed"] == tuning_seed:
            epochs = {k: v[-CHOICE_EPOCHS:] for k, v in epochs.items()}
        name = f"{config['dataset']}-{config['noise'].replace(':', '-')}"
        line = json.dumps({**record, "epochs": epochs}, allow_nan=False)
        lines.setdefault(name, []).append(line)
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in lines.items():
        # Sorted and without a time: the same lines make the same file.
        content = "".join(f"{text}\n" for text in sorted(texts)).encode()
        path = folder / f"runs-{name}.jsonl.gz"
        path.write_bytes(gzip.compress(content, mtime=0))


def left_to_run(
    configs: list[dict[str, Any]],
    done: Iterable[dict[str, Any]],
    index: int,
    count: int,
) -> list[dict[str, Any]]:
    """Return a shard's configurations that have no record but of an error.

    Args:
        configs: All configurations.
        done: Records.
        index: Of the shard, from 0.
        count: Of the shards.
    """
    keys = {key_of(r["config"]) for r in done if "error" not in r}
    return [c for c in configs[index::count] if key_of(c) not in keys]


def problem_of(config: dict[str, Any]) -> str:
    """Return the key of what is the same for all methods, seeds and noises."""
    varying = ("method", "knobs", "seed", "noise")
    return key_of({k: v for k, v in config.items() if k not in varying})


def validation_score(record: dict[str, Any]) -> float:
    """Return by what trials are chosen: accuracy on noisy validation labels.

    Of a peer, the mean over the peers, over the last epochs.
    """
    accuracies = record["epochs"]["validation_peer"][-CHOICE_EPOCHS:]
    return float(sum(accuracies) / len(accuracies))


def choose(
    records: Iterable[dict[str, Any]], tuning_seed: int = TUNING_SEED
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the best trial of each method at each noise of each problem.

    Args:
        records: Of any runs; those of other seeds are no trials.
        tuning_seed: Seed of the trials.

    Returns:
        From `(problem, noise, method)` to the record. Of equal trials, the
        first by key.
    """
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    trials = [
        record
        for record in records
        if record["config"]["seed"] == tuning_seed and "error" not in record
    ]
    for record in sorted(trials, key=lambda record: key_of(record["config"])):
        config = record["config"]
        place = (problem_of(config), config["noise"], config["method"])
        if place not in best or validation_score(record) > validation_score(
            best[place]
        ):
            best[place] = record
    return best
