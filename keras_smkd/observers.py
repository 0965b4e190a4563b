"""Observers: parts that see every training batch, and change nothing.

The one here keeps, of each example, what was predicted of its label over the
epochs: which labels are learnt late, forgotten or never believed says which
are hard, and which are wrong.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd import _checks
from keras_smkd import backends
from keras_smkd._config import StatefulPart
from keras_smkd._config import part_of
from keras_smkd.batch import Batch
from keras_smkd.memory import DTYPES

SOURCES = ("training", "passes")
# What is kept of an example, in this order.
COLUMNS = ("count", "correct", "turns", "confidence", "variance", "margin")
# The logarithm of the smallest normal float32: no margin is infinite.
LOWEST_LOG_PROBABILITY = math.log(float(np.finfo(np.float32).tiny))
# More than any log-probability is away from another.
_FAR = 1e30


def get(observer: Any) -> Any:
    """Return an observer from what a user may give for it.

    Args:
        observer: Callable of the batch, or `None`.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is a string: none has a name.
    """
    return part_of("observer", observer, {})


def label_statistics(log_probs: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Return what several peers together say of each example's label.

    With the label `y` and peers `i` of `N`:

        probability = 1/N * sum_i p_i[y]
        margin      = 1/N * sum_i (log p_i[y] - max_{c != y} log p_i[c])
        correct     = [argmax_c sum_i p_i[c] = y]

    The margin is that of the logits, `z_i[y] - max_{c != y} z_i[c]`: what
    makes probabilities of them goes out of the difference.

    Args:
        log_probs: `(batch, peers, classes)`, two classes or more;
            log-probabilities. Below -87.3, the logarithm of the smallest
            float32, they count as that. No gradient flows through them.
        labels: `(batch, classes)`, of which the largest counts.

    Returns:
        Three of `(batch,)` float32: the probability in [0, 1], the margin,
        and 1 or 0. NaN or infinite where a prediction is.

    Example:

    >>> log_probs = ops.log([[[0.8, 0.2], [0.4, 0.6]]])
    >>> label_statistics(log_probs, [[1.0, 0.0]])
    ([0.6], [0.4904147], [1.0])

    Reference:
        Swayamdipta et al., 2020, "Dataset Cartography", section 2.
        https://arxiv.org/abs/2009.10795
        Pleiss et al., 2020, "Identifying Mislabeled Data using the Area Under
        the Margin Ranking", equation 1. https://arxiv.org/abs/2001.10528
    """
    log_probs = ops.cast(
        ops.stop_gradient(ops.convert_to_tensor(log_probs)), "float32"
    )
    log_probs = ops.maximum(log_probs, LOWEST_LOG_PROBABILITY)
    given = ops.cast(ops.argmax(labels, axis=-1), "int32")
    # A mask by arithmetic, and no `mean`: on torch, each operation counts.
    _, num_peers, num_classes = log_probs.shape
    classes = ops.arange(num_classes, dtype="int32")
    is_label = ops.cast(ops.expand_dims(given, 1) == classes, "float32")
    mean = ops.sum(ops.exp(log_probs), axis=1) / num_peers
    probability = ops.sum(mean * is_label, axis=-1)
    predicted = ops.cast(ops.argmax(mean, axis=-1), "int32")
    is_label = ops.expand_dims(is_label, axis=1)
    own = ops.sum(log_probs * is_label, axis=-1)
    others = ops.max(log_probs - _FAR * is_label, axis=-1)
    return (
        probability,
        ops.sum(own - others, axis=1) / num_peers,
        ops.cast(predicted == given, "float32"),
    )


def after_visit(rows: Any, probability: Any, margin: Any, correct: Any) -> Any:
    """Return what is kept of examples after one more visit of each.

    With `n` visits, this one included:

        count      <- n
        correct    <- correct + correct now
        turns      <- turns + [correct now != correct at the last visit]
        confidence <- confidence + (p - confidence) / n
        variance   <- variance + (d - variance) / n,
                      d = (p - confidence before) * (p - confidence after)
        margin     <- margin + (margin now - margin) / n

    Before the first visit an example counts as not correct, so that turns to
    the label and away from it alternate: whether it was correct at the last
    visit is whether `turns` is odd.

    Args:
        rows: `(batch, 6)`, what was kept, in the order above; zeros before
            the first visit. They are computed with as float32.
        probability: `(batch,)`, of the label, `p`.
        margin: `(batch,)`.
        correct: `(batch,)`, 1 where the label is predicted, else 0.

    Returns:
        `(batch, 6)` float32.

    Example:

    >>> rows = after_visit([[0.0] * 6], [0.25], [-1.0], [0.0])
    >>> after_visit(rows, [0.75], [2.0], [1.0])
    [[2.0, 1.0, 1.0, 0.5, 0.0625, 0.5]]
    """
    rows, probability, margin, correct = (
        ops.cast(values, "float32")
        for values in (rows, probability, margin, correct)
    )
    count, correct_count, turns, mean, variance, mean_margin = (
        rows[:, i] for i in range(len(COLUMNS))
    )
    count = count + 1.0
    away = probability - mean
    mean = mean + away / count
    spread = away * (probability - mean)
    return ops.stack(
        [
            count,
            correct_count + correct,
            turns + ops.abs(correct - turns % 2.0),
            mean,
            variance + (spread - variance) / count,
            mean_margin + (margin - mean_margin) / count,
        ],
        axis=1,
    )


def first_places(index: Any) -> Any:
    """Return for each entry where in the batch the same one stands first.

    Args:
        index: `(batch,)` int32.

    Returns:
        `(batch,)` int32.

    Example:

    >>> first_places(ops.convert_to_tensor([5, 2, 5]))
    [0, 1, 0]
    """
    order = ops.cast(ops.argsort(index), "int32")
    ordered = backends.rows_of(index, order)
    place = ops.searchsorted(ordered, index, side="left")
    return backends.rows_of(order, place)


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """How the label of each training example was learnt.

    All are arrays `(examples,)`. Of an example that was not visited `count`,
    `learnt` and `forgotten` are 0 and the others NaN.

    Args:
        confidence: Mean over the visits of the ensemble's probability of the
            label, in [0, 1].
        variability: Standard deviation over the visits of that probability,
            in [0, 0.5].
        correctness: Share of the visits at which the ensemble's class was the
            label, in [0, 1].
        margin: Area under the margin: mean over the visits (and the peers) of
            the label's logit minus the largest other logit.
        learnt: How often the ensemble's class became the label; at the first
            visit, too.
        forgotten: How often it was the label at one visit, and not at the
            next.
        count: Number of visits.
    """

    confidence: npt.NDArray[np.float32]
    variability: npt.NDArray[np.float32]
    correctness: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]
    learnt: npt.NDArray[np.int64]
    forgotten: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]


def dynamics_of(rows: npt.NDArray[Any]) -> Dynamics:
    """Return the statistics of examples from what is kept of them.

    Args:
        rows: `(examples, 6)`, as `after_visit` gives them.

    Example:

    >>> dynamics_of(np.array([[2, 1, 1, 0.5, 0.0625, 0.5]])).variability
    [0.25]
    """
    count, correct, turns, confidence, variance, margin = (
        np.asarray(rows).astype(np.float32).T
    )
    visits = np.where(count > 0, count, np.float32(np.nan))
    unknown = 0.0 * visits
    return Dynamics(
        confidence=confidence + unknown,
        variability=np.sqrt(np.maximum(variance, 0.0)) + unknown,
        correctness=correct / visits,
        margin=margin + unknown,
        learnt=((turns + 1) // 2).astype(np.int64),
        forgotten=(turns // 2).astype(np.int64),
        count=count.astype(np.int64),
    )


@keras.saving.register_keras_serializable(package="keras_smkd")
class ExampleDynamics(StatefulPart):
    """Keeps how each example's label was learnt, over the whole training.

    No clean labels are needed. `results` gives, for each example, the mean
    and the spread of the probability of its label (dataset cartography), how
    often the label was learnt and forgotten, and the margin averaged over the
    epochs (AUM). An example visited once an epoch has one value an epoch.
    `keras_smkd.callbacks.TrainingDynamics` hands the results on.

    The predictions are those of the peers, without a head:

    - `source="training"`: those that each step makes anyway, before it moves
      the weights, with the augmentation and the dropout of that step. It
      happens inside the compiled step and needs each example's index: `fit`
      supplies it for arrays, the pipelines of `keras_smkd.data` bring it.
    - `source="passes"`: those of `TrainingDynamics(x, labels)`, one pass in
      inference mode after every epoch.

    A visit is not counted if a prediction is not finite, or the example has
    no label (`labelled` 0). Of an example that stands several times in one
    batch the first counts. Sample weights do not count. A place that is not
    in the data set is an error when `fit` begins, and with a data set that
    comes in batches at the end of the epoch, or in `results`.

    Everything is a weight of the model, `(num_examples + 1, 6)`, the last row
    for what is not in the data set: it goes into the model's files, and a
    resumed training ends with the same values. It takes 24 bytes an example
    (and 24 more) as float32, 12 as float16: 1.2 MB for 50,000 examples. A
    further `fit` goes on counting; `reset` begins anew.

    Args:
        num_examples: Number of examples in the data set, above every index.
        source: `"training"` or `"passes"`.
        dtype: `"float32"`, whose counts are exact to 16.7 million visits, or
            `"float16"` for half the memory: counts are exact to 2,048 visits,
            and the largest error of a confidence that a simulation of 5,000
            examples had was 0.003 after 100 visits, 0.01 after 1,000.

    Raises:
        TypeError: if `num_examples` is no integer.
        ValueError: if it is below 1, or another argument is not one of these.

    Example:

    ```python
    observer = keras_smkd.observers.ExampleDynamics(len(x))
    model = keras_smkd.PeerLearning([peer_a, peer_b], observer=observer)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, noisy_labels, epochs=20)
    least_believed = np.argsort(model.observer.results().margin)
    ```

    Reference:
        Swayamdipta et al., 2020, "Dataset Cartography: Mapping and Diagnosing
        Datasets with Training Dynamics". https://arxiv.org/abs/2009.10795
        Toneva et al., 2019, "An Empirical Study of Example Forgetting during
        Deep Neural Network Learning". https://arxiv.org/abs/1812.05159
        Pleiss et al., 2020, "Identifying Mislabeled Data using the Area Under
        the Margin Ranking". https://arxiv.org/abs/2001.10528
    """

    def __init__(
        self,
        num_examples: int,
        source: str = "training",
        dtype: str = "float32",
    ) -> None:
        super().__init__(dtype=_checks.one_of("dtype", dtype, DTYPES))
        self.num_examples = _checks.integer(
            "num_examples", num_examples, minimum=1
        )
        self.source = _checks.one_of("source", source, SOURCES)
        self.num_peers = 0
        self.memory: Any = None

    @property
    def needs_index(self) -> bool:
        """Whether it takes the predictions of the training."""
        return self.source == "training"

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Make the weight, zeros.

        Args:
            peers: The model's peers, of which only the number counts.
            num_classes: Number of classes, two or more.

        Raises:
            ValueError: if there is one class only, which has no margin.
        """
        if num_classes < 2:
            raise ValueError(
                "`peers` must have two classes or more, for "
                f"{type(self).__name__}. Received: {num_classes} class."
            )
        self.num_peers = len(peers)
        self.memory = self.add_state(
            "memory", (self.num_examples + 1, len(COLUMNS)), self.dtype
        )

    def __call__(self, batch: Batch) -> None:
        """Keep what a training batch says, if that is the source.

        Args:
            batch: With `log_probs`, `labels` and `index`.
        """
        if batch.training and self.source == "training":
            self.visit(
                batch.needed("index", self),
                batch.needed("log_probs", self)[:, : self.num_peers],
                batch.needed("labels", self),
                batch.labelled,
            )

    def visit(
        self, index: Any, log_probs: Any, labels: Any, labelled: Any = None
    ) -> None:
        """Keep one visit of each of several examples.

        Args:
            index: `(batch,)` int32, their places in the data set.
            log_probs: `(batch, peers, classes)`.
            labels: `(batch, classes)`, of which the largest counts.
            labelled: `(batch,)`, 0 where there is no label; `None` where all
                have one.
        """
        inside = (index >= 0) & (index < self.num_examples)
        index = ops.where(inside, index, self.num_examples)
        rows = backends.read_rows(self.memory, index)
        probability, margin, correct = label_statistics(log_probs, labels)
        renewed = after_visit(rows, probability, margin, correct)
        # A margin is not finite where one of the predictions is not.
        counts = ops.isfinite(margin)
        if labelled is not None:
            counts = ops.logical_and(counts, labelled > 0)
        counts = ops.expand_dims(counts, axis=1)
        renewed = ops.where(counts, ops.cast(renewed, rows.dtype), rows)
        # All that stand for one example write the same, in whatever order.
        index, renewed = backends.gather(index), backends.gather(renewed)
        renewed = backends.rows_of(renewed, first_places(index))
        backends.write_rows(self.memory, index, renewed)

    def reset(self) -> None:
        """Forget all visits, between two epochs."""
        self.memory.assign(np.zeros(self.memory.shape, "float32"))

    def check(self) -> None:
        """Raise if batches brought places that are not in the data set.

        Raises:
            ValueError: if some did, or the model is not built yet.
        """
        self._rows()

    def results(self) -> Dynamics:
        """Return the statistics of each example.

        Raises:
            ValueError: if batches brought places that are not in the data
                set, or the model is not built yet.
        """
        return dynamics_of(self._rows())

    def _rows(self) -> npt.NDArray[Any]:
        if self.memory is None:
            raise ValueError(
                f"`{type(self).__name__}` must be the `observer` of a model "
                "that is built. Received: one that is not."
            )
        rows = np.array(ops.convert_to_numpy(self.memory))
        if rows[-1, 0] > 0:
            raise ValueError(
                f"`y['index']` must be in [0, {self.num_examples}), the "
                f"examples of {type(self).__name__}. Received: places outside, "
                f"in {int(rows[-1, 0])} batches."
            )
        return rows[:-1]
