"""Networks that do not believe every label."""

from typing import Any

import keras

from keras_smkd import _checks
from keras_smkd import divergences
from keras_smkd import knowledge
from keras_smkd import targets
from keras_smkd.model import PeerLearning
from keras_smkd.model.peers import Peers


def m_correction(
    peer: keras.Model, num_examples: int, hard: bool = True, **kwargs: Any
) -> PeerLearning:
    """Return M-correction: labels replaced as far as their loss accuses them.

    `L = l((1 - B) * label + B * prediction, p)`, with the posterior `B` of the
    noisy component of a beta mixture over the losses of all examples.

    It takes two more things, the callback that fits the mixture and the loss
    with the paper's penalty `sum_c 1/C log((1/C) / mean_i p_ic)`, up to a
    constant.

    Departures: without mixup, in which an example has no place of its own,
    and so without the paper's dynamic mixup and soft-to-hard stage; the
    prediction is the training step's own; `B` is renewed once an epoch.

    Args:
        peer: The network.
        num_examples: Number of examples in the data set, above every index.
        hard: Whether the predicted class stands for the prediction.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Example:

    ```python
    model = keras_smkd.methods.m_correction(peer, len(x))
    loss = keras_smkd.losses.JointOptimization(
        alpha=1.0, beta=0.0, from_logits=True
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    mixture = keras_smkd.callbacks.FitMixture(x, y, start_epoch=105)
    model.fit(x, y, epochs=300, callbacks=[mixture])
    ```

    Reference:
        Arazo et al., 2019, "Unsupervised Label Noise Modeling and Loss
        Correction". https://arxiv.org/abs/1904.11238
    """
    return PeerLearning(
        [peer],
        target=targets.MixtureBootstrapping(num_examples, hard),
        **kwargs,
    )


def early_learning(
    peer: keras.Model,
    num_examples: int,
    weight: float = 3.0,
    momentum: float = 0.7,
    **kwargs: Any,
) -> PeerLearning:
    """Return early-learning regularisation: what was learnt first is held.

    `L = l(label, p) + weight * log(1 - sum_c t_c p_c)`, where `t` is the
    moving average of the example's predictions, this visit's included.

    Departures: none from the authors' code, which clips probabilities in the
    second term where the paper does not. Their second system, ELR+, with two
    networks, averaged weights and mixup, is not here.

    Args:
        peer: The network.
        num_examples: Number of examples in the data set, above every index.
        weight: Of the second term, >= 0. The authors have 3 for CIFAR-10 with
            symmetric noise, 1 (and momentum 0.9) with asymmetric noise, and 7
            (and 0.9) for CIFAR-100.
        momentum: Of the average, in [0, 1).
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Example:

    ```python
    model = keras_smkd.methods.early_learning(peer, len(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    ```

    Reference:
        Liu et al., 2020, "Early-Learning Regularization Prevents Memorization
        of Noisy Labels". https://arxiv.org/abs/2007.00151
    """
    return PeerLearning(
        [peer],
        knowledge=knowledge.EarlyPredictions(num_examples, momentum),
        divergence=divergences.EarlyLearning(),
        distillation_weight=_checks.number("weight", weight, minimum=0.0),
        **kwargs,
    )


def divide_mix(
    peers: Peers,
    num_examples: int,
    temperature: float = 0.5,
    threshold: float = 0.5,
    **kwargs: Any,
) -> PeerLearning:
    """Return DivideMix's labels: each peer's by the other one's judgment.

    `L_i = l(target_i, p_i)`, where the target is refined from label and
    prediction if the label is right with a probability above the threshold,
    by a Gaussian mixture over the losses of the other peer, and guessed by
    all peers elsewhere: `keras_smkd.targets.CoRefinement`.

    It takes two more things, the callback that fits the mixture and the loss
    with the paper's penalty against predicting few classes.

    Departures: this is what fits into one batch with one loss. MixMatch's
    mixing of labelled and unlabelled batches is not here, nor are predictions
    averaged over two augmentations, the squared error of guessed labels with
    its own ramp, or the penalty on confidence in the first epochs under
    asymmetric noise. Both peers learn from one batch.

    Args:
        peers: Two models, or more in a ring.
        num_examples: Number of examples in the data set, above every index.
        temperature: Of the sharpening, > 0.
        threshold: In [0, 1].
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: if there are fewer than two peers.

    Example:

    ```python
    model = keras_smkd.methods.divide_mix([peer_a, peer_b], len(x))
    loss = keras_smkd.losses.JointOptimization(
        alpha=1.0, beta=0.0, from_logits=True
    )
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss)
    mixture = keras_smkd.callbacks.FitMixture(
        x, y, start_epoch=10, kind="gaussian"
    )
    model.fit(x, y, epochs=300, callbacks=[mixture])
    ```

    Reference:
        Li et al., 2020, "DivideMix: Learning with Noisy Labels as
        Semi-supervised Learning". https://arxiv.org/abs/2002.07394
    """
    if len(peers) < 2:
        raise ValueError(
            "`peers` must be two models or more, which judge each other's "
            f"labels. Received: {len(peers)}."
        )
    return PeerLearning(
        peers,
        target=targets.CoRefinement(num_examples, temperature, threshold),
        **kwargs,
    )
