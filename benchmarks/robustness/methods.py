"""The methods that are compared, one row each.

A row says what its knobs are, besides the learning rate, and how a model is
made from values of them. A variant is one more row: `variant` takes another
row and changes what differs.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from oracle import OracleSelection
from trials import WEIGHTS

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import losses
from keras_smkd import schedules
from keras_smkd import selection
from keras_smkd import targets

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
SCALES = (0.25, 0.5, 0.75, 1.0)

Knobs = Mapping[str, Any]


def _cross_entropy(knobs: Knobs) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _gce(knobs: Knobs) -> Any:
    return losses.GeneralizedCrossEntropy(q=knobs["q"], from_logits=True)


def _sce(knobs: Knobs) -> Any:
    return losses.SymmetricCrossEntropy(
        alpha=knobs["alpha"], beta=knobs["beta"], from_logits=True
    )


def _nce_rce(knobs: Knobs) -> Any:
    return losses.ActivePassive(
        losses.NormalizedCrossEntropy(from_logits=True),
        losses.ReverseCrossEntropy(from_logits=True),
        alpha=knobs["alpha"],
        beta=knobs["beta"],
        from_logits=True,
    )


def _label_smoothing(knobs: Knobs, num_examples: int) -> Any:
    return targets.LabelSmoothing(knobs["smoothing"])


def _bootstrapping(knobs: Knobs, num_examples: int) -> Any:
    kinds = {
        "soft": targets.SoftBootstrapping,
        "hard": targets.HardBootstrapping,
    }
    return kinds[knobs["kind"]](knobs["beta"])


def _proselflc(knobs: Knobs, num_examples: int) -> Any:
    return targets.ProSelfLC(
        sharpness=knobs["trust_sharpness"], midpoint=knobs["trust_midpoint"]
    )


def _joint_optimization(knobs: Knobs) -> Any:
    return losses.JointOptimization(
        alpha=knobs["alpha"], beta=knobs["beta"], from_logits=True
    )


def _nothing(knobs: Knobs, num_examples: int) -> Any:
    return None


def _joint_labels(knobs: Knobs, num_examples: int) -> Any:
    return targets.JointOptimizationLabels(num_examples, start=knobs["start"])


def _no_arguments(knobs: Knobs) -> dict[str, Any]:
    return {}


def _average_weights(knobs: Knobs) -> dict[str, Any]:
    return {"use_ema": True, "ema_momentum": knobs["ema_momentum"]}


def _share_of_each_class(knobs: Knobs) -> dict[str, Any]:
    return {"selection": selection.MostConfidentShare()}


def _default(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    return keras_smkd.SelectiveMutualDistillation(peers)


def _default_threshold(knobs: Knobs) -> Any:
    return callbacks.ProgressiveThreshold()


def _posterior(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    return keras_smkd.methods.posterior_smkd(peers, len(clean_labels))


def _posterior_once_agreed(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    return keras_smkd.methods.posterior_smkd(
        peers, len(clean_labels), start=None
    )


def _posterior_with_prior(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    classes = peers[0].output_shape[-1]
    counts = np.maximum(np.bincount(clean_labels, minlength=classes), 1)
    return keras_smkd.methods.posterior_smkd(
        peers, len(clean_labels), class_prior=counts / counts.sum()
    )


def _posterior_of_few(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    count = len(clean_labels)
    return keras_smkd.methods.posterior_smkd(
        peers,
        count,
        knowledge=knowledge.PastPredictions(
            count, 0.9, routes="others", top=3, dtype="float16"
        ),
    )


def _posterior_tuned(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    count = len(clean_labels)
    return keras_smkd.methods.posterior_smkd(
        peers,
        count,
        knowledge=knowledge.PastPredictions(
            count, knobs["memory"], routes="others"
        ),
        distillation_weight=knobs["distillation_weight"],
    )


def _posterior_of_weights(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    return keras_smkd.methods.posterior_smkd(
        peers, len(clean_labels), knowledge=knowledge.AveragedPeers()
    )


def _dml(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    return keras_smkd.methods.dml(peers)


def _early_learning(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    return keras_smkd.methods.early_learning(
        peers[0], len(clean_labels), **_own(knobs)
    )


def _divide_mix(knobs: Knobs, peers: Any, clean_labels: Any) -> Any:
    return keras_smkd.methods.divide_mix(
        peers, len(clean_labels), **_own(knobs)
    )


def _own(knobs: Knobs) -> dict[str, Any]:
    """Return a method's own knobs; with none, it keeps its defaults."""
    return {k: v for k, v in knobs.items() if k != "learning_rate"}


def _balanced_cross_entropy(knobs: Knobs) -> Any:
    return losses.JointOptimization(alpha=1.0, beta=0.0, from_logits=True)


def _fit_mixture(split: Any, epochs: int) -> list[Any]:
    labels = split.noisy_labels
    return [
        callbacks.FitMixture(
            split.inputs[: len(labels)],
            labels,
            # The authors' 10 of 300.
            start_epoch=max(1, round(epochs / 30)),
            kind="gaussian",
        )
    ]


def _no_callbacks(split: Any, epochs: int) -> list[Any]:
    return []


def _no_threshold(knobs: Knobs) -> Any:
    return None


def _pass_nothing(knobs: Knobs) -> Any:
    return callbacks.StaticThreshold(0.0)


def _pass_all(knobs: Knobs) -> Any:
    return callbacks.StaticThreshold(2.0)


def _pass_all_to_a_gate(knobs: Knobs) -> Any:
    # Above 1 a gate is refused; normalised entropies are below 1.
    return callbacks.StaticThreshold(1.0)


def _static(knobs: Knobs) -> Any:
    return callbacks.StaticThreshold(knobs["threshold"])


def _progressive(sharpness: float) -> Callable[[Knobs], Any]:
    return lambda knobs: callbacks.ProgressiveThreshold(
        knobs["scale"], sharpness=sharpness
    )


@dataclasses.dataclass(frozen=True)
class Method:
    """Says how a method is tuned and how its model is made.

    Args:
        about: What it is, in a few words.
        knobs: From the knobs' names to the values to try, besides the
            learning rate. `distillation_weight` goes to the model.
        loss: From values of the knobs to the compiled loss, on logits.
        is_single: One `keras.Model` instead of peers.
        target: From values of the knobs and the number of training examples
            to the label correction.
        threshold: From values of the knobs to the threshold callback.
        arguments: From values of the knobs to further arguments of the model
            of peers, such as `selection`.
        optimizer: From values of the knobs to further arguments of the
            optimizer.
        is_oracle: Whether knowledge is selected by the clean labels.
        shares_nothing: Whether the peers are trained as if each were alone,
            so that one costs no more than one model.
        make: From values of the knobs, the peers and the clean labels of the
            training examples to the model, for one that is not of the
            paper's kind; `arguments`, `target` and `is_oracle` are not asked
            then.
        callbacks: From the split and the number of epochs to what else acts
            while it trains.
        num_peers: How many networks it has, where flags do not say.
    """

    about: str
    knobs: Knobs = dataclasses.field(default_factory=dict)
    loss: Callable[[Knobs], Any] = _cross_entropy
    is_single: bool = False
    target: Callable[[Knobs, int], Any] = _nothing
    threshold: Callable[[Knobs], Any] = _pass_nothing
    arguments: Callable[[Knobs], dict[str, Any]] = _no_arguments
    optimizer: Callable[[Knobs], dict[str, Any]] = _no_arguments
    is_oracle: bool = False
    shares_nothing: bool = False
    make: Callable[[Knobs, Any, Any], Any] | None = None
    callbacks: Callable[[Any, int], list[Any]] = _no_callbacks
    num_peers: int | None = None

    def make_model(
        self, peers: list[keras.Model], knobs: Knobs, clean_labels: Any
    ) -> keras.Model:
        """Return the model to compile, of so many peers (one if single)."""
        if self.is_single:
            return peers[0]
        if self.make is not None:
            return self.make(knobs, peers, clean_labels)
        arguments = {
            "target": self.target(knobs, len(clean_labels)),
            "gate": None,
            **self.arguments(knobs),
        }
        if "distillation_weight" in knobs:
            arguments.setdefault(
                "distillation_weight", knobs["distillation_weight"]
            )
        if self.is_oracle:
            arguments["selection"] = OracleSelection(clean_labels)
        return keras_smkd.SelectiveMutualDistillation(peers, **arguments)

    def make_callbacks(
        self, knobs: Knobs, split: Any, epochs: int
    ) -> list[Any]:
        """Return what acts while it trains."""
        threshold = None if self.is_single else self.threshold(knobs)
        found = self.callbacks(split, epochs)
        if threshold is not None:
            found.append(threshold)
        if self.optimizer(knobs).get("use_ema"):
            found.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
        return found


def variant(
    method: Method, about: str, knobs: Knobs | None = None, **changes: Any
) -> Method:
    """Return a method that differs from another in what is given.

    Args:
        method: The other.
        about: What differs, added to what the other is.
        knobs: Further knobs.
        **changes: Fields of `Method` in place of the other's.
    """
    return dataclasses.replace(
        method,
        about=f"{method.about}, {about}",
        knobs={**method.knobs, **(knobs or {})},
        **changes,
    )


INDEPENDENT = Method("peers that pass nothing on", shares_nothing=True)
EXCHANGES = {
    "all_knowledge": Method(
        "deep mutual learning: everything is passed on",
        {"distillation_weight": WEIGHTS},
        threshold=_pass_all,
    ),
    "smkd_s": Method(
        "SMKD-S: a static threshold",
        {"distillation_weight": WEIGHTS, "threshold": THRESHOLDS},
        threshold=_static,
    ),
    "smkd_p_tightening": Method(
        "SMKD-P: the threshold tightens (sharpness 8)",
        {"distillation_weight": WEIGHTS, "scale": SCALES},
        threshold=_progressive(8.0),
    ),
    "smkd_p_loosening": Method(
        "SMKD-P: the threshold loosens (sharpness -8)",
        {"distillation_weight": WEIGHTS, "scale": SCALES},
        threshold=_progressive(-8.0),
    ),
}
GCE_KNOBS = {"q": (0.3, 0.5, 0.7, 0.9)}
PROSELFLC_KNOBS = {"trust_sharpness": (8.0, 16.0), "trust_midpoint": (0.3, 0.5)}


def _with_gce(method: Method) -> Method:
    return variant(method, "with GCE", GCE_KNOBS, loss=_gce)


def _with_proselflc(method: Method) -> Method:
    return variant(method, "with ProSelfLC", PROSELFLC_KNOBS, target=_proselflc)


def _with_gate(method: Method) -> Method:
    def arguments(knobs: Knobs) -> dict[str, Any]:
        gate = gates.LabelGate(agreement=knobs["gate_agreement"])
        return {**method.arguments(knobs), "gate": gate}

    return variant(
        method,
        "which drops the labels that it contradicts",
        {"gate_agreement": (False, True)},
        arguments=arguments,
    )


def _with_ema(method: Method) -> Method:
    return variant(
        method,
        "from averaged weights",
        {"ema_momentum": (0.9, 0.98, 0.99, 0.995)},
        arguments=lambda knobs: {
            **method.arguments(knobs),
            "knowledge": knowledge.AveragedPeers(knobs["ema_momentum"]),
        },
        optimizer=_average_weights,
    )


def _with_warm_up(method: Method) -> Method:
    return variant(
        method,
        "its weight rising over the first part",
        {"warm_up": (0.05, 0.1, 0.2, 0.4)},
        arguments=lambda knobs: {
            **method.arguments(knobs),
            "distillation_weight": schedules.RampUp(
                end=knobs["distillation_weight"], length=knobs["warm_up"]
            ),
        },
    )


ORACLE = Method(
    "what is right by the clean labels is passed on",
    {"distillation_weight": WEIGHTS},
    is_oracle=True,
)
SHARE = Method(
    "SMKD-S: the most confident share of each class of a batch",
    {"distillation_weight": WEIGHTS, "threshold": (0.25, 0.5, 0.75, 0.9)},
    threshold=_static,
    arguments=_share_of_each_class,
)
SHARE_LOOSENING = variant(
    EXCHANGES["smkd_p_loosening"],
    "of the most confident share of each class of a batch",
    arguments=_share_of_each_class,
)

EARLY_LEARNING = Method(
    "one model, early-learning regularisation, all defaults",
    make=_early_learning,
    threshold=_no_threshold,
    num_peers=1,
)
DIVIDE_MIX = Method(
    "DivideMix's labels, all defaults",
    make=_divide_mix,
    loss=_balanced_cross_entropy,
    threshold=_no_threshold,
    callbacks=_fit_mixture,
)

METHODS = {
    "cross_entropy": Method("one model", is_single=True),
    "ema": Method(
        "one model, its weights averaged over the steps",
        {"ema_momentum": (0.9, 0.98, 0.99, 0.995)},
        is_single=True,
        optimizer=_average_weights,
    ),
    "gce": Method(
        "one model, generalised cross entropy",
        GCE_KNOBS,
        is_single=True,
        loss=_gce,
    ),
    "sce": Method(
        "one model, symmetric cross entropy",
        {"alpha": (0.1, 0.3, 1.0, 3.0), "beta": (0.1, 1.0)},
        is_single=True,
        loss=_sce,
    ),
    "nce_rce": Method(
        "one model, normalised and reverse cross entropy",
        {"alpha": (0.5, 1.0, 3.0, 10.0), "beta": (0.1, 1.0)},
        is_single=True,
        loss=_nce_rce,
    ),
    "label_smoothing": variant(
        INDEPENDENT,
        "labels smoothed",
        {"smoothing": (0.1, 0.2, 0.4, 0.6)},
        target=_label_smoothing,
    ),
    "bootstrapping": variant(
        INDEPENDENT,
        "bootstrapping",
        {"kind": ("soft", "hard"), "beta": (0.95, 0.8, 0.6, 0.4)},
        target=_bootstrapping,
    ),
    "independent": INDEPENDENT,
    "independent_proselflc": _with_proselflc(INDEPENDENT),
    "independent_gce": _with_gce(INDEPENDENT),
    **EXCHANGES,
    **{f"{n}_proselflc": _with_proselflc(m) for n, m in EXCHANGES.items()},
    **{f"{n}_gce": _with_gce(m) for n, m in EXCHANGES.items()},
    **{f"{n}_gate": _with_gate(m) for n, m in EXCHANGES.items()},
    "all_knowledge_gate": dataclasses.replace(
        _with_gate(EXCHANGES["all_knowledge"]), threshold=_pass_all_to_a_gate
    ),
    "smkd_share": SHARE,
    "smkd_share_gate": _with_gate(SHARE),
    "smkd_p_loosening_gate_gce": _with_gce(
        _with_gate(EXCHANGES["smkd_p_loosening"])
    ),
    "independent_ema": variant(
        INDEPENDENT,
        "weights averaged over the steps",
        {"ema_momentum": (0.9, 0.98, 0.99, 0.995)},
        optimizer=_average_weights,
    ),
    "all_knowledge_ema": _with_ema(EXCHANGES["all_knowledge"]),
    "smkd_p_loosening_ema": _with_ema(EXCHANGES["smkd_p_loosening"]),
    "smkd_p_loosening_gate_ema": _with_ema(
        _with_gate(EXCHANGES["smkd_p_loosening"])
    ),
    "all_knowledge_gce_ema": _with_ema(_with_gce(EXCHANGES["all_knowledge"])),
    "smkd_p_loosening_gce_ema": _with_ema(
        _with_gce(EXCHANGES["smkd_p_loosening"])
    ),
    "oracle": ORACLE,
    "oracle_gate": _with_gate(ORACLE),
    "joint_optimization": variant(
        INDEPENDENT,
        "joint optimisation's labels and loss",
        {
            "start": (0.1, 0.2, 0.35, 0.5),
            "alpha": (0.8, 1.2),
            "beta": (0.1, 0.4, 0.8),
        },
        loss=_joint_optimization,
        target=_joint_labels,
    ),
    "smkd_share_loosening_gate": _with_gate(SHARE_LOOSENING),
    "smkd_share_loosening_gate_ema": _with_ema(_with_gate(SHARE_LOOSENING)),
    "smkd_p_loosening_gate_warm": _with_warm_up(
        _with_gate(EXCHANGES["smkd_p_loosening"])
    ),
    "smkd_default": Method(
        "SMKD-P and the gate, all defaults",
        make=_default,
        threshold=_default_threshold,
    ),
    "posterior": Method(
        "posterior labels, of remembered predictions",
        make=_posterior,
        threshold=_no_threshold,
    ),
    "posterior_prior": Method(
        "posterior labels, told how often the true classes come",
        make=_posterior_with_prior,
        threshold=_no_threshold,
    ),
    "posterior_ema": Method(
        "posterior labels, of averaged weights",
        make=_posterior_of_weights,
        threshold=_no_threshold,
    ),
    "posterior_top": Method(
        "posterior labels, of the three most probable classes remembered",
        make=_posterior_of_few,
        threshold=_no_threshold,
    ),
    "dml": Method(
        "deep mutual learning, all defaults",
        make=_dml,
        threshold=_no_threshold,
    ),
    "early_learning": EARLY_LEARNING,
    "divide_mix": DIVIDE_MIX,
    "early_learning_tuned": dataclasses.replace(
        EARLY_LEARNING,
        about="one model, early-learning regularisation",
        knobs={"weight": (1.0, 3.0, 7.0), "momentum": (0.7, 0.9)},
    ),
    "divide_mix_tuned": dataclasses.replace(
        DIVIDE_MIX,
        about="DivideMix's labels",
        knobs={
            "temperature": (0.25, 0.5, 1.0),
            "threshold": (0.3, 0.5, 0.7),
        },
    ),
    "posterior_tuned": Method(
        "posterior labels",
        {"distillation_weight": WEIGHTS, "memory": (0.7, 0.8, 0.9, 0.95)},
        make=_posterior_tuned,
        threshold=_no_threshold,
    ),
    "posterior_agreed": Method(
        "posterior labels, which begin once peers agree",
        make=_posterior_once_agreed,
        threshold=_no_threshold,
    ),
}
