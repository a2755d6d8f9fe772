#!/usr/bin/env bash
# Compiles the dependencies in pyproject.toml into requirements.txt and requirements/*.txt, with uv, for every Python and
# machine. To take newer versions, set the day in requirements/uv.toml first.
#
#   bash scripts/lock.sh [--check]
#
#   --check    write nothing; exit with 1 and the differences if a file is not what pyproject.toml gives, with 2 if that
#              can't be told
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ "${1:---check}" = --check ] || die "$1: no such option, expected --check"
find_uv || die "uv is not installed; run scripts/setup.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/requirements"
cd "$root"

# compile FILE WHAT...: without the file that is there, whose versions uv would keep.
compile() {
  wait_for "$uv" pip compile --quiet --config-file requirements/uv.toml --universal --fork-strategy fewest --no-annotate \
    --custom-compile-command "bash scripts/lock.sh" --output-file "$folder/$1" "${@:2}" >/dev/null ||
    die "$1: uv could not compile it (see above)"
}

compile requirements.txt pyproject.toml
for group in mmpose compare test tensorrt-cu12 tensorrt-cu13 tensorrt-rtx-cu12 tensorrt-rtx-cu13; do
  compile "requirements/$group.txt" --group "$group" --constraint "$folder/requirements.txt"
done
cp requirements/uv.toml "$folder/requirements"
code=0
if [ "${1:-}" = --check ]; then
  diff -u requirements.txt "$folder/requirements.txt" || code=1
  diff -ru requirements "$folder/requirements" || code=1
else
  cp -r "$folder"/requirements* .
fi
exit "$code"
