"""A federation on a tiny network whose training is a known change of its weights, for tests of rounds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from fedmepd.aggregation import Accumulator, open_sum, quantisation
from fedmepd.layout import build_layout, roster_of
from fedmepd.methods import get_method
from fedmepd.round_state import Rules
from fedmepd.rounds import broadcast, server_round, server_start, site_round, site_start
from fedmepd.seeds import seed_of
from fedmepd.training import Trained

MODALITIES = ("a", "b", "c")
REGIONS = ("WT", "TC")
EMBED = "decoder.level1.prm.embed1.conv.weight"
HIDDEN = "decoder.level1.fusion.modality_weights.hidden.0.weight"
SCORE = "decoder.level1.fusion.modality_weights.score.0.weight"
CLASSIFY = "decoder.classify.weight"
SHAPES = {
    **{f"encoders.{m}.first.weight": (2, 1, 3, 1, 1) for m in MODALITIES},
    EMBED: (2, 6, 1, 1, 1),
    HIDDEN: (3, 7, 1, 1, 1),
    HIDDEN.replace(".weight", ".bias"): (3,),
    SCORE: (3, 3, 1, 1, 1),
    SCORE.replace(".weight", ".bias"): (3,),
    CLASSIFY: (2, 4, 1, 1, 1),
    "decoder.classify.bias": (2,),
}
PRIVATE = {"auxiliary.classify.weight": (2, 2), "calibration.level1.query.weight": (2, 2)}
TOLERANCE = 1e-6  # fixed point at a handful of sites: steps of 2^-25 and finer
EVERYONE = {"s1": ("a", "b", "c"), "s2": ("a", "b"), "s3": ("a",), "s4": ("b", "c"), "s5": ("a", "c")}
CLIP_SITES = 8


def fresh_weights(own=MODALITIES, *, private=False):
    names = {n: s for n, s in SHAPES.items() if not n.startswith("encoders.") or n.split(".")[1] in own}
    names |= PRIVATE if private else {}
    return {n: torch.randn(s, generator=torch.Generator().manual_seed(seed_of("test", n))) for n, s in names.items()}


@dataclass
class Drift:
    """Training that adds a known change to every weight, and remembers what it was given."""

    change: object  # a number, or a function of (name, shape, round)
    loss: float = 1.0
    seen: list = field(default_factory=list)

    def __call__(self, weights, moments, anchors, round_number):
        self.seen.append((dict(weights), dict(moments), anchors, round_number))
        new = {name: tensor + self._of(name, tensor.shape, round_number) for name, tensor in weights.items()}
        return Trained(weights=new, moments={"m/step": torch.ones(1)}, loss=self.loss, steps=2, seconds=0.0)

    def _of(self, name, shape, round_number):
        return self.change(name, shape, round_number) if callable(self.change) else self.change


def noise(who, scale=0.1):
    def change(name, shape, round_number):
        generator = torch.Generator().manual_seed(seed_of("noise", who, name, round_number))
        return scale * torch.randn(shape, generator=generator)

    return Drift(change)


def rules_for(method="fedmepd", **options):
    chosen = get_method(method)
    layout = build_layout(
        SHAPES, MODALITIES, encoders=chosen.encoders, decoder=chosen.decoder != "local", regions=REGIONS
    )
    settings = {"run": "test", "warmup": 0, "patience": 2, "formats": quantisation(sites=CLIP_SITES), **options}
    return Rules(method=chosen, layout=layout, **settings)


@dataclass
class Federation:
    """A server and its sites, round by round."""

    rules: Rules
    owned: dict
    sites: dict = field(default_factory=dict)
    server: object = None
    opened: list = field(default_factory=list)
    contributions: list = field(default_factory=list)

    def __post_init__(self):
        self.roster = roster_of(self.rules.layout, list(self.owned.values()))
        self.server, _ = server_start(fresh_weights(), Drift(0.0), None, self.roster, self.rules)
        for site, own in self.owned.items():
            self.sites[site] = site_start(fresh_weights(own, private=True), {}, self.rules, own)

    def run(self, trainers, *, samples=None, server=None, order=None, present=None):
        total = Accumulator(layout=self.rules.layout)
        contributions = {}
        for site in present or order or self.owned:
            own = self.owned[site]
            received = broadcast(self.server, self.rules, own, self.roster)
            result = site_round(
                self.sites[site],
                received,
                trainers[site],
                rules=self.rules,
                own=own,
                site=site,
                samples=(samples or {}).get(site, 10),
            )
            self.sites[site] = result.state
            contributions[site] = result.contribution
            total.add(result.contribution)
        self.opened.append(open_sum(total, self.rules.formats))
        self.contributions.append(contributions)
        self.server, trained = server_round(self.server, self.opened[-1], server or Drift(0.0), None, rules=self.rules)
        return trained

    def segment(self, name):
        return next(segment for segment in self.rules.layout.segments if segment.name == name)

    def filters(self, weights, name):
        """A segment's filter values out of weights."""
        return self.segment(name).gather_filters({n: t.numpy() for n, t in weights.items()})

    def contributors(self, round_index, name):
        """How many sites gave each slot a weight in a round, read from what they sent."""
        segment = self.segment(name)
        start = segment.plain_values + segment.filter_values
        vectors = [c.vectors[name] for c in self.contributions[round_index].values() if name in c.vectors]
        return sum((v[start : start + segment.slots] > 0).astype(int) for v in vectors)

    def set_patience(self, site, name, slots, count):
        state = self.sites[site]
        new = state.slots[name].patience.copy()
        new[slots] = count
        self.sites[site] = replace(state, slots={**state.slots, name: replace(state.slots[name], patience=new)})

    def set_status(self, site, name, slots, status):
        state = self.sites[site]
        new = state.slots[name].status.copy()
        new[slots] = status
        self.sites[site] = replace(state, slots={**state.slots, name: replace(state.slots[name], status=new)})
