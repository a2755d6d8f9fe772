"""Measurements in turns: the order, the statistics beside scipy's, and how often the verdict at the end is right."""

import itertools
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from rtmpose.evaluate import repeats
from rtmpose.evaluate.repeats import Turns, measure_in_turns
from rtmpose.turns import CONFIDENCE, LEAST_ROUNDS, compare_sides, paired_ratio, take_turns


@pytest.mark.parametrize("sides", [2, 3, 5])
def test_order_is_balanced(sides: int) -> None:
    calls: list[int] = []
    rounds = take_turns([lambda side=side: calls.append(side) or side for side in range(sides)])
    assert list(itertools.islice(rounds, 40)) == [list(range(sides))] * 40
    orders = np.reshape(calls, (20, 2, sides))
    assert (orders[:, 0] == orders[:, 1, ::-1]).all() and (np.sort(orders) == np.arange(sides)).all()
    assert {*orders[:, 0, 0]} == {*range(sides)}  # random, but the same each time
    again = [calls.pop(0) for _ in range(40 * sides)]
    list(itertools.islice(take_turns([partial(calls.append, side) for side in range(sides)]), 40))
    assert calls == again


@pytest.mark.parametrize("rounds", [7, 8, 13, 30])
def test_interval_is_that_of_wilcoxons_test(rounds: int) -> None:
    random = np.random.default_rng(rounds)
    base, other = np.exp(random.normal(0, 1, rounds)), np.exp(random.normal(0.3, 1, rounds))
    ratio, logs = paired_ratio(base, other), np.log(other / base)
    assert ratio.value == pytest.approx(np.exp(np.median([(a + b) / 2 for i, a in enumerate(logs) for b in logs[i:]])))
    for end, outwards in zip(np.log(ratio.interval), (-1e-9, 1e-9), strict=True):
        outside, inside = (stats.wilcoxon(logs - end - step, method="exact").pvalue for step in (outwards, -outwards))
        assert outside <= 1 - CONFIDENCE < inside
    if rounds == LEAST_ROUNDS:
        assert ratio.interval == pytest.approx((min(other / base), max(other / base)))
        fewer = paired_ratio(base[1:], other[1:])
        assert fewer.interval is None and fewer.verdict == "can't tell" and fewer.reach == np.inf


def test_what_moves_both_sides_of_a_round_moves_no_ratio() -> None:
    moved = np.array([1, 0.3, 2, 0.9, 1.1, 0.2, 4])
    (ratio,) = compare_sides(np.stack([moved, 1.1 * moved], 1))
    assert ratio.value == pytest.approx(1.1) and ratio.reach == pytest.approx(0) and ratio.verdict == "faster"
    assert compare_sides(np.stack([1.1 * moved, moved], 1))[0].verdict == "slower"


def run_turns(speeds: Sequence[Sequence[float]], rounds: int, minutes: float = np.inf) -> Turns:
    sides = [partial(next, iter([{"fps": fps} for fps in side])) for side in zip(*speeds, strict=True)]
    *_, last = measure_in_turns(sides, rounds, minutes=minutes)
    return last


def test_rounds_end() -> None:
    steady, noisy = [[1.0, 1.0]] * 50, np.exp(np.random.default_rng(0).normal(0, 0.1, (50, 2)))
    assert [len(run_turns(*how).rounds) for how in (
        (steady, 50), (noisy, 20), (noisy, 3), (noisy, 50, 1e-9))] == [LEAST_ROUNDS, 20, 3, LEAST_ROUNDS]
    middle = run_turns(noisy / 10 ** 0.5 + 1, 50)  # until the interval is narrow
    assert LEAST_ROUNDS < len(middle.rounds) < 50 and middle.ratios[0].reach <= 0.02
    assert run_turns(noisy / 10 ** 0.5 + 1, len(middle.rounds) - 1).ratios[0].reach > 0.02


def test_time_left_after_rounds_that_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that goes on has those at once."""
    clock, took = [0.0], iter([0.0] * 6 + [2.0] * 8)
    monkeypatch.setattr(repeats, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def turn() -> dict[str, float]:
        clock[0] += next(took)
        return {"fps": 1.0}

    assert [turns.seconds_left for turns in measure_in_turns([turn, turn], 7)] == [0, 0, 0, 12, 8, 4, 0]


def simulate(kind: str, effect: float, random: np.random.Generator, rounds: int = 46) -> np.ndarray:
    """Speeds of two sides that take turns of 3 s, float64 (rounds, 2), on a machine that drifts within a minute by 5 %,
    or that a load slows down by 40 % in 20 of 50 s; each process is off by 2 % more."""
    times = random.uniform(0, 50) + 3 * np.arange(2 * rounds)
    if kind == "drift":
        kept = np.exp(-3 / 60)
        machine = lfilter([1], [1, -kept], random.normal(0, 0.05 * np.sqrt(1 - kept ** 2), len(times)))
    else:
        machine = np.log(1 - 0.4 * np.clip((20 - times % 50) / 3, 0, 1))  # a turn may be loaded in part
    noise = iter(machine + random.normal(0, 0.02, len(times)))
    sides = [lambda: next(noise), lambda: effect + next(noise)]
    return np.exp(list(itertools.islice(take_turns(sides, int(random.integers(1e9))), rounds)))


@pytest.mark.parametrize("kind", ["drift", "load"])
def test_verdicts_are_right_in_19_of_20(kind: str) -> None:
    """Though the rule looks at the interval after each round. A drift of the machine is autocorrelated."""
    random, right, covered = np.random.default_rng(1), {}, []
    for effect in (0.0, -0.03, -0.1):
        ratios = [run_turns(simulate(kind, effect, random), 46).ratios[0] for _ in range(150)]
        expected = "slower" if effect else "can't tell"
        right[effect] = np.mean([ratio.verdict == expected for ratio in ratios])
        covered += [ratio.interval[0] <= np.exp(effect) <= ratio.interval[1] for ratio in ratios]
    assert np.mean(covered) >= 0.95 and right[0.0] >= 0.95 and right[-0.03] > 0.5 and right[-0.1] > 0.97
