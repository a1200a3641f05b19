"""Planning: what is proposed fits when it is debited, what is refused says what would fit, errors are as stated."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.errors import BudgetError
from security.privacy import accounting, planning
from security.privacy.terms import Budget, Event

BUDGET = Budget(epsilon=8.0, delta=1e-3)
budgets = st.builds(
    lambda epsilon, delta: Budget(epsilon=10.0**epsilon, delta=10.0**delta), st.floats(-2, 3), st.floats(-10, -1)
)
plain = settings(deadline=None)


def release(noise: float, steps: int = 1) -> Event:
    return Event(noise=noise, rate=1.0, steps=steps)


@given(budgets, st.integers(1, 1000))
@plain
def test_a_planned_noise_fits_when_its_releases_are_debited_one_by_one(budget, steps):
    noise = planning.noise_for(budget, steps=steps)
    assert accounting.epsilon([release(noise)] * steps, budget.delta) <= budget.epsilon


@given(budgets, st.integers(1, 1000))
@plain
def test_a_planned_noise_is_hardly_more_than_it_takes(budget, steps):
    noise = planning.noise_for(budget, steps=steps)
    assert float(f"{noise:.4g}") == noise
    assert accounting.epsilon([release(noise * 0.997, steps)], budget.delta) > budget.epsilon


def test_a_noise_for_drawn_patients_fits_by_the_accountant_that_debits():
    budget = Budget(epsilon=3.0, delta=1e-4)
    noise = planning.noise_for(budget, steps=200, rate=0.05)
    history = [Event(noise=noise, rate=0.05, steps=1)] * 200
    assert budget.epsilon * 0.99 < accounting.epsilon(history, budget.delta) <= budget.epsilon


def test_what_was_spent_before_makes_the_rest_noisier():
    history = [release(1.5)]
    noise = planning.noise_for(BUDGET, steps=3, history=history)
    assert noise > planning.noise_for(BUDGET, steps=3)
    assert accounting.epsilon([*history, release(noise, 3)], BUDGET.delta) <= BUDGET.epsilon


def test_no_noise_fits_a_budget_that_was_spent():
    with pytest.raises(BudgetError, match="no noise makes 3 releases fit epsilon 8 at delta 0.001"):
        planning.noise_for(BUDGET, steps=3, history=[release(0.1)])


def test_a_schedule_that_fits_is_accepted_with_what_it_comes_to():
    schedule = [[release(1.0)]] * 2
    assert planning.check_fits(schedule, BUDGET) == accounting.epsilon([release(1.0, 2)], BUDGET.delta)
    found = planning.advice(schedule, BUDGET)
    assert (found.fits, found.fitting, found.factor, found.noise) == (True, 2, 1.0, 1.0)


def test_a_schedule_that_does_not_fit_is_refused_with_what_would():
    with pytest.raises(BudgetError) as refused:
        planning.check_fits([[release(1.0)]] * 10, BUDGET, part="release")
    said = str(refused.value)
    assert said == (
        "the schedule comes to epsilon 14.1 at delta 0.001; the budget is 8. "
        "4 of 10 releases fit as they are, all of them with a noise of 1.518 or more."
    )
    assert accounting.epsilon([release(1.0, 4)], BUDGET.delta) <= 8.0 < accounting.epsilon([release(1.0, 5)], 1e-3)
    assert accounting.epsilon([release(1.518, 10)], BUDGET.delta) <= 8.0


@given(budgets, st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
@plain
def test_what_is_advised_fits_and_one_more_does_not(budget, noises):
    schedule = [[release(noise)] for noise in noises]
    found = planning.advice(schedule, budget)
    events = [event for part in schedule for event in part]
    assert accounting.epsilon(events[: found.fitting], budget.delta) <= budget.epsilon
    assert found.fits or accounting.epsilon(events[: found.fitting + 1], budget.delta) > budget.epsilon
    raised = [release(event.noise * found.factor) for event in events]
    assert accounting.epsilon(raised, budget.delta) <= budget.epsilon * (1 + 1e-9)
    assert found.fits == (found.factor == 1.0)


def test_rounds_that_train_and_release_are_raised_together():
    schedule = [[release(1.0), Event(noise=2.0, rate=0.99, steps=5)]] * 3
    found = planning.advice(schedule, BUDGET, accountant=accounting.epsilon)
    assert found.noise is None
    assert f"all noise multiplied by {found.factor:g}" in found.remedy()


def test_advice_counts_what_was_spent_before():
    found = planning.advice([[release(1.0)]] * 4, BUDGET, history=[release(0.8)])
    assert found.before == pytest.approx(accounting.epsilon([release(0.8)], BUDGET.delta))
    assert "of it spent before" in found.problem()
    assert 0 < found.fitting < 4


def test_where_nothing_is_left_advice_says_so():
    found = planning.advice([[release(2.0)]] * 4, BUDGET, history=[release(0.1)])
    assert (found.fitting, found.factor, found.noise) == (0, None, None)
    assert found.remedy() == "no noise makes it fit: nothing is left of the budget"


def test_where_not_one_round_fits_advice_says_so():
    found = planning.advice([[release(0.2)]] * 4, BUDGET)
    assert found.remedy().startswith("not even one round fits; the whole schedule fits with a noise of ")


def test_an_empty_schedule_fits_and_costs_nothing():
    found = planning.advice([], BUDGET)
    assert (found.fits, found.spent, found.noise) == (True, 0.0, None)


def test_a_generator_asks_what_is_to_be_accounted_for():
    asked = []
    asking = planning.advising([[release(1.0)]] * 10, BUDGET)
    found = planning.answered(asking, BUDGET.delta, lambda *asks: asked.append(asks[0]) or accounting.epsilon(*asks))
    assert found == planning.advice([[release(1.0)]] * 10, BUDGET)
    assert asked[:2] == [(), (release(1.0),) * 10]
    assert len(asked) < 25


def test_an_accountant_that_wavers_still_gets_a_noise_that_fits():
    def wavering(events, delta):
        (one,) = events
        return accounting.epsilon(events, delta) + 0.02 * (round(one.noise * 1e4) % 2)

    noise = planning.noise_for(BUDGET, steps=3, accountant=wavering)
    assert wavering([release(noise, 3)], BUDGET.delta) <= BUDGET.epsilon


@pytest.mark.parametrize(
    ("releases", "clusters", "delta", "error"),
    [(10, 4, 1e-5, 2.35), (3, 1, 1e-5, 0.32), (10, 4, 1e-3, 1.88), (3, 1, 1e-3, 0.26), (10, 4, 1e-7, 2.75)],
)
def test_the_expected_error_is_as_stated_for_a_hundred_patients(releases, clusters, delta, error):
    noise = planning.noise_for(Budget(epsilon=8.0, delta=delta), steps=releases)
    found = planning.relative_error(noise, dimensions=960, patients=100, clusters=clusters)
    assert found == pytest.approx(error, abs=0.006)


@pytest.mark.parametrize(("releases", "clusters", "error"), [(10, 4, 3.1), (3, 1, 0.42)])
def test_the_figures_of_the_design_follow_from_the_zcdp_bound_at_a_delta_of_1e_7(releases, clusters, error):
    root = math.sqrt(math.log(1e7) + 8.0) - math.sqrt(math.log(1e7))
    noise = math.sqrt(releases / 2.0) / root
    found = planning.relative_error(noise, dimensions=960, patients=100, clusters=clusters)
    assert found == pytest.approx(error, abs=0.01)


@given(st.floats(0.05, 2), st.floats(0.5, 20), st.integers(1, 10), st.integers(1, 2000))
@plain
def test_the_patients_it_takes_are_enough_and_one_less_is_not(error, epsilon, releases, dimensions):
    def error_of(patients: int) -> float:
        budget = Budget(epsilon=epsilon, delta=planning.default_delta(patients))
        return planning.error_at(budget, releases=releases, dimensions=dimensions, patients=patients)

    found = planning.patients_for(error, epsilon=epsilon, releases=releases, dimensions=dimensions)
    assert error_of(found) <= error * (1 + 1e-9)
    assert found == 1 or error_of(found - 1) > error * (1 - 1e-9)


@pytest.mark.parametrize("patients", [1, 9, 100, 10**6])
def test_the_proposed_delta_is_permitted(patients):
    Budget(epsilon=1.0, delta=planning.default_delta(patients)).check_patients(patients)
