"""Students of trained teachers."""

from collections.abc import Callable
from typing import Any

import keras

from keras_smkd import _checks
from keras_smkd import gates
from keras_smkd import targets
from keras_smkd.divergences import KullbackLeibler
from keras_smkd.divergences import LogitSquaredError
from keras_smkd.divergences import SquaredError
from keras_smkd.knowledge import PermutedKnowledge
from keras_smkd.knowledge import Teacher
from keras_smkd.model import PeerLearning

WEIGHTINGS = ("none", "cwtm", "dkpp")


def distillation(
    student: keras.Model,
    teacher: Any,
    temperature: float = 4.0,
    alpha: float = 0.9,
    **kwargs: Any,
) -> PeerLearning:
    """Return a student of a teacher: knowledge distillation.

    `L = (1 - alpha) * l(label, p) + alpha * T^2 * KL(softmax(t / T) ||
    softmax(z / T))`

    The paper fixes neither temperature nor weights; these are the usual ones
    of later benchmarks.

    Args:
        student: The network that learns.
        teacher: Trained model (or list of models, whose divergences are
            averaged). It is frozen.
        temperature: `T > 0`.
        alpha: Share of the teacher, in [0, 1].
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Hinton et al., 2015, "Distilling the Knowledge in a Neural Network",
        section 2. https://arxiv.org/abs/1503.02531
    """
    alpha = _checks.number("alpha", alpha, minimum=0.0, maximum=1.0)
    return PeerLearning(
        [student],
        knowledge=Teacher(teacher),
        divergence=KullbackLeibler(temperature),
        distillation_weight=alpha,
        supervised_weight=1.0 - alpha,
        **kwargs,
    )


def logit_matching(
    student: keras.Model, teacher: Any, **kwargs: Any
) -> PeerLearning:
    """Return a student that regresses a teacher's logits.

    `L = 1/2 * sum_c (z_c - t_c)^2`; labels are not used, and data need none.

    Departures: the paper centres and scales the teacher's logits for each
    class beforehand; do that in the teacher if it is wanted.

    Args:
        student: The network that learns. It puts out logits.
        teacher: Trained model with logits, or list of models, whose logits are
            averaged. It is frozen.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Ba and Caruana, 2014, "Do Deep Nets Really Need to be Deep?", eq. 1.
        https://arxiv.org/abs/1312.6184
    """
    return PeerLearning(
        [student],
        knowledge=Teacher(teacher, combine="mean_logits"),
        divergence=LogitSquaredError(),
        supervised_weight=0.0,
        **kwargs,
    )


def model_compression(
    student: keras.Model, teacher: Any, **kwargs: Any
) -> PeerLearning:
    """Return a student of an ensemble on unlabelled data.

    `L = 1/classes * sum_c (q_c - p_c)^2`, where `q` is the mean of the
    teachers' probabilities. Labels are not used, and data need none: the more
    inputs the ensemble labels, the better. How the paper makes such inputs
    (MUNGE) is left to the user.

    Args:
        student: The small network that learns.
        teacher: Trained model, or the list of models of the ensemble. They are
            frozen.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Example:

    ```python
    model = keras_smkd.methods.model_compression(small, [a, b, c])
    model.compile("adam")
    model.fit(unlabelled)
    ```

    Reference:
        Bucila, Caruana and Niculescu-Mizil, 2006, "Model Compression", KDD.
    """
    return PeerLearning(
        [student],
        knowledge=Teacher(teacher, combine="mean"),
        divergence=SquaredError(),
        supervised_weight=0.0,
        **kwargs,
    )


def teacher_free(
    peer: keras.Model,
    teacher: keras.Model | None = None,
    alpha: float | None = None,
    temperature: float | None = None,
    multiplier: float | None = None,
    **kwargs: Any,
) -> PeerLearning:
    """Return distillation without a better teacher (Tf-KD), of both kinds.

    With a `teacher`, a trained network of the peer's own architecture (Tf-KD
    self): `L = (1 - alpha) * l(label, p) + alpha * multiplier / classes * T^2
    * KL(softmax(t / T) || softmax(z / T))`. Without, by a virtual teacher that
    knows only the label (Tf-KD reg): `L = (1 - alpha) * l(label, p) + alpha *
    multiplier / classes * KL(softmax(u / T) || p)`, which is
    `keras_smkd.targets.VirtualTeacher`.

    The authors' code averages the divergence over the classes, too, and makes
    up for it by the multiplier. Defaults are theirs for a ResNet-18 on
    CIFAR-100: 0.95, 6 and 50 with a teacher, 0.1, 20 and 100 without.

    Args:
        peer: The network that learns.
        teacher: Trained model of the same kind, which is frozen, or `None`.
        alpha: Share of the teacher, in [0, 1].
        temperature: `T > 0`.
        multiplier: The authors' factor, > 0.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: if the number of classes is not known yet.

    Reference:
        Yuan et al., 2020, "Revisiting Knowledge Distillation via Label
        Smoothing Regularization". https://arxiv.org/abs/1909.11723
    """
    num_classes = _num_classes(peer)
    defaults = (0.1, 20.0, 100.0) if teacher is None else (0.95, 6.0, 50.0)
    alpha, temperature, multiplier = (
        default if given is None else given
        for given, default in zip(
            (alpha, temperature, multiplier), defaults, strict=True
        )
    )
    alpha = _checks.number("alpha", alpha, minimum=0.0, maximum=1.0)
    multiplier = _checks.number("multiplier", multiplier, above=0.0)
    if teacher is None:
        target = targets.VirtualTeacher(
            alpha, temperature, multiplier=multiplier
        )
        return PeerLearning(
            [peer],
            target=target,
            supervised_weight=target.loss_weight(num_classes),
            **kwargs,
        )
    return PeerLearning(
        [peer],
        knowledge=Teacher(teacher),
        divergence=KullbackLeibler(temperature),
        supervised_weight=1.0 - alpha,
        distillation_weight=alpha * multiplier / num_classes,
        **kwargs,
    )


def born_again(
    make_peer: Callable[[], keras.Model],
    train: Callable[[PeerLearning], Any],
    generations: int = 3,
    weighting: str = "none",
    labels: bool = False,
    **kwargs: Any,
) -> list[keras.Model]:
    """Train generations of one architecture, each on what the last one knows.

    The first generation learns from labels. Each later one, from a new
    beginning, has the one before as its teacher:

    | `weighting` | `L` |
    |---|---|
    | `"none"` | `KL(t || p)`, BAN |
    | `"cwtm"` | `w * l(label, p)`, `w` the teacher's largest probability
    over its mean in the batch |
    | `"dkpp"` | `KL(t' || p)`, `t'` the teacher's with all but the largest
    probability permuted |

    Args:
        make_peer: `() -> model`, new and built at each call.
        train: `(model) -> anything`: compiles and fits a model; its progress
            is what `fit` shows.
        generations: How many there are besides the first, at least 1.
        weighting: As above.
        labels: Whether `l(label, p)` is added for `"none"` and `"dkpp"`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The trained networks, one for each generation, the first one first.

    Example:

    ```python
    def train(model):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=10)

    first, second = keras_smkd.methods.born_again(make, train, generations=1)
    ```

    Reference:
        Furlanello et al., 2018, "Born-Again Neural Networks", eq. 3 to 9.
        https://arxiv.org/abs/1805.04770
    """
    _checks.integer("generations", generations, minimum=1)
    _checks.one_of("weighting", weighting, WEIGHTINGS)
    _checks.boolean("labels", labels)
    trained: list[keras.Model] = []
    for _ in range(generations + 1):
        peer = make_peer()
        train(
            _generation(peer, trained[-1], weighting, labels, kwargs)
            if trained
            else PeerLearning([peer], **kwargs)
        )
        trained.append(peer)
    return trained


def _generation(
    peer: keras.Model,
    teacher: keras.Model,
    weighting: str,
    labels: bool,
    kwargs: dict[str, Any],
) -> PeerLearning:
    source: Any = Teacher(teacher, from_logits=kwargs.get("from_logits", True))
    if weighting == "cwtm":
        return PeerLearning(
            [peer],
            knowledge=source,
            gate=gates.TeacherConfidence(),
            distillation_weight=0.0,
            **kwargs,
        )
    if weighting == "dkpp":
        source = PermutedKnowledge(source)
    return PeerLearning(
        [peer],
        knowledge=source,
        supervised_weight=1.0 if labels else 0.0,
        **kwargs,
    )


def _num_classes(peer: keras.Model) -> int:
    try:
        return int(peer.output_shape[-1])
    except (AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            "`peer` must tell its number of classes: a functional or "
            "sequential model that is built. "
            f"Received: peer={peer!r}."
        ) from error
