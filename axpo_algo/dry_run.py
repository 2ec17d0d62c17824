"""Whether a run fits: `dry_run=true` prints its plan, and every run is refused in one line that names what would help.

Nothing is loaded but the checkpoint's config.json. What is planned is `plan`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from axpo_algo.algorithms import get_algorithm
from axpo_algo.checks import check_engine, checking
from axpo_algo.config import ConfigError, TrainConfig
from axpo_algo.machine import find_machine
from axpo_algo.models.qwen3_vl import PolicyError, require_qwen3_vl
from axpo_algo.plan import GB, Plan
from axpo_algo.run.tables import markdown_table
from axpo_algo.sizes import Sizes

__all__ = ["check_fits", "format_plan", "make_plan", "problems"]

MOST_RANKS = 64
"""that a message proposes"""


def check_fits(config: TrainConfig, *, start: Path | None = None) -> None:
    """Raises ConfigError for a run that cannot fit. start: folder of the policy it begins with, if there is one yet."""
    if start is not None:
        config = dataclasses.replace(config, policy=dataclasses.replace(config.policy, path=str(start)))
    found = problems(make_plan(config))
    if found:
        raise ConfigError("; ".join(found))


def make_plan(config: TrainConfig) -> Plan:
    """The plan of `config` on this machine. Raises ConfigError for a policy whose config.json cannot be read."""
    with checking("algorithm"):
        get_algorithm(config.algorithm)
    check_engine(config.rollout.engine)
    model_config, max_pixels = _model_config(config.policy.path)
    sizes = Sizes.from_config(model_config)
    return Plan(config=config, sizes=sizes, machine=find_machine(config), max_image_pixels=max_pixels)


def _model_config(path: str) -> tuple[Any, int | None]:
    """transformers' configuration of a policy, and the pixels that its processor shrinks images to where known."""
    if path == "nano":
        from axpo_algo.models.nano import NanoConfig, nano_model_config

        return nano_model_config(), NanoConfig().max_pixels
    with checking("policy.path"):
        require_qwen3_vl(path)
        try:
            config = AutoConfig.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise PolicyError(
                f"no config.json of {path!r} could be fetched from the hub "
                f"({type(error.__cause__ or error).__name__})"
            ) from error
        if config.model_type != "qwen3_vl":
            raise PolicyError(f"{path!r} is a {config.model_type!r}; this policy is 'qwen3_vl'")
        return config, None


def format_plan(plan: Plan) -> str:
    """The plan as Markdown: rows, moments of a step, tokens, sandboxes."""
    rows = [*plan.device_rows, *plan.host_rows, *plan.disk_rows]
    lines = [{"what": row.what, "GB": row.num_bytes / GB, "when": row.when} for row in rows]
    moments = [{"moment": name, "GB": num_bytes / GB} for name, num_bytes in plan.moments.items()]
    processes, files, num_bytes = plan.sandbox
    parts = [
        f"plan for {plan.machine.in_words}, by rank; GB are 1e9 bytes",
        markdown_table([line for line in lines if line["GB"]], columns=("what", "GB", "when")),
        markdown_table(moments),
        f"tokens written per step, at most: {plan.tokens_per_step}, in {plan.episodes} trajectories\n"
        f"sandboxes of a node, at most: {processes} processes, {files} open files, {num_bytes / GB:.1f} GB",
    ]
    return "\n\n".join(parts)


def problems(plan: Plan) -> list[str]:
    """A line for each thing that does not fit: how much is needed and there, and which setting would help."""
    machine, config, found = plan.machine, plan.config, []
    if _device_need(plan) > machine.device_bytes:
        moment = max(plan.moments, key=lambda name: plan.moments[name])
        where = "a rank's device" if machine.has_accelerator else "this machine's memory"
        found.append(
            f"{where} has {machine.device_bytes / GB:.1f} GB, {moment} needs {_device_need(plan) / GB:.1f} GB: "
            f"{_remedy(plan)}"
        )
    elif machine.has_accelerator and _host_need(plan) > machine.host_bytes:
        found.append(
            f"the node has {machine.host_bytes / GB:.1f} GB of memory, its {machine.local_ranks} ranks need "
            f"{_host_need(plan) / GB:.1f} GB: set a smaller rollout.questions_per_step "
            f"(now {config.rollout.questions_per_step})"
        )
    disk = sum(row.num_bytes for row in plan.disk_rows)
    if disk > machine.disk_bytes:
        found.append(
            f"{config.run_dir or 'runs'} has {machine.disk_bytes / GB:.1f} GB free, checkpoints need "
            f"{disk / GB:.1f} GB: set checkpoint.keep below {config.checkpoint.keep}, or run_dir to another disk"
        )
    processes, files, _ = plan.sandbox
    limits = ("processes", processes, machine.max_processes), ("open files", files, machine.max_files)
    for what, need, limit in limits:
        if need > limit:
            found.append(
                f"this user may have {limit:.0f} {what}, {plan.episodes} episodes with Python need {need}: raise "
                f"ulimit -{'u' if what == 'processes' else 'n'}, or set a smaller rollout.questions_per_step "
                f"(now {config.rollout.questions_per_step})"
            )
    return found


def _host_need(plan: Plan) -> float:
    """Bytes of a node's memory."""
    per_rank = sum(row.num_bytes for row in plan.host_rows)
    return per_rank * plan.machine.local_ranks + plan.sandbox[2]


def _device_need(plan: Plan) -> float:
    """Bytes on a rank's device; on a CPU that is the node's memory, for all its ranks and what is on the host."""
    if plan.machine.has_accelerator:
        return plan.device_bytes
    return plan.device_bytes * plan.machine.local_ranks + _host_need(plan)


def _remedy(plan: Plan) -> str:
    """Settings with which it would fit, as few as a greedy search finds, or how many ranks it takes."""
    changes = _search(plan)
    if changes:
        return "set " + " ".join(f"{key}={_text(value)}" for key, value in changes.items())
    ranks = plan.machine.ranks
    while ranks < MOST_RANKS and plan.machine.has_accelerator:
        ranks *= 2
        machine = dataclasses.replace(plan.machine, ranks=ranks)
        more = dataclasses.replace(plan, machine=machine)
        if _fits(more):
            return f"start {ranks} ranks (torchrun)"
        changes = _search(more)
        if changes:
            settings = " ".join(f"{key}={_text(value)}" for key, value in changes.items())
            return f"start {ranks} ranks (torchrun) with {settings}"
    return "no setting makes it fit; train a smaller policy (policy.path)"


def _search(plan: Plan) -> dict[str, Any]:
    """The first changes, in the order of `_candidates`, with which the device suffices; empty if none do."""
    changes: dict[str, Any] = {}
    changed = plan
    for key, value in (
        list(_candidates(plan)) * 2
    ):  # again: what did not help may, once something else is smaller
        tried = changed.with_setting(key, value)
        if _device_need(tried) < _device_need(changed):
            changed, changes = tried, {**changes, key: value}
        if _fits(changed):
            return _pruned(plan, changes)
    return {}


def _pruned(plan: Plan, changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` without those that are not needed."""
    for key in list(changes):
        rest = {name: value for name, value in changes.items() if name != key}
        changed = plan
        for name, value in rest.items():
            changed = changed.with_setting(name, value)
        if _fits(changed):
            changes = rest
    return changes


def _fits(plan: Plan) -> bool:
    return _device_need(plan) <= plan.machine.device_bytes


def _candidates(plan: Plan) -> Iterator[tuple[str, Any]]:
    """Changes that leave what is learned as it is come first."""
    yield "policy.gradient_checkpointing", True
    yield from _halved("rollout.max_batch_size", plan.config.rollout.max_batch_size, 1)
    yield from _halved("loss.max_tokens_per_micro_batch", plan.config.loss.max_tokens_per_micro_batch, 2048)
    if plan.machine.has_accelerator:
        yield "optimizer.offload", True
    yield "policy.freeze_vision", True
    yield "lora.rank", plan.config.lora.rank or 16
    for name in ("evaluation", "rollout"):
        for limit in ("max_response_tokens", "max_new_tokens"):
            value = getattr(getattr(plan.config, name), limit)
            yield from _halved(f"{name}.{limit}", value or 0, 1024)


def _halved(key: str, value: int, least: int) -> Iterator[tuple[str, int]]:
    while value // 2 >= least:
        value //= 2
        yield key, value


def _text(value: Any) -> str:
    return str(value).lower()
