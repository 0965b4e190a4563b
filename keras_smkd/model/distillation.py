"""The model of the paper: peers, confident knowledge, and its defaults."""

from collections.abc import Callable
from typing import Any

import keras

from keras_smkd import _checks
from keras_smkd.divergences import KullbackLeibler
from keras_smkd.model.learning import PeerLearning
from keras_smkd.model.peers import Peers


@keras.saving.register_keras_serializable(package="keras_smkd")
class SelectiveMutualDistillation(PeerLearning):
    """Peers that learn from labels and, selectively, from each other.

    For peer `i` of `N` on one example, at training progress `t` in [0, 1]:

        L_i = supervised_weight * g_i * l(target_i, p_i)
            + distillation_weight * T^2 / (N - 1)
              * sum_{j != i} s_j * KL(q_j^T || p_i^T)

    `l` is the compiled loss; `target_i` is the label, or its correction by
    `target`; `p^T` is the softmax at temperature `T`; the knowledge `q_j` is
    `p_j`, without gradient; `s_j` in {0, 1} says whether peer `j`'s knowledge
    of this example is selected, by default where its normalised entropy (at
    temperature 1) lies below the threshold in force; `g_i` is 1, or what
    `gate` makes of a label that selected knowledge contradicts. Threshold 0
    trains independent models; without a gate, a threshold above 1 is deep
    mutual learning. `gate=None` is the plain form of the paper.

    It is a `PeerLearning` with these defaults, whose page says what the parts
    are, what labels may be and what is logged.

    Args:
        peers: Two or more `keras.Model`s, alike or not, each from the same
            inputs to one output of shape `(batch, classes)`: a list, or a
            dictionary by names.
        from_logits: Whether the peers put out logits; `False` means
            probabilities. Must agree with the compiled loss.
        target: Label correction, such as `keras_smkd.targets.ProSelfLC()`,
            its name, or `None`.
        selection: Which knowledge passes, by default
            `keras_smkd.selection.ConfidentKnowledge()`. Its `threshold` is
            the one in force until a schedule or a caller sets another.
        gate: Weights of the label's own term, by default
            `keras_smkd.gates.LabelGate()`, which drops labels that selected
            knowledge contradicts; `None` for the plain sum of both terms. In
            training only: in evaluation every label counts. Not with a
            threshold that selects everything throughout.
        distillation_weight: Weight of the knowledge, >= 0: a number or a
            schedule of it, `progress -> weight`.
        supervised_weight: Weight of the labels, >= 0.
        temperature: `T > 0`, for the exchanged knowledge only.
        total_steps: Optimizer steps in the whole training. By default `fit`
            takes it from the epochs and the length of the data; give it where
            that length is unknown, or for training without `fit`.
        knowledge: Who knows, by default the peers themselves;
            `keras_smkd.knowledge.AveragedPeers()` for their averaged weights.
        observer: Callable of the batch that adds nothing to the loss, such as
            `keras_smkd.observers.ExampleDynamics(n)`, or `None`.
        name, **kwargs: As for `keras.Model`.

    Raises:
        TypeError: if a peer is not a `keras.Model`, or a part not callable.
        ValueError: if there are fewer than two peers, one appears twice, or
            their inputs or numbers of classes differ; if a peer's name is not
            free; if there is a gate and everything is selected.

    Example:

    ```python
    model = keras_smkd.SelectiveMutualDistillation([peer_a, peer_b])
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(
        x, y, epochs=20,
        callbacks=[keras_smkd.callbacks.ProgressiveThreshold()],
    )
    probabilities = model.predict(x)
    ```

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN.
        https://doi.org/10.1109/IJCNN54540.2023.10191991
    """

    _min_peers = 2

    def __init__(
        self,
        peers: Peers,
        from_logits: bool = True,
        target: Any = None,
        selection: Any = "entropy",
        distillation_weight: float | Callable[[Any], Any] = 1.0,
        supervised_weight: float = 1.0,
        temperature: float = 1.0,
        total_steps: int | None = None,
        gate: Any = "label",
        knowledge: Any = "peers",
        observer: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        temperature = _checks.number("temperature", temperature, above=0.0)
        super().__init__(
            peers,
            from_logits,
            knowledge=knowledge,
            selection="entropy" if selection is None else selection,
            divergence=KullbackLeibler(temperature),
            target=target,
            gate=gate,
            distillation_weight=distillation_weight,
            supervised_weight=supervised_weight,
            total_steps=total_steps,
            observer=observer,
            name=name,
            **kwargs,
        )
        self.temperature = temperature
