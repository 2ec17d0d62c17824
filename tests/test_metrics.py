"""Pass@k and group summaries on numbers worked by hand, and the tables that show them."""

import json
import math
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axpo_algo.run.metrics import GroupOutcome, mutual_information, pass_at_k, summarize_groups
from axpo_algo.run.tables import format_value, markdown_table, write_json


@pytest.mark.parametrize(
    ("num_samples", "num_right", "k", "expected"),
    [
        (4, 1, 1, 0.25),
        (4, 1, 4, 1.0),
        (4, 0, 4, 0.0),
        (4, 2, 2, 1 - 1 / 6),
        (8, 3, 4, 1 - 5 / 70),
        (8, 8, 1, 1.0),
        (5, 3, 3, 1.0),
    ],
)
def test_pass_at_k_by_hand(num_samples: int, num_right: int, k: int, expected: float) -> None:
    assert pass_at_k(num_samples, num_right, k) == pytest.approx(expected, abs=1e-12)


@given(st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(data: st.DataObject) -> None:
    rewards = data.draw(st.lists(st.booleans(), min_size=1, max_size=8))
    k = data.draw(st.integers(1, len(rewards)))
    draws = [any(draw) for draw in combinations(rewards, k)]
    assert pass_at_k(len(rewards), sum(rewards), k) == pytest.approx(sum(draws) / len(draws), abs=1e-12)


@pytest.mark.parametrize(("num_samples", "num_right", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_what_makes_no_sense(num_samples: int, num_right: int, k: int) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        pass_at_k(num_samples, num_right, k)


def group(rewards: str, tools: str, *, recovered: bool | None = None, **calls: int) -> GroupOutcome:
    """Rewards and tool use as text: `?` and `n` are ungraded, `t` used a tool."""
    graded = {"0": 0.0, "1": 1.0, "?": None, "n": math.nan}
    return GroupOutcome(
        rewards=[graded[sign] for sign in rewards],
        used_tool=[sign == "t" for sign in tools],
        tool_calls=calls,
        recovered=recovered,
    )


def test_summary_by_hand() -> None:
    groups = [
        group("0010", "tt..", recovered=True, zoom=3),  # tool all-wrong, recovered; no-tool has a right one
        group("0000", "t...", recovered=False, zoom=1, python=2),  # both all-wrong, not recovered
        group("1100", "tt..", python=2),  # tool right; no-tool all-wrong
        group("1000", "...."),  # no tool used at all
    ]
    assert summarize_groups(groups, ks=(1, 2, 4)).as_dict("eval/") == {
        "eval/num_groups": 4,
        "eval/num_rollouts": 16,
        "eval/num_ungraded": 0,
        "eval/mean_reward": 4 / 16,
        "eval/pass@1": pytest.approx((0.25 + 0 + 0.5 + 0.25) / 4),
        "eval/pass@2": pytest.approx((0.5 + 0 + 5 / 6 + 0.5) / 4),
        "eval/pass@4": 0.75,
        "eval/pass@1_stderr": pytest.approx(math.sqrt((0 + 0.0625 + 0.0625 + 0) / 3 / 4)),
        "eval/tool_use_rate": 5 / 16,
        "eval/pass@1_tool": 2 / 5,
        "eval/pass@1_no_tool": 2 / 11,
        "eval/all_wrong_tool": 2 / 3,
        "eval/all_wrong_tool_after": 1 / 3,
        "eval/all_wrong_no_tool": 2 / 4,
        "eval/recovery_rate": 1 / 2,
        "eval/aim_on_target": None,
        "eval/aim_bits": None,
        "eval/calls/python": 4,
        "eval/calls/zoom": 4,
    }


def test_ungraded_trajectories_are_counted_apart_and_never_wrong() -> None:
    summary = summarize_groups([group("?1n0", "tt.."), group("??", "t.")], ks=(1, 2, 4))
    assert (summary.num_rollouts, summary.num_ungraded) == (6, 3 + 1)
    assert summary.mean_reward == 0.5
    assert summary.pass_at == {
        1: 0.5,
        2: 1.0,
        4: None,
    }  # one group has two graded trajectories, none has four
    assert summary.tool_use_rate == 3 / 6
    assert (summary.pass_at_1_tool, summary.pass_at_1_no_tool) == (1.0, 0.0)
    assert (summary.all_wrong_tool, summary.all_wrong_no_tool) == (0.0, 1.0)
    assert summary.pass_at_1_stderr is None


def test_a_rate_over_nothing_is_none() -> None:
    summary = summarize_groups([])
    assert summary.num_groups == 0
    nothing = {key: value for key, value in summary.as_dict().items() if not key.startswith("num_")}
    assert set(nothing.values()) == {None}
    assert {"pass@1", "pass@4", "tool_use_rate", "all_wrong_tool", "recovery_rate"} <= set(nothing)


def test_recovery_rate_is_none_without_resampling_and_zero_when_it_never_helped() -> None:
    assert summarize_groups([group("00", "t.")]).recovery_rate is None
    assert summarize_groups([group("00", "t.", recovered=False)]).recovery_rate == 0.0


def test_recovery_counts_triggered_groups_that_the_budget_did_not_reach() -> None:
    groups = [group("00", "t.", recovered=True), group("00", "t."), group("00", "t."), group("10", "t.")]
    assert summarize_groups(groups).recovery_rate == 1 / 3


def test_a_group_must_be_rectangular() -> None:
    with pytest.raises(ValueError, match="2 rewards for 1 entries"):
        group("00", "t")


def test_cells() -> None:
    values = (0.5, 0.0, 1e-6, 12345678.0, 7, True, None, "text", math.nan)
    assert [format_value(value) for value in values] == [
        "0.500",
        "0.000",
        "1.00e-06",
        "1.23e+07",
        "7",
        "True",
        "-",
        "text",
        "nan",
    ]


ROWS: list[dict[str, Any]] = [
    {"method": "GRPO", "pass@1": 0.25, "n": 8},
    {"method": "A|B", "pass@1": None, "extra": 3},
]


def test_markdown_table_aligns_numbers_right_and_shows_gaps() -> None:
    assert markdown_table(ROWS) == (
        "| method | pass@1 |   n | extra |\n"
        "| ------ | -----: | --: | ----: |\n"
        "| GRPO   |  0.250 |   8 |     - |\n"
        "| A\\|B   |      - |   - |     3 |"
    )
    assert markdown_table(ROWS[:1], columns=["n", "method"]) == (
        "|   n | method |\n| --: | ------ |\n|   8 | GRPO   |"
    )


def test_a_cell_ends_no_row() -> None:
    rows: list[dict[str, Any]] = [{"a|b": "x\n| y |", "run": "runs/[/red]"}]
    assert markdown_table(rows) == (
        "| a\\|b      | run         |\n| --------- | ----------- |\n| x \\| y \\| | runs/[/red] |"
    )


def test_write_json_makes_the_folder_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "results" / "table.json"
    write_json(path, ROWS)
    assert json.loads(path.read_text()) == ROWS
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == ROWS


def test_aim_is_the_share_on_target_and_what_it_tells_in_bits() -> None:
    def aims(*pairs: tuple[int, int]) -> list[dict[str, Any]]:
        return [{"on_target": target == place, "target": target, "place": place} for target, place in pairs]

    groups = [
        GroupOutcome(rewards=[0.0, 1.0], used_tool=[True, True], aims=aims((0, 0), (0, 0))),
        GroupOutcome(rewards=[0.0, 1.0], used_tool=[True, True], aims=aims((1, 1), (1, 1))),
        GroupOutcome(rewards=[0.0], used_tool=[False]),
    ]
    summary = summarize_groups(groups)
    assert summary.aim_on_target == 1.0
    # One bit from the joint counts [[2, 0], [0, 2]]; bias (2 - 2 - 2 + 1) / (2 * 4 * ln 2).
    assert summary.aim_bits == pytest.approx(1.0 + 1 / (8 * math.log(2)))
    nowhere = [{"on_target": False, "target": None, "place": None}]
    unknown = summarize_groups([GroupOutcome(rewards=[0.0], used_tool=[True], aims=nowhere)])
    assert (unknown.aim_on_target, unknown.aim_bits) == (0.0, None)
    assert summarize_groups(groups[2:]).aim_on_target is None


def test_mutual_information_of_independent_places_is_about_zero_on_few_samples() -> None:
    draw = random.Random(0)
    estimates = [
        mutual_information([(draw.randrange(6), draw.randrange(6)) for _ in range(128)]) for _ in range(200)
    ]
    assert abs(sum(estimates) / 200) < 0.02
    assert mutual_information([(i % 6, i % 6) for i in range(600)]) == pytest.approx(math.log2(6), abs=0.02)
