"""The networks of `cifar.py`, and what each method makes of them.

A row of `OFFERED` is a method of `keras_smkd.methods` at its defaults, and what
it needs besides the networks: a layer's name, the number of examples, the share
of wrong labels, a teacher. What is not offered has a reason in `LEFT_OUT`.
"""

import dataclasses
import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import losses
from keras_smkd import methods

# Filters and strides of the stacks, kind of block, enlargement of the images.
# The backbones of keras-cv begin with two strides of 2, meant for photographs:
# enlarged four times, 32 x 32 images keep their size there, as they do in a
# 3 x 3 stem of stride 1.
PEERS = {
    "small": ([16, 32], [1, 2], "block", 1),
    "resnet18": ([64, 128, 256, 512], [1, 2, 2, 2], "basic_block", 4),
}
# Names of layers that every network has: its last maps, and their means.
MAPS, FEATURES = "maps", "features"
METRICS = ["accuracy"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a method may need.

    Args:
        peers: Preset of the networks.
        num_classes: Number of classes.
        images: `(examples, 32, 32, 3)` in [0, 1], to train on.
        labels: Their labels, some of them wrong.
        noise_rate: The share of them that is.
        epochs: Epochs of the whole training.
        steps: Steps of the whole training.
        learning_rate: Where its decay begins.
        seed: Of the networks' weights.
        teach: `(make_model) -> model`, trained on the same examples.
        weights: Files of weights for the backbones of the first and of the
            second kind to begin with, as `backbone.save_weights` makes them.
    """

    peers: str
    num_classes: int
    images: Any
    labels: Any
    noise_rate: float
    epochs: int
    steps: int
    learning_rate: float
    seed: int
    teach: Callable[[Callable[[], Any]], Any]
    weights: Sequence[str] = ()

    def net(self, second: bool = False, dropout: float = 0.0) -> keras.Model:
        """Return a residual network, of the first or the second kind."""
        # Not above: it imports TensorFlow, which takes seconds.
        import keras_cv

        filters, strides, block_type, enlargement = PEERS[self.peers]
        models = keras_cv.models
        kind = models.ResNetV2Backbone if second else models.ResNetBackbone
        blocks = 1 if self.peers == "small" and not second else 2
        backbone = kind(
            stackwise_filters=filters,
            stackwise_blocks=[blocks] * len(filters),
            stackwise_strides=strides,
            block_type=block_type,
            include_rescaling=False,
            input_shape=(32 * enlargement, 32 * enlargement, 3),
        )
        if self.weights:
            backbone.load_weights(self.weights[second])
        for layer in backbone.layers:
            # The default averages over hundreds of steps, long for short runs.
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.9
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.UpSampling2D(enlargement),
                # Layers of Keras only: the saved file needs no keras-cv.
                keras.Model(backbone.input, backbone.output, name=MAPS),
                keras.layers.GlobalAveragePooling2D(name=FEATURES),
                *([keras.layers.Dropout(dropout)] if dropout else []),
                # The softmax is taken in float32, whatever the policy.
                keras.layers.Dense(self.num_classes, dtype="float32"),
            ]
        )

    def pair(self, dropout: float = 0.0) -> list[keras.Model]:
        """Return two networks, one of each kind."""
        return [self.net(dropout=dropout), self.net(True, dropout)]

    def teacher(self) -> keras.Model:
        """Return the second network, trained by cross entropy."""
        return self.teach(self._untaught).peers[0]

    def _untaught(self) -> Any:
        keras.utils.set_random_seed(self.seed + 1)
        return compiled(keras_smkd.PeerLearning([self.net(True)]), self)

    def sgd(self, weight_decay: float | None = None) -> Any:
        """Return a new optimizer."""
        decay = keras.optimizers.schedules.CosineDecay(
            self.learning_rate, self.steps
        )
        return keras.optimizers.SGD(
            decay, momentum=0.9, weight_decay=weight_decay
        )


def compiled(model, setting, loss="sparse_categorical_crossentropy"):
    """Return the model, compiled unless it is."""
    if not model.compiled:
        model.compile(setting.sgd(), loss, metrics=METRICS)
    return model


OFFERED = {
    "active_passive": lambda s: methods.active_passive(
        s.net(), s.sgd(), metrics=METRICS
    ),
    "afd": lambda s: methods.afd(s.pair(), MAPS),
    "bootstrapping": lambda s: methods.bootstrapping(s.net()),
    # The decay is the authors'.
    "cdr": lambda s: methods.cdr(
        s.net(), s.sgd(0.001), s.noise_rate, metrics=METRICS
    ),
    "co_teaching": lambda s: methods.co_teaching(s.pair(), s.noise_rate),
    "co_teaching_plus": lambda s: methods.co_teaching_plus(
        s.pair(), s.noise_rate
    ),
    "confidence_penalty": lambda s: methods.confidence_penalty(
        s.net(), s.sgd(), metrics=METRICS
    ),
    "distillation": lambda s: methods.distillation(s.net(), s.teacher()),
    "divide_mix": lambda s: methods.divide_mix(s.pair(), len(s.labels)),
    "dml": lambda s: methods.dml(s.pair()),
    "early_learning": lambda s: methods.early_learning(s.net(), len(s.labels)),
    "ffl": lambda s: methods.ffl(s.pair(), FEATURES),
    "gce": lambda s: methods.gce(s.net(), s.sgd(), metrics=METRICS),
    "kdcl": lambda s: methods.kdcl(s.pair()),
    "label_smoothing": lambda s: methods.label_smoothing(s.net()),
    "logit_matching": lambda s: methods.logit_matching(s.net(), s.teacher()),
    "m_correction": lambda s: methods.m_correction(s.net(), len(s.labels)),
    "mc_dropout": lambda s: methods.mc_dropout(s.pair(dropout=0.3)),
    "mean_teacher": lambda s: methods.mean_teacher(s.net()),
    "mentornet": lambda s: methods.mentornet(s.net()),
    "model_compression": lambda s: methods.model_compression(
        s.net(), s.teacher()
    ),
    "pcl": lambda s: methods.pcl(s.pair(), FEATURES),
    "posterior_smkd": lambda s: methods.posterior_smkd(s.pair(), len(s.labels)),
    "proselflc": lambda s: methods.proselflc(s.net()),
    "sce": lambda s: methods.sce(s.net(), s.sgd(), metrics=METRICS),
    "smkd_progressive": lambda s: methods.smkd_progressive(s.pair()),
    "smkd_static": lambda s: methods.smkd_static(s.pair()),
    "teacher_free": lambda s: methods.teacher_free(s.net()),
    "temporal_ensembling": lambda s: methods.temporal_ensembling(
        s.net(), len(s.labels)
    ),
}
# What the methods are compared with: peers without any, and the package's own
# model, with its gate.
BASELINES = {
    "independent": lambda s: keras_smkd.PeerLearning(s.pair()),
    "smkd": lambda s: keras_smkd.SelectiveMutualDistillation(s.pair()),
}
_STAGES = "it trains in stages, in one call which no --resume could go on with"
_TRAININGS = "it is several trainings, where a run has one log"
LEFT_OUT = {
    "CrossValidation": "no method, but what `incv` finds",
    "born_again": _TRAININGS,
    "dmi": _STAGES,
    "dual_t": _STAGES,
    "fitnets": _STAGES,
    "forward_correction": _STAGES,
    "incv": _TRAININGS,
    "iterative_cross_validation": "it finds right labels, and no classifier",
    "joint_optimization": _STAGES,
    "t_revision": _STAGES,
}
# Whose labels a mixture judges by their losses: its kind, and the share of the
# authors' epochs from which on it does.
MIXTURES = {
    "divide_mix": ("gaussian", 10 / 300),
    "m_correction": ("beta", 105 / 300),
}


def make_model(method, setting):
    """Return the new model of a method, compiled."""
    keras.utils.set_random_seed(setting.seed)
    model = {**OFFERED, **BASELINES}[method](setting)
    if method in MIXTURES:
        # With the papers' penalty against predicting few classes.
        loss = losses.JointOptimization(alpha=1.0, beta=0.0, from_logits=True)
        return compiled(model, setting, loss)
    return compiled(model, setting)


def make_callbacks(method, setting):
    """Return the callbacks that belong to a method."""
    if method == "smkd":
        return [callbacks.ProgressiveThreshold(sharpness=-8.0)]
    if method not in MIXTURES:
        return []
    kind, share = MIXTURES[method]
    start = max(1, round(share * setting.epochs))
    data = (setting.images, setting.labels)
    return [callbacks.FitMixture(*data, start_epoch=start, kind=kind)]


def listing():
    """Return the lines of all methods, offered or not."""
    baselines = {
        "independent": "Train two networks that learn nothing of each other.",
        "smkd": "Train peers by the paper's selection, with a gate for labels.",
    }
    offered = {
        name: inspect.getdoc(getattr(methods, name)).splitlines()[0]
        for name in OFFERED
    }
    offered = dict(sorted({**offered, **baselines}.items()))
    rows = [f"  {name:<28}{line}" for name, line in offered.items()]
    reasons = [f"  {name:<28}{line}" for name, line in LEFT_OUT.items()]
    return "\n".join(["Offered:", *rows, "Not offered:", *reasons])
