#!/usr/bin/env bash
# Measures throughput in FP16: builds the engine if needed, and times it. Needs no data set.
#
#   bash scripts/infer_rtmpose_fp16_performance.sh [options] [-- options of inference.py]
#   e.g. bash scripts/infer_rtmpose_fp16_performance.sh --bs 32 --fps_target 2000 -- --output throughput
#
#   --bs N              batch size (default: 32)
#   --datasets DIR      COCO's folder, for real crops (default: $DATASETS_DIR; if that is not set, random input)
#   --fps_target N      fail below N persons per second
#   --model FILE        ONNX graph (default: $MODEL, else rtmpose_opt.onnx)
#   --engine FILE       engine (default: rtmpose_bs_N_fp16.engine)
#   --input NAME:N,3,H,W   input of the graph (default: as in the graph, with --bs); its N overrides --bs
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse_infer_options "$@"

wait_for "$python" "$root/build_engine.py" --model_path "$model" "${build_input[@]}" --precision fp16 \
  --engine_path "$engine"
exec "$python" "$root/inference.py" --engine "$engine" --batchsize "$bs" "${infer_input[@]}" \
  ${datasets:+--datasets "$datasets"} --perf_only True "${extra[@]}"
