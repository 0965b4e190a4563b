"""One network that agrees with its own past."""

from typing import Any

import keras

from keras_smkd import _checks
from keras_smkd import knowledge
from keras_smkd import schedules
from keras_smkd.divergences import SquaredError
from keras_smkd.model import PeerLearning


def mean_teacher(
    peer: keras.Model,
    momentum: float = 0.99,
    max_weight: float = 100.0,
    ramp_up: float = 5 / 300,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network that agrees with the average of its own weights.

    `L = l(label, p) + w(t) * 1/classes * sum_c (p~_c - p_c)^2`, where `p~` is
    predicted with averaged weights. The first term is only over examples that
    have a label: `y = {"label": ..., "labelled": ...}`; both are divided by
    the size of the whole batch, as in the authors' code.

    Departures: the averages are of the statistics of batch normalisation, too,
    and predict in inference mode, where the authors' teacher runs in training
    mode with statistics (and noise) of its own. The second output of their
    student, with a cost of its own, is not here.

    Args:
        peer: The network.
        momentum: Of the averages, in [0, 1); the authors have 0.99 for 4,000
            labels of CIFAR-10, 0.97 for 1,000.
        max_weight: Of the agreement, >= 0.
        ramp_up: Share of training in which the weight grows, in [0, 1].
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled; `predict(x, output="averaged")` gives the
        teacher's probabilities.

    Reference:
        Tarvainen and Valpola, 2017, "Mean teachers are better role models".
        https://arxiv.org/abs/1703.01780
    """
    return PeerLearning(
        [peer],
        knowledge=knowledge.AveragedPeers(momentum, routes="itself"),
        divergence=SquaredError(),
        distillation_weight=_ramp(max_weight, ramp_up),
        **kwargs,
    )


def temporal_ensembling(
    peer: keras.Model,
    num_examples: int,
    momentum: float = 0.6,
    max_weight: float = 30.0,
    labelled_share: float = 1.0,
    ramp_up: float = 80 / 300,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network that agrees with its past predictions.

    `L = l(label, p) + w(t) * 1/classes * sum_c (q_c - p_c)^2`, where `q` is
    the average of the example's predictions at its earlier visits, corrected
    for its beginning at zero, and `w(t) = max_weight * labelled_share *
    exp(-5 (1 - t / ramp_up)^2)` up to `ramp_up`. At its first visit an example
    has no past, and its second term is 0: the paper's weight of 0 in the first
    epoch.

    Departures: the learning rate's own ramps are the user's
    (`keras.optimizers.schedules`). With labels for all, whether an example has
    one need not be said; else `y = {"label": ..., "labelled": ...}`.

    Args:
        peer: The network.
        num_examples: Number of examples in the data set, above every index.
        momentum: Of the average, in [0, 1).
        max_weight: The paper's, >= 0: 30 for CIFAR-10; 300 and more where
            labels are noisy.
        labelled_share: Share of the examples that have a label, in [0, 1].
        ramp_up: Share of training in which the weight grows, in [0, 1].
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Laine and Aila, 2017, "Temporal Ensembling for Semi-Supervised
        Learning", algorithm 2. https://arxiv.org/abs/1610.02242
    """
    share = _checks.number(
        "labelled_share", labelled_share, minimum=0.0, maximum=1.0
    )
    return PeerLearning(
        [peer],
        knowledge=knowledge.PastPredictions(num_examples, momentum),
        divergence=SquaredError(),
        distillation_weight=_ramp(max_weight, ramp_up, share),
        **kwargs,
    )


def _ramp(
    max_weight: float, ramp_up: float, share: float = 1.0
) -> schedules.RampUp:
    weight = _checks.number("max_weight", max_weight, minimum=0.0)
    length = _checks.number("ramp_up", ramp_up, minimum=0.0, maximum=1.0)
    return schedules.RampUp(weight * share, length)
