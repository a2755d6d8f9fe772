#!/usr/bin/env bash
# Every precision and batch size: build, accuracy, throughput. Writes table.md, results.csv, results.json and report.html.
# Re-run to resume: a result is measured again only if its inputs changed.
#
#   bash scripts/benchmark.sh [options] [-- options of inference.py]
#   e.g. bash scripts/benchmark.sh --datasets coco --batches "1 32" -- --limit 500
#
#   --model FILE        ONNX graph (default: $MODEL, else rtmpose_opt.onnx)
#   --datasets DIR      data set for AP (default: $DATASETS_DIR)
#   --calibration DIR   data set for INT8 calibration; must not be the one for AP
#   --precisions LIST   of fp32, fp16, bf16, int8 (default: "fp32 fp16", with --calibration also int8)
#   --batches LIST      (default: "1 8 32")
#   --backend NAME      see build_engine.py --help (default: auto)
#   --device NAME       see build_engine.py --help (default: the runtime's first)
#   --skeleton coco     for ONNX files of mmdeploy and rtmlib, see build_engine.py --help
#   --repeats N         throughput: at most N rounds, in which all cells take turns (default: 14, with several devices 1)
#   --devices N         measure on N devices at once, by torchrun (default: 1)
#   --output DIR        output folder (default: benchmark)
#
# Exit codes: 0 done, 1 a measurement failed, 2 user error, 129, 130, 143 interrupted.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
model=${MODEL:-rtmpose_opt.onnx} datasets=${DATASETS_DIR:-} calibration='' precisions='' batches='1 8 32'
backend=auto device='' skeleton='' repeats='' devices=1 output=benchmark extra=()
parse_options "model datasets calibration precisions batches backend device skeleton repeats devices output" "$@"
read -ra precisions <<<"${precisions:-fp32 fp16${calibration:+ int8}}"
read -ra batches <<<"$batches"
check_model
check_datasets

exec "$python" "$root/scripts/sweep.py" --model "$model" --datasets "$datasets" \
  ${calibration:+--calibration "$calibration"} --precisions "${precisions[@]}" --batches "${batches[@]}" \
  --backend "$backend" ${device:+--device "$device"} ${skeleton:+--skeleton "$skeleton"} \
  ${repeats:+--repeats "$repeats"} --devices "$devices" --output "$output" ${extra:+-- "${extra[@]}"}
