"""Episodes with a scripted engine: exact tokens, masks, branch points, statuses; branches that keep to their prefix."""

import dataclasses
import functools
import math

import pytest
from scripted_engine import ANSWER, ZOOM, ScriptedEngine, facts

from axpo_algo.algorithms import get_algorithm
from axpo_algo.config import AxpoConfig, EnvConfig, EvaluationConfig, RolloutConfig
from axpo_algo.engines import Sampling
from axpo_algo.environments import make_env, step_indices
from axpo_algo.evaluate import evaluate_scripted
from axpo_algo.models.nano import build_nano
from axpo_algo.rollout import PrefixMismatch, branch, check_prefix, run_episodes, start_group
from axpo_algo.types import Group
from axpo_env.grading import make_grade


@pytest.fixture(scope="module")
def chat():
    return build_nano().chat


@pytest.fixture
def env():
    made = make_env(
        EnvConfig(kwargs={"difficulty": "nano", "max_pixels": 2304, "tools": ["image_zoom_in"]}),
        split="train",
        max_turns=3,
    )
    yield made
    made.close()


def test_a_turn_by_turn_record(env, chat):
    color, box, right, wrong = facts(env, 5)
    zoom = ZOOM.format(c=color, x=box[0], y=box[2])

    def script(request):
        number = request.seed[-2]
        if number == 0:
            return zoom if request.seed[-1] == 0 else ANSWER.format(c=color, v=right)
        return ANSWER.format(c="guess", v=wrong) if number == 1 else "hm"

    episodes = start_group(env, chat, index=5, num_episodes=3, seed=(7,), keep_forks=True)
    engine = ScriptedEngine(chat, script)
    run_episodes(episodes, engine, chat, Sampling(max_new_tokens=64), RolloutConfig())
    first, second, third = (episode.trajectory for episode in episodes)
    assert engine.batches == [3, 2, 1]  # whoever waits shares a batch

    assert (first.status, first.reward, first.used_tool) == ("answer", 1.0, True)
    assert (second.status, second.reward, second.used_tool) == ("answer", 0.0, False)
    assert (third.status, third.reward, third.used_tool) == ("malformed", 0.0, False)
    assert first.tool_counts == {"image_zoom_in": 1} and second.branch_point is None

    prompt_length = first.turns[0].start
    zoom_ids, answer_ids = chat.action(zoom), chat.action(ANSWER.format(c=color, v=right))
    assert first.token_ids[:prompt_length] == second.token_ids[:prompt_length]
    assert first.token_ids[prompt_length : prompt_length + len(zoom_ids)] == zoom_ids
    assert first.token_ids[-len(answer_ids) :] == answer_ids
    observed = len(first.token_ids) - prompt_length - len(zoom_ids) - len(answer_ids)
    assert first.loss_mask == (
        [False] * prompt_length + [True] * len(zoom_ids) + [False] * observed + [True] * len(answer_ids)
    )
    assert [lp for lp, t in zip(first.sampling_logprobs, first.loss_mask, strict=True) if not t] == [0.0] * (
        prompt_length + observed
    )
    assert [turn.text for turn in first.turns] == [zoom, ANSWER.format(c=color, v=right)]
    assert len(first.images) == 2 and len(second.images) == 1
    assert first.token_ids[first.branch_point - 1] == chat.tool_call_id
    assert first.confidence == pytest.approx(0.6065306597)
    for episode in episodes:
        episode.close()


def test_a_turn_without_end_is_cut(env, chat):
    episodes = start_group(env, chat, index=5, num_episodes=1, seed=(7,))
    run_episodes(
        episodes,
        ScriptedEngine(chat, lambda r: "x" * 100),
        chat,
        Sampling(max_new_tokens=10),
        RolloutConfig(),
    )
    trajectory = episodes[0].trajectory
    assert (trajectory.status, trajectory.reward) == ("max_new_tokens", 0.0)
    assert sum(trajectory.loss_mask) == 10


@pytest.mark.parametrize("lockstep", [True, False])
def test_branches_share_prefix_and_state_and_go_their_own_ways(env, chat, lockstep):
    color, box, right, _ = facts(env, 6)
    wrong_box = [0, 167] if box[0] else [833, 1000]

    def script(request):
        *_, number, turn = request.seed
        if turn == 0:
            x, y = wrong_box if request.seed[0] == "source" or number != 2 else (box[0], box[2])
            return ZOOM.format(c=color, x=x, y=y)
        hit = request.images[-1].digest == gold.digest
        return ANSWER.format(c=color, v=right if hit else "5")

    env.reset(options={"index": 6})
    gold = chat.image(env.step(ZOOM.format(c=color, x=box[0], y=box[2]))[0]["images"][0])
    engine = ScriptedEngine(chat, script)
    (source,) = start_group(env, chat, index=6, num_episodes=1, seed=("source",), keep_forks=True)
    run_episodes([source], engine, chat, Sampling(max_new_tokens=64), RolloutConfig(lockstep=lockstep))
    kept = source.trajectory
    assert kept.reward == 0.0
    copies = branch(source, 4, seed=("branch",), image_token_id=chat.image_token_id)
    run_episodes(copies, engine, chat, Sampling(max_new_tokens=64), RolloutConfig(lockstep=lockstep))
    continuations = [copy.trajectory for copy in copies]
    assert [t.reward for t in continuations] == [0.0, 0.0, 1.0, 0.0]
    for trajectory in continuations:
        check_prefix(trajectory, chat.image_token_id)
        assert trajectory.token_ids[: kept.branch_point] == kept.token_ids[: kept.branch_point]
        assert trajectory.prefix_length == trajectory.branch_point == kept.branch_point
        assert not any(trajectory.loss_mask[: kept.branch_point])
        assert trajectory.loss_mask[kept.branch_point]
        assert trajectory.turns[0].text.startswith(f"zoom {color}\n</think>\n\n<tool_call>")
        assert trajectory.used_tool and len(trajectory.images) == 2
    assert kept.images[0] is continuations[0].images[0]
    # Credit: the prefix by its recovery, continuations among themselves.
    group = Group(trajectories=[kept, kept], continuations={0: continuations})
    samples = get_algorithm("axpo").make_samples(group, AxpoConfig())
    spans = [(s.start, s.length) for s in samples]
    whole = [len(t.token_ids) for t in continuations]
    assert spans == [
        (0, kept.branch_point),
        (0, len(kept.token_ids)),
        *((kept.branch_point, n) for n in whole),
    ]
    assert [s.advantage for s in samples] == pytest.approx(
        [1.0, 0.0, -0.5773503, -0.5773503, 1.7320508, -0.5773503]
    )
    assert [len(s.trained_positions) for s in samples[2:]] == [sum(t.loss_mask) for t in continuations]
    for episode in (source, *copies):
        episode.close()


@pytest.mark.parametrize(
    "call", ["<tool_call>\nnot json</tool_call>", None], ids=["malformed", "well-formed"]
)
def test_a_malformed_call_of_a_source_is_trained_where_asked_for(env, chat, call):
    color, _, right, _ = facts(env, 6)
    wrong = ZOOM.format(c=color, x=0, y=167)
    first = wrong if call is None else f"zoom {color}\n</think>\n\n{call}"

    def script(request):
        *_, number, turn = request.seed
        if request.seed[0] == "source" and number == 1:
            return ANSWER.format(c=color, v=right)
        if turn == 0:
            return first if request.seed[0] == "source" else wrong
        return ANSWER.format(c=color, v="5")

    engine = ScriptedEngine(chat, script)
    group = start_group(env, chat, index=6, num_episodes=2, seed=("source",), keep_forks=True)
    run_episodes(group, engine, chat, Sampling(max_new_tokens=64), RolloutConfig())
    copies = branch(group[0], 2, seed=("branch",), image_token_id=chat.image_token_id)
    run_episodes(copies, engine, chat, Sampling(max_new_tokens=64), RolloutConfig())
    source, other = (episode.trajectory for episode in group)
    assert (source.reward, other.reward) == (0.0, 1.0)
    assert source.is_first_call_malformed == (call is not None)
    groups = Group(trajectories=[source, other], continuations={0: [copy.trajectory for copy in copies]})
    make_samples = get_algorithm("axpo").make_samples
    masked = make_samples(groups, AxpoConfig())
    samples = make_samples(groups, AxpoConfig(train_malformed_calls=True))
    extra = [s for s in samples if (s.start, s.length) == (source.branch_point, source.call_end)]
    assert len(samples) == len(masked) + len(extra)
    if call is None:
        assert not extra
    else:
        assert [s.advantage for s in extra] == [-1.0]  # of rewards 0 and 1
        trained = [source.token_ids[i] for i in extra[0].trained_positions]
        assert chat.decode(trained) == "\nnot json</tool_call>"
    for episode in (*group, *copies):
        episode.close()


def test_a_branch_that_strays_is_caught(env, chat):
    color, box, *_ = facts(env, 6)
    engine = ScriptedEngine(chat, lambda r: ZOOM.format(c=color, x=box[0], y=box[2]))
    (source,) = start_group(env, chat, index=6, num_episodes=1, seed=(1,), keep_forks=True)
    run_episodes([source], engine, chat, Sampling(max_new_tokens=64), RolloutConfig())
    (copy,) = branch(source, 1, seed=(2,), image_token_id=chat.image_token_id)
    run_episodes([copy], engine, chat, Sampling(max_new_tokens=64), RolloutConfig())
    trajectory = copy.trajectory
    trajectory.token_ids[3] += 1
    with pytest.raises(PrefixMismatch, match="differ from its source"):
        check_prefix(trajectory, chat.image_token_id)
    trajectory.token_ids[3] -= 1
    trajectory.loss_mask[3] = True
    with pytest.raises(PrefixMismatch, match="repeated prefix"):
        check_prefix(trajectory, chat.image_token_id)
    trajectory.loss_mask[3] = False
    trajectory.images = trajectory.images[1:]
    with pytest.raises(PrefixMismatch, match="other images"):
        check_prefix(trajectory, chat.image_token_id)


def test_what_was_never_a_call_cannot_be_branched(env, chat):
    (episode,) = start_group(env, chat, index=6, num_episodes=1, seed=(1,), keep_forks=True)
    engine = ScriptedEngine(chat, lambda r: ANSWER.format(c="red", v=1))
    run_episodes([episode], engine, chat, Sampling(), RolloutConfig())
    with pytest.raises(ValueError, match="made a tool call"):
        branch(episode, 2, seed=(1,), image_token_id=chat.image_token_id)


def test_an_outage_is_masked_not_wrong(env, chat):
    from axpo_env.tools.base import ToolUnavailable

    color, box, *_ = facts(env, 6)

    class Down:
        name = "image_zoom_in"
        schema = env.rules.tools["image_zoom_in"].schema

        def run(self, arguments, state, interpreter):
            raise ToolUnavailable("down")

    broken = make_env(
        EnvConfig(kwargs={"difficulty": "nano", "max_pixels": 2304, "tools": [Down()]}),
        split="train",
        max_turns=3,
    )
    episodes = start_group(broken, chat, index=6, num_episodes=2, seed=(1,))
    script = lambda r: (  # noqa: E731
        ZOOM.format(c=color, x=box[0], y=box[2]) if r.seed[-2] == 0 else ANSWER.format(c="red", v="50")
    )
    run_episodes(episodes, ScriptedEngine(chat, script), chat, Sampling(max_new_tokens=64), RolloutConfig())
    down, fine = (episode.trajectory for episode in episodes)
    assert down.status == "infrastructure" and down.reward != down.reward
    samples = get_algorithm("grpo").make_samples(Group(trajectories=[down, fine]), AxpoConfig())
    assert [s.trajectory for s in samples] == [fine]


def test_an_answer_that_only_a_judge_could_grade_is_masked_not_wrong(env, chat, monkeypatch):
    ask = type(env.source).get
    ungraded = functools.partial(make_grade, correct=None)
    monkeypatch.setattr(
        type(env.source),
        "get",
        lambda source, index: dataclasses.replace(ask(source, index), grader=ungraded),
    )
    scripts = {0: ANSWER.format(c="red", v="5"), 1: "hm"}
    episodes = start_group(env, chat, index=5, num_episodes=2, seed=(7,))
    engine = ScriptedEngine(chat, lambda request: scripts[request.seed[-2]])
    run_episodes(episodes, engine, chat, Sampling(max_new_tokens=64), RolloutConfig())
    answered, silent = (episode.trajectory for episode in episodes)
    assert answered.status == "answer" and math.isnan(answered.reward)
    assert answered.info["grade"]["correct"] is None
    assert (silent.status, silent.reward) == ("malformed", 0.0)  # never having answered needs no judge
    scripted = EvaluationConfig(num_questions=3, max_turns=3)
    groups = evaluate_scripted(
        "blank", scripted, EnvConfig(kwargs={"difficulty": "nano", "tools": ["image_zoom_in"]})
    )
    assert [math.isnan(trajectory.reward) for (trajectory,) in groups] == [True] * 3


def test_a_finite_source_is_gone_through_in_shuffled_passes():
    passes = [step_indices(10, step=step, count=5, seed=3) for step in range(4)]
    assert sorted(passes[0] + passes[1]) == list(range(10)) == sorted(passes[2] + passes[3])
    assert passes[0] + passes[1] != passes[2] + passes[3]
    assert passes == [step_indices(10, step=step, count=5, seed=3) for step in range(4)]
    assert step_indices(10, step=0, count=10, seed=4) != passes[0] + passes[1]
    endless = step_indices(2**31 - 1, step=0, count=5, seed=3)
    assert endless == step_indices(2**31 - 1, step=0, count=5, seed=3) and len(set(endless)) == 5
