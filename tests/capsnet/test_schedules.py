"""The learning rate by step."""

import math

import pytest

from capsnet.schedules import one_cycle


def test_one_cycle_by_hand():
    factors = [one_cycle(step, 10) for step in range(11)]
    assert factors[:3] == [0.5, 1.0, 1.0]  # two steps up; the cosine begins at its top
    assert factors[6] == pytest.approx(0.5)  # half way down
    assert factors[4] == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert factors[10] == pytest.approx(0, abs=1e-15)


def test_one_cycle_ends_at_the_least_and_stays_there():
    assert one_cycle(10, 10, least=0.01) == one_cycle(25, 10, least=0.01) == 0.01
    assert one_cycle(0, 1) == 1.0  # a single step
