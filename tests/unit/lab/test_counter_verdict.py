"""What a recovered counter table proves, against the record that was kept outside the guest."""

from __future__ import annotations

from farshore.lab.counter import Acknowledged, judge

SECOND = 1_000_000_000
RECORD = [Acknowledged(number, 50 * SECOND + number * SECOND // 10) for number in range(1, 101)]


def test_everything_recovered_is_an_rpo_of_nothing() -> None:
    verdict = judge(RECORD, range(1, 101))
    assert (verdict.lost, verdict.holes, verdict.rpo, verdict.recovered) == (0, (), 0.0, 100)


def test_a_committed_row_whose_acknowledgement_never_arrived_is_no_loss() -> None:
    verdict = judge(RECORD, range(1, 102))
    assert (verdict.lost, verdict.holes, verdict.rpo) == (0, (), 0.0)


def test_the_rpo_is_the_age_of_the_last_recovered_row_when_the_last_one_was_acknowledged() -> None:
    verdict = judge(RECORD, range(1, 71))
    assert verdict.lost == 30
    assert verdict.rpo == 3.0
    assert verdict.holes == ()


def test_a_missing_row_below_a_recovered_one_is_a_hole_and_not_a_loss() -> None:
    verdict = judge(RECORD, [number for number in range(1, 91) if number not in (17, 60)])
    assert verdict.holes == (17, 60)
    assert verdict.lost == 10


def test_the_order_of_the_found_rows_does_not_matter() -> None:
    assert judge(RECORD, list(reversed(range(1, 71)))) == judge(RECORD, range(1, 71))


def test_an_empty_table_loses_the_whole_record() -> None:
    verdict = judge(RECORD, [])
    assert verdict.lost == 100
    assert verdict.rpo == (RECORD[-1].time - RECORD[0].time) / SECOND
