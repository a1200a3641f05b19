"""A source of randomness for tests: it has the shape of an unpredictable one and repeats itself."""

from __future__ import annotations

import numpy as np


class Repeatable:
    """Normal values and Poisson samples of a seeded generator; what was drawn is kept."""

    def __init__(self, seed=0, *, scale=1.0):
        self.generator = np.random.default_rng(seed)
        self.scale = scale
        self.counts = []
        self.drawn = []

    def normal(self, count):
        self.counts.append(count)
        return (self.scale * self.generator.standard_normal(count)).astype(np.float32)

    def chosen(self, count, rate):
        self.drawn.append([int(i) for i in np.flatnonzero(self.generator.random(count) < rate)])
        return self.drawn[-1]


class Scripted(Repeatable):
    """Draws what it is told to, call by call."""

    def __init__(self, *drawn, scale=1.0):
        super().__init__(scale=scale)
        self.script = list(drawn)

    def chosen(self, count, rate):
        self.drawn.append((count, rate))
        return self.script.pop(0)
