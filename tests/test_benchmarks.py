"""The benchmarks' arithmetic, on numbers worked by hand."""

import json

import pytest

from benchmarks import env_throughput, thinking_acting_gap
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


def gap_row(recipe, start, end, *, malformed=0.0):
    numbers = {"tool_use_rate": 0.3, "pass@1_tool": 0.2, "pass@1_no_tool": 0.37}
    numbers |= {"all_wrong_tool": 0.7, "all_wrong_no_tool": 0.6}
    start = {"pass@1": start, **numbers}
    end = {"pass@1": end, "malformed": malformed}
    return {"recipe": recipe, "seed": 0, "arithmetic": "", "start": start, "axpo": end}


def test_what_a_run_was_meant_to_show_and_did_not():
    assert thinking_acting_gap.broken_claims(gap_row("nano", 0.40, 0.80, malformed=0.02)) == []
    assert thinking_acting_gap.broken_claims(gap_row("nano", 0.41, 0.79, malformed=0.03)) == [
        "AXPO ends at Pass@1 0.80 or more",
        "it starts at Pass@1 0.40 or less",
        "at most 2 % of the calls are malformed at the end",
    ]
    assert thinking_acting_gap.broken_claims(gap_row("nano-gap", 0.31, 0.80)) == []
    row = gap_row("nano-gap", 0.31, 0.80)
    row["start"] |= {"tool_use_rate": 0.41, "pass@1_tool": 0.28, "all_wrong_tool": 0.6}
    assert len(thinking_acting_gap.broken_claims(row)) == 3


def test_intervals_are_students_over_seeds():
    # Of 1, 2, 3: standard error 1 / sqrt(3), and t(0.975, 2) = 4.3027.
    assert thinking_acting_gap.interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert thinking_acting_gap.in_words([0.5, None]) == "0.50"
    assert thinking_acting_gap.in_words([None]) == "-"


def test_a_run_has_learned_where_five_steps_are_right_on_average():
    def steps(values):
        return thinking_acting_gap.steps_to_learn({"train/mean_reward": values})

    assert steps([0.0] * 5 + [1.0] * 5) == 9  # 0, 1, 1, 1, 1
    assert steps([0.8] * 5) == 5
    assert steps([0.8] * 4) is steps([0.79] * 50) is None


def test_planned_are_all_seeds_and_one_factor_at_a_time():
    runs = list(thinking_acting_gap.planned(["nano", "nano-gap"], None))
    assert len(runs) == 10 + 5 + 9 and len({run.name for run in runs}) == 24
    only = list(thinking_acting_gap.planned(["nano-gap"], [3]))
    assert [(run.recipe, run.seed, run.arithmetic) for run in only] == [("nano-gap", 3, "")]


def test_the_readme_reports_the_committed_results(repository):
    document = json.loads(thinking_acting_gap.RESULTS.read_text(encoding="utf-8"))
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert document["rows"] and thinking_acting_gap.report(document) in readme


@pytest.mark.hours
@pytest.mark.timeout(12 * 3600)
def test_every_run_shows_what_it_was_meant_to(tmp_path):
    arguments = ["--jobs", "2", "--runs", str(tmp_path / "runs"), "--json", str(tmp_path / "results.json")]
    document = thinking_acting_gap.main(arguments)
    assert len(document["rows"]) == 24
    assert [line for row in document["rows"] for line in thinking_acting_gap.broken_claims(row)] == []
