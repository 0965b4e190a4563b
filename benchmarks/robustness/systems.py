"""Every system of the room `methods`: one row each.

A row is a function of a `Setting`, which brings data, networks, training and
the values of knobs, and returns the trained model. With no values a system has
its defaults. Where a paper counts in epochs, its default is taken as the share
of training that it is there.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
from trials import WEIGHTS

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import losses
from keras_smkd import methods

CROSS_ENTROPY = "sparse_categorical_crossentropy"


@dataclasses.dataclass
class Setting:
    """What a system is given.

    Args:
        x: Inputs of the training examples.
        y: Their labels, some of them wrong.
        noise_rate: The share of them that is.
        noise: `"symmetric"` or `"asymmetric"`.
        epochs: Epochs of the whole training.
        batch_size: Examples per step.
        learning_rate: Of Adam.
        watch: Callback that measures on held-out data.
        knobs: Values of the system's own arguments, in place of its defaults.
    """

    x: Any
    y: Any
    noise_rate: float
    noise: str
    epochs: int
    batch_size: int
    learning_rate: float
    watch: Any
    knobs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def net(self, units: int = 256, dropout: float = 0.0) -> keras.Model:
        """Return a new network, its hidden layer called `features`."""
        layers = [
            keras.Input(self.x.shape[1:]),
            keras.layers.Dense(units, activation="relu", name="features"),
        ]
        if dropout:
            layers.append(keras.layers.Dropout(dropout))
        return keras.Sequential([*layers, keras.layers.Dense(10)])

    def pair(self, **kwargs: Any) -> list[keras.Model]:
        """Return two networks."""
        return [self.net(**kwargs), self.net(**kwargs)]

    def adam(self) -> Any:
        """Return a new optimizer."""
        return keras.optimizers.Adam(self.learning_rate)

    def sgd(self) -> Any:
        """Return the optimizer that CDR's authors have, at ten times the rate.

        With Adam's 0.001 that is their 0.01.
        """
        return keras.optimizers.SGD(
            10 * self.learning_rate, momentum=0.9, weight_decay=0.001
        )

    def share(self, part: float, whole: float) -> int:
        """Return as many epochs as a paper's are of its whole training."""
        return max(1, round(self.epochs * part / whole))

    def fit(self, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of `fit`, but for the data."""
        return {
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "verbose": 0,
            "callbacks": [self.watch],
            **kwargs,
        }

    def train(
        self,
        model: Any,
        loss: Any = CROSS_ENTROPY,
        first: Any = (),
        **kwargs: Any,
    ) -> Any:
        """Compile a model, if it is not, and train it."""
        if not model.compiled:
            model.compile(self.adam(), loss)
        fit = self.fit(**kwargs)
        fit["callbacks"] = [*first, *fit["callbacks"]]
        model.fit(self.x, self.y, **fit)
        return model

    def teacher(self, units: int = 256) -> keras.Model:
        """Return a network trained on the same labels, by cross entropy."""
        model = keras_smkd.PeerLearning([self.net(units)])
        self.train(model)
        return model.peers[0]


def _born_again(s: Setting) -> Any:
    models = []
    methods.born_again(
        s.net,
        lambda model: models.append(s.train(model)),
        generations=1,
        **s.knobs,
    )
    return models[-1]


def _kdcl(ensemble: str) -> Any:
    def row(s: Setting) -> Any:
        measure = [callbacks.MeasureEnsemble(s.x[-200:], s.y[-200:])]
        return s.train(
            methods.kdcl(s.pair(), ensemble, **s.knobs),
            first=measure if ensemble == "general" else [],
        )

    return row


def _mixture(make: Any, start: Any, kind: str) -> Any:
    def row(s: Setting) -> Any:
        mixture = callbacks.FitMixture(
            s.x, s.y, start_epoch=s.share(*start), kind=kind
        )
        loss = losses.JointOptimization(1.0, 0.0, from_logits=True)
        return s.train(make(s), loss, [mixture])

    return row


def _incv(s: Setting) -> Any:
    def train(model: Any, x: Any, y: Any) -> None:
        model.compile(s.adam(), CROSS_ENTROPY)
        searching = len(model.peers) == 1
        epochs = s.share(50, 200) if searching else s.epochs
        callbacks = [] if searching else [s.watch]
        model.fit(x, y, **s.fit(epochs=epochs, callbacks=callbacks))

    return methods.incv(s.net, s.x, s.y, train, noise=s.noise, verbose=0)[0]


SYSTEMS: dict[str, Any] = {
    "cross_entropy": lambda s: s.train(keras_smkd.PeerLearning([s.net()])),
    "independent": lambda s: s.train(keras_smkd.PeerLearning(s.pair())),
    "smkd": lambda s: s.train(
        keras_smkd.SelectiveMutualDistillation(s.pair(), **s.knobs),
        first=[callbacks.ProgressiveThreshold(sharpness=-8.0)],
    ),
    "smkd_static": lambda s: s.train(methods.smkd_static(s.pair(), **s.knobs)),
    "smkd_progressive": lambda s: s.train(
        methods.smkd_progressive(s.pair(), **s.knobs)
    ),
    "posterior_smkd": lambda s: s.train(
        methods.posterior_smkd(s.pair(), len(s.x), **s.knobs)
    ),
    "dml": lambda s: s.train(methods.dml(s.pair(), **s.knobs)),
    "kdcl_naive": _kdcl("naive"),
    "kdcl_linear": _kdcl("linear"),
    "kdcl_min_logit": _kdcl("min_logit"),
    "kdcl_general": _kdcl("general"),
    "pcl": lambda s: s.train(methods.pcl(s.pair(), "features", **s.knobs)),
    "ffl": lambda s: s.train(methods.ffl(s.pair(), "features", **s.knobs)),
    "afd": lambda s: s.train(methods.afd(s.pair(), "features", **s.knobs)),
    "mc_dropout": lambda s: s.train(
        methods.mc_dropout(s.pair(dropout=0.3), **s.knobs)
    ),
    "distillation": lambda s: s.train(
        methods.distillation(s.net(), s.teacher(), **s.knobs)
    ),
    "teacher_free_self": lambda s: s.train(
        methods.teacher_free(s.net(), s.teacher(), **s.knobs)
    ),
    "teacher_free_reg": lambda s: s.train(
        methods.teacher_free(s.net(), **s.knobs)
    ),
    "logit_matching": lambda s: s.train(
        methods.logit_matching(s.net(), s.teacher(), **s.knobs)
    ),
    "model_compression": lambda s: s.train(
        methods.model_compression(s.net(), [s.teacher() for _ in range(3)])
    ),
    "born_again": _born_again,
    "fitnets": lambda s: methods.fitnets(
        s.net(128),
        s.teacher(512),
        "features",
        "features",
        s.adam(),
        s.x,
        s.y,
        hint_epochs=s.epochs,
        **s.knobs,
        **s.fit(),
    ),
    "mean_teacher": lambda s: s.train(methods.mean_teacher(s.net(), **s.knobs)),
    "temporal_ensembling": lambda s: s.train(
        methods.temporal_ensembling(s.net(), len(s.x), **s.knobs)
    ),
    "label_smoothing": lambda s: s.train(
        methods.label_smoothing(s.net(), **s.knobs)
    ),
    "bootstrapping_soft": lambda s: s.train(
        methods.bootstrapping(s.net(), **s.knobs)
    ),
    "bootstrapping_hard": lambda s: s.train(
        methods.bootstrapping(s.net(), hard=True, **s.knobs)
    ),
    "proselflc": lambda s: s.train(methods.proselflc(s.net(), **s.knobs)),
    "early_learning": lambda s: s.train(
        methods.early_learning(s.net(), len(s.x), **s.knobs)
    ),
    "joint_optimization": lambda s: methods.joint_optimization(
        s.net,
        s.adam(),
        s.x,
        s.y,
        retraining=s.share(120, 200),
        **s.knobs,
        **s.fit(),
    ),
    "m_correction": _mixture(
        lambda s: methods.m_correction(s.net(), len(s.x), **s.knobs),
        (105, 300),
        "beta",
    ),
    "divide_mix": _mixture(
        lambda s: methods.divide_mix(s.pair(), len(s.x), **s.knobs),
        (10, 300),
        "gaussian",
    ),
    "gce": lambda s: s.train(methods.gce(s.net(), s.adam(), **s.knobs)),
    "sce": lambda s: s.train(methods.sce(s.net(), s.adam(), **s.knobs)),
    "active_passive": lambda s: s.train(
        methods.active_passive(s.net(), s.adam(), **s.knobs)
    ),
    "confidence_penalty": lambda s: s.train(
        methods.confidence_penalty(s.net(), s.adam(), **s.knobs)
    ),
    "dmi": lambda s: methods.dmi(
        s.net(), s.adam(), s.x, s.y, s.share(120, 220), **s.knobs, **s.fit()
    ),
    "forward_correction": lambda s: methods.forward_correction(
        s.net,
        s.adam(),
        s.x,
        s.y,
        warm_up=s.share(20, 200),
        **s.knobs,
        **s.fit(),
    ),
    "dual_t": lambda s: methods.dual_t(
        s.net,
        s.adam(),
        s.x,
        s.y,
        warm_up=s.share(20, 200),
        **s.knobs,
        **s.fit(),
    ),
    "t_revision": lambda s: methods.t_revision(
        s.net,
        s.adam(),
        s.x,
        s.y,
        warm_up=s.share(20, 200),
        **s.knobs,
        **s.fit(),
    ),
    "co_teaching": lambda s: s.train(
        methods.co_teaching(s.pair(), s.noise_rate, **s.knobs)
    ),
    "co_teaching_plus": lambda s: s.train(
        methods.co_teaching_plus(s.pair(), s.noise_rate, **s.knobs)
    ),
    "mentornet": lambda s: s.train(methods.mentornet(s.net(), **s.knobs)),
    "incv": _incv,
    "cdr": lambda s: s.train(
        methods.cdr(s.net(), s.sgd(), s.noise_rate, **s.knobs)
    ),
}

TEMPERATURES = (1.0, 2.0, 3.0, 4.0)
PERCENTILES = (90.0, 95.0, 97.0, 100.0)

# What is tuned besides the learning rate: at most two arguments of a system,
# their defaults among the values. Those with none try learning rates alone.
KNOBS: dict[str, dict[str, Any]] = {
    "smkd": {"distillation_weight": WEIGHTS},
    "smkd_static": {
        "distillation_weight": WEIGHTS,
        "threshold": (0.1, 0.3, 0.5, 0.7),
    },
    "smkd_progressive": {
        "distillation_weight": WEIGHTS,
        "scale": (0.25, 0.5, 0.75, 1.0),
    },
    "posterior_smkd": {"distillation_weight": WEIGHTS},
    "dml": {"distillation_weight": WEIGHTS},
    **{
        f"kdcl_{ensemble}": {"weight": WEIGHTS, "temperature": TEMPERATURES}
        for ensemble in ("naive", "linear", "min_logit", "general")
    },
    "pcl": {"temperature": TEMPERATURES},
    "ffl": {"temperature": TEMPERATURES},
    "afd": {"temperature": TEMPERATURES},
    "mc_dropout": {"threshold": (0.3, 0.5, 0.7, 0.9)},
    "distillation": {"temperature": TEMPERATURES, "alpha": (0.5, 0.7, 0.9)},
    "teacher_free_self": {"alpha": (0.5, 0.7, 0.9, 0.95)},
    "teacher_free_reg": {"alpha": (0.1, 0.3, 0.5, 0.9)},
    "born_again": {"weighting": ("none", "cwtm", "dkpp")},
    "fitnets": {"temperature": TEMPERATURES},
    "mean_teacher": {
        "momentum": (0.9, 0.97, 0.99, 0.999),
        "max_weight": (1.0, 10.0, 100.0),
    },
    "temporal_ensembling": {
        "momentum": (0.6, 0.9),
        "max_weight": (3.0, 30.0, 100.0),
    },
    "label_smoothing": {"smoothing": (0.1, 0.2, 0.4, 0.6)},
    "bootstrapping_soft": {"beta": (0.95, 0.8, 0.6, 0.4)},
    "bootstrapping_hard": {"beta": (0.95, 0.8, 0.6, 0.4)},
    "proselflc": {"sharpness": (8.0, 16.0), "midpoint": (0.3, 0.5)},
    "early_learning": {"weight": (1.0, 3.0, 7.0), "momentum": (0.7, 0.9)},
    "joint_optimization": {"alpha": (0.8, 1.2), "beta": (0.1, 0.4, 0.8)},
    "m_correction": {"hard": (True, False)},
    "divide_mix": {
        "temperature": (0.25, 0.5, 1.0),
        "threshold": (0.3, 0.5, 0.7),
    },
    "gce": {"q": (0.3, 0.5, 0.7, 0.9)},
    "sce": {"alpha": (0.1, 0.3, 1.0, 3.0), "beta": (0.1, 1.0)},
    "active_passive": {"alpha": (0.5, 1.0, 3.0, 10.0), "beta": (0.1, 1.0)},
    "confidence_penalty": {"beta": (0.1, 0.3, 1.0, 2.0)},
    "forward_correction": {"percentile": PERCENTILES},
    "dual_t": {"percentile": PERCENTILES},
    "t_revision": {"percentile": PERCENTILES},
    "co_teaching": {"ramp": (0.02, 0.05, 0.1, 0.2)},
    "co_teaching_plus": {
        "ramp": (0.02, 0.05, 0.1, 0.2),
        "start": (0.05, 0.1, 0.2),
    },
    "mentornet": {"percentile": (0.5, 0.6, 0.7, 0.9)},
}
