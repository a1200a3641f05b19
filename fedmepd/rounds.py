"""What a round means: state in, state out. Used unchanged by the simulation and by the services.

Everything here is a function of its arguments. Training itself comes in as a function (`Train`), as does the release
of anchors, so neither data nor privacy mechanisms are known here.

Order of events in round r (1..R): the server's state gives a `Broadcast`; each site merges it with its personal
filters, trains, and contributes (`site_round`); the sums are opened; the server applies them, trains on its full-modal
patients and refreshes the anchors (`server_round`). Round 0 is `server_start`.

Source: paper section "training", method section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fedmepd.aggregation import Opened, OpenedSegment, SegmentUpdate, pack
from fedmepd.layout import FloatArray, Layout, Segment
from fedmepd.personalization import SlotState, Status, advance, apply_announced, fresh, open_slots
from fedmepd.round_state import AnchorRelease, Broadcast, Rules, ServerState, SiteResult, SiteState, Train
from fedmepd.training import Trained

SERVER_SHARE = 0.3  # of the server's own decoder in the new global one


def start_weights(state: ServerState, rules: Rules) -> dict[str, Tensor]:
    """Return what a site takes from the server before its first round: all after round 0 that is no encoder.

    Encoders come with the segments; where nothing is federated, nothing is taken.
    """
    if not rules.method.federated:
        return {}
    return {name: tensor for name, tensor in state.weights.items() if not name.startswith("encoders.")}


def site_start(
    weights: Mapping[str, Tensor], start: Mapping[str, Tensor], rules: Rules, own: Sequence[str]
) -> SiteState:
    """Return a site's state before its first round.

    Args:
        weights: The site's fresh weights.
        start: The server's `start_weights`; they win over fresh ones.
        rules: The run's rules.
        own: Modalities of the site.
    """
    slots = {s.name: fresh(s, patience=rules.patience) for s in rules.layout.for_member(own)}
    taken = {name: start.get(name, tensor).clone() for name, tensor in weights.items()}
    return SiteState(round_number=0, weights=taken, moments={}, slots=slots)


def server_start(
    weights: Mapping[str, Tensor], train: Train, release: AnchorRelease | None, roster: Mapping[str, int], rules: Rules
) -> tuple[ServerState, Trained]:
    """Round 0: one server training from random weights, first anchors.

    Args:
        weights: Fresh weights.
        train: The server's training.
        release: Makes anchors from weights, previous anchors and round; None for methods without.
        roster: Sites per segment.
        rules: The run's rules.
    """
    trained = train(weights, {}, None, 0)
    counts = {s.name: np.full(s.slots, roster[s.name], np.int64) for s in rules.layout.segments}
    anchors = None if release is None else release(trained.weights, None, 0)
    state = ServerState(
        round_number=0, weights=trained.weights, moments=trained.moments, anchors=anchors, counts=counts
    )
    return state, trained


def thin_segments(rules: Rules, roster: Mapping[str, int]) -> dict[str, int]:
    """Return the segments that have too few sites ever to be averaged, with their number of sites."""
    return {
        s.name: roster[s.name]
        for s in rules.layout.segments
        if s.plain_values + s.filter_values and roster[s.name] - rules.dropouts < rules.minimum
    }


def broadcast(state: ServerState, rules: Rules, own: Sequence[str], roster: Mapping[str, int]) -> Broadcast:
    """Select what a site that owns these modalities downloads in the next round."""
    segments, arrays = rules.layout.for_member(own), _arrays(state.weights)
    return Broadcast(
        round_number=state.round_number + 1,
        plain={s.name: s.gather_plain(arrays) for s in segments},
        filters={s.name: s.gather_filters(arrays) for s in segments},
        anchors=state.anchors,
        counts={s.name: state.counts[s.name] for s in segments},
        owners={s.name: roster[s.name] for s in segments},
        samples=state.samples,
    )


def site_round(
    state: SiteState, received: Broadcast, train: Train, *, rules: Rules, own: Sequence[str], site: str, samples: int
) -> SiteResult:
    """A site's part of a round: personalise, merge, train, contribute.

    The contribution is made before the round is validated: the score that it brings is that of the state's last
    validation, none where sites train privately.

    Args:
        state: The site after its last round.
        received: This round's broadcast.
        train: Local training.
        rules: The run's rules.
        own: Modalities of the site.
        site: Its id.
        samples: Its training patients.

    Returns:
        New state, the contribution, and what training did.

    Raises:
        UpdateError: If training diverged.
    """
    segments = rules.layout.for_member(own)
    slots = {s.name: _personalise(s, state, received, rules, samples) for s in segments}
    start = {name: tensor.clone() for name, tensor in state.weights.items()}
    _merge(start, received, slots, segments)
    trained = train(start, state.moments, received.anchors, received.round_number)
    before, after = _arrays(start), _arrays(trained.weights)
    _hold_still(before, after, rules.layout, own)
    moved = {s.name: s.gather_filters(after) - s.gather_filters(before) for s in segments}
    updates = {
        s.name: SegmentUpdate(
            plain=_plain_update(s, before, after, received, rules),
            filters=moved[s.name],
            weights=_contributed(s, slots[s.name], received, rules),
            counts=_announced(slots[s.name], rules),
        )
        for s in segments
    }
    contribution = pack(
        updates,
        {"samples": samples, "loss": 0.0 if rules.private else (trained.loss or 0.0) * samples, "steps": trained.steps},
        layout=rules.layout,
        formats=rules.formats,
        stream=(rules.run, received.round_number),
        site=site,
        dice={} if rules.private else state.dice,
    )
    after_state = SiteState(
        round_number=received.round_number,
        weights=trained.weights,
        moments=trained.moments,
        slots=slots,
        received={s.name: received.filters[s.name] for s in segments},
        moved=moved,
        dice=state.dice,
    )
    return SiteResult(state=after_state, contribution=contribution, trained=trained)


def server_round(
    state: ServerState, opened: Opened | None, train: Train, release: AnchorRelease | None, *, rules: Rules
) -> tuple[ServerState, Trained]:
    """The server's part of a round: apply the opened sums, train, refresh the anchors.

    Encoders become the mean over their owners; a decoder filter becomes 0.3 of the server's and 0.7 of the weighted
    mean, or stays the server's where nobody contributed.

    Args:
        state: The server after the last round.
        opened: Sums of this round; None if it failed, which leaves the server's own epoch.
        train: The server's training.
        release: Makes anchors from weights, previous anchors and round; None for methods without.
        rules: The run's rules.
    """
    round_number = state.round_number + 1
    weights = {name: tensor.clone() for name, tensor in state.weights.items()}
    arrays = _arrays(weights)
    totals = {} if opened is None else opened.segments
    for segment in rules.layout.segments:
        total = totals.get(segment.name)
        if total is None or total.contributors < rules.minimum:
            continue  # too few survivors: these parameters are left to the server's own training
        segment.scatter_plain(segment.gather_plain(arrays) + total.plain, arrays)
        change = (1 - SERVER_SHARE) * total.filters * segment.per_value(total.contributed)
        segment.scatter_filters(segment.gather_filters(arrays) + change.astype(np.float32), arrays)
    trained = train(weights, state.moments, None, round_number)
    anchors = state.anchors if release is None else release(trained.weights, state.anchors, round_number)
    new = ServerState(
        round_number=round_number,
        weights=trained.weights,
        moments=trained.moments,
        anchors=anchors,
        counts={s.name: _announced_counts(s, state, totals.get(s.name), rules) for s in rules.layout.segments},
        samples=state.samples if opened is None else opened.scalars["samples"],
    )
    return new, trained


def personal_fractions(state: SiteState, rules: Rules, own: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Count a site's (personal, all) slots per layer of the decoder."""
    totals: dict[str, tuple[int, int]] = {}
    for segment in rules.layout.for_member(own):
        personal = state.slots[segment.name].status != Status.FEDERATED
        start = 0
        for piece in segment.filters:
            stop = start + piece.filters
            seen = totals.get(piece.layer, (0, 0))
            totals[piece.layer] = (seen[0] + int(personal[start:stop].sum()), seen[1] + piece.filters)
            start = stop
    return totals


def _personalise(segment: Segment, state: SiteState, received: Broadcast, rules: Rules, samples: int) -> SlotState:
    """Update a segment's slots from the change between the last broadcast and this one."""
    slots = apply_announced(state.slots[segment.name])
    trained_last = state.round_number == received.round_number - 1 and segment.name in state.received
    due = rules.method.decoder == "partial" and received.round_number > rules.warmup
    if not (due and trained_last and segment.slots and received.samples):
        return slots
    return advance(
        slots,
        segment,
        global_change=received.filters[segment.name] - state.received[segment.name],
        local_change=state.moved[segment.name],
        sample_share=samples / received.samples,
        patience=rules.patience,
    )


def _merge(
    start: Mapping[str, Tensor], received: Broadcast, slots: Mapping[str, SlotState], segments: Sequence[Segment]
) -> None:
    """Overwrite a site's weights by the download, except its personal filters."""
    arrays = _arrays(start)
    for segment in segments:
        segment.scatter_plain(received.plain[segment.name], arrays)
        personal = segment.per_value(slots[segment.name].status == Status.PERSONAL)
        merged = np.where(personal, segment.gather_filters(arrays), received.filters[segment.name])
        segment.scatter_filters(merged.astype(np.float32), arrays)


def _hold_still(
    before: Mapping[str, FloatArray], after: Mapping[str, FloatArray], layout: Layout, own: Sequence[str]
) -> None:
    """Undo what weight decay did to blocks of modalities that the site lacks: they must not move."""
    for segment in layout.segments:
        if segment.modality is not None and segment.modality not in own:
            segment.scatter_filters(segment.gather_filters(before), after)


def _plain_update(
    segment: Segment,
    before: Mapping[str, FloatArray],
    after: Mapping[str, FloatArray],
    received: Broadcast,
    rules: Rules,
) -> FloatArray:
    """Return the change of plain values, or zeros where too few sites could contribute."""
    change = segment.gather_plain(after) - segment.gather_plain(before)
    enough = received.owners[segment.name] - rules.dropouts >= rules.minimum
    return change if enough else np.zeros_like(change)


def _contributed(segment: Segment, slots: SlotState, received: Broadcast, rules: Rules) -> FloatArray:
    """Return H where the site contributes to a slot in this round, else 0."""
    is_open = open_slots(received.counts[segment.name], minimum=rules.minimum, dropouts=rules.dropouts)
    shares = np.ones_like(is_open) if rules.contribute_all else slots.status != Status.PERSONAL
    return np.where(is_open & shares, slots.weight, 0).astype(np.float32)


def _announced(slots: SlotState, rules: Rules) -> FloatArray:
    """Return 1 for each slot that the site will contribute to in the next round."""
    if rules.contribute_all:
        return np.ones(len(slots.status), np.float32)
    return np.where(slots.status == Status.FEDERATED, 1, 0).astype(np.float32)


def _announced_counts(
    segment: Segment, state: ServerState, total: OpenedSegment | None, rules: Rules
) -> npt.NDArray[np.int64]:
    """Return the contributors of a segment's slots in the next round, as far as this round's sum announced them.

    Without a sum nobody knows which slots became personal since, so they stay closed until the next sum; where every
    site contributes every slot, there is nothing to know.
    """
    if total is not None and total.contributors >= rules.minimum:
        return total.counts
    known = state.counts[segment.name]
    return known if rules.contribute_all or rules.method.decoder != "partial" else np.zeros_like(known)


def _arrays(weights: Mapping[str, Tensor]) -> dict[str, FloatArray]:
    """View tensors as arrays; writing to an array writes to its tensor."""
    return {name: tensor.numpy() for name, tensor in weights.items()}
