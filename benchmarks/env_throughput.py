"""How near do many episodes with slow tools come to the ideal rate, and what does an environment cost?

    python benchmarks/env_throughput.py [--episodes 1,64,256] [--latency-ms 0,50,500] [--seconds 5] [--json PATH]

Each episode calls a tool that sleeps, turn after turn; the ideal rate is episodes / latency, with steps and policies
free of cost. `threads` steps without a barrier (`send`, `recv`), `threads, in step` with one (`step`); `bare threads`
have no policy to answer to and show what the machine allows; `sync` and `async` are Gymnasium's own vector
environments. Resets are not timed in the table of rates. Sync takes one episode after the other, so with latency its
rate is measured on at most 8. Without latency there is no ideal rate; compare with sync. A machine that is busy with
something else moves the figures.
"""

import argparse
import gc
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from axpo_algo.run.tables import markdown_table, write_json
from axpo_env.env import MAX_PIXELS, ToolEnv
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import Task, check_index
from axpo_env.tools.base import ToolResult, function_schema
from axpo_env.vector import ThreadedVectorEnv

COLUMNS = ("episodes", "latency_ms", "engine", "steps/s", "share of ideal")
COST_COLUMNS = ("what", "median", "unit")
NAP = format_action("", format_call("nap", {}))
ENGINES = ("threads", "threads, in step", "bare threads", "sync", "async", "gem threads")
MAX_SYNC_EPISODES = 8
MAX_PROCESSES = 64  # beyond, Gymnasium's async environments want more memory than is fair to ask
TURNS = 100_000  # of an episode: it does not end while it is measured


class Nap:
    """A tool that takes its time."""

    name = "nap"
    schema = function_schema("nap", "Sleep.", {}, required=())

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s

    def run(self, arguments: Any, state: Any, interpreter: Any) -> ToolResult:
        if self.latency_s:
            time.sleep(self.latency_s)
        return ToolResult(text="done")


class NapEnv(ToolEnv):
    """Forgets its conversation after every step, so that all steps cost what the first one does."""

    def __init__(self, latency_s: float) -> None:
        super().__init__(difficulty="nano", tools=(Nap(latency_s),), max_turns=TURNS)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        state = self._state
        result = super().step(action)
        self._state = state
        return result


def steps_in_lockstep(vector: VectorEnv, seconds: float) -> tuple[int, float]:
    """Steps of all episodes together in about `seconds`, and the seconds they took."""
    actions = (NAP,) * vector.num_envs
    vector.reset(seed=0)
    vector.step(actions)
    start_s, num_steps = time.perf_counter(), 0
    while num_steps == 0 or time.perf_counter() - start_s < seconds:
        vector.step(actions)
        num_steps += vector.num_envs
    return num_steps, time.perf_counter() - start_s


def steps_as_they_finish(vector: ThreadedVectorEnv, seconds: float) -> tuple[int, float]:
    """The same without a barrier."""
    vector.reset(seed=0)
    vector.send(range(vector.num_envs), [NAP] * vector.num_envs)
    vector.send([first.env_id for first in vector.recv(vector.num_envs)], [NAP] * vector.num_envs)
    start_s, num_steps = time.perf_counter(), 0
    # Whole rounds: steps of equal length end together, and a window that cuts one short would not count it.
    while num_steps % vector.num_envs or time.perf_counter() - start_s < seconds:
        (result,) = vector.recv()
        vector.send([result.env_id], [NAP])
        num_steps += 1
    total_s = time.perf_counter() - start_s
    vector.recv(vector.num_envs)
    return num_steps, total_s


def bare_steps(num_envs: int, latency_s: float, seconds: float) -> tuple[int, float]:
    """Each environment steps by itself in a thread, for nobody: what the machine allows at best."""
    counts = [0] * num_envs
    envs = [NapEnv(latency_s) for _ in range(num_envs)]
    for env in envs:
        env.reset(seed=0)
    start_s = time.perf_counter()

    def go_on(number: int) -> None:
        while time.perf_counter() - start_s < seconds:
            envs[number].step(NAP)
            counts[number] += 1

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(num_envs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), time.perf_counter() - start_s


def gem_steps(num_envs: int, latency_s: float, seconds: float) -> tuple[int, float] | None:
    """GEM's threaded vector environment (gem-llm 0.1) on the same steps, texts only; None where it is missing."""
    try:
        from gem.core import Env as GemEnv
        from gem.vector.async_vector_env import AsyncVectorEnv as GemVector
    except ImportError:
        return None

    class Adapter(GemEnv):
        def __init__(self) -> None:
            super().__init__()
            self.inner = NapEnv(latency_s)

        def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
            return self.inner.reset(seed=seed)[0]["text"], {}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            observation, reward, terminated, truncated, _ = self.inner.step(action)
            return observation["text"], reward, terminated, truncated, {}

    vector = GemVector(["nap"] * num_envs, [Adapter] * num_envs)
    vector.reset(seed=0)
    vector.step([NAP] * num_envs)
    start_s, num_steps = time.perf_counter(), 0
    while num_steps == 0 or time.perf_counter() - start_s < seconds:
        vector.step([NAP] * num_envs)
        num_steps += num_envs
    return num_steps, time.perf_counter() - start_s


def measure_engine(engine: str, num_envs: int, latency_s: float, seconds: float) -> tuple[int, float] | None:
    """(steps, seconds) of one engine; None where it cannot run."""
    make: Callable[[], gym.Env[Any, Any]] = lambda: NapEnv(latency_s)  # noqa: E731
    if engine == "bare threads":
        return bare_steps(num_envs, latency_s, seconds)
    if engine == "gem threads":
        return gem_steps(num_envs, latency_s, seconds)
    if engine == "async" and num_envs > MAX_PROCESSES:
        return None
    vector: VectorEnv
    if engine == "sync":
        vector = SyncVectorEnv([make] * (min(num_envs, MAX_SYNC_EPISODES) if latency_s else num_envs))
    elif engine == "async":
        vector = AsyncVectorEnv([make] * num_envs, shared_memory=False)
    else:
        vector = ThreadedVectorEnv([make] * num_envs)
    try:
        if engine == "threads" and isinstance(vector, ThreadedVectorEnv):
            return steps_as_they_finish(vector, seconds)
        return steps_in_lockstep(vector, seconds)
    finally:
        vector.close()


def row(episodes: int, latency_ms: float, engine: str, num_steps: int, total_s: float) -> dict[str, Any]:
    """One line of the table. The share of the ideal rate is absent without latency."""
    line: dict[str, Any] = {"episodes": episodes, "latency_ms": latency_ms, "engine": engine}
    line["steps/s"] = num_steps / total_s
    if latency_ms:
        line["share of ideal"] = line["steps/s"] * latency_ms / 1e3 / episodes
    return line


def measure_rates(
    episodes: Sequence[int], latencies_ms: Sequence[float], seconds: float
) -> list[dict[str, Any]]:
    rows = []
    for num_envs, latency_ms in itertools.product(episodes, latencies_ms):
        for engine in ENGINES:
            enough_s = max(seconds, 6 * latency_ms / 1e3)  # several rounds, however slow the tool is
            measured = measure_engine(engine, num_envs, latency_ms / 1e3, enough_s)
            if measured is not None:
                rows.append(row(num_envs, latency_ms, engine, *measured))
    return rows


class _OneTask:
    """A source of one task."""

    num_tasks = 1

    def __init__(self, image: np.ndarray) -> None:
        image.flags.writeable = False
        self._task = Task(
            id="large",
            index=0,
            split="test",
            source="benchmark",
            question="What is this?",
            images=(image,),
            references=("1",),
        )

    def get(self, index: int) -> Task:
        check_index(index, 1, "the benchmark")
        return self._task


def episode_ms(width_px: int, height_px: int, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of reset, one zoom into a quarter and an answer, on an image that is decoded already.

    First of the first episode of a task, which scales the image down, then of another one of the same task, as
    every group of rollouts has it.
    """
    env = ToolEnv(difficulty="nano", tools=("image_zoom_in",), max_pixels=MAX_PIXELS)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, size=(height_px, width_px, 3), dtype=np.uint8)
    first, again = [], []
    for _ in range(repeats):
        env.source = _OneTask(image)
        first.append(_episode_ms(env))
        again.append(_episode_ms(env))
    return first, again


def _episode_ms(env: ToolEnv) -> float:
    zoom = format_call("image_zoom_in", {"bbox_2d": [250, 250, 750, 750], "label": "x"})
    start_s = time.perf_counter()
    env.reset()
    rewards = [
        env.step(action)[1] for action in (format_action("", zoom), format_action("", format_answer("1")))
    ]
    total_ms = (time.perf_counter() - start_s) * 1e3
    if rewards != [0.0, 1.0]:
        raise RuntimeError(f"the episode went wrong: rewards {rewards}")
    return total_ms


def resident_bytes() -> int:
    """Memory of this process in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def idle_mb(num_envs: int) -> float:
    """MB that an idle episode takes beyond its image: one step done in each of `num_envs`, threads alive."""
    warm = ThreadedVectorEnv([lambda: NapEnv(0)] * 8)
    warm.reset(seed=0)
    warm.step((NAP,) * 8)
    warm.close()
    gc.collect()
    before = resident_bytes()
    vector = ThreadedVectorEnv([lambda: NapEnv(0)] * num_envs)
    vector.reset(seed=0)
    vector.step((NAP,) * num_envs)
    gc.collect()
    images = sum(
        image.nbytes
        for env in vector.envs
        for image in (
            *env.unwrapped.state.images,  # type: ignore[attr-defined]
            *(
                part.image
                for message in env.unwrapped.state.messages  # type: ignore[attr-defined]
                for part in message.content
                if hasattr(part, "image")
            ),
        )
    )
    total = resident_bytes() - before - images
    vector.close()
    return total / num_envs / 2**20


def import_ms(repeats: int) -> list[float]:
    """Milliseconds that `import axpo_env` takes in a fresh interpreter, beyond its start."""
    code = "import time; start = time.perf_counter(); import axpo_env; print(time.perf_counter() - start)"
    return [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        * 1e3
        for _ in range(repeats)
    ]


def measure_costs(num_idle: int, repeats: int) -> list[dict[str, Any]]:
    first, again = episode_ms(3840, 2160, repeats)
    episode = "reset, one zoom, answer on 3840 x 2160"
    return [
        {"what": f"{episode}, the task's first", "median": statistics.median(first), "unit": "ms"},
        {"what": f"{episode}, later ones", "median": statistics.median(again), "unit": "ms"},
        {
            "what": f"idle episode, of {num_idle}, beyond its images",
            "median": idle_mb(num_idle),
            "unit": "MB",
        },
        {"what": "import axpo_env", "median": statistics.median(import_ms(5)), "unit": "ms"},
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", default="1,64,256", help="comma-separated numbers")
    parser.add_argument("--latency-ms", default="0,50,500", help="comma-separated, of the tool")
    parser.add_argument("--seconds", type=float, default=5.0, help="at least, of each rate")
    parser.add_argument("--repeats", type=int, default=20, help="of each cost")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    episodes = [int(number) for number in options.episodes.split(",")]
    latencies_ms = [float(latency) for latency in options.latency_ms.split(",")]
    costs = measure_costs(max(episodes), options.repeats)
    print(markdown_table(costs, columns=COST_COLUMNS), end="\n\n", flush=True)
    rates = measure_rates(episodes, latencies_ms, options.seconds)
    print(markdown_table(rates, columns=COLUMNS), flush=True)
    if options.json:
        write_json(options.json, {"rates": rates, "costs": costs})


if __name__ == "__main__":
    main()
