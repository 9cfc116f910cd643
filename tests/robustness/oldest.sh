#!/usr/bin/env bash
# The tests with the oldest versions that pyproject.toml declares, in a virtual environment of their own.
#
#     tests/robustness/oldest.sh sample [PYTHON]     core, files, and a sample of every rule: a part of .ci/run
#     tests/robustness/oldest.sh all [PYTHON]        all tests
#
# PYTHON: an interpreter for which wheels of the oldest versions exist, 3.11 or 3.12 [default: python3.11, else
# python3]. Exits with 77 when it is another.
set -euo pipefail
cd "$(dirname "$0")/../.."
part=${1:?sample or all}
python=${2:-$(command -v python3.11 || echo python3)}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
  echo "oldest.sh: there are no wheels of the oldest versions for $("$python" --version); give a Python 3.11" >&2
  exit 77
}
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"$python" -m venv "$environment/venv"
# shellcheck disable=SC1091
. "$environment/venv/bin/activate"

# Each lower bound of [project] dependencies as an exact version; markers stay.
python - > "$environment/oldest.txt" <<'PYTHON'
import re
import tomllib
from pathlib import Path

for line in tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]:
    requirement, _, marker = line.partition(";")
    name, bound = re.match(r"\s*([\w.-]+)\s*>=\s*([\w.]+)", requirement).groups()
    print(f"{name}=={bound}" + (f"; {marker.strip()}" if marker else ""))
PYTHON
cat "$environment/oldest.txt" >&2
pip install --quiet --only-binary :all: -r "$environment/oldest.txt"
pip install --quiet pytest pytest-xdist hypothesis jsonschema matplotlib pillow
export PYTHONPATH=$PWD

python -m onnxtune --version
python -m onnxtune doctor
# An error that the newest versions do not know is one, too; warnings of old versions about themselves are not.
run=(python -m pytest -q -o addopts= --strict-markers -W ignore -p no:cacheprovider -n auto)
case $part in
  sample)
    "${run[@]}" tests/test_model_io.py tests/test_cache.py tests/test_domains.py tests/test_facts.py tests/test_feeds.py \
      tests/test_pattern.py tests/test_apply.py tests/test_verify.py tests/test_runtime.py
    "${run[@]}" --sample 3 tests/rules tests/test_cli.py tests/test_tune.py tests/robustness/test_strange.py
    ;;
  all)
    "${run[@]}" tests
    ;;
  *)
    echo "oldest.sh: sample or all, not $part" >&2
    exit 2
    ;;
esac
