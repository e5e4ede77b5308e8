"""Pauses grow, differ, and are never shorter than what was asked for."""

from __future__ import annotations

from farshore.backoff import Backoff


def test_pauses_grow_to_the_longest_and_begin_short_again() -> None:
    backoff = Backoff(1.0, 10.0)
    pauses = [backoff.pause() for _ in range(8)]
    for pause, whole in zip(pauses, [1, 2, 4, 8, 10, 10, 10, 10], strict=True):
        assert whole / 2 <= pause <= whole
    backoff.reset()
    assert backoff.pause() <= 1.0


def test_two_that_failed_together_do_not_come_back_together() -> None:
    pauses = {Backoff(8.0, 8.0).pause() for _ in range(20)}
    assert len(pauses) > 1


def test_what_a_server_asks_for_is_kept() -> None:
    assert Backoff(0.1, 1.0).pause(30.0) == 30.0
