#!/usr/bin/env bash
# Runs the whole kit without any download beyond packages: draws people, exports a network trained on drawn people,
# builds an engine, and measures AP and throughput.
#
#   bash scripts/quickstart.sh [-v] [DIR]      (default: quickstart, in the current folder)
#
#   -v       show what every step prints; without it, only quickstart.log in DIR has it
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if [ "${1:-}" = -v ]; then export KIT_VERBOSE=1; shift; fi
out=${1:-quickstart}
weights=("$root"/demo/rtmpose-t_drawn-people-256x192-*.pth)
onnx=$out/rtmpose-t.onnx
engine=$out/rtmpose-t_bs_32_fp16.engine

say "1/6 Set up the environment"
wait_for bash "$root/scripts/setup.sh"
python=$venv/bin/python
mkdir -p "$out"
log=$out/quickstart.log
: >"$log"
run() { step "$@" || failed "$1: failed" $?; }

run "2/6 Draw 200 pictures of people into $out/people" \
  "$python" "$root/demo/make_dataset.py" --output "$out/people" --images 200 --seed 1
run "3/6 Export the demo's RTMPose-t to $onnx" \
  "$python" "$root/export.py" --weight "${weights[0]}" --cfg "$root/demo/rtmpose-t_drawn-people-256x192.py" \
  --output "$onnx" --simplify
run "4/6 Build an FP16 engine for batch size 32" \
  "$python" "$root/build_engine.py" --model_path "$onnx" --input input:32,3,256,192 --precision fp16 \
  --engine_path "$engine"
run "5/6 Measure AP on the drawn people" \
  "$python" "$root/inference.py" --engine "$engine" --datasets "$out/people" --output "$out/accuracy" --visualize 4
run "6/6 Measure throughput" \
  "$python" "$root/inference.py" --engine "$engine" --datasets "$out/people" --output "$out/throughput" --perf_only True

echo
"$python" "$root/scripts/compare.py" "$out"
cat <<END

The AP is for drawn people and a network trained on them.
Predictions on ground truth: $out/accuracy/pictures/overview.jpg
All output: $log
Next, RTMPose-m on COCO: source $venv/bin/activate, then: bash scripts/download.sh, and README.md, "Measure on COCO"
END
