"""Systems that train in stages: what one stage learns, the next one uses.

They take data as arrays and the arguments of `fit`, and return the trained
model. Each stage has an optimizer of its own, made anew from the one that is
given, and shows its progress as `fit` does.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd import _checks
from keras_smkd import losses
from keras_smkd import targets
from keras_smkd._labels import class_ids
from keras_smkd.memory import mean_distribution
from keras_smkd.model import PeerLearning

CROSS_ENTROPY = "sparse_categorical_crossentropy"
Matrix = npt.NDArray[np.float64]


def trained(
    model: PeerLearning,
    optimizer: Any,
    loss: Any,
    x: Any,
    y: Any,
    stage: str,
    metrics: Any = None,
    **fit: Any,
) -> PeerLearning:
    """Compile a model, train it and return it: one stage.

    Args:
        model: Not compiled, or of an earlier stage.
        optimizer: An optimizer, of which a new one is made, or its name.
        loss: As for `compile`.
        x: Inputs.
        y: Labels.
        stage: What is shown before the stage begins.
        metrics: As for `compile`.
        **fit: Further arguments of `fit`.

    Raises:
        TypeError: if `optimizer` is no optimizer.
    """
    if fit.get("verbose", "auto") not in (0, "0"):
        print(stage)
    optimizer = keras.optimizers.get(optimizer)
    optimizer = type(optimizer).from_config(optimizer.get_config())
    if isinstance(loss, losses.TransitionRevision):
        loss.attach(model)
    model.compile(optimizer, loss, metrics=metrics)
    model.fit(x, y, **fit)
    return model


def forward_correction(
    make_peer: Callable[[], keras.Model],
    optimizer: Any,
    x: Any,
    y: Any,
    transition_matrix: Any = None,
    warm_up: int = 20,
    percentile: float | None = 97.0,
    metrics: Any = None,
    from_logits: bool = True,
    **fit: Any,
) -> PeerLearning:
    """Train with the forward correction of a matrix that is estimated first.

    1. A network learns the labels as they are, for `warm_up` epochs. What it
       predicts at the anchor points is the transition matrix `T`.
    2. A new network learns with `L = -log (p T)_y`.

    The matrix is in `model.loss.transition_matrix`.

    Args:
        make_peer: `() -> model`, new and built at each call.
        optimizer: An optimizer or its name, for each stage.
        x: Inputs: an array, or a list or dictionary of arrays.
        y: `(examples,)` class ids.
        transition_matrix: `(classes, classes)`, `T[i, j] = P(noisy=j |
            clean=i)`, if it is known: there is no first stage then. Or a
            function `(predictions, labels) -> matrix` in the place of the
            anchor points.
        warm_up: Epochs of the first stage.
        percentile: As in `keras_smkd.estimators.anchor_transition_matrix`;
            the authors' for CIFAR-10, `None` for CIFAR-100.
        metrics: As for `compile`.
        from_logits: Whether the networks put out logits.
        **fit: Arguments of `fit`, with `epochs` for the second stage.

    Returns:
        The trained model.

    Reference:
        Patrini et al., 2017, "Making Deep Neural Networks Robust to Label
        Noise: a Loss Correction Approach", theorem 2 and section 3.2.
        https://arxiv.org/abs/1609.03683
    """
    from keras_smkd import estimators

    _checks.integer("warm_up", warm_up, minimum=1)
    matrix, stage = transition_matrix, "Stage 1 of 1"
    if matrix is None or callable(matrix):
        first = PeerLearning([make_peer()], from_logits=from_logits)
        probs = _warmed_up(first, optimizer, x, y, 2, warm_up, fit)
        stage = "Stage 2 of 2"
        matrix = (
            estimators.anchor_transition_matrix(probs, percentile)
            if matrix is None
            else matrix(probs, class_ids("y", y))
        )
    return trained(
        PeerLearning([make_peer()], from_logits=from_logits),
        optimizer,
        losses.ForwardCorrection(matrix, from_logits=from_logits),
        x,
        y,
        f"{stage}: forward correction",
        metrics,
        **fit,
    )


def dual_t(
    make_peer: Callable[[], keras.Model],
    optimizer: Any,
    x: Any,
    y: Any,
    percentile: float | None = 97.0,
    **kwargs: Any,
) -> PeerLearning:
    """Train with the forward correction of the dual estimate of the matrix.

    As `forward_correction`, with `T` from clean to predicted classes (anchor
    points) times predicted to noisy ones (counts).

    Departures: the matrix is read off after the last epoch of the first
    stage; the authors take the best one by noisy validation data.

    Args:
        make_peer: `() -> model`, new and built at each call.
        optimizer: An optimizer or its name, for each stage.
        x: Inputs: an array, or a list or dictionary of arrays.
        y: `(examples,)` class ids.
        percentile: Of the anchor points; the authors have `None` for
            Clothing1M.
        **kwargs: Further arguments of `forward_correction`.

    Returns:
        The trained model.

    Raises:
        ValueError: if the first network never predicts a class.

    Reference:
        Yao et al., 2020, "Dual T: Reducing Estimation Error for Transition
        Matrix in Label-noise Learning". https://arxiv.org/abs/2006.07805
    """
    from keras_smkd import estimators

    def estimate(predictions: Any, labels: Any) -> Matrix:
        return estimators.dual_t_transition_matrix(
            predictions, labels, percentile
        )

    return forward_correction(make_peer, optimizer, x, y, estimate, **kwargs)


def _warmed_up(
    model: PeerLearning,
    optimizer: Any,
    x: Any,
    y: Any,
    stages: int,
    warm_up: int,
    fit: dict[str, Any],
) -> Any:
    """Train on the labels as they are; return what the model predicts."""
    trained(
        model,
        optimizer,
        CROSS_ENTROPY,
        x,
        y,
        f"Stage 1 of {stages}: the labels as they are",
        **{**fit, "epochs": warm_up},
    )
    probs = np.asarray(model.predict(x, verbose=0), np.float64)
    return probs / probs.sum(axis=1, keepdims=True)


def t_revision(
    make_peer: Callable[[], keras.Model],
    optimizer: Any,
    x: Any,
    y: Any,
    warm_up: int = 20,
    percentile: float | None = 97.0,
    revision_optimizer: Any = None,
    metrics: Any = None,
    from_logits: bool = True,
    **fit: Any,
) -> PeerLearning:
    """Train with labels reweighted by a matrix that is revised at last.

    1. A network learns the labels as they are, for `warm_up` epochs, and
       gives the transition matrix `T` at its anchor points.
    2. It goes on with `L = w * l(y, p)`, `w = p_y / (p T)_y` held fixed.
    3. It goes on with `T + slack` in the place of `T`, and the slack is
       trained along, through `w`.

    The revised matrix is `model.loss.revised_matrix`.

    Departures: each stage goes on from the last epoch of the one before; the
    authors take the best one by noisy validation data.

    Args:
        make_peer: `() -> model`, new and built. It is called once.
        optimizer: An optimizer or its name, for the first two stages.
        x: Inputs: an array, or a list or dictionary of arrays.
        y: `(examples,)` class ids.
        warm_up: Epochs of the first stage.
        percentile: Of the anchor points; the authors have `None` for
            CIFAR-100.
        revision_optimizer: Of the third stage; `None` for the authors'
            `Adam(5e-7)`.
        metrics: As for `compile`.
        from_logits: Whether the network puts out logits.
        **fit: Arguments of `fit`, with `epochs` for the second stage and the
            third, each.

    Returns:
        The trained model.

    Reference:
        Xia et al., 2019, "Are Anchor Points Really Indispensable in
        Label-Noise Learning?", section 4. https://arxiv.org/abs/1906.00189
    """
    from keras_smkd import estimators

    _checks.integer("warm_up", warm_up, minimum=1)
    if revision_optimizer is None:
        revision_optimizer = keras.optimizers.Adam(5e-7)
    model = PeerLearning([make_peer()], from_logits=from_logits)
    matrix = estimators.anchor_transition_matrix(
        _warmed_up(model, optimizer, x, y, 3, warm_up, fit), percentile
    )
    for stage, own_optimizer, loss in (
        ("Stage 2 of 3: reweighted", optimizer, losses.ImportanceReweighting),
        (
            "Stage 3 of 3: revised",
            revision_optimizer,
            losses.TransitionRevision,
        ),
    ):
        model = trained(
            PeerLearning(model.peers, from_logits=from_logits),
            own_optimizer,
            loss(matrix, from_logits=from_logits),
            x,
            y,
            stage,
            metrics,
            **fit,
        )
    return model


def dmi(
    peer: keras.Model,
    optimizer: Any,
    x: Any,
    y: Any,
    warm_up: int = 120,
    dmi_optimizer: Any = None,
    metrics: Any = None,
    from_logits: bool = True,
    **fit: Any,
) -> PeerLearning:
    """Train with the determinant mutual information, after cross entropy.

    1. The network learns the labels as they are, for `warm_up` epochs.
    2. It goes on with `L = -log(|det U| + 0.001)`, `U` the joint counts of
       label and prediction in the batch.

    Departures: a last batch that is smaller counts, where the authors leave
    it out; the last epoch of each stage is what counts.

    Args:
        peer: The network.
        optimizer: An optimizer or its name, for the first stage.
        x: Inputs: an array, or a list or dictionary of arrays.
        y: `(examples,)` class ids.
        warm_up: Epochs of the first stage. The authors have 120 for CIFAR-10.
        dmi_optimizer: Of the second stage; `None` for the authors'
            `SGD(1e-6, momentum=0.9)`.
        metrics: As for `compile`.
        from_logits: Whether the network puts out logits.
        **fit: Arguments of `fit`, with `epochs` for the second stage. Batches
            need every class, and many times as many examples.

    Returns:
        The trained model.

    Reference:
        Xu et al., 2019, "L_DMI: A Novel Information-theoretic Loss Function
        for Training Deep Nets Robust to Label Noise", eq. 11.
        https://arxiv.org/abs/1909.03388
    """
    _checks.integer("warm_up", warm_up, minimum=1)
    if dmi_optimizer is None:
        dmi_optimizer = keras.optimizers.SGD(1e-6, momentum=0.9)
    loss = losses.DeterminantMutualInformation(from_logits=from_logits)
    model = PeerLearning([peer], from_logits=from_logits)
    _warmed_up(model, optimizer, x, y, 2, warm_up, fit)
    return trained(
        PeerLearning([peer], from_logits=from_logits),
        dmi_optimizer,
        loss,
        x,
        y,
        "Stage 2 of 2: determinant mutual information",
        metrics,
        **fit,
    )


def joint_optimization(
    make_peer: Callable[[], keras.Model],
    optimizer: Any,
    x: Any,
    y: Any,
    alpha: float = 1.2,
    beta: float = 0.8,
    start: float = 0.35,
    window: int = 10,
    retraining: int = 120,
    metrics: Any = None,
    from_logits: bool = True,
    **fit: Any,
) -> PeerLearning:
    """Train network and labels in turn, and a new network on the labels.

    1. A network learns with `L = l(s, p) + alpha * L_p + beta * H(p)`, the
       first term's labels `s` replaced from `start` on by the mean of the last
       `window` predictions; `keras_smkd.targets.JointOptimizationLabels` and
       `keras_smkd.losses.JointOptimization`.
    2. A new network learns the labels of the first one's end, by the cross
       entropy alone.

    Args:
        make_peer: `() -> model`, new and built at each call.
        optimizer: An optimizer or its name, for each stage.
        x: Inputs, an array.
        y: `(examples,)` class ids.
        alpha: Weight of `L_p`, >= 0. This and `beta` are the authors' for
            CIFAR-10 with symmetric noise of 0.7; for asymmetric noise of 0.4
            they have 0.8 and 0.4.
        beta: Weight of the entropy, >= 0.
        start: Progress from which labels are replaced, in [0, 1].
        window: Epochs in the mean.
        retraining: Epochs of the second stage.
        metrics: As for `compile`.
        from_logits: Whether the networks put out logits.
        **fit: Arguments of `fit`, with `epochs` for the first stage.

    Returns:
        The trained model of the second stage.

    Reference:
        Tanaka et al., 2018, "Joint Optimization Framework for Learning with
        Noisy Labels", algorithm 1. https://arxiv.org/abs/1803.11364
    """
    _checks.integer("retraining", retraining, minimum=1)
    labels = class_ids("y", y)
    target = targets.JointOptimizationLabels(len(labels), start, window)
    model = PeerLearning([make_peer()], from_logits=from_logits, target=target)
    loss = losses.JointOptimization(alpha, beta, from_logits=from_logits)
    name = "Stage 1 of 2: network and labels"
    trained(model, optimizer, loss, x, labels, name, metrics, **fit)
    memory = ops.convert_to_tensor(target.memory)[:, 0]
    soft, _ = mean_distribution(ops.sum(memory, axis=-2))
    return trained(
        PeerLearning([make_peer()], from_logits=from_logits),
        optimizer,
        keras.losses.CategoricalCrossentropy(from_logits=from_logits),
        x,
        ops.convert_to_numpy(soft),
        "Stage 2 of 2: a new network, on the labels of the first",
        metrics,
        **{**fit, "epochs": retraining},
    )
