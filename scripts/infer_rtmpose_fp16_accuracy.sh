#!/usr/bin/env bash
# Measures COCO keypoint AP in FP16: builds the engine if needed, and runs it on COCO val2017.
#
#   bash scripts/infer_rtmpose_fp16_accuracy.sh [options] [-- options of inference.py]
#   e.g. bash scripts/infer_rtmpose_fp16_accuracy.sh --bs 32 --datasets coco --acc_target 0.77 -- --output accuracy
#
#   --bs N              batch size (default: 32)
#   --datasets DIR      COCO's folder (default: $DATASETS_DIR)
#   --acc_target AP     fail below this AP
#   --model FILE        ONNX graph (default: $MODEL, else rtmpose_opt.onnx)
#   --engine FILE       engine (default: rtmpose_bs_N_fp16.engine)
#   --input NAME:N,3,H,W   input of the graph (default: as in the graph, with --bs); its N overrides --bs
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse_infer_options "$@"
check_datasets

wait_for "$python" "$root/build_engine.py" --model_path "$model" "${build_input[@]}" --precision fp16 \
  --engine_path "$engine"
exec "$python" "$root/inference.py" --engine "$engine" --batchsize "$bs" "${infer_input[@]}" \
  --datasets "$datasets" "${extra[@]}"
