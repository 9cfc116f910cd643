#!/usr/bin/env bash
# The oldest versions that pyproject.toml declares, in a virtual environment of their own, and a smoke part of the tests.
#
#     tests/robustness/oldest.sh [PYTHON]
#
# PYTHON: an interpreter for which wheels of the oldest versions exist (3.11: all of them).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
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
pip install --quiet pytest hypothesis pillow
pip install --quiet --no-deps --no-build-isolation -e . 2> /dev/null || export PYTHONPATH=$PWD

python -m onnxtune --version
python -m onnxtune doctor
python -m onnxtune demo --providers cpu --threads 1 > /dev/null
smoke=(tests/test_model_io.py tests/test_facts.py tests/test_apply.py tests/test_pattern.py tests/test_propose.py
  tests/test_verify.py tests/test_runtime.py tests/test_cache.py tests/test_cli.py tests/test_tune.py
  tests/test_localcheck.py tests/test_ranges.py tests/rules tests/calibrate/test_optimize_calibrated.py)
python -m pytest -q -x -o addopts= -p no:cacheprovider "${smoke[@]}"
