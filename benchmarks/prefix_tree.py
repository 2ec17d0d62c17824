"""What is saved where the samples of a question are one row, in which what they share stands once?

    python -m benchmarks.prefix_tree [--size small] [--device cpu] [--repeats 5] [--cases 4x100+600,...] [--json PATH]

`KxC+P`: K continuations of C tokens each behind a prefix of P, of which 200 are the question's prompt with its image
and the rest is a source's thinking; forward and backward pass of their log-probs. `nano`: a whole update of the nano
recipe, with the KL term's reference, on demonstrations in the shape of AXPO's groups. Each is measured as a tree
(`loss.share_prefixes`) and as separate rows, in turn; ratios are separate / tree of the medians, above 1 where the
tree wins. Use one thread: then CPU time, unlike the clock, depends little on what else the machine does. On a GPU only
the clock tells.
"""

import argparse
import functools
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from axpo_algo.algorithms import get_algorithm
from axpo_algo.config import LossConfig, TrainConfig, load_config
from axpo_algo.environments import make_env, step_indices
from axpo_algo.learner import Learner
from axpo_algo.models.nano import build_nano
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.packing import MAX_WIDTH, make_trees, pack, token_logprobs
from axpo_algo.run.tables import markdown_table, write_json
from axpo_algo.sft import demonstrate
from axpo_algo.types import Group, Sample, Trajectory
from benchmarks.learner_cases import SIZES, TrajectoryMaker, build_policy, interleaved

CASES = ("4x100+600", "8x100+600", "4x300+600", "8x200+2000", "4x2000+2000", "nano")
AIMS = {"4x100+600": 2.0, "8x100+600": 2.5}
"""CPU time of separate rows by that of a tree, at least"""
PROMPT = 200
"""tokens of a question's prompt, 64 of them an image's"""
COLUMNS = (
    "case", "trees", "tokens", "separate rows", "their tokens", "tokens ratio",
    "CPU s", "separate CPU s", "CPU ratio", "clock ratio", "aim",
)  # fmt: skip


def make_samples(
    policy: Qwen3VLPolicy, num_continuations: int, length: int, prefix: int, *, seed: int = 0
) -> list[Sample]:
    """Continuations of `length` tokens behind a prefix of `prefix` that they share, prompt included."""
    maker = TrajectoryMaker(policy, seed)
    prompt = maker.observation(min(PROMPT, prefix), maker.image(height=8, width=8))
    samples = maker.axpo_samples(
        prompt, whole=[], prefix=prefix - len(prompt[0]), continuations=[[length]] * num_continuations
    )
    return samples[1:]  # without the source's own


def forward_and_backward(policy: Qwen3VLPolicy, samples: Sequence[Sample], *, share: bool) -> tuple[int, int]:
    """The gradient of the log-probs' sum, in micro-batches as the learner makes them; returns the numbers of trees and
    of tokens, padding included."""
    policy.model.zero_grad(set_to_none=True)
    trees = make_trees(policy, samples, share=share)
    num_tokens = 0
    for batch in pack(policy, trees, LossConfig().max_tokens_per_micro_batch):
        token_logprobs(policy, batch).sum().backward()
        num_tokens += batch.token_ids.numel()
    return len(trees), num_tokens


def measure_case(policy: Qwen3VLPolicy, case: str, repeats: int) -> dict[str, Any]:
    """A line of the table; `nano` brings a policy of its own. Raises ValueError, see `read_case`."""
    if case == "nano":
        tree, separate = (nano_update(str(policy.device), share=share) for share in (True, False))
    else:
        samples = make_samples(policy, *read_case(case))
        tree, separate = (
            functools.partial(forward_and_backward, policy, samples, share=share) for share in (True, False)
        )
    (num_trees, tokens), (num_rows, row_tokens) = tree(), separate()
    times = interleaved({"tree": tree, "separate": separate}, repeats=repeats, device=policy.device)
    (cpu_s, wall_s), (separate_cpu_s, separate_wall_s) = times["tree"], times["separate"]
    return {
        "case": case,
        "trees": num_trees,
        "tokens": tokens,
        "separate rows": num_rows,
        "their tokens": row_tokens,
        "tokens ratio": row_tokens / tokens,
        "CPU s": cpu_s,
        "separate CPU s": separate_cpu_s,
        "CPU ratio": separate_cpu_s / cpu_s,
        "clock ratio": separate_wall_s / wall_s,
        "aim": AIMS.get(case),
    }


def read_case(case: str) -> tuple[int, int, int]:
    """K, C and P. Raises ValueError for another form, and a prefix too short for its prompt."""
    match = re.fullmatch(r"(\d+)x(\d+)\+(\d+)", case)
    if match is None:
        raise ValueError(f"a case is 'nano' or has the form KxC+P such as 4x100+600, got {case!r}")
    num, length, prefix = (int(number) for number in match.groups())
    if min(num, length) < 1 or prefix <= 64:
        raise ValueError(f"a case needs K, C >= 1 and P > 64, the image's tokens, got {case!r}")
    return num, length, prefix


def nano_samples(policy: Qwen3VLPolicy, config: TrainConfig, *, seed: int = 0) -> list[Sample]:
    """A step's samples in the shape that AXPO gives them: demonstrated rollouts, a tool in three of ten as after the
    cold start, and as many resampled prefixes as the extra budget pays."""
    count, size = config.rollout.questions_per_step, config.rollout.group_size
    num_prefixes = int(config.axpo.extra_budget * count * size) // config.axpo.continuations
    env = make_env(config.env, split=config.env.split, max_turns=config.rollout.max_turns)
    rng = random.Random(seed)
    samples: list[Sample] = []

    def play(index: int, use_tools: bool) -> Trajectory:
        return demonstrate(env, policy.chat, index=index, rng=rng, use_tools=use_tools, aim_noise=[0.2, 0.8])

    for number, index in enumerate(step_indices(env.num_tasks, step=0, count=count, seed=seed)):
        group = Group(trajectories=[play(index, rng.random() < 0.3) for _ in range(size)])
        if number < num_prefixes:
            source = group.trajectories[0] = play(index, True)
            source.branch_point = source.token_ids.index(policy.chat.tool_call_id) + 1
            copies = [play(index, True) for _ in range(config.axpo.continuations)]
            group.continuations[0] = [continued(source, copy) for copy in copies]
        samples += get_algorithm("axpo").make_samples(group, config.axpo)
    env.close()
    return samples


def continued(source: Trajectory, other: Trajectory) -> Trajectory:
    """`other`, another rollout of the source's question, as a continuation of its prefix."""
    length = source.branch_point
    assert length is not None and other.token_ids[:length] == source.token_ids[:length]
    other.source, other.prefix_length = source, length
    other.loss_mask[:length] = [False] * length
    return other


def nano_update(device: str, *, share: bool) -> Callable[[], tuple[int, int]]:
    """An update of the nano recipe, which returns its numbers of trees and tokens."""
    config = load_config(["recipe=nano", f"loss.share_prefixes={str(share).lower()}"], TrainConfig)
    policy = build_nano(seed=0)
    policy.model.to(device)
    policy = Qwen3VLPolicy(policy.model, policy.chat)
    samples = nano_samples(policy, config)
    learner = Learner(policy, policy.clone_frozen(), loss=config.loss, optimizer=config.optimizer)
    num_trees = len(make_trees(policy, samples, share=share))

    def update() -> tuple[int, int]:
        metrics = learner.update(samples, num_trajectories=len(samples))
        return num_trees, int(metrics["num_forward_tokens"])

    return update


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="of the policy, but for nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    policy = build_policy(SIZES[options.size])
    policy.model.to(options.device)
    policy = Qwen3VLPolicy(policy.model, policy.chat)
    rows = [measure_case(policy, case, options.repeats) for case in options.cases.split(",")]
    print(f"{torch.get_num_threads()} threads; a tree is at most {MAX_WIDTH} tokens wide\n")
    print(markdown_table(rows, columns=COLUMNS))
    if options.json:
        write_json(options.json, {"size": options.size, "device": options.device, "rows": rows})
    return rows


if __name__ == "__main__":
    main()
