"""What sites demand of a sum, and whether the sites that are there can meet it (SPEC 10.2, 10.10).

The rule itself is that of `security.secagg`, over a setting that holds only what the rule looks at. Here it saves
everybody a round that no site would help to open; what protects sites is that each of them applies it.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.session.turn import Turn
from security.errors import SmallCohortError
from security.secagg import COMMON, Advertisement, Demands, KeySet, Party, Segment, Setting, too_demanding


def left_out(turn: Turn, sites: Sequence[str]) -> tuple[str, ...]:
    """Return the sites whose demands the others cannot meet, the largest first (SPEC 10.2)."""
    advertised = _advertisements(turn, sites)
    out = set(too_demanding(tuple(advertised.values())))
    left = sorted((site for site in sites if site not in out), key=lambda site: (_of(turn, site).minimum, site))
    while left:
        try:
            check_common(turn, left)
        except SmallCohortError:
            out.add(left.pop())
        else:
            return tuple(sorted(out))
    return tuple(sorted(too_demanding(tuple(advertised.values()))))  # nobody is to blame


def check_common(turn: Turn, sites: Sequence[str]) -> None:
    """Check that the segment of all sites may be opened with these.

    Raises:
        SmallCohortError: If not, with the reason.
    """
    keys = KeySet(setting=_setting(turn), advertisements=tuple(_advertisements(turn, sorted(sites)).values()))
    keys.check_open(keys.setting.common, sites)


def _setting(turn: Turn) -> Setting:
    """Return as much of the setting as the rule looks at."""
    terms = turn.round.terms
    task = None if terms is None else terms.task
    segments = () if task is None else task.segments
    roster = () if task is None else task.roster
    return Setting(
        consortium="",
        run=turn.state.run,
        round_number=turn.round.id.round_number,
        attempt=turn.round.id.attempt,
        membership_version=0,
        membership_digest=b"",
        spec_hash=b"",
        layout_digest=b"",
        formats=(),
        parties=tuple(Party(site=known.site, modalities=known.modalities, identity_key=b"") for known in roster),
        segments=tuple(Segment(name=s.name, values=s.values, least_open=s.least_open) for s in segments)
        or (Segment(name=COMMON, values=0, least_open=0),),
        broadcast=(),
        previous=() if task is None else task.previous,
        run_sites=turn.state.sites,
    )


def _advertisements(turn: Turn, sites: Sequence[str]) -> dict[str, Advertisement]:
    return {
        site: Advertisement(site=site, channel_key=b"", mask_key=b"", demands=_of(turn, site), signature=b"")
        for site in sites
    }


def _of(turn: Turn, site: str) -> Demands:
    known = turn.round.participant(site)
    if known is None or not known.minimum:
        raise SmallCohortError(f"{site} has advertised no demands")
    return Demands(minimum=known.minimum, colluders=known.colluders)
