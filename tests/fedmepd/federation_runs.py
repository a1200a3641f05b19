"""A tiny federation on phantoms for tests of whole runs: a server and four sites, seconds to train."""

from __future__ import annotations

from pathlib import Path

from fedmepd.phantom import CohortSpec, federation_of, write_cohorts

OWNED = (("flair", "t1ce"), ("t1", "t2"), ("flair", "t2"))
OWNED_BY_FOUR = (("flair", "t1ce"), ("flair", "t1", "t2"), ("flair", "t2"), ("t1", "t2"))  # three own flair, three t2


def write_federation(
    folder: Path,
    *,
    cases: int = 4,
    edge: int = 24,
    owned: tuple[tuple[str, ...], ...] = OWNED,
    min_contributors: int = 1,
) -> Path:
    """Write cohorts and return the path of a configuration for them."""
    spec = CohortSpec(kind="brain", cases=cases, shape=(edge, edge, edge), seed=5)
    write_cohorts(federation_of(folder / "cohorts", spec, sites=len(owned)), workers=1)
    sites = "".join(
        f'[[sites]]\nid = "site-{i}"\ncohort = "cohorts/site-{i}"\nmodalities = {list(own)}\n'
        for i, own in enumerate(owned, start=1)
    )
    config = folder / "federation.toml"
    config.write_text(
        f"""
width = 4
[run]
name = "tiny"
rounds = 3
seed = 11
[training]
crop = 16
batch = 2
steps = 1
learning_rate = 3e-3
[personalisation]
warmup = 1
patience = 1
min_contributors = {min_contributors}
[split]
validate = 0.25
test = 0.25
[evaluation]
every = 1
window = 24
overlap = 0.0
[compute]
threads = 1
[data]
pad = true
cache = "cache"
[server]
cohort = "cohorts/server"
{sites}"""
    )
    return config
