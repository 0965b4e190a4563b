"""The trials by which each method is tuned: as many for all of them."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

# With smaller ones, few epochs are over before the noise is memorised: tuning
# would then choose to stop early, whatever the method.
LEARNING_RATES = {
    "adam": (0.001, 0.002, 0.005, 0.01),
    "sgd": (0.01, 0.03, 0.1, 0.3),
}

# Of the knowledge.
WEIGHTS = (1.0, 2.0, 4.0, 9.0)


def draw_trials(
    own: Mapping[str, Any], count: int, learning_rates: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Return the values of the knobs to try: as many for every method.

    Each knob runs through its values in a random order, and again in another
    one, so that all values come equally often. The draws depend on the knobs'
    number of values and position alone: methods that exchange knowledge are
    tried with the same learning rates and weights. A combination that was
    there before is left out. More trials begin with the fewer.

    A method with no knobs of its own tries as many learning rates between the
    smallest and the largest, evenly on the logarithmic scale.

    Args:
        own: From a method's own knobs to their values.
        count: Number of trials.
        learning_rates: The learning rates to try.

    Returns:
        A list of different `{knob: value}`, with `learning_rate` in each.
    """
    if not own:
        ends = min(learning_rates), max(learning_rates)
        rates = [float(f"{rate:.3g}") for rate in np.geomspace(*ends, count)]
        return [{"learning_rate": rate} for rate in dict.fromkeys(rates)]
    knobs = {"learning_rate": learning_rates, **own}
    number = int(np.prod([len(values) for values in knobs.values()]))
    if count > number:
        raise ValueError(
            f"`trials` must be <= {number}, the combinations of the knobs "
            f"{', '.join(knobs)}. Received: trials={count}."
        )
    orders = [
        _endless_orders(values, position)
        for position, values in enumerate(knobs.values())
    ]
    found: list[dict[str, Any]] = []
    for values in zip(*orders, strict=True):
        trial = dict(zip(knobs, values, strict=True))
        if trial not in found:
            found.append(trial)
        if len(found) == count:
            break
    return found


def _endless_orders(values: Any, position: int) -> Any:
    generator = np.random.default_rng([20230618, position])
    for _ in itertools.count():
        for place in generator.permutation(len(values)):
            yield values[place]
