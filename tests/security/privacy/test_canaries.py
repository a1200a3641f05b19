"""The audit of the anchor release: a sound mechanism passes, broken ones are caught, and bounds are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from security.errors import PrivacyError
from security.privacy import anchor_vectors
from security.privacy.anchor_release import release
from security.privacy.bits import RandomBits
from security.privacy.canaries import Setting, audit, clopper_pearson

KEY = bytes(range(32))
SETTING = Setting(noise=2.0, trials=1500)


def halved(*table, noise, **options):
    return release(*table, noise=noise / 2, **options)


def audited(setting=SETTING, mechanism=release, key=KEY, **options):
    return audit(setting, mechanism, randomness=RandomBits(key), **options)


def test_the_release_does_not_contradict_its_claim():
    found = audited()
    assert not found.broken
    assert 0 < found.strength_lower < found.strength_claimed == 0.5
    assert 0 <= found.epsilon_lower <= found.epsilon_lower_gaussian < found.epsilon_claimed
    assert found.epsilon_claimed == pytest.approx(1.99, abs=0.01)


def test_the_bounds_come_close_to_the_claim():
    found = audited(Setting(noise=0.7, trials=2000, delta=1e-3))
    assert not found.broken
    assert found.strength_lower > 0.75 * found.strength_claimed
    assert found.epsilon_lower > 0.35 * found.epsilon_claimed


def test_half_the_noise_is_caught():
    found = audited(mechanism=halved)
    assert found.broken
    assert found.epsilon_lower_gaussian > found.epsilon_claimed


def test_half_the_noise_is_caught_without_believing_that_it_is_gaussian():
    found = audited(Setting(noise=2.0, trials=2000, delta=1e-2), halved)
    assert found.epsilon_lower > found.epsilon_claimed


def test_a_release_that_does_not_clip_is_caught(monkeypatch):
    monkeypatch.setattr(anchor_vectors, "_shortened", lambda vector: vector * 3)
    assert audited().broken


def test_a_release_whose_presence_is_not_noised_is_caught():
    def talkative(levels, occupancy, **options):
        found = release(levels, occupancy, **options)
        found.raw[:, -1] = len(occupancy) * anchor_vectors.GRID * 1000
        return found

    assert audited(mechanism=talkative).broken


def test_several_releases_are_told_apart_better_than_one():
    one, three = (audited(Setting(noise=2.0, trials=800, releases=releases)) for releases in (1, 3))
    assert three.strength_claimed == pytest.approx(np.sqrt(3) / 2)
    assert three.strength_lower > one.strength_lower
    assert not three.broken


def test_more_confidence_asks_for_more_evidence():
    sure, surer = audited(), audited(Setting(noise=2.0, trials=1500, confidence=0.9999))
    assert surer.strength_lower < sure.strength_lower


def test_false_alarms_are_as_rare_as_the_confidence_says():
    """Twenty audits of a sound release at 95 %: more than four alarms would happen once in four hundred."""
    small = Setting(noise=1.0, trials=200)
    alarms = sum(audited(small, key=bytes([turn]) * 32).broken for turn in range(20))
    assert alarms <= 4


def test_progress_is_told_to_the_end():
    told = []
    audited(Setting(noise=2.0, trials=100), progress=lambda done, total: told.append((done, total)))
    assert told[0] == (1, 100)
    assert told[-1] == (100, 100)


@pytest.mark.parametrize("successes", [0, 1, 37, 99, 100])
def test_intervals_are_those_of_clopper_and_pearson(successes):
    low, high = clopper_pearson(np.array([successes]), 100, 0.025)
    known = stats.binomtest(successes, 100).proportion_ci(0.95, method="exact")
    assert (low[0], high[0]) == pytest.approx((known.low, known.high))


@pytest.mark.parametrize(
    "wrong",
    [{"delta": 0.0}, {"delta": 1.0}, {"confidence": 1.0}, {"trials": 99}, {"releases": 0}, {"patients": 0}],
)
def test_settings_that_tell_nothing_are_refused(wrong):
    with pytest.raises(PrivacyError):
        Setting(**{"noise": 1.0} | wrong)


def test_the_refusals_of_the_release_are_those_of_the_audit():
    with pytest.raises(PrivacyError, match="noise of 0"):
        audited(Setting(noise=0.0))
    with pytest.raises(PrivacyError, match="clip of 0"):
        audited(Setting(noise=1.0, clip=0.0))
