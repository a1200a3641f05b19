#!/usr/bin/env bash
# Writes released/v1.binpb, the schema that later ones must understand. Run it when a release is made, never to make
# the check of protos.compatibility pass: it refuses to replace a released schema that the current one breaks.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
released=protos/released/v1.binpb
if [ -e "$released" ]; then
  "$bin/python" -P -m protos.compatibility
fi
mkdir -p protos/released
"$bin/python" -P -m grpc_tools.protoc -I . --include_imports --descriptor_set_out="$released.new" \
  protos/v1/common.proto protos/v1/enrolment.proto protos/v1/federation.proto protos/v1/admin.proto
mv "$released.new" "$released"
