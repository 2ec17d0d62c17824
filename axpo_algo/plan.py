"""What a run needs of memory, disk and processes, worked out before anything is loaded.

Bytes are worked out per rank from the settings and the checkpoint's config.json (`sizes`). What is assumed
rather than known has a constant below or a setting in `plan.*`. The plan is an upper bound of ordinary runs: all
responses as long as they may get. The machine is `machine`; whether it suffices, and the tables, are `dry_run`.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from axpo_algo.algorithms import get_algorithm
from axpo_algo.config import TrainConfig
from axpo_algo.machine import Machine
from axpo_algo.models.network import _LOGITS_PER_CHUNK as LOGITS_PER_CHUNK
from axpo_algo.packing import MAX_WIDTH
from axpo_algo.sizes import MicroBatch, Sizes, UpdateBytes, update_bytes

__all__ = ["Plan", "Row"]

GB = 1e9
CONTEXT_BYTES = int(0.6 * GB)
"""of CUDA's context and its libraries' workspaces on a GPU; assumed"""
PROCESS_BYTES = int(1.5 * GB)
"""of a rank's process with its libraries, on the host; assumed"""
SAMPLING_BYTES = 28
"""for each sequence and token of the vocabulary: logits, log-probs, their cumulative sums in double precision"""
TOKEN_BYTES = 80
"""of a token in a trajectory: an id, a mask and a log-prob in Python lists"""
TYPICAL_RESPONSE = 0.25
"""share of their limit that responses in a micro-batch take: the shorter, the more images are in it; assumed"""
SANDBOX_BASE, SANDBOX_SESSION, SANDBOX_SNAPSHOT = (5, 9, int(40e6)), (3, 7, int(7.5e6)), (1, 0, int(1e6))
"""processes, open files and bytes of a local sandbox, of a session and of a snapshot; measured with 40 of them"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the plan."""

    what: str
    num_bytes: float
    when: str
    """always, rollout, update: what may live at the same time; host; disk"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The needs of `config` with a model of `sizes` on `machine`. Bytes are per rank unless said otherwise."""

    config: TrainConfig
    sizes: Sizes
    machine: Machine
    max_image_pixels: int | None = None
    """of the checkpoint's processor, where it is known"""

    @property
    def width(self) -> int:
        """Bytes of a weight in `policy.dtype`."""
        return 2 if self.config.policy.dtype == "bfloat16" else 4

    @property
    def is_plain(self) -> bool:
        """The weights themselves are trained, by one process, and sampled from: no masters, no replica."""
        return self.width == 4 and self.machine.ranks == 1 and not self.config.lora.rank

    @property
    def num_trained(self) -> int:
        """Parameters that take gradients, of all ranks."""
        lora = self.config.lora
        if lora.rank:
            return self.sizes.adapters(lora.rank, vision=lora.vision)
        return self.sizes.total - (self.sizes.vision if self.config.policy.freeze_vision else 0)

    @property
    def trains_vision(self) -> bool:
        return self.config.lora.vision if self.config.lora.rank else not self.config.policy.freeze_vision

    # Lengths, in tokens.

    @property
    def image_tokens(self) -> int:
        pixels = int(self.config.env.kwargs.get("max_pixels") or self.config.plan.image_pixels)
        return self.sizes.image_tokens(min(pixels, self.max_image_pixels or pixels))

    def response(self, settings: Any) -> int:
        """What the policy writes in a trajectory at most, under `rollout` or `evaluation`."""
        of_turns = settings.max_turns * (settings.max_new_tokens or settings.max_response_tokens)
        return min(of_turns, settings.max_response_tokens or of_turns)

    def given(self, settings: Any) -> int:
        """What it reads at most: the question, an image, and what each call adds."""
        calls, plan = settings.max_turns - 1, self.config.plan
        return plan.prompt_tokens + (1 + calls) * self.image_tokens + calls * plan.observation_tokens

    def longest(self, settings: Any) -> int:
        return self.given(settings) + self.response(settings)

    @property
    def longest_prompt(self) -> int:
        """Of a last turn, in training and evaluation."""
        both = (self.config.rollout, self.config.evaluation)
        return max(
            self.given(s) + min(self.response(s), (s.max_turns - 1) * (s.max_new_tokens or 1 << 60))
            for s in both
        )

    @property
    def episodes(self) -> int:
        """Trajectories of a step on all ranks, continuations included, at most."""
        rollout, axpo = self.config.rollout, self.config.axpo
        ordinary = rollout.questions_per_step * rollout.group_size
        more = rollout.equal_budget or get_algorithm(self.config.algorithm).resamples
        return ordinary + (int(axpo.extra_budget * ordinary) if more else 0)

    @property
    def tokens_per_step(self) -> int:
        """That the policy writes, on all ranks, at most."""
        return self.episodes * self.response(self.config.rollout)

    @property
    def micro_batch(self) -> MicroBatch:
        rollout = self.config.rollout
        longest, given, response = self.longest(rollout), self.given(rollout), self.response(rollout)
        tokens = max(self.config.loss.max_tokens_per_micro_batch, longest)
        images = rollout.max_turns * max(1.0, tokens / (given + TYPICAL_RESPONSE * response))
        return MicroBatch(
            num_tokens=tokens,
            num_trained=tokens * response // longest,
            num_patches=min(int(images * self.image_tokens), tokens) * self.sizes.merge,
            mask_width=min(longest, MAX_WIDTH) if self.config.loss.share_prefixes else 0,
        )

    @cached_property
    def update(self) -> UpdateBytes:
        return update_bytes(
            self.sizes,
            self.micro_batch,
            width=self.width,
            checkpointing=self.config.policy.gradient_checkpointing,
            chunk_tokens=max(1, LOGITS_PER_CHUNK // self.sizes.vocabulary),
            train_head=not self.config.lora.rank,
            train_vision=self.trains_vision,
            gradient_held=not self.is_plain,
            lora=bool(self.config.lora.rank),
        )

    @property
    def root_trained(self) -> int:
        """Parameters of the root group that take gradients."""
        if self.config.lora.rank:
            return 0
        return self.sizes.root - (0 if self.trains_vision else self.sizes.vision_root)

    # Rows.

    @property
    def device_rows(self) -> list[Row]:
        """What a rank's device holds."""
        trained = [] if self.offloads else self._trained()
        return [*trained, *self._untrained(), *self._rollout(), *self._update()]

    @property
    def offloads(self) -> bool:
        """Whether what is trained lies in host memory."""
        return self.config.optimizer.offload and not self.is_plain

    def _trained(self) -> Iterator[Row]:
        sizes, ranks, width = self.sizes, self.machine.ranks, self.width
        lora, trained = self.config.lora.rank, self.num_trained
        names = ("embeddings", sizes.embeddings), ("head", sizes.head), ("decoder", sizes.decoder)
        for name, count in (*names, ("vision tower", sizes.vision)):
            if self.is_plain:
                yield Row(what=f"weights: {name}", num_bytes=4 * count, when="always")
            elif lora:
                yield Row(what=f"frozen weights: {name}", num_bytes=width * count / ranks, when="always")
            else:
                yield Row(what=f"masters, float32: {name}", num_bytes=4 * count / ranks, when="always")
        if lora:
            yield Row(what="adapters, float32", num_bytes=4 * trained / ranks, when="always")
        yield Row(what="gradients, float32", num_bytes=4 * trained / ranks, when="always")
        yield Row(what="AdamW's moments, float32", num_bytes=8 * trained / ranks, when="always")

    def _untrained(self) -> Iterator[Row]:
        sizes, ranks, width, lora = self.sizes, self.machine.ranks, self.width, self.config.lora.rank
        has_reference = self.config.loss.kl_coefficient > 0 and not lora
        reference = width * sizes.total / ranks if has_reference else 0
        yield Row(what="reference", num_bytes=reference, when="always")
        replica = 0 if self.is_plain else width * sizes.total
        yield Row(what="engine's replica", num_bytes=replica, when="always")
        context = CONTEXT_BYTES if self.machine.has_accelerator else 0
        yield Row(what="CUDA context (assumed)", num_bytes=context, when="always")

    def _rollout(self) -> Iterator[Row]:
        sizes, width, config = self.sizes, self.width, self.config
        both = (config.rollout, config.evaluation)
        rows, longest, prompt = (
            config.rollout.max_batch_size,
            max(map(self.longest, both)),
            self.longest_prompt,
        )
        # A layer's keys or values are copied as a token is added.
        cache = rows * longest * sizes.kv_bytes(width) * (1 + 1 / (2 * sizes.num_layers))
        block = width * (4 * sizes.hidden + 3 * sizes.intermediate + 2 * sizes.query)
        patches = max(s.max_turns for s in both) * self.image_tokens * sizes.merge
        tower = patches * ((4 + width) * sizes.patch_dim + 30 * sizes.vision_hidden)  # before the decoder
        prefill = rows * max(tower, prompt * (block + prompt * (1 + width)))
        yield Row(what=f"key-value cache, {rows} x {longest} tokens", num_bytes=cache, when="rollout")
        yield Row(what=f"prefill, {rows} x {prompt} tokens", num_bytes=prefill, when="rollout")
        sampling = SAMPLING_BYTES * rows * sizes.vocabulary
        yield Row(what="logits of the next tokens", num_bytes=sampling, when="rollout")

    def _update(self) -> Iterator[Row]:
        sizes, width, update, batch = self.sizes, self.width, self.update, self.micro_batch
        if not self.is_plain:
            blocks = 2 * width * max(sizes.decoder_block, sizes.vision_block)
            gradients = 0 if self.config.lora.rank else blocks
            yield Row(what="root group, gathered", num_bytes=width * sizes.root, when="update")
            yield Row(what="root group's gradient", num_bytes=width * self.root_trained, when="update")
            yield Row(what="two largest blocks, gathered", num_bytes=blocks + gradients, when="update")
        tokens, patches = f"{batch.num_tokens} tokens", f"{batch.num_patches} patches"
        yield Row(what=f"pixel values, {patches}", num_bytes=update.pixels, when="update")
        yield Row(what=f"decoder activations, {tokens}", num_bytes=update.decoder, when="update")
        yield Row(what=f"vision activations, deepstack, {patches}", num_bytes=update.vision, when="update")
        yield Row(what="attention mask", num_bytes=update.mask, when="update")
        yield Row(what="at work: logits chunk, head", num_bytes=update.head_work, when="update, head")
        yield Row(what="at work: a decoder block", num_bytes=update.decoder_work, when="update, decoder")
        yield Row(what="at work: a vision block", num_bytes=update.vision_work, when="update, vision")
        if not self.is_plain:
            reduced = 4 * self.root_trained
            yield Row(what="root's gradient, float32", num_bytes=reduced, when="update, reduction")
        step = 0 if self.offloads else 4 * self.num_trained / self.machine.ranks
        yield Row(what="roots of the second moments", num_bytes=step, when="AdamW's step")

    @property
    def moments(self) -> dict[str, float]:
        """Moments of a step, and the bytes on the device then."""
        rows = self.device_rows
        fixed = sum(row.num_bytes for row in rows if row.when == "always")
        rollout = sum(row.num_bytes for row in rows if row.when == "rollout")
        names = ("root group, gathered", "root group's gradient", "two largest blocks, gathered")
        gathered = [row.num_bytes for row in rows if row.what in names]
        phases = {f"update, {name}": fixed + sum(gathered) + n for name, n in self.update.phases.items()}
        last = {row.when: row.num_bytes for row in rows}
        if not self.is_plain:
            reduction = last["update, reduction"]
            phases["update, reduction"] = fixed + sum(gathered[:2]) + reduction
        return {"rollout": fixed + rollout, **phases, "AdamW's step": fixed + last["AdamW's step"]}

    @property
    def device_bytes(self) -> float:
        return max(self.moments.values())

    @property
    def host_rows(self) -> list[Row]:
        """What a rank's process holds in the node's memory; images as shown and as patches, at 3 bytes a pixel."""
        rollout, ranks = self.config.rollout, self.machine.ranks
        images = rollout.questions_per_step + self.episodes * (rollout.max_turns - 1)
        pixels = images * self.image_tokens * self.sizes.patch_px**2 * self.sizes.merge
        tokens = self.episodes * self.longest(rollout)
        trained = [dataclasses.replace(row, when="host") for row in self._trained()] if self.offloads else []
        return [
            *trained,
            Row(what="process (assumed)", num_bytes=PROCESS_BYTES, when="host"),
            Row(what=f"images of a step, {images}, uint8", num_bytes=6 * pixels / ranks, when="host"),
            Row(what="trajectories of a step", num_bytes=TOKEN_BYTES * tokens / ranks, when="host"),
        ]

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint: weights in `policy.dtype`; what is trained, and its moments, in float32."""
        return self.width * self.sizes.total + 12 * self.num_trained

    @property
    def disk_rows(self) -> list[Row]:
        """Of the run's folder, for all ranks together."""
        keep = self.config.checkpoint.keep
        weights = 2 * self.width * self.sizes.total
        return [
            Row(
                what=f"checkpoints: {keep} kept, one written, the best",
                num_bytes=(keep + 2) * self.checkpoint_bytes,
                when="disk",
            ),
            Row(what="start and trained policy", num_bytes=weights, when="disk"),
        ]

    @property
    def sandbox(self) -> tuple[int, int, int]:
        """Processes, open files and bytes of this node's local sandboxes, if all episodes use Python; zeros without."""
        kwargs = self.config.env.kwargs
        tools, backend = kwargs.get("tools", ("image_zoom_in", "python")), kwargs.get("sandbox", "local")
        name = backend.get("backend") if isinstance(backend, dict) else backend
        if "python" not in tools or name != "local":
            return 0, 0, 0
        node = self.machine.local_ranks
        sessions = -(-self.episodes * node // self.machine.ranks)
        snapshots = sessions if get_algorithm(self.config.algorithm).resamples else 0
        base, session, snapshot = SANDBOX_BASE, SANDBOX_SESSION, SANDBOX_SNAPSHOT
        processes, files, num_bytes = (
            node * base[i] + sessions * session[i] + snapshots * snapshot[i] for i in range(3)
        )
        return processes, files, num_bytes

    def with_setting(self, key: str, value: Any) -> "Plan":
        """The same with one setting, such as "rollout.max_batch_size", changed."""
        part, name = key.split(".")
        changed = dataclasses.replace(getattr(self.config, part), **{name: value})
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **{part: changed}))
