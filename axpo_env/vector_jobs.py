"""What the threads of `vector` do on an environment, and what it gave.

When a job is run, and what follows from its result, is left to `vector`.
"""

import time
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class StepResult:
    """What one environment's step or reset gave. A reset has reward 0 and no end."""

    env_id: int  # 0 .. num_envs - 1
    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


@dataclass(kw_only=True, eq=False)
class Job:
    """What a thread does on an environment, and how far it has come: a step, or a reset, or one after the other."""

    env_id: int
    action: Any = None
    resets: bool = False  # an episode that the step ends is followed by another
    seed: int | None = None
    options: dict[str, Any] | None = None
    final: StepResult | None = None  # the end that the reset follows
    reset_s: float | None = None  # time.monotonic() when the reset was asked for; None: a step is under way
    begun_s: float | None = None  # time.monotonic() when the reset was done
    failure: BaseException | None = None  # of the reset after an end

    def __call__(self, env: Any) -> StepResult:
        if self.reset_s is None:
            observation, reward, terminated, truncated, info = env.step(self.action)
            result = StepResult(
                env_id=self.env_id,
                observation=observation,
                reward=float(reward),
                terminated=bool(terminated),
                truncated=bool(truncated),
                info=info,
            )
            if not (self.resets and result.ended):
                return result
            self.final = result
            self.reset_s = time.monotonic()  # last: the deadline is the reset's from now on
        try:
            observation, info = env.reset(seed=self.seed, options=self.options)
        except Exception as error:
            if self.final is None:
                raise
            self.failure = error
            return joined(self.final, self.final)
        begun = StepResult(
            env_id=self.env_id,
            observation=observation,
            reward=0.0,
            terminated=False,
            truncated=False,
            info=info,
        )
        self.begun_s = time.monotonic()
        return begun if self.final is None else joined(self.final, begun)


def joined(final: StepResult, begun: StepResult) -> StepResult:
    """The end of one episode and the beginning of the next as one step."""
    info = {**begun.info, "final_obs": final.observation, "final_info": final.info}
    return replace(final, observation=begun.observation, info=info)
