"""What a run is said to bear before it begins."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from coordinator.starting import outlook
from fedmepd.plan import parse_plan
from fedmepd.runspec import make_spec
from security.membership import MembershipList

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWN = {f"site{i}": ("flair", "t1ce", "t1", "t2") for i in range(7)}


@pytest.mark.parametrize(
    ("method", "personal", "tolerated"),
    [
        ("fedmepd", {}, 0),
        ("fedmepd", {"tolerated_dropouts": 1}, 1),
        ("fedmepd", {"contribute": "all"}, 2),
        ("fedavg-encoders", {}, 2),
    ],
)
def test_partly_personal_filters_bear_no_more_dropouts_than_the_plan_tolerates(
    method: str, personal: dict[str, object], tolerated: int
) -> None:
    data = {"run": {"name": "run", "rounds": 2, "methods": [method]}, "personalisation": personal}
    spec = make_spec(parse_plan(data, source="test"), run_id="run", sites=OWN)
    listed = MembershipList(consortium="test", version=1, issued_at=NOW, minimum_cohort=3, members=())
    found = {one.segment: one.tolerated for one in outlook(spec, listed).segments}
    assert found["common"] == tolerated
    assert found["modality/t1"] == 2, "an encoder has no filters of anybody's own"
