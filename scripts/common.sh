# shellcheck shell=bash
# Shared by the scripts in this folder, which source it and use the variables that seem unused here.
# shellcheck disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
script=$(basename "$0")
venv=$(realpath -m "${VENV:-$root/.venv}")
log=$venv/setup.log
python=python3
if [ -x "$venv/bin/python" ]; then python=$venv/bin/python; fi
unset PYTHONDONTWRITEBYTECODE  # of many containers: each process would compile what it imports, for 0.2 s

# wait_for COMMAND...: runs a command, and returns its exit code. A signal ends it, and then the script: bash handles
# signals at once only while it waits for a command in the background. The last command of a script is exec'd instead.
wait_for() {
  trap 'stop 130' INT
  trap 'stop 143' TERM
  trap 'stop 129' HUP
  if [ "$(type -t "$1")" = function ]; then "$@" & else (trap - INT && exec "$@") & fi  # which ignores SIGINT otherwise
  wait $!
}

# stop CODE: ends the command in the background, and then the script.
stop() {
  trap '' INT TERM HUP
  # shellcheck disable=SC2046
  kill $(jobs -rp) 2>/dev/null || true
  wait 2>/dev/null
  exit "$1"
}

say() { echo "$script: $*"; }

# die MESSAGE [EXIT_CODE]: the default, 2, means a user error.
die() {
  case $1 in
    *[[:cntrl:]]*) printf '%s: %q\n' "$script" "$1" >&2 ;;
    *) echo "$script: $1" >&2 ;;
  esac
  exit "${2:-2}"
}

# Prints the comment at the top of the script.
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }
case ${1:-} in -h | --help) usage; exit ;; esac

# -I wherever Python gets no script: the modules of the current folder, say a zipfile.py, must not replace the library's.

# step TITLE COMMAND...: runs a command, and says in one line what it took. What it prints goes to $log, and with -v also
# to the screen. Returns its exit code.
step() {
  local start=$SECONDS before added code=0 screen=''
  printf '%s: %s: ' "$script" "$1"
  before=$(du -sm "$venv" | cut -f 1)
  if [ -n "${KIT_VERBOSE:-}" ]; then
    echo
    exec 3> >(exec tee "$venv/step.log")
    screen=$!
  else
    exec 3>"$venv/step.log"
  fi
  wait_for "${@:2}" >&3 2>&1 3>&- || code=$?
  exec 3>&-
  if [ -n "$screen" ]; then wait "$screen"; fi
  { echo "== $1" && cat "$venv/step.log"; } >>"$log"
  added=$(($(du -sm "$venv" | cut -f 1) - before))
  if [ "$code" != 0 ]; then
    echo "failed"
  elif grep -qE '^(Audited|Checked) ' "$venv/step.log"; then  # uv found nothing to do
    echo "already installed"
  else
    if [ "$added" -gt 0 ]; then printf '%s MB, ' "$added"; fi
    echo "$((SECONDS - start)) s"
  fi
  return "$code"
}

# failed MESSAGE [EXIT_CODE]: ends the script with the last lines of the step before, and a message.
failed() {
  tail -n 10 "$venv/step.log" | sed 's/^/  /' >&2
  die "$1 (all output: $log)" "${2:-1}"
}

# install TITLE OPTION...: a step that installs packages by uv. A file of pins names all that its packages need.
install() {
  step "$1" "$uv" pip install --python "$venv/bin/python" --no-deps "${@:2}"
}

# find_uv: sets uv to one that works, the environment's or an installed one, or returns 1.
find_uv() {
  for uv in "$venv/bin/uv" uv; do
    if printf '0.5.0\n%s\n' "$("$uv" --version 2>/dev/null | cut -d ' ' -f 2)" | sort -VC; then return; fi
  done
  return 1
}

check_model() {
  [ -f "$model" ] || die "$model: no such file, expected the ONNX graph; create it with: python3 export.py --weight CHECKPOINT.pth --cfg rtmpose-m_8xb256-420e_coco-256x192.py --output rtmpose.onnx && onnxsim rtmpose.onnx $model"
}

check_datasets() {
  [ -n "$datasets" ] || die "DATASETS_DIR is not set, expected COCO's folder; set it or give --datasets DIR (scripts/download.sh fetches COCO val2017)"
  if [ -f "$datasets" ]; then die "$datasets: is a file, expected COCO's folder; set DATASETS_DIR or --datasets to it"; fi
  [ -d "$datasets" ] || die "$datasets: no such folder, expected COCO's; set DATASETS_DIR or --datasets to it (scripts/download.sh fetches COCO val2017)"
}

# parse_options NAMES OPTION...: sets the variable NAME of each option --NAME VALUE, and extra to what follows --.
parse_options() {
  local names=$1
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage; exit ;;
      --) extra=("${@:2}"); break ;;
    esac
    [ $# -ge 2 ] || die "$1: expected an option with a value (see --help)"
    [[ $1 = --* && " $names " = *" ${1#--} "* ]] ||
      die "$1: no such option (see --help); options of inference.py go after --"
    printf -v "${1#--}" %s "$2"
    shift 2
  done
}

# Parses the options of the two infer_*.sh scripts into bs, model, engine, datasets, extra, and the options of
# build_engine.py and inference.py that describe the input: build_input and infer_input.
parse_infer_options() {
  bs=32 model=${MODEL:-rtmpose_opt.onnx} engine='' input='' datasets=${DATASETS_DIR:-} acc_target='' fps_target='' extra=()
  parse_options "bs model engine input datasets acc_target fps_target" "$@"
  extra=(${acc_target:+--acc_target "$acc_target"} ${fps_target:+--fps_target "$fps_target"} "${extra[@]}")
  if [ -n "$input" ]; then bs=$(cut -d: -f2 <<<"$input" | cut -d, -f1); fi
  [[ $bs =~ ^[1-9][0-9]*$ ]] || die "batch size '$bs': expected a whole number from 1, as in --bs 32 or --input input:32,3,256,192"
  build_input=(--batch "$bs") infer_input=()  # its name and size are the graph's
  if [ -n "$input" ]; then build_input=(--input "$input") infer_input=(--input_name "${input%%:*}"); fi
  engine=${engine:-rtmpose_bs_${bs}_fp16.engine}
  check_model
}
