"""Systems that correct each label from what the network itself says."""

from typing import Any

import keras

from keras_smkd import _checks
from keras_smkd import knowledge as knowledge_room
from keras_smkd import targets
from keras_smkd.model import PeerLearning
from keras_smkd.model.peers import Peers


def label_smoothing(
    peer: keras.Model, smoothing: float = 0.1, **kwargs: Any
) -> PeerLearning:
    """Return a network that learns smoothed labels.

    `target = (1 - smoothing) * label + smoothing / classes`;
    `keras_smkd.targets.LabelSmoothing`.

    Args:
        peer: The network.
        smoothing: In [0, 1].
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Szegedy et al., 2016, "Rethinking the Inception Architecture for
        Computer Vision", section 7. https://arxiv.org/abs/1512.00567
    """
    return PeerLearning(
        [peer], target=targets.LabelSmoothing(smoothing), **kwargs
    )


def bootstrapping(
    peer: keras.Model,
    hard: bool = False,
    beta: float | None = None,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network that learns labels mixed with its own predictions.

    `target = beta * label + (1 - beta) * p`, or the class that is predicted in
    the place of `p`; `keras_smkd.targets.SoftBootstrapping` and
    `HardBootstrapping`.

    Args:
        peer: The network.
        hard: Whether the predicted class stands for the prediction.
        beta: Share of the label, in [0, 1]; `None` for the paper's 0.95, and
            0.8 if `hard`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Reed et al., 2015, "Training Deep Neural Networks on Noisy Labels with
        Bootstrapping", eq. 6 and 7. https://arxiv.org/abs/1412.6596
    """
    _checks.boolean("hard", hard)
    target: Any = (
        targets.HardBootstrapping(0.8 if beta is None else beta)
        if hard
        else targets.SoftBootstrapping(0.95 if beta is None else beta)
    )
    return PeerLearning([peer], target=target, **kwargs)


def proselflc(
    peer: keras.Model,
    sharpness: float = 16.0,
    midpoint: float = 0.5,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network that trusts itself more with time and confidence.

    `target = (1 - e) * label + e * p`, `e = sigmoid(sharpness * (t -
    midpoint)) * (1 - H(p) / log(classes))`; `keras_smkd.targets.ProSelfLC`.
    The authors tune both numbers; these are from their grids.

    Args:
        peer: The network.
        sharpness: `B > 0`.
        midpoint: `rho`, in [0, 1].
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Wang et al., 2021, "ProSelfLC: Progressive Self Label Correction for
        Training Robust Deep Neural Networks", eq. 9 to 11.
        https://arxiv.org/abs/2005.03788
    """
    target = targets.ProSelfLC(sharpness, midpoint)
    return PeerLearning([peer], target=target, **kwargs)


def posterior_smkd(
    peers: Peers,
    num_examples: int,
    class_prior: Any = None,
    knowledge: Any = None,
    start: int | None = 50,
    **kwargs: Any,
) -> PeerLearning:
    """Return peers that weigh labels against what the others know.

    Each peer learns `normalise(a^gamma * T[:, y])`, with the others' averaged
    and aligned knowledge `a` of the example and the measured confusion `T` of
    knowledge with labels, and is drawn to `a` itself:
    `keras_smkd.targets.PosteriorLabels`, whose page has the formula. One
    setting served every kind of noise on digits and Fashion-MNIST, and clean
    labels. With a network that takes dozens of epochs to learn, a later
    `start` helped where it was tried, and so did `start=None`:
    docs/evidence.md, CIFAR-10N.

    Args:
        peers: Two networks or more.
        num_examples: Number of examples in the data set (in an epoch).
        class_prior: `(classes,)`, how often the true classes come, if known.
        knowledge: What is averaged over time: by default
            `knowledge.PastPredictions(num_examples, 0.9, routes="others")`, a
            memory of every example, which needs each one's index.
            `knowledge.AveragedPeers()` needs neither.
        start: Training steps before labels are corrected, at least 0; or
            `None`, to begin when peers predict what they are told in 60 % of
            the examples.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled. Compile it with a cross entropy.

    Example:

    ```python
    model = keras_smkd.methods.posterior_smkd([peer_a, peer_b], len(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, noisy_labels, epochs=50)
    ```
    """
    if knowledge is None:
        knowledge = knowledge_room.PastPredictions(
            num_examples, momentum=0.9, routes="others"
        )
    return PeerLearning(
        peers,
        knowledge=knowledge,
        target=targets.PosteriorLabels(num_examples, class_prior, start=start),
        **kwargs,
    )
