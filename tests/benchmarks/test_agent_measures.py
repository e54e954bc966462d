"""Measures by hand, by plain formulas in float64, and by other implementations."""

import itertools

import numpy as np
import pytest
from scipy.stats import bootstrap

from benchmarks.agents.measures import dip, interquartile_mean, normalised, regret, stratified_interval


def test_returns_become_scores():
    assert normalised(-1000.0, -1000.0, 0.0) == 0.0
    assert normalised(-250.0, -1000.0, 0.0) == 0.75
    assert normalised(500.0, -1000.0, 0.0) == 1.5
    with pytest.raises(ValueError, match=r"from 1\.0 to 1\.0 are no range"):
        normalised(0.0, 1.0, 1.0)


def test_regret_by_hand():
    assert regret([1.0, 1.0]) == 0.0
    assert regret([0.0]) == 1.0
    assert regret([0.2, 0.4, 0.9]) == pytest.approx(0.5, abs=1e-15)
    with pytest.raises(ValueError, match="unknown"):
        regret([])


def test_the_dip_is_of_the_first_evaluations_alone():
    assert dip(0.8, [0.5, 0.3, 0.9, 0.0]) == pytest.approx(0.8 - 1.7 / 3)
    assert dip(0.8, [0.5, 0.3, 0.9, 0.0], first=1) == pytest.approx(0.3)
    assert dip(0.8, [0.5, 0.3, 0.9, 0.0], first=9) == pytest.approx(0.8 - 1.7 / 4)
    assert dip(0.2, [0.6, 0.5]) == pytest.approx(-0.35)
    with pytest.raises(ValueError, match="no dip"):
        dip(0.5, [])


@pytest.mark.parametrize("count", range(1, 14))
def test_the_interquartile_mean_is_that_of_the_middle_half(count):
    scores = np.random.default_rng(count).normal(size=(5, count))
    left_out = int(count * 0.25)
    plain = [sum(sorted(row)[left_out : count - left_out]) / (count - 2 * left_out) for row in scores.tolist()]
    np.testing.assert_allclose(interquartile_mean(scores), plain, rtol=1e-12)
    assert interquartile_mean(scores[0]) == pytest.approx(plain[0], rel=1e-12)


def test_what_is_far_off_does_not_move_it():
    assert interquartile_mean(np.array([0.4, 0.5, 0.5, 0.6])) == interquartile_mean(np.array([-9.0, 0.5, 0.5, 99.0]))


def every_draw(by_task) -> np.ndarray:
    """The aggregate of each way to draw seeds anew within tasks, all of which are as likely."""
    within = [list(itertools.product(scores, repeat=len(scores))) for scores in by_task]
    return np.array([interquartile_mean(np.concatenate(chosen)) for chosen in itertools.product(*within)])


@pytest.mark.parametrize(
    "by_task", [[[0.0, 1.0]], [[0.1, 0.5, 0.9]], [[0.0, 0.3, 0.4], [0.6, 0.65, 1.0]], [[0.2], [0.5, 0.6, 0.9]]]
)
def test_intervals_are_those_of_all_draws(by_task):
    """Draws are counted out here: the ends are values that leave at most, and nearly, 2.5 % outside."""
    exact, (low, high) = every_draw(by_task), stratified_interval(by_task)
    near = 0.005  # of shares, which chance moves
    for end, outside in ((low, exact < low - 1e-12), (high, exact > high + 1e-12)):
        assert np.isclose(exact, end).any()
        assert outside.mean() <= 0.025 + near
        assert (outside | np.isclose(exact, end)).mean() >= 0.025 - near


def test_on_one_task_it_is_the_plain_bootstrap():
    scores = np.random.default_rng(3).uniform(size=20)
    theirs = bootstrap(
        (scores,), lambda drawn, axis: interquartile_mean(drawn), n_resamples=20_000, method="percentile", rng=0
    )
    ours = stratified_interval([scores.tolist()], draws=20_000)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.01)


def test_tasks_that_differ_do_not_widen_it():
    """Chance is in the seeds: a bootstrap over all values together would take easy and hard tasks for luck."""
    assert stratified_interval([[0.1] * 3, [0.9] * 3]) == pytest.approx((0.5, 0.5))
    low, high = stratified_interval([[0.1, 0.1, 0.9, 0.9] * 2])
    assert high - low > 0.5


def test_more_seeds_and_lower_levels_narrow_it():
    rng = np.random.default_rng(0)
    few, many = ([rng.normal(0.5, 0.1, size=count).tolist() for _ in range(4)] for count in (3, 48))
    widths = [high - low for low, high in (stratified_interval(many), stratified_interval(few))]
    assert 1.5 < widths[1] / widths[0] < 6  # about the root of 16, if three seeds told how far they are spread
    half, whole = stratified_interval(few, level=0.5), stratified_interval(few)
    assert whole[0] < half[0] < interquartile_mean(np.concatenate(few)) < half[1] < whole[1]


def test_it_is_the_same_every_time():
    scores = [[0.1, 0.5, 0.2], [0.7, 0.9, 0.4]]
    assert stratified_interval(scores) == stratified_interval(scores)
    np.testing.assert_allclose(stratified_interval(scores), stratified_interval(scores, seed=1), atol=0.02)
    np.testing.assert_allclose(stratified_interval(scores), stratified_interval(scores[::-1]), atol=0.02)
