#!/usr/bin/env bash
# Rewrites lock.txt from pyproject.toml (needs uv). torch stays out of the hash lock: which build of it
# is right (CPU, CUDA 12, CUDA 13) is the machine's business, and its pin stands in torch.txt. The CUDA
# libraries that the default build asks for stay out with it.
set -euo pipefail
cd "$(dirname "$0")/.."
skip=(torch triton cuda-bindings cuda-pathfinder cuda-toolkit)
uv_args=()
resolve() { uv pip compile pyproject.toml --group dev --python-version 3.11 --no-annotate --no-header \
  -c requirements/torch.txt --no-emit-index-url -q "$@"; }
mapfile -t nvidia < <(resolve | sed -n 's/^\(nvidia-[a-z0-9-]*\)==.*/\1/p')
for name in "${skip[@]}" "${nvidia[@]}"; do uv_args+=(--no-emit-package "$name"); done
resolve --generate-hashes "${uv_args[@]}" -o requirements/lock.txt
