"""The benchmarks' arithmetic, on numbers worked by hand."""

import pytest

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
