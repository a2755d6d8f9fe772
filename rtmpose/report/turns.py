"""Engines measured in turns, as lines for the terminal and as JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtmpose.evaluate.repeats import Turns
from rtmpose.machine.versions import command_line, now
from rtmpose.report import summary as rows
from rtmpose.report.results import network


def round_line(turns: Turns, engines: Sequence[str], rounds: int) -> str:
    """The ratios after a round, and the time that is left."""
    found = ", ".join(f"{engine} {rows.figure(ratio.value, '.3f', ratio.interval)}"
                      for engine, ratio in zip(engines[1:], turns.ratios, strict=True))
    return f"round {len(turns.rounds)}/{rounds}: {found}; up to {turns.seconds_left / 60:.1f} min left"


def describe_turns(turns: Turns, sides: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Content of ``turns.json``: each side's ``engine``, ``kit`` and ``python`` with what it runs, its median persons a
    second, its ratio to the first and its verdict; and the persons a second of every turn."""
    engines = []
    for side, measured, ratio in zip(sides, zip(*turns.rounds, strict=True), [None, *turns.ratios], strict=True):
        first = measured[0]
        engines.append({
            **side, **{name: first["engine"][name] for name in ("sha256", "runtime", "onnx", "onnx_sha256", "source")},
            "precision": rows.precision(first), "fps": float(np.median([summary["fps"] for summary in measured])),
            "ratio": ratio and ratio.value, "interval": ratio and ratio.interval,
            "verdict": ratio.verdict if ratio else "base",
            **{name: first[name] for name in ("batch", "fps_of", "machine", "versions")}})
    return {"command": command_line(), "measured_at": now(), "engines": engines, "rounds": [
        [{"fps": one["fps"], "conditions": one["conditions"]["verdict"], "measured_at": one["measured_at"]}
         for one in measured] for measured in turns.rounds]}


def turns_text(content: dict[str, Any]) -> str:
    """:func:`describe_turns` as a Markdown table, and what a reader must know beside it."""
    engines, rounds = content["engines"], content["rounds"]
    table = [{
        **{name.title(): str(one[name]) for name in ("engine", "kit", "python", "runtime", "precision", "batch")
           if name in one},
        "Persons a second": f"{one['fps']:.2f}", "Ratio [95 %]": rows.figure(one["ratio"], ".3f", one["interval"]),
        "Verdict": one["verdict"]} for one in engines]
    found = Counter(turn["conditions"] for measured in rounds for turn in measured)
    lines = [f"{len(rounds)} rounds, each engine once in each, in a fresh process; persons a second: "
             + " / ".join(dict.fromkeys(one["fps_of"] for one in engines)),
             "conditions of the turns: " + ", ".join(f"{number} {name}" for name, number in found.most_common())]
    lines += [f"{one['engine']} is of another network ({one['onnx']}) than {engines[0]['engine']}" for one in engines
              if network({"engine": one}) != network({"engine": engines[0]})]
    return "\n- ".join([rows.markdown(table) + "\n", *lines])
