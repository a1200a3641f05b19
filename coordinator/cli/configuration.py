"""The configuration that `init` writes: complete, commented, and to be edited by a person."""

from __future__ import annotations

import json
from pathlib import Path

FILE_NAME = "coordinator.toml"
_TEMPLATE = """\
# Configuration of a fedmepd coordinator. Check it with: fedmepd-coordinator config check --config {name}
# Relative paths are relative to this file. Secrets do not belong here: FEDMEPD_DATABASE_URL overrides the database,
# FEDMEPD_KEY_PASSPHRASE opens the keys.

[coordinator]
data = "."                    # keys, database, artefacts and unfinished uploads
listen = "0.0.0.0:8443"       # for sites and admins, with client certificates
enrolment = "0.0.0.0:8444"    # for newcomers with a token; close it in the firewall when nobody enrols
# database = "postgresql+psycopg://user@host/fedmepd"   # SQLite in the data folder if not given
# blobs = "s3://bucket/prefix"                          # a folder in the data folder if not given
# max_update_bytes = 1073741824                         # largest upload of a site in one round
# min_free_bytes = 1073741824                           # uploads are refused when the disk has less

[lead]
cohort = {cohort}             # the lead hospital's own, full-modal patients
# layout = "brats2023"                                  # of the folders, if not the one detected
# cache = "lead/cache"
# skip_invalid = false

[compute]
# device = "auto"             # auto, cpu or cuda
# precision = "auto"          # auto, float32 or bfloat16
# threads = 8

# [privacy]                   # budget of each of the lead hospital's patients over all runs; docs/services.md
# epsilon = 8.0
# delta = 1e-4                # below one over the number of training patients

# [metrics]                   # for the operator's own monitoring: /metrics, /healthz, /readyz
# listen = "127.0.0.1:9464"   # empty: nowhere
# certificate = "metrics.pem" # with key, the endpoint speaks TLS; with client_ca, to readers with a certificate only
# key = "metrics.key"
# client_ca = "monitoring-ca.pem"

# [status_page]               # the web page for operators and auditors
# listen = "127.0.0.1:8445"   # empty: no page

# [retention]                 # how long details of what is over are kept
# rounds = 1000
# days = 365
"""


def write_configuration(data: Path, cohort: str) -> tuple[Path, bool]:
    """Write the configuration unless there is one; return where it is and whether it was written."""
    from security import files

    path = data / FILE_NAME
    if path.exists():
        return path, False
    files.write_new(path, _TEMPLATE.format(name=path.name, cohort=json.dumps(cohort)).encode(), files.PUBLIC)
    return path, True
