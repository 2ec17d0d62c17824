"""The adapter for verl inside verl's own classes. What a server would sample is scripted; the rest is verl's."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from adapter_tasks import ENV_ID, NANO, demonstration, tiny_processor

from axpo_env.messages import format_answer

pytestmark = pytest.mark.adapters


class ScriptedServer:
    """Stands for verl's rollout servers: gives each rollout the next scripted replies, and keeps what it was asked."""

    def __init__(self, *rollouts):
        self.rollouts = [list(replies) for replies in rollouts]
        self.started = {}
        self.asked = []

    async def generate(self, request_id, *, prompt_ids, sampling_params, image_data=None, **_):
        from verl.workers.rollout.replica import TokenOutput

        self.asked.append((list(prompt_ids), list(image_data)))
        if request_id not in self.started:
            self.started[request_id] = self.rollouts.pop(0)
        ids = self.started[request_id].pop(0)
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids))


class ScriptedQueue:
    """Stands for TransferQueue: the trajectories by key, and each prompt's last status."""

    def __init__(self):
        self.trajectories = {}
        self.status = {}

    def init(self):
        pass

    async def async_kv_put(self, *, key, partition_id, tag):
        self.status[key] = tag["status"]

    async def async_kv_batch_put(self, *, keys, fields, tags, partition_id):
        self.trajectories |= dict(zip(keys, fields, strict=True))


def verl_rollout(replies, *, response_length=4000, **keywords):
    """An agent loop's output for scripted action texts on task 3, the server, and the policy's chat."""
    pytest.importorskip("verl", reason="verl is not installed: pip install axpo[verl]")
    import hydra
    from omegaconf import OmegaConf
    from verl.experimental.agent_loop import agent_loop as loops

    import axpo_env.adapters.verl  # noqa: F401 - registers the loop
    from axpo_algo.models.nano import build_nano

    chat = build_nano(seed=0).chat
    rollout = {"prompt_length": 4000, "response_length": response_length}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})
    server = ScriptedServer([chat.action(reply) for reply in replies])
    extra_info = {"env_id": ENV_ID, "index": 3, "keywords": {"max_calls": None, **NANO, **keywords}}

    async def play():
        loop = hydra.utils.instantiate(
            loops._agent_loop_registry["axpo_env"],
            trainer_config=loops.DictConfigWrap(config),
            server_manager=server,
            tokenizer=chat.tokenizer,
            processor=tiny_processor(chat),
            dataset_cls=None,
            data_config=loops.DictConfigWrap(OmegaConf.create({})),
            hf_model_type="qwen3_vl",
        )
        return await loop.run({}, raw_prompt=[], extra_info=extra_info, agent_name="axpo_env")

    return asyncio.run(play()), server, chat


def test_verl_plays_an_episode_with_images_in_tool_results():
    actions = demonstration(3)
    output, server, chat = verl_rollout(actions)
    assert output.reward_score == 1.0 and output.extra_fields["stop_reason"] == "answer"
    assert [len(images) for _, images in server.asked] == [1, 2]
    assert len(output.multi_modal_data["images"]) == 2
    tokens = output.prompt_ids + output.response_ids
    assert server.asked[1][0] == tokens[: len(server.asked[1][0])]  # nothing was rendered again
    assert len(output.response_ids) == len(output.response_mask) == len(output.response_logprobs)
    sampled = [t for t, own in zip(output.response_ids, output.response_mask, strict=True) if own]
    assert sampled == [t for action in actions for t in chat.action(action)]
    between = [t for t, own in zip(output.response_ids, output.response_mask, strict=True) if not own]
    patches = chat.image_processor(images=output.multi_modal_data["images"], return_tensors="pt")
    sizes = [int(grid.prod()) // 4 for grid in patches["image_grid_thw"]]  # in tokens of 2 x 2 patches
    counts = [ids.count(chat.image_token_id) for ids in (output.prompt_ids, between)]
    assert counts == sizes and min(counts) > 0
    assert "<tool_response>" in chat.tokenizer.decode(between)
    assert "image_zoom_in" in chat.tokenizer.decode(output.prompt_ids)


def test_verl_leaves_out_what_cannot_be_graded():
    output, _, _ = verl_rollout(demonstration(3), tool_time_limit_s=1e-9)
    assert output.extra_fields["stop_reason"] == "timeout"
    assert output.reward_score == 0.0 and set(output.response_mask) == {0}


def test_verl_appends_no_result_that_would_not_fit():
    zoom = demonstration(3)[0]
    output, server, chat = verl_rollout([zoom], response_length=len_of(zoom) + 5)
    assert output.extra_fields["stop_reason"] == "response_length" and output.reward_score == 0.0
    assert output.response_ids == chat.action(zoom) and set(output.response_mask) == {1}
    assert len(output.multi_modal_data["images"]) == len(server.asked) == 1


def len_of(action):
    """How many tokens an action is."""
    from axpo_algo.models.nano import build_nano

    return len(build_nano(seed=0).chat.action(action))


@pytest.fixture
def workers(tmp_path):
    """verl's configuration for the built-in policy, saved as a checkpoint; its chat; and verl's agent loops."""
    pytest.importorskip("verl", reason="verl is not installed: pip install axpo[verl]")
    import transformers
    import verl
    from hydra import compose, initialize_config_dir

    from axpo_algo.models.nano import build_nano

    policy = build_nano(seed=0)
    policy.save(tmp_path)
    processor = tiny_processor(policy.chat)
    (tmp_path / "chat_template.jinja").write_text(processor.chat_template)
    # verl knows processors by the name of their class; transformers' own of this name wants torchvision, for video.
    type(processor).__name__ = "Qwen3VLProcessor"
    transformers.AutoProcessor.register(transformers.Qwen3VLConfig, type(processor), exist_ok=True)
    loops = tmp_path / "loops.yaml"
    loops.write_text("- name: axpo_env\n  _target_: axpo_env.adapters.verl.EnvAgentLoop\n")
    settings = {
        "model.path": tmp_path,
        "rollout.name": "vllm",
        "rollout.n": 3,
        "rollout.prompt_length": 1000,
        "rollout.response_length": 1000,
        "rollout.calculate_log_probs": True,
        "rollout.agent.agent_loop_config_path": loops,
    }
    folder = Path(verl.__file__).parent / "trainer" / "config"
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        overrides = [f"actor_rollout_ref.{name}={value}" for name, value in settings.items()]
        config = compose("ppo_trainer", overrides=overrides)
    return config, policy.chat


def rows(num, **keywords):
    """Columns of a data set: task 3, `num` times."""
    columns = {
        "raw_prompt": [{"role": "user", "content": "not used"}],
        "agent_name": "axpo_env",
        "extra_info": {"env_id": ENV_ID, "index": 3, "keywords": {**NANO, **keywords}},
    }
    arrays = {name: np.empty(num, dtype=object) for name in columns}
    for name, value in columns.items():
        arrays[name][:] = [value] * num
    return {**arrays, "index": np.zeros(num, dtype=int)}


def test_verl_worker_makes_a_batch_of_episodes_with_images(workers):
    """Two rollouts through verl's own worker: one zooms and answers right, one answers wrong."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
    from verl.protocol import DataProto

    from axpo_algo.models.qwen3_vl import mrope_positions

    config, chat = workers
    zoom, right = demonstration(3)
    scripts = [[zoom, right], [format_answer("1")]]
    server = ScriptedServer(*([chat.action(reply) for reply in replies] for replies in scripts))

    async def play():
        worker = AgentLoopWorker(config, server)
        return await worker.generate_sequences(DataProto.from_dict(non_tensors=rows(2)))

    made = asyncio.run(play())
    batch = made.batch
    rewards = batch["rm_scores"].sum(-1).tolist()
    assert sorted(rewards) == [0.0, 1.0]
    assert made.non_tensor_batch["stop_reason"].tolist() == ["answer", "answer"]
    assert batch["responses"].shape == batch["response_mask"].shape == batch["rollout_log_probs"].shape
    shown = max((images for _, images in server.asked), key=len)
    assert len(shown) == 2 and len(server.asked) == 3
    for row, reward in enumerate(
        rewards
    ):  # the rollouts run at once: which of the two a row is, its reward tells
        replies = scripts[0] if reward else scripts[1]
        own = batch["response_mask"][row].bool()
        assert batch["responses"][row][own].tolist() == [t for reply in replies for t in chat.action(reply)]
        assert set(batch["rollout_log_probs"][row][own].tolist()) == {-0.5}
        # What the model gets: pixels of the images in order, and positions that agree with our own arithmetic.
        inputs = made.non_tensor_batch["multi_modal_inputs"][row]
        expected = chat.image_processor(images=shown[: len(replies)], return_tensors="pt")
        assert inputs["image_grid_thw"].tolist() == expected["image_grid_thw"].tolist()
        assert (inputs["pixel_values"] == expected["pixel_values"]).all()
        real = batch["attention_mask"][row].bool()
        positions = mrope_positions(
            batch["input_ids"][row][real].tolist(),
            [tuple(grid) for grid in inputs["image_grid_thw"].tolist()],
            image_token_id=chat.image_token_id,
            merge_size=2,
        )
        assert batch["position_ids"][row][1:, real].tolist() == positions.tolist()


def test_verl_trainer_leaves_out_what_cannot_be_graded(workers, monkeypatch):
    """Three rollouts of one question: right, timed out, wrong. The group's mean is that of the two."""
    import torch
    from verl.protocol import DataProto
    from verl.trainer.ppo.v1 import agent_loop_tq
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
    from verl.utils import tensordict_utils

    config, chat = workers
    zoom, right = demonstration(3)
    server = ScriptedServer(*([chat.action(reply)] for reply in (right, zoom, format_answer("1"))))
    queue = ScriptedQueue()
    monkeypatch.setattr(agent_loop_tq, "tq", queue)
    Worker = agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class  # the class, without its process

    async def play():
        worker = Worker(config, server)
        columns = rows(1, tool_time_limit_s=1e-9) | {"uid": np.array(["question"], dtype=object)}
        batch = tensordict_utils.get_tensordict(columns)
        tensordict_utils.assign_non_tensor_data(batch, "global_steps", 0)
        await worker.generate_sequences(batch)
        await asyncio.gather(*worker.background_tasks)

    asyncio.run(play())
    assert queue.status == {"question": "finished"}
    keys = list(queue.trajectories)
    assert len(keys) == 2 and set(keys) < {f"question_{session}_0" for session in range(3)}
    scores, masks = (
        torch.nn.utils.rnn.pad_sequence([queue.trajectories[key][name] for key in keys], batch_first=True)
        for name in ("rm_scores", "response_mask")
    )
    rewards = scores.sum(-1)
    assert sorted(rewards.tolist()) == [0.0, 1.0]
    data = DataProto.from_dict(
        tensors={"token_level_rewards": scores, "response_mask": masks},
        non_tensors={"uid": np.array(["question"] * 2, dtype=object)},
    )
    compute_advantage_for_multi_trajectories(data, keys, "grpo", norm_adv_by_std_in_grpo=False)
    assert (data.batch["advantages"][:, 0] == rewards - 0.5).all()
