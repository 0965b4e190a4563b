"""Targets that depend on the label alone: smoothed ones, a virtual teacher."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd.batch import Batch
from keras_smkd.targets.blending import corrected_targets

SPREADS = ("all", "others")


def smoothed_labels(labels: Any, smoothing: float, over: str = "all") -> Any:
    """Return labels with a share of their mass spread evenly.

    `(1 - smoothing) * q + smoothing / classes` over all classes, or
    `(1 - smoothing) * q + smoothing * (1 - q) / (classes - 1)` over the
    others.

    Args:
        labels: `(batch, classes)`, rows sum to 1: `q`.
        smoothing: In [0, 1].
        over: `"all"` or `"others"`.

    Returns:
        `(batch, classes)`, float32 at least, rows sum to 1.
    """
    labels = functional.at_least_float32(labels)
    num_classes = labels.shape[-1]
    if over == "all":
        spread = ops.full_like(labels, 1.0 / num_classes)
    else:
        spread = (1.0 - labels) / (num_classes - 1)
    return (1.0 - smoothing) * labels + smoothing * spread


@keras.saving.register_keras_serializable(package="keras_smkd")
class LabelSmoothing(Configured):
    """A share of every label spread evenly over the classes.

    | `over` | labelled class | every other class |
    |---|---|---|
    | `"all"` | `1 - smoothing + smoothing / classes` | `smoothing / classes` |
    | `"others"` | `1 - smoothing` | `smoothing / (classes - 1)` |

    Published numbers mean either. `"all"` with `smoothing` is `"others"` with
    `smoothing * (classes - 1) / classes`. Soft labels are smoothed likewise,
    as the mean over the label.

    Args:
        smoothing: In [0, 1]. 0 keeps the labels.
        over: `"all"` as in the paper, or `"others"`: where the share goes.

    Example:

    >>> batch = Batch(labels=[[1.0, 0.0]])
    >>> LabelSmoothing(0.25)(batch)
    [[[0.875, 0.125]]]
    >>> LabelSmoothing(0.25, over="others")(batch)
    [[[0.75, 0.25]]]

    Reference:
        Szegedy et al., 2016, "Rethinking the Inception Architecture for
        Computer Vision", section 7. https://arxiv.org/abs/1512.00567
    """

    def __init__(self, smoothing: float = 0.1, over: str = "all") -> None:
        self.smoothing = _checks.number(
            "smoothing", smoothing, minimum=0.0, maximum=1.0
        )
        self.over = _checks.one_of("over", over, SPREADS)

    def __call__(self, batch: Batch) -> Any:
        """Return the smoothed labels.

        Args:
            batch: With `labels`, and learners.

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        labels = batch.needed("labels", self)
        return for_each_learner(
            smoothed_labels(labels, self.smoothing, self.over), batch
        )


@keras.saving.register_keras_serializable(package="keras_smkd")
class VirtualTeacher(Configured):
    """Distillation from a made-up teacher that knows only the label.

    `targets = (1 - alpha) * labels + alpha * softmax(u / temperature)` with
    `u = correct_prob` on the label, `(1 - correct_prob) / (classes - 1)`
    elsewhere. Under the cross entropy this is
    `(1 - alpha) * CE + alpha * KL(teacher || p)` but for a constant: the
    teacher-free distillation by regularisation, Tf-KD. `u` is a distribution,
    not logits, so that at the usual temperatures the teacher is almost
    uniform.

    The authors' code averages the divergence over classes too, and weighs it
    with a multiplier to make up for that. Given `multiplier`, the target has
    the same proportions as their loss, and `loss_weight` gives the factor
    between the two: pass it as `supervised_weight`.

    Args:
        alpha: Share of the teacher, in [0, 1]. 0 keeps the labels.
        temperature: Of the teacher, > 0. The prediction has none.
        correct_prob: Of the label in `u`, in [0, 1].
        multiplier: The authors' factor, > 0 (they have `alpha=0.1`,
            `multiplier=100` for a ResNet-18 on CIFAR-100). `None` is the
            number of classes, which makes up exactly.

    Example:

    >>> teacher = VirtualTeacher(alpha=1.0, temperature=0.5, correct_prob=1.0)
    >>> teacher(Batch(labels=[[1.0, 0.0]]))
    [[[0.880797, 0.119203]]]

    Reference:
        Yuan et al., 2020, "Revisiting Knowledge Distillation via Label
        Smoothing Regularization". https://arxiv.org/abs/1909.11723
    """

    def __init__(
        self,
        alpha: float = 0.1,
        temperature: float = 20.0,
        correct_prob: float = 0.99,
        multiplier: float | None = None,
    ) -> None:
        self.alpha = _checks.number("alpha", alpha, minimum=0.0, maximum=1.0)
        self.temperature = _checks.number("temperature", temperature, above=0.0)
        self.correct_prob = _checks.number(
            "correct_prob", correct_prob, minimum=0.0, maximum=1.0
        )
        self.multiplier = (
            None
            if multiplier is None
            else _checks.number("multiplier", multiplier, above=0.0)
        )

    def __call__(self, batch: Batch) -> Any:
        """Return the blend of labels and teacher.

        Args:
            batch: With `labels`, and learners.

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        labels = functional.at_least_float32(batch.needed("labels", self))
        share = self._teacher_weight(labels.shape[-1])
        blend = corrected_targets(
            labels,
            self.teacher(labels),
            share / self.loss_weight(labels.shape[-1]),
        )
        return for_each_learner(blend, batch)

    def teacher(self, labels: Any) -> Any:
        """Return the teacher's distributions.

        Args:
            labels: `(batch, classes)`, one-hot or soft.

        Returns:
            `(batch, classes)`, rows sum to 1.
        """
        knowledge = smoothed_labels(labels, 1.0 - self.correct_prob, "others")
        return ops.softmax(knowledge / self.temperature, axis=-1)

    def loss_weight(self, num_classes: int) -> float:
        """Return what the authors' loss is of the loss with these targets.

        `1 - alpha + alpha * multiplier / num_classes`, 1 without a multiplier.

        Args:
            num_classes: Number of classes.
        """
        return 1.0 - self.alpha + self._teacher_weight(num_classes)

    def _teacher_weight(self, num_classes: int) -> float:
        if self.multiplier is None:
            return self.alpha
        return self.alpha * self.multiplier / num_classes


def for_each_learner(targets: Any, batch: Batch) -> Any:
    """Return `(batch, classes)` targets, the same for every learner.

    Returns:
        `(batch, learners, classes)`.
    """
    targets = ops.expand_dims(targets, axis=1)
    return ops.repeat(targets, batch.num_learners, axis=1)
