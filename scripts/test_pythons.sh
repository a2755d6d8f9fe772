#!/usr/bin/env bash
# Runs quickstart.sh, with an environment of its own, on every Python 3.11 or later of this machine, and prints a table.
#
#   bash scripts/test_pythons.sh [PYTHON|ROOT ...]
#
#   PYTHON   a Python (default: one of each version on the PATH and in ~/.pyenv)
#   ROOT     the folder of another Linux, which has python3 and python3-venv: debootstrap --variant=minbase
#            --include=python3,python3-venv,ca-certificates trixie ROOT. Needs root rights
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=${UV_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/uv}
mkdir -p "$cache"

# in_root ROOT COMMAND...: with this machine's devices, network, certificates, checkout, and packages of uv.
in_root() {
  # shellcheck disable=SC2016
  exec unshare --mount bash -ec 'for path in /dev /proc /sys /etc/hosts /etc/resolv.conf /etc/ssl/certs "${@:2:3}"; do
      if [ -d "$path" ]; then mkdir -p "$1$path"; else touch "$1$path"; fi
      mount --rbind "$path" "$1$path"
    done
    exec chroot "$1" env PIP_FIND_LINKS= "${@:5}"' - "$1" "$root" "$work" "$cache" "${@:2}"
}

places=("$@")
if [ $# = 0 ]; then
  for one in $(compgen -c python3. | sort -u) ~/.pyenv/versions/*/bin/python3; do
    version=$("$one" -I -c 'import sys; print("%d.%d" % sys.version_info[:2] * (sys.version_info >= (3, 11)))' 2>/dev/null)
    if [ -n "$version" ] && [[ " ${versions:-} " != *" $version "* ]]; then
      versions="${versions:-} $version"
      places+=("$(command -v "$one")")
    fi
  done
fi

echo "| Where | Python | Set-up | Quickstart | Lines | AP@0.5:0.95 |"
echo "|---|---|---|---|---|---|"
code=0
for place in "${places[@]}"; do
  folder=$(mktemp -d "$work/XXX")
  begin=$SECONDS
  quickstart=(env HOME="$folder" UV_CACHE_DIR="$cache" VENV="$folder/venv" bash "$root/scripts/quickstart.sh" "$folder/out")
  if [ -d "$place" ]; then
    wait_for in_root "$(realpath "$place")" "${quickstart[@]}"
  else
    PYTHON=$place wait_for "${quickstart[@]}"
  fi >"$folder/log" 2>&1 || code=1
  summary=$(python3 -I -c "import json
summary = json.load(open('$folder/out/accuracy/summary.json'))
print(summary['versions']['python'], '|', f'{summary[\"AP\"]:.3f}')" 2>/dev/null || echo "- | failed")
  echo "| $place | ${summary% |*} | $(sed -n 's/.*ready: .*, \(.*\) s\. Next.*/\1 s/p' "$folder/log") | $((SECONDS - begin)) s |" \
    "$(wc -l <"$folder/log") | ${summary##*| } |"
  if [[ $summary = *failed ]]; then tail -n 15 "$folder/log" | sed 's/^/  /' >&2; fi
done
exit "$code"
