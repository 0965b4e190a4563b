"""Systems that are what a network is compiled with: a loss, an optimizer.

They come compiled, with the user's optimizer.
"""

from typing import Any

import keras

from keras_smkd import losses
from keras_smkd.model import PeerLearning
from keras_smkd.optimizers import CriticalGradients


def gce(
    peer: keras.Model,
    optimizer: Any,
    q: float = 0.7,
    metrics: Any = None,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network with the generalised cross entropy.

    `L = (1 - p_y^q) / q`, between the cross entropy (`q` to 0) and the mean
    absolute error (`q = 1`); `keras_smkd.losses.GeneralizedCrossEntropy`.

    Departures: without the truncated form, which is
    `keras_smkd.losses.TruncatedGeneralizedCrossEntropy`.

    Args:
        peer: The network.
        optimizer: As for `compile`.
        q: In (0, 1].
        metrics: As for `compile`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, compiled.

    Reference:
        Zhang and Sabuncu, 2018, "Generalized Cross Entropy Loss for Training
        Deep Neural Networks with Noisy Labels", eq. 6.
        https://arxiv.org/abs/1805.07836
    """
    loss = losses.GeneralizedCrossEntropy(q, from_logits=_logits(kwargs))
    return _compiled(peer, optimizer, loss, metrics, kwargs)


def sce(
    peer: keras.Model,
    optimizer: Any,
    alpha: float = 0.1,
    beta: float = 1.0,
    metrics: Any = None,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network with the symmetric cross entropy.

    `L = alpha * CE + beta * RCE`, with the reverse cross entropy, in which
    label and prediction change places and `log 0` is -4;
    `keras_smkd.losses.SymmetricCrossEntropy`.

    Args:
        peer: The network.
        optimizer: As for `compile`.
        alpha: Weight of the cross entropy, >= 0. The authors have 0.1 for
            CIFAR-10 and 6 for CIFAR-100.
        beta: Weight of the reverse cross entropy, >= 0. The authors have 1,
            and 0.1 for CIFAR-100.
        metrics: As for `compile`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, compiled.

    Reference:
        Wang et al., 2019, "Symmetric Cross Entropy for Robust Learning with
        Noisy Labels", eq. 7. https://arxiv.org/abs/1908.06112
    """
    loss = losses.SymmetricCrossEntropy(
        alpha=alpha, beta=beta, from_logits=_logits(kwargs)
    )
    return _compiled(peer, optimizer, loss, metrics, kwargs)


def active_passive(
    peer: keras.Model,
    optimizer: Any,
    alpha: float = 1.0,
    beta: float = 1.0,
    metrics: Any = None,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network with an active and a passive loss: NCE + RCE.

    `L = alpha * NCE + beta * RCE`, the normalised and the reverse cross
    entropy; `keras_smkd.losses.ActivePassive`, which takes the paper's other
    pairs, too.

    Args:
        peer: The network.
        optimizer: As for `compile`.
        alpha: Weight of the active loss, >= 0. The paper has 1 for CIFAR-10
            and 10 for CIFAR-100.
        beta: Weight of the passive loss, >= 0. The paper has 1, and 0.1.
        metrics: As for `compile`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, compiled.

    Reference:
        Ma et al., 2020, "Normalized Loss Functions for Deep Learning with
        Noisy Labels", eq. 12. https://arxiv.org/abs/2006.13554
    """
    logits = _logits(kwargs)
    loss = losses.ActivePassive(
        losses.NormalizedCrossEntropy(from_logits=logits),
        losses.ReverseCrossEntropy(from_logits=logits),
        alpha=alpha,
        beta=beta,
        from_logits=logits,
    )
    return _compiled(peer, optimizer, loss, metrics, kwargs)


def confidence_penalty(
    peer: keras.Model,
    optimizer: Any,
    beta: float = 0.1,
    threshold: float | None = None,
    metrics: Any = None,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network whose sure predictions are penalised.

    `L = CE - beta * H(p)`; `keras_smkd.losses.ConfidencePenalty`.

    Args:
        peer: The network.
        optimizer: As for `compile`.
        beta: Weight of the entropy, >= 0. The paper tunes it for each task.
        threshold: Entropy in nats from which on nothing is penalised, or
            `None`.
        metrics: As for `compile`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, compiled.

    Reference:
        Pereyra et al., 2017, "Regularizing Neural Networks by Penalizing
        Confident Output Distributions", section 2.
        https://arxiv.org/abs/1701.06548
    """
    loss = losses.ConfidencePenalty(
        beta, threshold, from_logits=_logits(kwargs)
    )
    return _compiled(peer, optimizer, loss, metrics, kwargs)


def cdr(
    peer: keras.Model,
    optimizer: Any,
    noise_rate: float,
    loss: Any = "sparse_categorical_crossentropy",
    metrics: Any = None,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network of which only critical weights learn: CDR.

    In each batch the `1 - noise_rate` of the weights with the largest
    `|w * dL/dw|` take `1 - noise_rate` times their gradient, the others none;
    `keras_smkd.optimizers.CriticalGradients`.

    Departures: the weight decay is the optimizer's own, as in the authors'
    code, while the paper shrinks by the sign of a weight. The paper stops by
    the accuracy on noisy validation data: give `fit` a
    `keras.callbacks.EarlyStopping`.

    Args:
        peer: The network.
        optimizer: Around which the rule goes; with weight decay, which is all
            that moves other weights. The authors have `SGD(0.01, momentum=0.9,
            weight_decay=0.001)`.
        noise_rate: Share of labels that are wrong, in [0, 1).
        loss: As for `compile`.
        metrics: As for `compile`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, compiled.

    Reference:
        Xia et al., 2021, "Robust early-learning: Hindering the memorization
        of noisy labels", section 3.
        https://openreview.net/forum?id=Eql5b1_hTE4
    """
    rule = CriticalGradients(optimizer, noise_rate)
    return _compiled(peer, rule, loss, metrics, kwargs)


def _logits(kwargs: dict[str, Any]) -> Any:
    return kwargs.get("from_logits", True)


def _compiled(
    peer: keras.Model,
    optimizer: Any,
    loss: Any,
    metrics: Any,
    kwargs: dict[str, Any],
) -> PeerLearning:
    model = PeerLearning([peer], **kwargs)
    model.compile(optimizer, loss, metrics=metrics)
    return model
