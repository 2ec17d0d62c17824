"""verl: the agent loop `axpo_env` (verl 0.9), which plays an episode with verl's rollout servers.

Name this module in `actor_rollout_ref.rollout.agent.agent_loop_config_path`'s file, as

    - name: axpo_env
      _target_: axpo_env.adapters.verl.EnvAgentLoop

and give every row of the data set `agent_name: axpo_env` and

    extra_info: {"env_id": "AXPO/ChartQA-Tools-v0", "index": 3, "keywords": {"difficulty": "nano"}}

The row's own prompt is not used: the environment's messages are the prompt. verl's token builder appends to
what was sampled and never renders it again. Importing this imports verl.
"""

from typing import Any
from uuid import uuid4

import gymnasium as gym
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register
from verl.utils.profiler import simple_timer

import axpo_env  # noqa: F401 - registers the environments
from axpo_env.adapters.content import images_in, with_pil
from axpo_env.messages import THINK


@register("axpo_env")
class EnvAgentLoop(AgentLoopBase):
    """One episode per call of `run`. Environments are made per episode: task sources are cheap to open."""

    async def run(
        self, sampling_params: dict[str, Any], **row: Any
    ) -> AgentLoopOutput | list[AgentLoopOutput]:
        """Play task `extra_info["index"]`. The reward is the environment's.

        An ungraded episode (outage, time-out, no judge) gives no output, and its group is judged by the others.
        (verl's filter of groups, `algorithm.filter_groups`, raises where none of a group is left.) The trainer
        behind `trainer.use_v1=False` needs one for each: there the response mask is zeros, which keeps its tokens
        out of the loss, and its 0 still counts in its group's mean. A result that would not fit
        `rollout.response_length` is not appended, and ends the rollout with reward 0.
        """
        wanted = row["extra_info"]
        # Rows of one Arrow column share their keys: those that a row lacks come as None.
        given = {key: value for key, value in (wanted.get("keywords") or {}).items() if value is not None}
        env: Any = gym.make(wanted["env_id"], **given).unwrapped
        try:
            output = await self._play(env, int(wanted["index"]), sampling_params)
            ungraded = env.state.ungraded
        finally:
            env.close()
        if ungraded:
            if "session_id" in row:  # which the newer trainer's workers alone give
                return []
            output.response_mask = [0] * len(output.response_mask)
        return output

    async def _play(self, env: Any, index: int, sampling_params: dict[str, Any]) -> AgentLoopOutput:
        limit = self.rollout_config.response_length
        request_id = uuid4().hex
        metrics: dict[str, Any] = {}
        _, info = await self._in_thread(lambda: env.reset(options={"index": index}))
        tools, messages = info["tools"], _shown(info["new_messages"])
        images = images_in(messages)
        self._assert_mm_supported(bool(images))
        tokens = await self.ct_build_initial_tokens(messages, tools=tools, images=images)
        num_prompt = len(tokens)
        mask: list[int] = []
        logprobs: list[float] | None = None
        extra: dict[str, Any] = {}
        while True:
            opened = self.tokenizer.decode(tokens[-8:]).rstrip().endswith(THINK)
            with simple_timer("generate_sequences", metrics):
                output = await self.server_manager.generate(
                    request_id=request_id,
                    prompt_ids=tokens,
                    sampling_params=sampling_params,
                    image_data=images,
                )
            extra |= output.extra_fields
            merged, mask, logprobs = await self.ct_merge_assistant_token(
                tokens,
                output.token_ids,
                mask,
                (logprobs or []) if logprobs or output.log_probs else None,
                assistant_logprobs=output.log_probs or None,
            )
            tokens = merged.token_ids
            text = self.tokenizer.decode(output.token_ids, skip_special_tokens=True)
            action = f"{THINK}\n{text}" if opened else text
            with simple_timer("tool_calls", metrics):
                *_, terminated, truncated, info = await self._in_thread(lambda said=action: env.step(said))
            messages = [*messages, {"role": "assistant", "content": text}]
            if terminated or truncated or len(mask) >= limit:
                break
            new = _shown(info["new_messages"])
            merged, longer, padded = await self.ct_merge_context_msg(
                messages, [*messages, *new], tokens, mask, logprobs, tools=tools
            )
            if len(longer) >= limit:
                break
            tokens, mask, logprobs = merged.token_ids, longer, padded
            messages = [*messages, *new]
            images = [*images, *images_in(new)]
        stop = str(env.state.stop_reason or "response_length")
        return AgentLoopOutput(
            prompt_ids=tokens[:num_prompt],
            response_ids=tokens[num_prompt:][:limit],
            response_mask=mask[:limit],
            response_logprobs=logprobs[:limit] if logprobs else None,
            multi_modal_data={"images": images},
            reward_score=env.state.reward,
            num_turns=len(messages),
            metrics=metrics,
            extra_fields={**extra, "turn_scores": [], "tool_rewards": [], "stop_reason": stop},
        )

    async def _in_thread(self, call: Any) -> Any:
        return await self.loop.run_in_executor(None, call)


def _shown(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**message, "content": with_pil(message["content"])} for message in messages]
