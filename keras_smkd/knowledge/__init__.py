"""Knowledge: who knows, and whom they teach.

A source of knowledge is a callable of a `keras_smkd.batch.Batch` that gives a
`keras_smkd.batch.Knowledge`. The model stops its gradient.
"""

from typing import Any

from keras_smkd._config import part_of
from keras_smkd.batch import Knowledge
from keras_smkd.knowledge.dropout import DropoutPasses
from keras_smkd.knowledge.early import EarlyPredictions
from keras_smkd.knowledge.ensembles import GeneralEnsemble
from keras_smkd.knowledge.ensembles import LinearEnsemble
from keras_smkd.knowledge.ensembles import MinLogitEnsemble
from keras_smkd.knowledge.ensembles import NaiveEnsemble
from keras_smkd.knowledge.fused import FusedClassifier
from keras_smkd.knowledge.past import PastPredictions
from keras_smkd.knowledge.peers import AveragedPeers
from keras_smkd.knowledge.peers import PeerPredictions
from keras_smkd.knowledge.permuted import PermutedKnowledge
from keras_smkd.knowledge.several import Several
from keras_smkd.knowledge.several import find
from keras_smkd.knowledge.several import parts_of
from keras_smkd.knowledge.teachers import Teacher

KNOWN = {
    "averaged_peers": AveragedPeers,
    "dropout_passes": DropoutPasses,
    "fused_classifier": FusedClassifier,
    "general_ensemble": GeneralEnsemble,
    "linear_ensemble": LinearEnsemble,
    "min_logit_ensemble": MinLogitEnsemble,
    "naive_ensemble": NaiveEnsemble,
    "peers": PeerPredictions,
}


def get(knowledge: Any) -> Any:
    """Return a source of knowledge from its name or from itself.

    Args:
        knowledge: A name, a callable of the batch, or `None` for none.

    Raises:
        ValueError: if a name is not known.
        TypeError: if it is none of these.
    """
    return part_of("knowledge", knowledge, KNOWN)


__all__ = [
    "AveragedPeers",
    "DropoutPasses",
    "EarlyPredictions",
    "FusedClassifier",
    "GeneralEnsemble",
    "Knowledge",
    "LinearEnsemble",
    "MinLogitEnsemble",
    "NaiveEnsemble",
    "PastPredictions",
    "PeerPredictions",
    "PermutedKnowledge",
    "Several",
    "Teacher",
    "find",
    "get",
    "parts_of",
]
