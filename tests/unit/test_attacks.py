"""The attacks are those of their papers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import attacks

HONEST = np.random.default_rng(0).standard_normal((12, 40)) + 0.3


def test_alie_stays_within_what_honest_members_may_send() -> None:
    """The paper's example: of 50 workers 24 corrupted, z = Phi^-1(24 / 26) = 1.43."""
    assert attacks.alie_z(50, 24) == pytest.approx(1.426, abs=1e-3)
    sent = attacks.alie(HONEST, 3)
    assert sent.shape == (3, 40)
    z = attacks.alie_z(15, 3)
    assert np.allclose(sent[0], HONEST.mean(axis=0) - z * HONEST.std(axis=0))
    farther = (sent[0] > HONEST).sum(axis=0)
    assert farther.max() > 0


def test_manipulation_turns_the_inner_product_negative() -> None:
    mean = HONEST.mean(axis=0)
    for epsilon in (0.5, 10.0):
        (sent, *_) = attacks.inner_product(HONEST, 3, epsilon)
        assert sent @ mean == pytest.approx(-epsilon * mean @ mean)


def test_a_mimic_copies_the_member_farthest_out() -> None:
    honest = HONEST.copy()
    honest[7] += 50 * np.eye(40)[3]
    direction = attacks.mimic_direction(honest)
    assert abs(direction[3]) > 0.9
    assert np.array_equal(attacks.mimic(honest, 2, direction), np.tile(honest[7], (2, 1)))


def test_free_riders_send_less_and_less() -> None:
    sizes = [
        attacks.free_ride((3, 4000), turn, 0.5, np.random.default_rng(1)).std()
        for turn in (1, 2, 10)
    ]
    assert sizes == pytest.approx([0.5, 0.25, 0.05], rel=0.05)


def test_flipping_is_its_own_inverse_and_signs_turn_round() -> None:
    labels = np.arange(10)
    assert attacks.flip_labels(labels, 10).tolist() == labels[::-1].tolist()
    assert np.array_equal(attacks.sign_flip(HONEST), -HONEST)
