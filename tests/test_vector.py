"""Vector environments: Gymnasium's own over every id, and ours: the same in lockstep, and without a barrier."""

import gc
import random
import signal
import threading
from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import axpo_env
from axpo_env.actions import random_action
from axpo_env.env import ToolEnv
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.state import StopReason
from axpo_env.tools.base import ToolResult, function_schema
from axpo_env.vector import ThreadedVectorEnv

NANO = {"difficulty": "nano", "max_pixels": 48 * 48, "tools": ("image_zoom_in",)}
ANSWER = format_action("", format_answer("1"))
ZOOM = format_call("image_zoom_in", {"bbox_2d": [0, 0, 500, 250], "label": "x"})
KNOCK = format_action("", format_call("knock", {}))
WAIT_S = 20  # never waited for unless something is broken


class Knock:
    """Waits, in episodes of the given tasks, until it is let in."""

    name = "knock"
    schema = function_schema("knock", "Knock.", {}, required=())

    def __init__(self, *shut):
        self.doors = {index: threading.Event() for index in shut}

    def run(self, arguments, state, interpreter):
        door = self.doors.get(state.task.index)
        assert door is None or door.wait(WAIT_S)
        return ToolResult(text=f"in at {state.task.index}")


class Broken(Knock):
    """Raises in episodes of the given tasks."""

    def run(self, arguments, state, interpreter):
        if state.task.index in self.doors:
            raise KeyError("bug")
        return super().run(arguments, state, interpreter)


def makers(num_envs, *tools, **keywords):
    keywords = {**NANO, "tools": ("image_zoom_in", *tools), **keywords}
    return [lambda: ToolEnv(**keywords)] * num_envs


@pytest.fixture
def threaded():
    """Makes vector environments and closes them."""
    made = []

    def make(num_envs, *tools, autoreset_mode=AutoresetMode.NEXT_STEP, deadline_s=None, **keywords):
        env_fns = makers(num_envs, *tools, **keywords)
        options = {"autoreset_mode": autoreset_mode, "deadline_s": deadline_s, "reset_deadline_s": WAIT_S}
        made.append(ThreadedVectorEnv(env_fns, **options))
        return made[-1]

    yield make
    for vector in made:
        vector.close()


def begin(vector, *indices):
    vector.send_reset(range(len(indices)), options=[{"index": index} for index in indices])
    return vector.recv_from(range(len(indices)))


@pytest.mark.parametrize("env_id", sorted(axpo_env.IDS))
@pytest.mark.parametrize("mode", ["sync", "async", None])
def test_make_vec(env_id, mode):
    # Gymnasium's shared memory is for arrays of one size.
    options = {"shared_memory": False} if mode == "async" else {}
    envs = gym.make_vec(env_id, num_envs=3, vectorization_mode=mode, vector_kwargs=options, **NANO)
    try:
        observations, infos = envs.reset(seed=5)
        single = gym.make(env_id, **NANO)
        for number in range(3):
            observation, info = single.reset(seed=5 + number)
            assert observations["text"][number] == observation["text"]
            assert data_equivalence(observations["images"][number], observation["images"], exact=True)
            assert infos["task"]["index"][number] == info["task"]["index"]
        two_zooms = format_action("", ZOOM, ZOOM)
        observations, rewards, terminated, truncated, infos = envs.step((two_zooms, ANSWER, "hm"))
        assert [len(images) for images in observations["images"]] == [2, 0, 0]
        assert rewards.tolist() == [0.0, 0.0, 0.0] and not truncated.any()
        assert terminated.tolist() == [False, True, False]
        assert infos["stop_reason"].tolist() == [None, "answer", None]
        assert infos["grade"][0] is None and infos["grade"][1]["correct"] is False
        observations, *_ = envs.step((ANSWER,) * 3)
        assert [len(images) for images in observations["images"]] == [0, 1, 0]  # the second began anew
        assert isinstance(envs, ThreadedVectorEnv) is (mode is None)
    finally:
        envs.close()


def test_make_vec_takes_our_options():
    options = {"autoreset_mode": "SameStep", "deadline_s": 9.0}
    envs = gym.make_vec("AXPO/ChartQA-Tools-v0", num_envs=2, **options, **NANO)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and envs.deadline_s == 9.0
    assert envs.spec.id == "AXPO/ChartQA-Tools-v0" and envs.num_envs == 2
    envs.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_in_lockstep_it_is_gymnasiums_own_to_the_last_byte(threaded, mode):
    ours = threaded(3, max_turns=2, autoreset_mode=mode)
    theirs = SyncVectorEnv(makers(3, max_turns=2), autoreset_mode=mode)
    assert data_equivalence(ours.reset(seed=3), theirs.reset(seed=3), exact=True)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    rng = random.Random(0)
    num_ended = 0
    for _ in range(12):
        actions = tuple(random_action(rng) for _ in range(3))
        ours_now, theirs_now = ours.step(actions), theirs.step(actions)
        assert data_equivalence(ours_now, theirs_now, exact=True)
        ended = ours_now[2] | ours_now[3]
        num_ended += int(ended.sum())
        if mode is AutoresetMode.DISABLED and ended.any():
            masked = [envs.reset(options={"reset_mask": ended}) for envs in (ours, theirs)]
            assert data_equivalence(*masked, exact=True)
    assert num_ended >= 6
    assert data_equivalence(ours.reset(seed=[4, None, 9]), theirs.reset(seed=[4, None, 9]), exact=False)
    theirs.close()


def test_any_gymnasium_environment_will_do():
    env_fns = [lambda: gym.make("CartPole-v1")] * 4
    ours, theirs = ThreadedVectorEnv(env_fns), SyncVectorEnv(env_fns)
    assert data_equivalence(ours.reset(seed=1), theirs.reset(seed=1), exact=True)
    for step in range(40):
        actions = np.array([step % 2, 0, 1, 0])
        assert data_equivalence(ours.step(actions), theirs.step(actions), exact=True)
    ours.close()
    theirs.close()


def test_results_come_as_they_finish(threaded):
    knock = Knock(10)
    vector = threaded(3, knock)
    begin(vector, 10, 11, 12)
    vector.send([0, 1, 2], [KNOCK] * 3)
    first = vector.recv(2)
    assert sorted(result.env_id for result in first) == [1, 2]
    vector.send([1], [KNOCK])  # goes on while the first still waits
    assert vector.recv()[0].observation["text"] == "in at 11"
    assert vector.num_pending == 1
    knock.doors[10].set()
    assert [(r.env_id, r.observation["text"]) for r in vector.as_finished()] == [(0, "in at 10")]


def test_results_come_in_the_order_asked_for(threaded):
    knock = Knock(10)
    vector = threaded(3, knock)
    begin(vector, 10, 11, 12)
    vector.send([2, 0, 1], [KNOCK] * 3)
    assert [result.env_id for result in vector.recv_from([1, 2])] == [1, 2]
    vector.send([1, 2], [KNOCK, KNOCK])
    knock.doors[10].set()
    assert [result.env_id for result in vector.recv_from([2, 0, 1])] == [2, 0, 1]


def test_episodes_without_a_barrier_are_those_of_single_environments(threaded):
    num_envs, num_episodes = 8, 40
    vector = threaded(num_envs, autoreset_mode=AutoresetMode.DISABLED)
    queue = iter(range(num_episodes))
    scripts, rewards = {}, {}
    vector.send_reset(range(num_envs), options=[{"index": next(queue)} for _ in range(num_envs)])
    for result in vector.as_finished():
        number, index = result.env_id, result.info["task"]["index"]
        if result.ended:
            rewards[index] = result.reward
            following = next(queue, None)
            if following is not None:
                vector.send_reset([number], options={"index": following})
            continue
        if result.info["num_turns"] == 0:
            scripts[number] = iter(vector.envs[number].task.demonstrate(random.Random(0)))
        vector.send([number], [next(scripts[number])])
    assert rewards == dict.fromkeys(range(num_episodes), 1.0)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_deadline_ends_an_episode_whose_tool_hangs(threaded, mode):
    knock = Knock(10)
    vector = threaded(2, knock, deadline_s=0.2, autoreset_mode=mode)
    begin(vector, 10, 11)
    hanging, closed = vector.envs[0], threading.Event()
    hanging.close = closed.set
    vector.send([0], [KNOCK])
    (result,) = vector.recv()
    assert (result.env_id, result.reward, result.terminated, result.truncated) == (0, 0.0, False, True)
    last = result.info["final_info"] if mode is AutoresetMode.SAME_STEP else result.info
    assert (last["stop_reason"], last["grade"], last["tool_calls"]) == (StopReason.TIMEOUT, None, [])
    assert last["task"]["index"] == 10
    if mode is AutoresetMode.NEXT_STEP:
        vector.send([0], ["ignored"])
        (result,) = vector.recv()
    assert result.info["num_turns"] == 0 and len(result.observation["images"]) == 1
    assert vector.envs[0] is not hanging
    assert not closed.is_set()
    knock.doors[10].set()
    assert closed.wait(WAIT_S) and vector.num_pending == 0  # its late result went nowhere


def test_environments_that_hang_leave_threads_to_the_others(threaded):
    knock = Knock(10)
    vector = threaded(2, knock, deadline_s=0.1, autoreset_mode=AutoresetMode.DISABLED)
    hanging = []
    for _ in range(3):
        begin(vector, 10, 11)
        hanging.append((vector.envs[0], threading.Event()))
        hanging[-1][0].close = hanging[-1][1].set
        vector.send([0], [KNOCK])
        assert vector.recv()[0].info["stop_reason"] == "timeout"
    busy = threading.active_count()
    assert begin(vector, 12, 13)[1].info["task"]["index"] == 13
    knock.doors[10].set()
    assert all(closed.wait(WAIT_S) for _, closed in hanging)
    assert begin(vector, 12, 13)[0].info["task"]["index"] == 12
    assert threading.active_count() <= busy + 1  # who hung works again: no more were needed


def test_a_seeded_environment_is_replaced_by_one_with_a_seed_of_its_own(threaded):
    knock = Knock()
    vector = threaded(2, knock, deadline_s=0.2)
    tasks = []
    for _ in range(2):
        vector.reset(seed=[7, 7])
        index = vector.envs[0].task.index
        knock.doors = {index: threading.Event()}
        vector.send([0], [KNOCK])
        assert vector.recv()[0].truncated
        knock.doors[index].set()
        vector.send([0], ["ignored"])
        tasks.append(vector.recv()[0].info["task"]["index"])
        assert tasks[-1] != index
    assert tasks[0] == tasks[1]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_episode_past_its_deadline_takes_no_further_step(threaded, mode):
    vector = threaded(1, Knock(), autoreset_mode=mode, deadline_s=1e-9)
    begin(vector, 3)
    env = vector.envs[0]
    vector.send([0], [KNOCK])
    (result,) = vector.recv()
    assert result.truncated and vector.envs[0] is env
    last = result.info.get("final_info", result.info)
    assert (last["num_turns"], last["stop_reason"]) == (0, "timeout")


def test_what_a_step_raises_is_raised_and_loses_nothing(threaded):
    vector = threaded(3, Broken(11))
    begin(vector, 10, 11, 12)
    vector.send([0, 1, 2], [KNOCK] * 3)
    with pytest.raises(KeyError, match="bug") as caught:
        vector.recv_from([0, 1, 2])
    assert caught.value.__notes__ == ["(in environment 1 of 3)"]
    assert [result.observation["text"] for result in vector.recv_from([0, 2])] == ["in at 10", "in at 12"]
    vector.send([1], ["ignored"])  # it counts as ended
    assert vector.recv()[0].info["num_turns"] == 0
    begin(vector, 11)
    with pytest.raises(KeyError, match="bug"):
        vector.step((KNOCK,) * 3)
    vector.reset(seed=0)  # drops what was left
    assert vector.num_pending == 0 and vector.step(("hm",) * 3)[4]["num_turns"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_after_a_step_that_raised_lockstep_goes_on(threaded, mode):
    vector = threaded(3, Broken(11), autoreset_mode=mode)
    begin(vector, 10, 11, 12)
    with pytest.raises(KeyError, match="bug"):
        vector.step((KNOCK,) * 3)
    assert vector.get_attr("num_tasks") == (vector.envs[0].num_tasks,) * 3
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(RuntimeError, match="environment 1 must be reset first"):
            vector.step(("hm",) * 3)
        vector.reset(options={"reset_mask": np.array([False, True, False])})
        assert vector.step(("hm",) * 3)[4]["num_turns"].tolist() == [2, 1, 2]
    else:
        assert vector.step(("hm",) * 3)[4]["num_turns"].tolist() == [2, 0, 2]
    begin(vector, 10, 11, 12)
    with pytest.raises(KeyError, match="bug"):
        vector.step((KNOCK,) * 3)
    assert vector.recv_from([2])[0].observation["text"] == "in at 12"
    vector.send([2], ["hm"])  # asked for by hand, so it is not dropped
    with pytest.raises(RuntimeError, match="1 results of `send` are not received yet"):
        vector.step(("hm",) * 3)
    assert vector.recv()[0].info["num_turns"] == 2


class Sleepy(ToolEnv):
    """Hangs in every reset but an environment's first."""

    door = threading.Event()

    def reset(self, *, seed=None, options=None):
        started, self.started = getattr(self, "started", False), True
        assert not started or self.door.wait(WAIT_S)
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_hanging_reset_is_an_error_and_its_environment_is_replaced(monkeypatch, mode):
    monkeypatch.setattr(Sleepy, "door", threading.Event())
    env_fns = [lambda: Sleepy(**NANO), lambda: ToolEnv(**NANO)]
    vector = ThreadedVectorEnv(env_fns, reset_deadline_s=WAIT_S, autoreset_mode=mode)
    vector.reset(seed=0)
    hanging = vector.envs[0]
    vector.reset_deadline_s = 0.1
    vector.send_reset([0])
    with pytest.raises(TimeoutError, match=r"the reset took longer than 0.1 s") as caught:
        vector.recv()
    assert caught.value.__notes__ == ["(in environment 0 of 2)"]
    with (
        pytest.raises(RuntimeError, match="must be reset")
        if mode is AutoresetMode.DISABLED
        else nullcontext()
    ):
        vector.reset_deadline_s = WAIT_S
        assert vector.step(("ignored", "hm"))[4]["num_turns"].tolist() == [0, 1]  # a fresh one was reset
    Sleepy.door.set()
    vector.reset(seed=1)
    assert vector.envs[0] is not hanging
    vector.close()


def test_a_reset_has_the_deadline_of_an_episode_unless_it_has_its_own(monkeypatch):
    monkeypatch.setattr(Sleepy, "door", threading.Event())
    vector = ThreadedVectorEnv([lambda: Sleepy(**NANO)], deadline_s=0.1, reset_deadline_s=WAIT_S)
    vector.reset(seed=0)
    vector.reset_deadline_s = None  # no limit
    vector.send_reset([0])
    threading.Timer(0.3, Sleepy.door.set).start()
    assert vector.recv()[0].info["num_turns"] == 0
    vector.close()
    one = ThreadedVectorEnv(makers(1), deadline_s=9.0)
    assert one.reset_deadline_s == 9.0
    one.close()


def test_wrong_use_is_named(threaded):
    knock = Knock(10)
    vector = threaded(2, knock, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(RuntimeError, match="no episode"):
        vector.step(("hm", "hm"))
    vector.reset(seed=0)
    begin(vector, 10, 11)
    with pytest.raises(ValueError, match="asked for 1 results, 0 are pending"):
        vector.recv(1)
    with pytest.raises(ValueError, match="no result of environment 1 is pending"):
        vector.recv_from([1])
    with pytest.raises(IndexError, match="environments are 0 to 1, not 2"):
        vector.send([2], ["hm"])
    with pytest.raises(TypeError, match="number is an integer, not str"):
        vector.send(["0"], ["hm"])
    with pytest.raises(ValueError, match="given twice"):
        vector.send([1, 1], ["hm", "hm"])
    vector.send([0], [KNOCK])
    with pytest.raises(RuntimeError, match="environment 0 has a result that was not received yet"):
        vector.send([1, 0], ["hm", "hm"])
    with pytest.raises(RuntimeError, match="1 results of `send` are not received yet"):
        vector.step(("hm", "hm"))
    knock.doors[10].set()
    vector.recv_from([0])
    vector.step(("hm", ANSWER))
    with pytest.raises(RuntimeError, match="environment 1 must be reset first"):
        vector.step(("hm", "hm"))
    with pytest.raises(ValueError, match="1 actions for 2 environments"):
        vector.send([0, 1], ["hm"])
    with pytest.raises(ValueError, match="1 seeds and 2 options for 2 environments"):
        vector.send_reset([0, 1], seeds=[1])
    assert vector.num_pending == 0  # nothing was started
    for mask, error in (([True, False], TypeError), (np.zeros(2, dtype=bool), ValueError)):
        with pytest.raises(error, match="reset_mask"):
            vector.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="3 seeds for 2 environments"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="at least one environment"):
        ThreadedVectorEnv([])
    with pytest.raises(ValueError, match="deadline_s must be above 0"):
        threaded(1, deadline_s=0)
    with pytest.raises(TypeError, match="deadline_s must be a number, not '9'"):
        threaded(1, deadline_s="9")
    with pytest.raises(ValueError, match="reset_deadline_s must be above 0"):
        ThreadedVectorEnv(makers(1), reset_deadline_s=-1)
    with pytest.raises(ValueError, match="environment 1 has other spaces"):
        ThreadedVectorEnv([lambda: gym.make("CartPole-v1"), lambda: gym.make("Acrobot-v1")])


def test_attributes_and_calls(threaded):
    vector = threaded(2)
    vector.reset(seed=3)
    assert vector.call("snapshot")[1].state is vector.envs[1].state
    assert vector.get_attr("num_tasks") == (vector.envs[0].num_tasks,) * 2
    vector.set_attr("mark", [1, 2])
    assert vector.get_attr("mark") == (1, 2)
    assert vector.np_random_seed == (3, 4) and len(vector.np_random) == 2


def test_closing_leaves_no_environment_open(threaded, monkeypatch):
    knock, told = Knock(10), []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    vector = threaded(4, knock)
    closed = [threading.Event() for _ in vector.envs]
    for env, event in zip(vector.envs, closed, strict=True):
        env.close = event.set

    def broken():
        closed[1].set()
        raise OSError("cannot close")

    vector.envs[1].close = broken
    begin(vector, 10, 11, 12)  # the last is never begun
    vector.send([0], [KNOCK])
    vector.close(timeout_s=0.05)
    assert [event.is_set() for event in closed] == [False, True, True, True]
    assert [str(error) for error in told] == ["cannot close"]
    knock.doors[10].set()
    assert closed[0].wait(WAIT_S)


def test_closing_ends_the_threads(threaded):
    before = threading.active_count()
    vector = threaded(4)
    vector.reset(seed=0)
    assert threading.active_count() == before + 4
    vector.close()
    vector.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="the vector environment is closed"):
        vector.step(("hm",) * 4)


class Resets(ToolEnv):
    """Does what it is told to in every reset but an environment's first."""

    def __init__(self, then, **keywords):
        super().__init__(**keywords)
        self.then, self.started = then, False

    def reset(self, *, seed=None, options=None):
        if self.started:
            self.then()
        self.started = True
        return super().reset(seed=seed, options=options)


def solved(vector):
    """Answers environment 0's task rightly, without waiting."""
    task = vector.envs[0].task
    vector.send([0], [format_action("", format_answer(task.references[0]))])
    return task


def same_step(then, **options):
    mode = AutoresetMode.SAME_STEP
    return ThreadedVectorEnv([lambda: Resets(then, **NANO)], autoreset_mode=mode, **options)


def test_an_end_is_not_lost_to_a_reset_that_hangs_after_it():
    door = threading.Event()
    vector = same_step(lambda: door.wait(WAIT_S), reset_deadline_s=WAIT_S)
    vector.reset(seed=0)
    vector.reset_deadline_s, hanging = 0.1, vector.envs[0]
    task = solved(vector)
    (result,) = vector.recv()
    assert (result.reward, result.terminated, result.truncated) == (1.0, True, False)
    assert result.info["final_info"]["grade"]["correct"] and result.info["task"]["id"] == task.id
    assert result.observation == result.info["final_obs"]
    vector.send([0], ["ignored"])
    with pytest.raises(TimeoutError, match=r"the reset took longer than 0.1 s"):
        vector.recv()
    vector.reset_deadline_s = WAIT_S
    vector.send([0], ["ignored"])
    assert vector.recv()[0].info["num_turns"] == 0 and vector.envs[0] is not hanging
    door.set()
    vector.close()


def test_an_end_is_not_lost_to_a_reset_that_raises_after_it():
    def fail():
        raise OSError("no more tasks")

    vector = same_step(fail)
    vector.reset(seed=0)
    solved(vector)
    assert vector.recv()[0].reward == 1.0
    for _ in range(2):  # the one that was owed, and a reset of its own
        vector.send([0], ["ignored"])
        with pytest.raises(OSError, match="no more tasks"):
            vector.recv()
    vector.close()


def test_the_deadline_of_an_episode_is_none_of_the_reset_after_it():
    vector = same_step(lambda: threading.Event().wait(0.6), deadline_s=0.5, reset_deadline_s=WAIT_S)
    vector.reset(seed=0)
    solved(vector)
    (result,) = vector.recv()
    assert result.reward == 1.0 and result.info["final_info"]["stop_reason"] == "answer"
    assert result.info["num_turns"] == 0 and result.observation is not result.info["final_obs"]
    vector.close()


def test_who_drops_a_vector_environment_closes_it():
    before = threading.active_count()
    vector = ThreadedVectorEnv(makers(3))
    vector.reset(seed=0)
    closed = [threading.Event() for _ in vector.envs]
    for env, event in zip(vector.envs, closed, strict=True):
        env.close = event.set
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("envs-")]
    assert threading.active_count() == before + 3
    del vector, env
    gc.collect()
    assert all(event.wait(WAIT_S) for event in closed)
    for thread in threads:
        thread.join(WAIT_S)
    assert threading.active_count() <= before


def test_after_closing_nothing_is_received(threaded):
    knock = Knock(10)
    vector = threaded(2, knock, deadline_s=0.2)
    begin(vector, 10, 11)
    vector.send([0, 1], [KNOCK, KNOCK])
    vector.close(timeout_s=0.01)
    count = threading.active_count()
    for receive in (
        vector.recv,
        lambda: vector.recv_from([0]),
        lambda: next(vector.as_finished()),
        lambda: vector.reset(seed=0),
        lambda: vector.send_reset([0]),
    ):
        with pytest.raises(RuntimeError, match="the vector environment is closed"):
            receive()
    assert threading.active_count() <= count
    knock.doors[10].set()


class Closes(ToolEnv):
    """Notes that it was closed, and may then raise."""

    def __init__(self, closed, error=None, **keywords):
        super().__init__(**keywords)
        self.closed, self.error = closed, error

    def close(self):
        super().close()
        self.closed.append(self)
        if self.error is not None:
            raise self.error


def test_closing_goes_on_after_an_environment_that_cannot_be_closed():
    closed = []
    errors = (OSError("stuck"), None, OSError("stuck, too"))
    vector = ThreadedVectorEnv([lambda error=error: Closes(closed, error, **NANO) for error in errors])
    with pytest.raises(OSError, match=r"stuck$"):
        vector.close()
    assert len(closed) == 3 and vector.closed
    vector.close()
    assert len(closed) == 3


def test_what_was_made_is_closed_if_not_all_can_be():
    closed = []

    def fail():
        raise OSError("no room")

    makes = [lambda: Closes(closed, **NANO), lambda: Closes(closed, ValueError("stuck"), **NANO), fail]
    with pytest.raises(OSError, match="no room"):
        ThreadedVectorEnv(makes)
    assert len(closed) == 2
    with pytest.raises(ValueError, match="environment 1 has other spaces"):
        ThreadedVectorEnv([makes[0], lambda: gym.make("CartPole-v1")])
    assert len(closed) == 3


def test_after_an_interrupt_the_next_step_goes_on(threaded):
    knock = Knock(10)
    vector = threaded(2, knock)
    begin(vector, 10, 11)
    main = threading.main_thread().ident
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # of a job in the background: none
    try:
        threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            vector.step((KNOCK, "hm"))
    finally:
        signal.signal(signal.SIGINT, handler)
    knock.doors.pop(10).set()
    assert vector.step(("hm", "hm"))[4]["num_turns"].tolist() == [2, 2]
    assert vector.num_pending == 0
