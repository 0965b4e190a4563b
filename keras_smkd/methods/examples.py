"""Systems that choose the examples whose labels teach."""

from collections.abc import Callable
from typing import Any

import keras

from keras_smkd import gates
from keras_smkd import schedules
from keras_smkd._labels import class_ids
from keras_smkd.methods.cross_validation import CrossValidation
from keras_smkd.methods.cross_validation import iterative_cross_validation
from keras_smkd.model import PeerLearning
from keras_smkd.model.peers import Peers

RAMP = 10 / 200


def co_teaching(
    peers: Peers,
    noise_rate: float,
    ramp: float = RAMP,
    **kwargs: Any,
) -> PeerLearning:
    """Return Co-teaching: each peer learns what is easy for the other.

    `L_i = mean of l(label, p_i) over the (1 - f) * n smallest losses of the
    other peer`, with a forget rate `f` that grows to the noise rate;
    `keras_smkd.gates.SmallLoss` and `keras_smkd.schedules.ForgetRate`.

    Departures: none from the paper. The authors' code divides the mean once
    more, and counts its ramp a little otherwise.

    Args:
        peers: Two models, or more in a ring.
        noise_rate: Share of labels that are wrong, in [0, 1).
        ramp: Share of training in which the forget rate grows, in [0, 1].
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Example:

    ```python
    model = keras_smkd.methods.co_teaching([peer_a, peer_b], noise_rate=0.4)
    model.compile("adam", "sparse_categorical_crossentropy")
    ```

    Reference:
        Han et al., 2018, "Co-teaching: Robust Training of Deep Neural
        Networks with Extremely Noisy Labels", algorithm 1.
        https://arxiv.org/abs/1804.06872
    """
    _check_several(peers)
    rate = schedules.ForgetRate(noise_rate, ramp)
    return PeerLearning(peers, gate=gates.SmallLoss(rate), **kwargs)


def co_teaching_plus(
    peers: Peers,
    noise_rate: float,
    ramp: float = RAMP,
    start: float = 20 / 200,
    **kwargs: Any,
) -> PeerLearning:
    """Return Co-teaching+: the same, where the peers disagree.

    From `start` on, only examples of which the peers do not predict the same
    class are candidates.

    Departures: the authors' code takes the softmax of a softmax then, which
    is left out.

    Args:
        peers: Two models, or more in a ring.
        noise_rate: Share of labels that are wrong, in [0, 1).
        ramp: Share of training in which the forget rate grows, in [0, 1].
        start: Progress from which disagreement counts, in [0, 1]; the
            authors' 20 epochs of 200 for CIFAR-10.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Yu et al., 2019, "How does Disagreement Help Generalization against
        Label Corruption?", algorithm 1. https://arxiv.org/abs/1901.04215
    """
    _check_several(peers)
    rate = schedules.ForgetRate(noise_rate, ramp)
    gate = gates.SmallLoss(rate, disagreement=True, start=start)
    return PeerLearning(peers, gate=gate, **kwargs)


def mentornet(
    peer: keras.Model,
    mentor: keras.Model | None = None,
    rule: str = "predefined",
    percentile: float = 0.7,
    **kwargs: Any,
) -> PeerLearning:
    """Return a network whose examples a mentor weighs by their losses.

    `L = v * l(label, p)`, with the weight `v` of a rule, or of a `mentor` that
    has been trained: `keras_smkd.gates.Curriculum` and `LearnedCurriculum`.
    `examples/mentornet.py` trains one.

    Departures: without the dropout of examples.

    Args:
        peer: The network.
        mentor: Trained network, as in `LearnedCurriculum`, or `None`.
        rule: As in `Curriculum`; without a mentor.
        percentile: Of the losses in a batch, in [0, 1].
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Jiang et al., 2018, "MentorNet: Learning Data-Driven Curriculum for
        Very Deep Neural Networks on Corrupted Labels", section 3.
        https://arxiv.org/abs/1712.05055
    """
    gate: Any = (
        gates.Curriculum(rule, percentile)
        if mentor is None
        else gates.LearnedCurriculum(mentor, percentile)
    )
    return PeerLearning([peer], gate=gate, **kwargs)


def incv(
    make_peer: Callable[[], keras.Model],
    x: Any,
    y: Any,
    train: Callable[[PeerLearning, Any, Any], Any],
    noise: str = "symmetric",
    **search: Any,
) -> tuple[PeerLearning, CrossValidation]:
    """Find examples with right labels by cross-validation, and Co-teach them.

    First `iterative_cross_validation`; then two new networks learn by
    Co-teaching on what it kept. Their noise rate is what the paper expects
    among the kept: with the estimated rate `e`, `1 - (1 - e)^2 / ((1 - e)^2 +
    s)`, where `s = e^2 / (classes - 1)` under symmetric noise and `e^2` under
    asymmetric.

    Departures: the paper adds the remaining candidates from an epoch on.

    Args:
        make_peer: `() -> model`, new and built at each call.
        x: Inputs: an array, or a list or dictionary of arrays.
        y: `(examples,)` class ids, some of them wrong.
        train: `(model, x, y) -> anything`: compiles and fits a model on some
            of the examples, in the search and at last.
        noise: `"symmetric"` or `"asymmetric"`.
        **search: Further arguments of `iterative_cross_validation`.

    Returns:
        The trained model of two peers, and what the search found.

    Raises:
        ValueError: if the search kept nothing.

    Reference:
        Chen et al., 2019, "Understanding and Utilizing Deep Neural Networks
        Trained with Noisy Labels", algorithms 1 and 2, theorem 1.
        https://arxiv.org/abs/1905.05040
    """
    found = iterative_cross_validation(
        make_peer, x, y, train, noise=noise, **search
    )
    if not found.kept.size:
        raise ValueError(
            "`iterations` must be so many that examples are kept. Received: "
            f"none kept after {found.rounds} rounds."
        )
    peers = [make_peer(), make_peer()]
    labels = class_ids("y", y)
    right = (1.0 - found.noise_rate) ** 2
    wrong = found.noise_rate**2
    if noise == "symmetric":
        wrong /= max(int(peers[0].output_shape[-1]) - 1, 1)
    model = co_teaching(
        peers,
        wrong / (right + wrong),
        **{name: search[name] for name in ("from_logits",) if name in search},
    )
    kept = keras.tree.map_structure(lambda array: array[found.kept], x)
    train(model, kept, labels[found.kept])
    return model, found


def _check_several(peers: Peers) -> None:
    if len(peers) < 2:
        raise ValueError(
            "`peers` must be two models or more, which choose for each other. "
            f"Received: {len(peers)}."
        )
