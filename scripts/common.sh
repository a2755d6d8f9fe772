# shellcheck shell=bash
# What the scripts beside this one share. To be sourced: they use what seems unused here.
# shellcheck disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=$(basename "$0")
venv=$(realpath -m "${VENV:-$root/.venv}")
python=python3
if [ -x "$venv/bin/python" ]; then python=$venv/bin/python; fi

say() { echo "$script: $*"; }

# die MESSAGE [EXIT_CODE]: 2, the default, is for a user's mistake.
die() {
  echo "$script: $1" >&2
  exit "${2:-2}"
}

# Prints the comment at the top of the script.
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

# install_once FILE [PIP_OPTION...]: installs a requirements file, unless it was installed as it is now.
install_once() {
  local file=$1 stamp=$venv/.installed-$1 state
  shift
  state=$({ "$venv/bin/python" --version && cat "$root/$file"; } | sha256sum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
    say "$file: already installed"
    return
  fi
  say "$file: installing: $(sed -n '1s/^# //p' "$root/$file")"
  # pip would warn of what mmpose asks for and requirements-mmpose.txt leaves out.
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --no-warn-conflicts "$@" -r "$root/$file" ||
    die "$file: pip could not install it, for the reason above; put that right and run this again" 1
  echo "$state" >"$stamp"
}

check_model() {
  [ -f "$model" ] || die "$model: no such file, expected the ONNX graph; make it with: python3 export.py --weight CHECKPOINT.pth --cfg rtmpose-m_8xb256-420e_coco-256x192.py --output rtmpose.onnx && onnxsim rtmpose.onnx $model"
}

check_datasets() {
  [ -n "$datasets" ] || die "DATASETS_DIR is not set, expected COCO's folder; set it or give --datasets DIR (scripts/download.sh fetches COCO val2017)"
  [ -d "$datasets" ] || die "$datasets: no such folder, expected COCO's; set DATASETS_DIR or --datasets to it (scripts/download.sh fetches COCO val2017)"
}

# The options of the two infer_*.sh scripts, into bs, model, engine, input, datasets and extra.
parse_infer_options() {
  bs=32 model=${MODEL:-rtmpose_opt.onnx} engine='' input='' datasets=${DATASETS_DIR:-} extra=()
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage; exit ;;
      --) extra+=("${@:2}"); break ;;
    esac
    [ $# -ge 2 ] || die "$1: expected a value after it, or it is no option (see --help)"
    case $1 in
      --bs) bs=$2 ;;
      --model) model=$2 ;;
      --engine) engine=$2 ;;
      --input) input=$2 ;;
      --datasets) datasets=$2 ;;
      --acc_target | --fps_target) extra+=("$1" "$2") ;;
      *) die "$1: no such option (see --help); options of inference.py go after --" ;;
    esac
    shift 2
  done
  if [ -n "$input" ]; then bs=$(cut -d: -f2 <<<"$input" | cut -d, -f1); fi
  [[ $bs =~ ^[1-9][0-9]*$ ]] || die "batch size '$bs': expected a whole number from 1, as in --bs 32 or --input input:32,3,256,192"
  input=${input:-input:$bs,3,256,192}
  engine=${engine:-rtmpose_bs_${bs}_fp16.engine}
  check_model
}
