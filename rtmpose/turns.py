"""Measurements in turns: what drifts on the machine moves all sides of a round alike, so that their ratio holds."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

LEAST_ROUNDS = 7
"""Rounds before the first look: fewer have no interval of 98 %."""

WITHIN = 0.02
"""How far an interval may reach to either side of its middle, for a measurement to end.

To end when it is as narrow as that hardly favours a wrong verdict. To end as soon as there is a verdict does: some
interval on the way lies on one side of 1 by chance.
"""

CONFIDENCE = 0.98
"""Of an interval that is looked at after each round: the one that a measurement ends with holds with 95 %."""


@dataclass(frozen=True)
class Ratio:
    """A side's speed over the first side's, of the same rounds."""

    value: float
    interval: tuple[float, float] | None  # 95 %; None of too few rounds

    @property
    def reach(self) -> float:
        """How far the interval reaches to either side of its middle, as a share of it, e.g. 0.02."""
        low, high = self.interval or (1, math.inf)
        return math.sqrt(high / low) - 1

    @property
    def verdict(self) -> str:
        """``faster`` or ``slower`` if the whole interval lies on one side of 1, else ``can't tell``."""
        low, high = self.interval or (0, 2)
        return "faster" if low > 1 else "slower" if high < 1 else "can't tell"


def take_turns(sides: Sequence[Callable[[], T]], seed: int = 0) -> Iterator[list[T]]:
    """Rounds without end: each calls every side once, and has what they returned, in the order of ``sides``.

    A random order, and then its reverse: whoever is earlier in one round is later in the next.
    """
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(sides))
        for turns in (order, order[::-1]):
            found = {side: sides[side]() for side in turns}
            yield [found[side] for side in range(len(sides))]


def paired_ratio(base: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """The ratio of two sides' speeds, round by round, by Hodges and Lehmann: the median of all means of two logarithms.

    Its interval is that of Wilcoxon's signed ranks. It takes for granted that a round is as likely to be off upwards as
    downwards, which the random order of turns brings about, and no normal distribution: a load that comes or goes
    within a round leaves an outlier. Of seven rounds it is the range of the seven ratios.
    """
    logs = np.log(np.divide(other, base))
    one, two = np.triu_indices(len(logs))
    means = np.sort((logs[one] + logs[two]) / 2)
    left_out = _count_left_out(len(logs), confidence)
    interval = (float(np.exp(means[left_out])), float(np.exp(means[-1 - left_out]))) if left_out >= 0 else None
    return Ratio(float(np.exp(np.median(means))), interval)


@functools.cache
def _count_left_out(rounds: int, confidence: float) -> int:
    """The number of means outside the interval at either end; -1 if so few rounds have none."""
    chances = np.ones(1)  # of each sum of the ranks with a positive sign, if both signs are as likely
    for rank in range(1, rounds + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return int(np.searchsorted(np.cumsum(chances), (1 - confidence) / 2, "right")) - 1


def compare_sides(speeds: Sequence[Sequence[float]]) -> list[Ratio]:
    """The ratio of each side but the first to the first, from the speeds of all sides in each round."""
    base, *others = np.transpose(speeds)
    return [paired_ratio(base, other) for other in others]
