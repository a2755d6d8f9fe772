#!/usr/bin/env bash
# The whole kit at work, with no download beyond packages: draws people, exports a network that was trained on such
# people, builds its engine, and measures AP and throughput.
#
#   bash scripts/quickstart.sh [DIR]      (default: quickstart, in the current folder)
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case ${1:-} in -h | --help) usage; exit ;; esac
out=${1:-quickstart}
weights=("$root"/demo/rtmpose-t_drawn-people-256x192-*.pth)
config=$root/demo/rtmpose-t_drawn-people-256x192.py

bash "$root/scripts/setup.sh"
python=$venv/bin/python
mkdir -p "$out"
"$python" "$root/scripts/make_demo_dataset.py" --output "$out/people" --images 200 --seed 1
"$python" "$root/export.py" --weight "${weights[0]}" --cfg "$config" --output "$out/rtmpose-t.onnx" --simplify
"$python" "$root/build_engine.py" --model_path "$out/rtmpose-t.onnx" --input input:32,3,256,192 --precision fp16 \
  --engine_path "$out/rtmpose-t_bs_32_fp16.engine"
"$python" "$root/inference.py" --engine "$out/rtmpose-t_bs_32_fp16.engine" --datasets "$out/people" \
  --output "$out/accuracy" --visualize 4
"$python" "$root/inference.py" --engine "$out/rtmpose-t_bs_32_fp16.engine" --datasets "$out/people" \
  --output "$out/throughput" --perf_only True

echo
"$python" "$root/table.py" "$out/accuracy/summary.json" "$out/throughput/summary.json"
echo
echo "Estimated beside true: $out/accuracy/pictures/overview.jpg"
echo "This AP is of drawn people, with a network trained on drawn people. It is not COCO's: for that, see README.md."
