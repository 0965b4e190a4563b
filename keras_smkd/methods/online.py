"""Peers that teach each other while they learn."""

from typing import Any

from keras_smkd import _checks
from keras_smkd import features
from keras_smkd import knowledge
from keras_smkd import schedules
from keras_smkd.divergences import KullbackLeibler
from keras_smkd.model import PeerLearning
from keras_smkd.model import SelectiveMutualDistillation
from keras_smkd.model.peers import Peers
from keras_smkd.selection import ConfidentKnowledge

# The ramp of FFL and PCL: over the first 80 of 300 epochs.
_RAMP = schedules.RampUp(1.0, 80 / 300)

ENSEMBLES: dict[str, Any] = {
    "naive": knowledge.NaiveEnsemble,
    "linear": knowledge.LinearEnsemble,
    "min_logit": knowledge.MinLogitEnsemble,
    "general": knowledge.GeneralEnsemble,
}


def dml(peers: Peers, **kwargs: Any) -> PeerLearning:
    """Return deep mutual learning: each peer learns all that others say.

    `L_i = l(label, p_i) + 1/(N-1) * sum_{j != i} KL(p_j || p_i)`

    Departures: the paper updates the networks in turn, each with the others'
    newest predictions; here all learn from one forward pass, as in the
    authors' code. That code sums over the peers where the paper (and this)
    takes the mean, and adds 1e-8 inside the logarithms.

    Args:
        peers: Two models or more.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Example:

    ```python
    model = keras_smkd.methods.dml([peer_a, peer_b])
    model.compile("adam", "sparse_categorical_crossentropy")
    ```

    Reference:
        Zhang et al., 2018, "Deep Mutual Learning", eq. 8.
        https://arxiv.org/abs/1706.00384
    """
    return PeerLearning(peers, knowledge="peers", **kwargs)


def smkd_static(
    peers: Peers, threshold: float = 0.5, **kwargs: Any
) -> SelectiveMutualDistillation:
    """Return SMKD-S in the paper's plain form: a static threshold, no gate.

    `L_i = l(label, p_i) + 1/(N-1) * sum_{j != i} [H(p_j) < threshold]
    KL(p_j || p_i)`, with the entropy `H` divided by `log(classes)`.

    The measure and the threshold are our choice: the published constants
    could not be read.

    Args:
        peers: Two models or more.
        threshold: Number >= 0. 0 selects nothing, above 1 everything.
        **kwargs: Further arguments of `SelectiveMutualDistillation`.

    Returns:
        The model, not compiled.

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN. https://doi.org/10.1109/IJCNN54540.2023.10191991
    """
    return SelectiveMutualDistillation(
        peers,
        selection=ConfidentKnowledge(
            threshold=_checks.number("threshold", threshold, minimum=0.0)
        ),
        gate=None,
        **kwargs,
    )


def smkd_progressive(
    peers: Peers,
    scale: float = 0.5,
    sharpness: float = -8.0,
    midpoint: float = 0.5,
    **kwargs: Any,
) -> SelectiveMutualDistillation:
    """Return SMKD-P in the paper's plain form: a progressive threshold.

    As `smkd_static`, with
    `threshold(t) = 2 * scale * sigmoid(sharpness * (midpoint - t))` at
    progress `t` of the training. The schedule is the selection's own; `fit`
    needs no callback for it.

    Args:
        peers: Two models or more.
        scale: Threshold at the midpoint, >= 0.
        sharpness: How fast it moves: below 0 it loosens, above it tightens.
        midpoint: Progress at which it is `scale`, in [0, 1].
        **kwargs: Further arguments of `SelectiveMutualDistillation`.

    Returns:
        The model, not compiled.

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN. https://doi.org/10.1109/IJCNN54540.2023.10191991
    """
    schedule = schedules.Sigmoid(scale, sharpness, midpoint)
    return SelectiveMutualDistillation(
        peers,
        selection=ConfidentKnowledge(threshold=schedule),
        gate=None,
        **kwargs,
    )


def kdcl(
    peers: Peers,
    ensemble: str = "min_logit",
    temperature: float = 2.0,
    weight: float = 1.0,
    **kwargs: Any,
) -> PeerLearning:
    """Return collaborative learning: all peers learn from their ensemble.

    `L_i = l(label, p_i) + weight * T^2 * KL(softmax(t / T) ||
    softmax(z_i / T))`, with the logits `t` of one of four ensembles.

    | `ensemble` | `t` |
    |---|---|
    | `"naive"` | the logits of the peer with the smallest cross entropy |
    | `"linear"` | the mixture of logits with the smallest cross entropy |
    | `"min_logit"` | the smallest of the peers' logits minus the label's |
    | `"general"` | a mixture by the peers' errors on validation data, which
    `keras_smkd.callbacks.MeasureEnsemble` measures |

    Departures: no author code could be found; the formulas are those of the
    paper as we read it, `"naive"` chosen for each example. The paper gives
    each peer an augmentation of its own; here peers see one input, and
    augment it themselves if they begin with random layers.

    Args:
        peers: Two models or more.
        ensemble: One of the four.
        temperature: `T > 0`; 2 for ImageNet in the paper.
        weight: Of the knowledge, >= 0.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, eq. 2 to 8.
    """
    _checks.one_of("ensemble", ensemble, ENSEMBLES)
    return PeerLearning(
        peers,
        knowledge=ENSEMBLES[ensemble](),
        divergence=KullbackLeibler(temperature),
        distillation_weight=weight,
        **kwargs,
    )


def pcl(
    peers: Peers,
    tap: str,
    momentum: float = 0.999,
    temperature: float = 3.0,
    weight: Any = _RAMP,
    **kwargs: Any,
) -> PeerLearning:
    """Return peer collaborative learning: an ensemble head and mean teachers.

    `L = l(label, p_e) + sum_i [l(label, p_i) + w(t) * (T^2 KL(p_e || p_i) +
    1/(N-1) * sum_{j != i} T^2 KL(p~_j || p_i))]`, where `p_e` is a classifier
    on the features of all peers, and `p~_j` peer `j` with averaged weights.

    Departures: the paper's peers are branches of one trunk with augmentations
    of their own; here they are whole models of one input. The ramp is over 80
    of 300 epochs; a public reproduction divides by 1 in place of 80.

    Args:
        peers: Two functional or sequential models or more.
        tap: Name of the layer whose output are each peer's features.
        momentum: Of the averages, in [0, 1).
        temperature: `T > 0`.
        weight: Of the knowledge: number or schedule.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Wu and Gong, 2021, "Peer Collaborative Learning for Online Knowledge
        Distillation", eq. 3 to 9. https://arxiv.org/abs/2006.04147
    """
    return PeerLearning(
        peers,
        knowledge=knowledge.Several(
            [
                knowledge.FusedClassifier(to_head=False),
                knowledge.AveragedPeers(momentum, routes="others"),
            ]
        ),
        head=features.FeatureConcatenation(tap),
        divergence=KullbackLeibler(temperature),
        distillation_weight=weight,
        **kwargs,
    )


def ffl(
    peers: Peers,
    tap: str,
    temperature: float = 3.0,
    weight: Any = _RAMP,
    **kwargs: Any,
) -> PeerLearning:
    """Return feature fusion learning: peers and a fused classifier.

    `L = l(label, p_f) + sum_i l(label, p_i) + w(t) * [sum_i T^2 KL(p_f ||
    p_i) + T^2 KL(q || p_f)]`, where `p_f` is a classifier on the peers' fused
    feature maps, and `q` the softmax of the mean of the peers' logits.

    Departures: the authors add 1e-7 to the target probabilities. Their fusion
    module has a weight decay of its own (1e-5).

    Args:
        peers: Two functional or sequential models or more.
        tap: Name of the layer whose output are each peer's maps,
            `(batch, height, width, channels)`, or dense features.
        temperature: `T > 0`.
        weight: Of the knowledge: number or schedule; by default the paper's
            ramp over 80 of 300 epochs.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Kim et al., 2019, "Feature Fusion for Online Mutual Knowledge
        Distillation", eq. 4 to 8. https://arxiv.org/abs/1904.09058
    """
    return PeerLearning(
        peers,
        knowledge=knowledge.FusedClassifier(),
        head=features.FeatureFusion(tap),
        divergence=KullbackLeibler(temperature),
        distillation_weight=weight,
        **kwargs,
    )


def mc_dropout(
    peers: Peers,
    passes: int = 8,
    measure: str = "mutual_information",
    threshold: float = 0.5,
    **kwargs: Any,
) -> PeerLearning:
    """Return peers that learn from others what these know in every dropout.

    Each peer predicts `passes` times with dropout on; the mean is what the
    others learn, where the passes' uncertainty lies below the threshold:
    `keras_smkd.knowledge.DropoutPasses`. The paper has the uncertainty, and
    nobody who learns from it; this is where it stands in this formula.

    Args:
        peers: Models with dropout, functional or `keras.Sequential`. One
            learns from itself.
        passes: Number of passes, at least 1; more cost more.
        measure: `"mutual_information"`, `"predictive_entropy"` or
            `"variation_ratio"`.
        threshold: As in `keras_smkd.selection.ConfidentKnowledge`.
        **kwargs: Further arguments of `PeerLearning`.

    Returns:
        The model, not compiled.

    Reference:
        Gal and Ghahramani, 2016, "Dropout as a Bayesian Approximation".
        https://arxiv.org/abs/1506.02142
    """
    return PeerLearning(
        peers,
        knowledge=knowledge.DropoutPasses(passes),
        selection=ConfidentKnowledge(measure, threshold),
        **kwargs,
    )
