"""The benchmarks' arithmetic, on numbers worked by hand."""

import pytest

from benchmarks import env_throughput
from benchmarks.branching import add_ratios, percentile, row


def test_percentile_is_a_value_that_was_measured():
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert percentile([float(value) for value in range(1, 201)], 0.99) == 198.0
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.99)


def test_ratios_compare_medians_of_times_with_the_first_row():
    rows = [row("fresh", [400.0, 600.0]), row("branch", [5.0, 10.0, 100.0]), row("memory", [2.0], "MB")]
    add_ratios(rows)
    assert rows[1] == {
        "what": "branch",
        "median": 10.0,
        "p99": 100.0,
        "unit": "ms",
        "num": 3,
        "fresh / this": 50.0,
    }
    assert rows[0]["fresh / this"] == 1.0
    assert "fresh / this" not in rows[2]


def test_the_share_of_the_ideal_rate():
    line = env_throughput.row(64, 50.0, "threads", 6400, 5.5)
    assert line["steps/s"] == pytest.approx(1163.636, abs=1e-3)
    assert line["share of ideal"] == pytest.approx(5.0 / 5.5)  # 6,400 steps take 5 s at best
    assert "share of ideal" not in env_throughput.row(64, 0.0, "sync", 100, 1.0)


@pytest.mark.parametrize("engine", ["threads", "threads, in step", "bare threads", "sync"])
def test_an_engine_is_measured_in_whole_steps(engine):
    num_steps, total_s = env_throughput.measure_engine(engine, 2, 0.0, 0.01)
    assert num_steps > 0 and total_s >= 0.01
    assert engine in ("threads", "bare threads") or num_steps % 2 == 0


def test_what_is_not_installed_or_too_large_is_left_out():
    assert env_throughput.measure_engine("async", env_throughput.MAX_PROCESSES + 1, 0.0, 0.01) is None


def test_the_costs_of_an_episode_are_measured_on_one_that_is_right():
    first, again = env_throughput.episode_ms(64, 48, repeats=2)
    assert len(first) == len(again) == 2
