"""Selection: which knowledge is passed on.

A selection is a callable of a `keras_smkd.batch.Batch` that gives
`(batch, sources)` of 1 (passed on) and 0, from the knowledge and the threshold
in force.
"""

import functools
from typing import Any

from keras_smkd import functional
from keras_smkd._config import part_of
from keras_smkd.selection.confident import ConfidentKnowledge
from keras_smkd.selection.shares import MostConfidentShare

KNOWN = {
    **{
        measure: functools.partial(ConfidentKnowledge, measure)
        for measure in (*functional.MEASURES, *functional.SAMPLE_MEASURES)
    },
    "most_confident_share": MostConfidentShare,
}


def get(selection: Any) -> Any:
    """Return a selection from its name or from itself.

    Args:
        selection: A measure of `ConfidentKnowledge`: `"entropy"`,
            `"probability"`, `"margin"`, or of several passes
            `"predictive_entropy"`, `"mutual_information"`,
            `"variation_ratio"`; `"most_confident_share"`; a callable of the
            batch; or `None` for all knowledge.

    Raises:
        ValueError: if a name is not known.
        TypeError: if it is none of these.
    """
    return part_of("selection", selection, KNOWN)


__all__ = ["ConfidentKnowledge", "MostConfidentShare", "get"]
