"""Clean examples by cross-validation, in rounds: INCV."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._files import written_whole
from keras_smkd._labels import class_ids
from keras_smkd.model import PeerLearning

NOISES = ("symmetric", "asymmetric")
_FILE = "cross_validation.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidation:
    """Where an iterative cross-validation stands, and what it gave.

    An example that is neither kept nor removed is still a candidate.

    Args:
        kept: `(n,)` int64, places of the selected examples, ascending.
        removed: `(m,)` int64, places of those that are given up, ascending.
        noise_rate: Share of wrong labels, as estimated in the first round or
            as given; NaN before.
        rounds: How many rounds are done.
    """

    kept: npt.NDArray[np.int64]
    removed: npt.NDArray[np.int64]
    noise_rate: float
    rounds: int


def iterative_cross_validation(
    make_peer: Callable[[], keras.Model],
    x: Any,
    y: npt.ArrayLike,
    train: Callable[[PeerLearning, Any, Any], Any],
    iterations: int = 4,
    noise: str = "symmetric",
    noise_rate: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    folder: str | os.PathLike[str] | None = None,
    verbose: int = 1,
    **kwargs: Any,
) -> CrossValidation:
    """Return the examples whose labels a network predicts unseen: INCV.

    All examples are candidates, and none is kept. In each round:

    1. The candidates are split at random into two halves.
    2. A network, from the initial weights, is trained on what is kept and on
       one half. It predicts the other half, whose examples are selected where
       the prediction is the label. Under symmetric noise, the
       `int(r * selected)` examples of that half with the largest cross
       entropy are marked. Then the halves change places.
    3. What is selected is kept, and what is marked besides is removed.

    `r = min(2, e / (1 - e))`, where `e` is the noise rate; it is estimated
    once, from the share of the first half that is selected: the smallest
    multiple of 0.001 with `(1 - e)^2 + e^2 / (classes - 1) <= share`.

    What comes then is the user's: the paper trains by Co-teaching on what is
    kept, with the remaining candidates from an epoch on.

    Departures: the authors restore, in the first rounds, the weights of the
    epoch that agreed best with the held-out labels; a callback of `train`
    can do so. An example that is both selected and marked is kept, and only
    kept.

    Chance follows from `seed`: Keras's global seeds are set before each
    network is made, to the same, and before each training, to others. So a
    search that was interrupted ends as if it had not been.

    Args:
        make_peer: `() -> model`, new and built at each call, of the same
            architecture; its weights must be drawn by global seeds, or be
            fixed.
        x: Inputs: an array, or a list or dictionary of arrays.
        y: `(examples,)` or `(examples, 1)` class ids, some of them wrong.
        train: `(model, x, y) -> anything`: compiles and fits a
            `PeerLearning` of one peer on some of the examples.
        iterations: Number of rounds, at least 1. There are fewer if fewer
            than two candidates are left.
        noise: `"symmetric"`, or `"asymmetric"`: nothing is removed then.
        noise_rate: The noise rate in [0, 1], if it is known. `None` to
            estimate it, by a formula for symmetric noise.
        seed: Integer >= 0.
        batch_size: Batch size of the predictions.
        folder: Folder in which the state is kept after each round, and from
            where it goes on; made if it is not there. `None` to keep none.
        verbose: 1 to print a line after each round, 0 not to.
        **kwargs: Further arguments of `PeerLearning`, such as `from_logits`.

    Returns:
        A `CrossValidation`.

    Raises:
        TypeError: if an argument is not of its kind.
        ValueError: if an argument is out of range, `x` and `y` differ in
            length, the folder holds the state of another search or of more
            rounds, predictions are not finite, or the labels agree with them
            less than by chance, which no rate of symmetric noise explains.

    Example:

    ```python
    def train(model, x, y):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=50)

    found = keras_smkd.methods.iterative_cross_validation(make, x, y, train)
    x_kept, y_kept = x[found.kept], y[found.kept]
    ```

    Reference:
        Chen et al., 2019, "Understanding and Utilizing Deep Neural Networks
        Trained with Noisy Labels", algorithms 1 and 2 (authors' code).
        https://arxiv.org/abs/1905.05040
    """
    labels = _checked_labels(x, y)
    iterations = _checks.integer("iterations", iterations, minimum=1)
    _checks.one_of("noise", noise, NOISES)
    if noise_rate is not None:
        _checks.number("noise_rate", noise_rate, minimum=0.0, maximum=1.0)
    seed = _checks.integer("seed", seed, minimum=0)
    # Of one search: they are written down with its state.
    search = {
        "labels": labels,
        "noise": np.array(NOISES.index(noise)),
        "given_rate": np.array(-1.0 if noise_rate is None else noise_rate),
        "seed": np.array(str(seed)),
    }
    state = CrossValidation(
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        float("nan") if noise_rate is None else float(noise_rate),
        rounds=0,
    )
    path = None
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
        path = pathlib.Path(folder, _FILE)
        if path.exists():
            state = _read(path, search, iterations)
            _say(verbose, state, iterations, labels, "goes on after")

    def predict(rows: Any, held_out: Any, half: int) -> Any:
        keras.utils.set_random_seed(_number(seed, 0, 0))
        model = PeerLearning([make_peer()], **kwargs)
        class_ids("y", labels, model.num_classes)
        keras.utils.set_random_seed(_number(seed, 1 + state.rounds, half))
        train(model, _rows_of(x, rows), labels[rows])
        probs = model.predict(
            _rows_of(x, held_out), batch_size=batch_size, verbose=0
        )
        if not np.isfinite(probs).all():
            raise ValueError(
                "`train` must leave a model whose predictions are finite. "
                "Received: NaN or infinity among them."
            )
        return probs

    while state.rounds < iterations and _candidates(state, labels).size > 1:
        state = _round(state, labels, predict, noise == "symmetric", seed)
        if path is not None:
            _write(path, state, search)
        _say(verbose, state, iterations, labels, "did")
    return state


def _round(
    state: CrossValidation,
    labels: npt.NDArray[np.int64],
    predict: Callable[[Any, Any, int], Any],
    removes: bool,
    seed: int,
) -> CrossValidation:
    """Return the state after one more round."""
    # Training is left out of the imports of the estimators.
    from keras_smkd import estimators

    candidates = _candidates(state, labels)
    rng = np.random.default_rng(_number(seed, 1 + state.rounds, 2))
    halves = np.split(rng.permutation(candidates), [candidates.size // 2])
    kept, marked = [state.kept], [state.removed]
    rate = state.noise_rate
    for half in (0, 1):
        taught, held_out = halves[half], halves[1 - half]
        rows = np.concatenate([state.kept, taught])
        probs = np.asarray(predict(rows, held_out, half), np.float64)
        own = labels[held_out]
        agrees = probs.argmax(axis=1) == own
        if np.isnan(rate):
            rate = estimators.agreement_noise_rate(
                float(agrees.mean()), probs.shape[1], step=0.001
            )
        kept.append(held_out[agrees])
        if removes:
            ratio = estimators.discard_ratio(rate)
            # From the largest loss on, so that none are none: the last 0 of
            # a list would be all of it.
            order = np.argsort(probs[np.arange(own.size), own], kind="stable")
            marked.append(held_out[order[: int(ratio * agrees.sum())]])
    all_kept = np.sort(np.concatenate(kept))
    return CrossValidation(
        all_kept,
        np.setdiff1d(np.concatenate(marked), all_kept),
        rate,
        state.rounds + 1,
    )


def _candidates(
    state: CrossValidation, labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    left = np.ones(labels.size, bool)
    left[state.kept] = False
    left[state.removed] = False
    return np.flatnonzero(left)


def _checked_labels(x: Any, y: Any) -> npt.NDArray[np.int64]:
    labels = class_ids("y", y)
    for array in keras.tree.flatten(x):
        if len(array) != labels.size:
            raise ValueError(
                "`x` must have as many examples as `y`. "
                f"Received: {len(array)} and {labels.size}."
            )
    return labels


def _rows_of(x: Any, rows: npt.NDArray[np.int64]) -> Any:
    return keras.tree.map_structure(lambda array: array[rows], x)


def _number(seed: int, *place: int) -> int:
    """Return a seed of its own for each place."""
    sequence = np.random.SeedSequence(seed, spawn_key=place)
    return int(sequence.generate_state(1)[0])


def _say(
    verbose: int,
    state: CrossValidation,
    iterations: int,
    labels: npt.NDArray[np.int64],
    what: str,
) -> None:
    if verbose:
        print(
            f"Cross-validation {what} round {state.rounds} of {iterations}: "
            f"{state.kept.size} kept, {state.removed.size} removed, "
            f"{_candidates(state, labels).size} left; "
            f"noise rate {state.noise_rate:.3f}"
        )


def _write(
    path: pathlib.Path, state: CrossValidation, search: dict[str, Any]
) -> None:
    with written_whole(path, "folder") as partial:
        np.savez(partial, **dataclasses.asdict(state), **search)


def _read(
    path: pathlib.Path, search: dict[str, Any], iterations: int
) -> CrossValidation:
    # It believes nothing of what a file says of itself.
    from keras_smkd.noise import archives

    rule = "`folder` must hold the state of this search, or none."
    fields = [field.name for field in dataclasses.fields(CrossValidation)]
    size = search["labels"].size
    try:
        _, found = archives.read_archive(path, (*fields, *search))
        rate, rounds = found["noise_rate"].item(), found["rounds"].item()
        state = CrossValidation(
            _places(found["kept"], size),
            _places(found["removed"], size),
            _checks.number("noise_rate", rate, minimum=0.0, maximum=1.0),
            _checks.integer("rounds", rounds, minimum=1),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{rule} Received: {str(path)!r}: {error}") from error
    for name, value in search.items():
        if name not in found or not np.array_equal(found[name], value):
            raise ValueError(
                f"{rule} Received: {str(path)!r} with another `{name}`. "
                "Give another folder, or remove the file."
            )
    if state.rounds > iterations:
        raise ValueError(
            f"`iterations` must be at least {state.rounds}, the rounds that "
            f"`folder` holds. Received: iterations={iterations}."
        )
    return state


def _places(places: npt.NDArray[Any], size: int) -> npt.NDArray[np.int64]:
    inside = (places >= 0) & (places < size)
    if places.dtype != np.int64 or places.ndim != 1 or not inside.all():
        raise TypeError("places that are not in the data set")
    return places
