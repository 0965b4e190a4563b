"""Systems that compare what inner layers put out."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_smkd import _checks
from keras_smkd import features
from keras_smkd import schedules
from keras_smkd.divergences import KullbackLeibler
from keras_smkd.knowledge import PeerPredictions
from keras_smkd.knowledge import Teacher
from keras_smkd.methods.stages import CROSS_ENTROPY
from keras_smkd.methods.stages import trained
from keras_smkd.model import PeerLearning
from keras_smkd.model.peers import Peers


def fitnets(
    student: keras.Model,
    teacher: keras.Model,
    student_layer: str,
    teacher_layer: str,
    optimizer: Any,
    x: Any,
    y: Any,
    hint_epochs: int = 500,
    temperature: float = 3.0,
    regressor: Any = None,
    metrics: Any = None,
    from_logits: bool = True,
    **fit: Any,
) -> PeerLearning:
    """Train a thin student by a teacher's inner layer, then by its outputs.

    1. `L = 1/2 * || regressor(student_layer(x)) - teacher_layer(x) ||^2`, for
       `hint_epochs`; `keras_smkd.features.Hint`.
    2. `L = l(label, p) + w * KL(softmax(t / T) || softmax(z / T))`, without
       the factor `T^2`, `w` falling from 4 to 1 in a straight line.

    Departures: the authors' code lets `w` fall from epoch 5 to 400 of 500,
    and averages the hint over the positions of a map.

    Args:
        student: The network that learns, functional or `keras.Sequential`.
        teacher: Trained network, of the same kinds. It is frozen.
        student_layer: Name of the guided layer.
        teacher_layer: Name of the hint layer.
        optimizer: An optimizer or its name, for each stage. The authors have
            `RMSprop(0.005)`.
        x: Inputs: an array, or a list or dictionary of arrays.
        y: `(examples,)` class ids.
        hint_epochs: Epochs of the first stage.
        temperature: `T > 0`.
        regressor: As in `keras_smkd.features.Hint`.
        metrics: As for `compile`.
        from_logits: Whether both networks put out logits.
        **fit: Arguments of `fit`, with `epochs` for the second stage. In the
            first, `validation_data` and `callbacks` are left out.

    Returns:
        The trained model of the second stage.

    Reference:
        Romero et al., 2015, "FitNets: Hints for Thin Deep Nets", algorithm 1.
        https://arxiv.org/abs/1412.6550
    """
    _checks.integer("hint_epochs", hint_epochs, minimum=1)
    first = PeerLearning(
        [student],
        from_logits=from_logits,
        feature_loss=features.Hint(
            student_layer, teacher, teacher_layer, regressor
        ),
        supervised_weight=0.0,
    )
    second = PeerLearning(
        [student],
        from_logits=from_logits,
        knowledge=Teacher(teacher, from_logits=from_logits),
        divergence=KullbackLeibler(temperature, scaled=False),
        distillation_weight=schedules.Linear(4.0, 1.0),
    )
    without = {"validation_data", "validation_split", "callbacks"}
    trained(
        first,
        optimizer,
        None,
        x,
        None,
        "Stage 1 of 2: hints",
        **{
            **{name: fit[name] for name in fit.keys() - without},
            "epochs": hint_epochs,
        },
    )
    return trained(
        second,
        optimizer,
        CROSS_ENTROPY,
        x,
        y,
        "Stage 2 of 2: distillation",
        metrics,
        **fit,
    )


def afd(
    peers: Peers,
    tap: str | Sequence[str],
    temperature: float = 3.0,
    filters: int | None = None,
    **kwargs: Any,
) -> PeerLearning:
    """Return peers that learn each other's predictions and feature maps.

    `L_i = l(label, p_i) + T^2 * KL(p_other(T) || p_i(T)) + adversarial loss`,
    our reading of the paper: `keras_smkd.features.FeatureAdversaries` says
    what it is. Of more than two peers, each learns the predictions of all
    others (their mean divergence) and the features of the next one.

    Departures: one optimizer a peer, while the paper has a second one for the
    adversarial part (Adam, with a smaller rate).

    Args:
        peers: Two models or more.
        tap: Name of the layer whose output is compared, or one for each peer.
        temperature: `T > 0`.
        filters: As in `FeatureAdversaries`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Chung et al., 2020, "Feature-map-level Online Adversarial Knowledge
        Distillation", section 3. https://arxiv.org/abs/2002.01775
    """
    return PeerLearning(
        peers,
        knowledge=PeerPredictions(),
        divergence=KullbackLeibler(temperature),
        feature_loss=features.FeatureAdversaries(tap, filters),
        **kwargs,
    )
