#!/usr/bin/env bash
# Writes the Python code and stubs of protos/v1/*.proto beside them. CI runs it and fails on a difference.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
PATH="$PWD/$bin:$PATH" "$bin/python" -P -m grpc_tools.protoc -I . --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. \
  protos/v1/common.proto protos/v1/enrolment.proto protos/v1/federation.proto protos/v1/admin.proto
