"""How well groups of trajectories did: Pass@k, tool use, and where tool use fails altogether.

Pure functions of rewards and tool counts, without torch. Making trajectories, writing results to disk and
showing them as tables is left to others.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, TypeGuard

RIGHT = 1.0  # a reward at or above this is a right answer


@dataclass(frozen=True, kw_only=True)
class GroupOutcome:
    """What came of the trajectories of one question. Sequences are [N], in the same order."""

    rewards: Sequence[float | None]
    """None or NaN: ungraded (only a judge could have told, or an outage); never counted as wrong"""
    used_tool: Sequence[bool]
    """whether the trajectory made at least one tool call"""
    tool_calls: Mapping[str, int] = field(default_factory=dict)
    """tool name -> calls in the whole group"""
    recovered: bool | None = None
    """whether a resampled tool call was right; None: nothing was resampled in this group"""
    aims: Sequence[Mapping[str, Any]] = ()
    """of each trajectory's first aimed call, as `info["tool_calls"]` has it: on_target, place, target"""

    def __post_init__(self) -> None:
        if len(self.rewards) != len(self.used_tool):
            raise ValueError(f"{len(self.rewards)} rewards for {len(self.used_tool)} entries of used_tool")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Averages over groups. A rate over nothing is None, never 0."""

    num_groups: int
    """groups given"""
    num_rollouts: int
    """trajectories given, ungraded ones included"""
    num_ungraded: int
    """trajectories without a reward; they enter tool_use_rate and nothing else"""
    mean_reward: float | None
    """over graded trajectories"""
    pass_at: Mapping[int, float | None]
    """k -> Pass@k, 0-1, mean over the groups with at least k graded trajectories"""
    pass_at_1_stderr: float | None
    """standard error of Pass@1 over groups; None below two groups"""
    tool_use_rate: float | None
    """share of all trajectories that made a tool call, 0-1"""
    pass_at_1_tool: float | None
    """share of right ones among graded trajectories that used a tool, 0-1"""
    pass_at_1_no_tool: float | None
    """share of right ones among graded trajectories that used none, 0-1"""
    all_wrong_tool: float | None
    """share of non-empty tool-using subgroups with no right trajectory, before resampling, 0-1"""
    all_wrong_tool_after: float | None
    """the same after resampling: a recovered subgroup no longer counts as all-wrong, 0-1"""
    all_wrong_no_tool: float | None
    """share of non-empty subgroups without tool use that have no right trajectory, 0-1"""
    recovery_rate: float | None
    """share of all-wrong tool-using subgroups that resampling recovered, 0-1; None: nothing was resampled"""
    aim_on_target: float | None
    """share of first aimed calls that show what the question needs, 0-1"""
    aim_bits: float | None
    """what the place looked at tells about the place asked for, in bits, see `mutual_information`"""
    tool_calls: Mapping[str, int]
    """tool name -> calls"""

    def as_dict(self, prefix: str = "") -> dict[str, float | int | None]:
        """Flat names for logs and tables: `pass@4`, `calls/zoom`, the rest as the fields are called."""
        flat: dict[str, float | int | None] = {}
        for name, value in vars(self).items():
            if name == "pass_at":
                flat.update({f"{prefix}pass@{k}": rate for k, rate in value.items()})
            elif name == "tool_calls":
                flat.update({f"{prefix}calls/{tool}": count for tool, count in value.items()})
            else:
                flat[prefix + name.replace("pass_at_1", "pass@1")] = value
        return flat


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that at least one of `k` samples drawn from `num_samples`, without putting back, is right.

    1 - C(n - c, k) / C(n, k), unbiased for k samples of the policy (arXiv 2107.03374, eq. 1).
    Raises ValueError unless 0 <= num_right <= num_samples and 1 <= k <= num_samples.
    """
    if not 0 <= num_right <= num_samples:
        raise ValueError(f"num_right must lie in [0, {num_samples}], got {num_right}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must lie in [1, {num_samples}], got {k}")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def mutual_information(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Mutual information of two discrete variables, in bits, from samples; None without any.

    The plug-in estimate less its first-order bias (Miller-Madow), (cells - rows - columns + 1) / (2 N ln 2) with the
    rows, columns and cells that occur. So independent variables give about 0, below it as often as above.
    """
    if not pairs:
        return None
    joint = Counter(pairs)
    rows, columns = Counter(row for row, _ in pairs), Counter(column for _, column in pairs)
    total = len(pairs)
    plug_in = sum(
        count / total * math.log2(count * total / (rows[row] * columns[column]))
        for (row, column), count in joint.items()
    )
    bias = (len(joint) - len(rows) - len(columns) + 1) / (2 * total * math.log(2))
    return plug_in - bias


def summarize_groups(groups: Sequence[GroupOutcome], *, ks: Sequence[int] = (1, 4)) -> Summary:
    """Averages over `groups`; `ks` are the k of Pass@k.

    Only graded trajectories count as right or wrong: a subgroup whose graded part is empty is left out of the
    all-wrong rates, a group with fewer than k graded trajectories out of Pass@k.
    """
    tool = [_graded(group, used_tool=True) for group in groups]
    no_tool = [_graded(group, used_tool=False) for group in groups]
    graded = [with_tool + without for with_tool, without in zip(tool, no_tool, strict=True)]
    pass_at_1 = [_pass(rewards, 1) for rewards in graded if rewards]
    failed = [
        group for group, rewards in zip(groups, tool, strict=True) if rewards and _num_right(rewards) == 0
    ]
    num_tool_subgroups = sum(bool(rewards) for rewards in tool)
    num_recovered = sum(group.recovered is True for group in failed)
    was_resampled = any(group.recovered is not None for group in groups)
    calls: Counter[str] = Counter()
    for group in groups:
        calls.update(group.tool_calls)
    return Summary(
        num_groups=len(groups),
        num_rollouts=sum(len(group.rewards) for group in groups),
        num_ungraded=sum(not _is_graded(reward) for group in groups for reward in group.rewards),
        mean_reward=_mean([reward for rewards in graded for reward in rewards]),
        pass_at={k: _mean([_pass(rewards, k) for rewards in graded if len(rewards) >= k]) for k in ks},
        pass_at_1_stderr=stdev(pass_at_1) / math.sqrt(len(pass_at_1)) if len(pass_at_1) > 1 else None,
        tool_use_rate=_mean([float(used) for group in groups for used in group.used_tool]),
        pass_at_1_tool=_mean([float(reward >= RIGHT) for rewards in tool for reward in rewards]),
        pass_at_1_no_tool=_mean([float(reward >= RIGHT) for rewards in no_tool for reward in rewards]),
        all_wrong_tool=_share(len(failed), num_tool_subgroups),
        all_wrong_tool_after=_share(len(failed) - num_recovered, num_tool_subgroups),
        all_wrong_no_tool=_mean([float(_num_right(rewards) == 0) for rewards in no_tool if rewards]),
        recovery_rate=_share(num_recovered, len(failed)) if was_resampled else None,
        aim_on_target=_mean([float(aim["on_target"]) for group in groups for aim in group.aims]),
        aim_bits=mutual_information(
            [
                (aim["target"], aim["place"])
                for group in groups
                for aim in group.aims
                if aim["target"] is not None
            ]
        ),
        tool_calls=dict(sorted(calls.items())),
    )


def combine_numbers(numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of several environments, each by its name, as one: counts are added, rates averaged over those
    environments that have them, each counting once. What an environment measured follows as NAME/....

    pass@1_stderr is that of the mean of independent Pass@1s; None unless every environment has one.
    """
    combined: dict[str, Any] = {}
    for key in dict.fromkeys(key for own in numbers.values() for key in own):
        found = [own[key] for own in numbers.values() if own.get(key) is not None]
        are_counts = found and all(isinstance(value, int) for value in found)
        combined[key] = sum(found) if are_counts else _mean(found)
    errors = [own.get("pass@1_stderr") for own in numbers.values()]
    known = [error for error in errors if error is not None]
    if "pass@1_stderr" in combined:
        combined["pass@1_stderr"] = math.hypot(*known) / len(errors) if len(known) == len(errors) else None
    for name, own in numbers.items():
        combined.update({f"{name}/{key}": value for key, value in own.items()})
    return combined


def numbers_of(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """What one environment measured, of `combine_numbers`."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}


def _graded(group: GroupOutcome, *, used_tool: bool) -> list[float]:
    """Rewards of the graded trajectories that did, or did not, use a tool."""
    pairs = zip(group.rewards, group.used_tool, strict=True)
    return [float(reward) for reward, used in pairs if _is_graded(reward) and bool(used) is used_tool]


def _is_graded(reward: float | None) -> TypeGuard[float]:
    return reward is not None and not math.isnan(reward)


def _num_right(rewards: Sequence[float]) -> int:
    return sum(reward >= RIGHT for reward in rewards)


def _pass(rewards: Sequence[float], k: int) -> float:
    return pass_at_k(len(rewards), _num_right(rewards), k)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
