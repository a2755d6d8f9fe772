"""Results as text for the terminal."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtmpose.data.coco import PersonSet
from rtmpose.data.postprocess import KEYPOINT_SCORE_THRESHOLD
from rtmpose.engines import files
from rtmpose.engines.build import Built, Plan
from rtmpose.engines.record import Record, record_path
from rtmpose.errors import first_line
from rtmpose.evaluate import loadgen
from rtmpose.evaluate.loadgen_logs import SUMMARY
from rtmpose.evaluate.predictions import Predictions
from rtmpose.model import graph
from rtmpose.model.int8 import calibrate
from rtmpose.report.summary import NOT_A_RESULT, markdown

_MOST_NAMES = 12  # of operators in a cell of a table
_MOST_REASONS = 4
_WHY_OTHER_PRECISION = {
    "fp16": "weights are rounded to fp16, results are not those of fp16 hardware and no faster",
    "bf16": "it has no faster kernels in bf16 for this processor",
    "int8": "it has no int8 kernels for most of this graph",
    "fp32": "it is not told, or the device has no fp32",
}


def build_start_lines(plan: Plan) -> str:
    """The engines that are about to be built."""
    lines = [f"Note: {plan.note}"] if plan.note else []
    if inputs := plan.candidates[0].inputs:
        number, shape, kind, size = files.describe_batches(plan.candidates[0])
        return (f"Writing {plan.engine_path.parent}: {inputs['persons']} crops in {number} batches of {kind} {shape}, "
                f"{size / 1e6:,.0f} MB")
    lines += [f"Building {plan.engine_path}: {facts.runtime} for {facts.device_name or 'any GPU it supports'}, "
              f"{facts.requested_precision}, batch {facts.batch}" for facts in plan.candidates]
    return "\n".join(lines)


def build_lines(plan: Plan, built: Built) -> str:
    """The engine that was built, and what stays in a higher precision."""
    record = built.record
    lines = []
    if weights := record.source.get(graph.WEIGHTS):
        lines.append(f"Note: the weights of {record.onnx} are rounded to {weights} already")
    if (found := built.calibration) and plan.crops:
        lines.append(f"Calibration: taken from {found.cache}" if found.reused else
                     f"Calibration: {plan.crops.persons} crops of {plan.crops.source}, seed {calibrate.SEED}; kept in "
                     f"{found.cache}")
    lines += [_kept_table(built)] if built.kept else []
    lines += [f"Built {plan.engine_path} in {record.build_seconds:.1f} s: {record.engine_bytes / 2**20:.1f} MiB, "
              f"record in {record_path(plan.engine_path).name}"]
    if record.inputs:
        return "\n".join([*lines, f"  precision of the vendor's tool, as --precision says: {record.precision}",
                          f"  next: {plan.engine_path.with_name('README.md')} says what that tool has to write"])
    lines += [f"  convolutions and matrix products: {_counts(record.arithmetic)}",
              f"  all layers: {_counts(record.layers) or 'not told; the types above are what the graph asks for'}"]
    if record.executors:
        lines.append(f"  nodes: {_counts(record.executors)}")
    if kernels := record.kernels:
        lines[-1] = (f"  kernels: {_counts(record.layers)}; {kernels['fused']} of {kernels['number']} compute several "
                     f"layers; they read and write {kernels['bytes'] / 1e9:.3f} GB a batch")
    lines += [f"  Note: {built.note}"] if built.note else []
    if speeds := dict(record.measured_fps):
        alike = [name for name in speeds if f"{name} ".startswith(f"{record.backend} {record.precision} ")]
        fps = speeds.pop(kept := max(alike, key=lambda name: speeds[name]))
        others = [f"; {name} {speed:.1f} ({speed / fps:.3f} times)" for name, speed in speeds.items()]
        others += [] if built.decided else ["; can't tell which is the fastest"]
        lines.append(f"  kept: {kept}, {fps:.1f} persons a second here{''.join(others)}")
    if record.precision not in (record.requested_precision, "int8+bf16"):
        why = _WHY_OTHER_PRECISION[record.requested_precision]
        lines.append(f"  {record.requested_precision} was asked for, but {record.package} computes in "
                     f"{record.precision} here: {'that is faster' if 'int8' in ' '.join(record.measured_fps) else why}")
    return "\n".join(lines)


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(numbers.items(), key=lambda item: -item[1]))


def _kept_table(built: Built) -> str:
    """Operators of an FP16 or BF16 engine that stay in FP32, as a Markdown table."""
    macs = built.macs
    prefix = os.path.commonprefix([name for names in built.kept.values() for name in names])
    prefix = prefix[:prefix.rfind("/") + 1]
    return markdown([{
        "stays in fp32, because": reason, "operators": _join([name.removeprefix(prefix) for name in names]),
        "multiplications": f"{sum(macs.get(name, 0) for name in names) / sum(macs.values()):.3%}",
    } for reason, names in built.kept.items()])


def _join(names: Sequence[str]) -> str:
    """All names, or how many and which are the first and the last."""
    return ", ".join(names) if len(names) <= _MOST_NAMES else f"{len(names)} from {names[0]} to {names[-1]}"


def persons_line(persons: PersonSet, mode: str, flip_test: bool) -> str:
    """The persons of a run."""
    text = (f"{mode}: {len(persons)} persons in {len(persons.images)} images, {persons.boxes}, "
            f"{'flip test' if flip_test else 'no flip test'}")
    return "\n".join([text, *(f"Note: {number} {note}" for note, number in persons.notes.items())])


def agreement_lines(agreement: dict[str, Any]) -> str:
    """Agreement with the engine of ``--reference``; ``agreement`` is its part of ``summary.json``."""
    lines = [f"Agreement with {agreement['reference']['path']}: its AP is {agreement['ap_reference']:.4f}, difference "
             f"{agreement['ap_difference']:+.4f}"]
    for which, numbers in (("that it scores above 0.2", agreement), ("of lower score", agreement["rest"])):
        line = f"  {numbers['counted']} keypoints {which}"
        if numbers["counted"]:
            line += (f": at most one bin off {numbers['within_bin']:.3%}, 1 px {numbers['within_1px']:.3%}, 4 px "
                     f"{numbers['within_4px']:.3%}; median {numbers['median_px']:.2f} px, p99 {numbers['p99_px']:.2f}, "
                     f"worst {numbers['max_px']:.2f}, in pixels of the crop")
        lines.append(line)
    return "\n".join(lines)


def photograph_line(predictions: Predictions, record: Record) -> str:
    """The keypoints that were found in one photograph."""
    counted = int((predictions.scores[0] > KEYPOINT_SCORE_THRESHOLD).sum())
    return (f"{counted} of {record.num_keypoints} keypoints ({first_line(record.skeleton, 60)}) score above "
            f"{KEYPOINT_SCORE_THRESHOLD}, {record.precision}, {record.backend}")


def throughput_lines(measured: dict[str, Any], batch: int) -> str:
    """Figures of a throughput run; ``measured`` is its part of ``summary.json``."""
    headline = {**measured["latency_ms"], "spread": measured["spread"], "fps": measured["fps"]}
    lines = [f"* Mean inference time: {headline['mean']:.3f} ms, Mean fps: {headline['fps']:.2f}"]
    for name, timed in ({measured["fps_of"]: headline} | measured["other_timings"]).items():
        lines.append(f"  {name}: {_latency(timed)}, spread {timed['spread']:.1%}, {timed['fps']:.2f} persons a second")
    each = {"request_latency_ms": "each batch from start to end", "enqueue_ms": "the host, to enqueue a batch"}
    lines[2:2] = [f"    {what}: {_latency(measured[name])}" for name, what in each.items() if name in measured]
    steady = "speed steady" if measured["steady"] else "speed not yet steady"
    lines.append(f"  timed: {measured['iterations']} batches of {batch} after a warm-up of {measured['warmup']} "
                 f"({measured['warmup_s']:.1f} s, {steady}); input: {measured['input']}; reading, cropping and "
                 "decoding not included")
    lines += [ranks_lines(measured["ranks"])] if "ranks" in measured else []
    return "\n".join(lines)


def ranks_lines(ranks: dict[str, Any]) -> str:
    """The speed of each of several devices, and what they lose by running at once; ``ranks`` is of ``summary.json``."""
    nodes = f" on {ranks['nodes']} machines" if ranks["nodes"] > 1 else ""
    each = [(fps, f"rank {rank} on {ranks['hosts'][rank]}") for rank, fps in enumerate(ranks["fps"])]
    slowest, fastest = (f"{fps:.2f} ({rank})" for fps, rank in (min(each), max(each)))
    lines = [f"  {len(each)} devices{nodes}, {ranks['cores']} cores of their hosts: slowest {slowest}, fastest "
             f"{fastest} persons a second"]
    if "alone_fps" in ranks:
        lines += [f"    {rank}: {fps:.2f}, alone {alone:.2f}"
                  for (fps, rank), alone in zip(each, ranks["alone_fps"], strict=True)]
        lines.append(f"  scaling efficiency: {ranks['efficiency']:.1%} of the sum of the devices alone, over "
                     f"{ranks['window_s']:.1f} s in which all ran")
    return "\n".join(lines)


def closing_lines(measured: dict[str, Any]) -> str:
    """Energy and cores that the persons took, where that was measured, and the conditions; of ``summary.json``."""
    lines = []
    if "energy" in measured:
        energy = measured["energy"]
        lines.append(f"  energy: {energy['joules_per_person']:.3g} J a person over {energy['seconds']:.0f} s "
                     f"({energy['source']})")
    if "cores_per_1000_fps" in measured:
        lines.append(f"  CPU: {measured['cores_per_1000_fps']:.3g} cores per 1,000 persons a second")
    return "\n".join([*lines, f"Conditions: {describe_conditions(measured['conditions'])}"])


def describe_conditions(conditions: dict[str, Any]) -> str:
    """The verdict on conditions, with its first reasons, and what it means."""
    reasons, more = conditions["reasons"][:_MOST_REASONS], len(conditions["reasons"]) - _MOST_REASONS
    because = f": {', '.join(reasons)}" + f", and {more} more" * (more > 0) if reasons else ""
    meaning = "; not a result" if conditions["verdict"] in NOT_A_RESULT else ""
    return f"{conditions['verdict']}{because}{meaning}"


def process_line(number: int, processes: int, summary: dict[str, Any]) -> str:
    """The speed that one process of ``--repeats`` measured."""
    return (f"process {number}/{processes}: {summary['fps']:.2f} persons a second; "
            f"{describe_conditions(summary['conditions'])}")


def repeats_line(summary: dict[str, Any]) -> str:
    """Median and interval of ``--repeats``."""
    repeats = summary["repeats"]
    low, high = repeats["interval"]
    return (f"* Median fps of {len(repeats['values'])} processes: {summary['fps']:.2f}, "
            f"{100 * repeats['confidence']:.0f} % interval {low:.2f} to {high:.2f} ({repeats['method']})")


def _latency(latency: dict[str, float]) -> str:
    return (f"mean {latency['mean']:.3f} ms, median {latency['median']:.3f} ms, p90 {latency['p90']:.3f} ms, "
            f"p99 {latency['p99']:.3f} ms")


def loadgen_start_lines(runner: loadgen.QueueRunner, batch: int) -> str:
    """Settings of a LoadGen run that is about to start, and a warning if they don't suit the engine."""
    config = runner.config
    rate = f", {runner.target_qps:.4g} queries a second" if config.scenario == "server" else ""
    if config.accuracy:
        return f"LoadGen: {config.scenario}, accuracy, every sample once{rate}"
    line = f"LoadGen: {config.scenario}, performance, at least {config.min_duration:g} s{rate}"
    if config.scenario == "singlestream" and batch > 1:
        line += (f"\nEach query is one person in a batch padded to {batch}: for the latency of one, build the "
                 "engine for batch 1")
    # A query may have to wait for one batch and is in the next.
    if config.scenario == "server" and 2 * runner.batch_ms > config.target_latency:
        line += (f"\nA batch of {batch} takes {runner.batch_ms:.3g} ms, and a query may wait for one and be in "
                 f"the next: {config.target_latency:g} ms are too few at any rate; build the engine for a smaller "
                 "batch, or see --target_latency")
    return line


def loadgen_lines(measured: dict[str, Any]) -> str:
    """LoadGen's verdict in its own words, with its recommendations, and the figures in ours."""
    logs = Path(measured["loadgen"]["logs"])
    verdict = (logs / SUMMARY).read_text(encoding="utf-8").split("Additional Stats")[0]
    lines = [line for line in verdict.splitlines() if line and not line.startswith("===")]
    lines += [f"LoadGen's error: {error}" for error in measured["loadgen"]["errors"]]
    lines += [f"* LoadGen {measured['loadgen']['version']}, {measured['scenario']}: "
              f"{'VALID' if measured['valid'] else 'INVALID'}, {measured['fps']:.2f} persons a second",
              f"  latency: {_latency(measured['latency_ms'])}",
              f"  queries: {measured['queries']}, samples a query: {measured['samples_per_query']}; input: "
              f"{measured['input']}; reading, cropping and normalising not included",
              f"  logs: {logs}"]
    return "\n".join(lines)
