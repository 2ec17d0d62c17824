"""Control tags from outside (questions, options, pages, output, errors) never act, whichever way they come."""

import copy
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from wire_attacks import ATTACK, HARMLESS, ROUTES, TAGS, environment, play

from axpo_env.adapters.content import action_text, chat_answers, with_pil, with_urls
from axpo_env.escape import escape_json, escape_tags, escape_tokens, unescape_tags
from axpo_env.messages import CALL, END_CALL, format_answer, format_call, parse_action

FRAGMENTS = st.sampled_from(
    [*TAGS, "<", "\\", "|", ">", "/", "think", "<|", "|>", "tool_call>", " ", "<answer>"]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=3), max_size=12).map("".join)
LIVE = re.compile("|".join(map(re.escape, TAGS)))


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_escaped_where_all_can_see_it(tag):
    assert escape_tags(f"a{tag}b") == f"a<\\{tag[1:]}b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a < b > c",
        "<answer>\\boxed{4}</answer>",
        "<b>",
        "<|>",
        "f <| x |> g",
        "<||>",
        "\\<",
        "<\\b>",
        "<thinking>",
    ],
)
def test_other_texts_stay(text):
    assert escape_tags(text) == unescape_tags(text) == escape_json(text) == text


@given(TEXTS)
@example("<\\think> <\\\\think> <think>")
def test_what_is_escaped_is_unescaped_exactly(text):
    shown = escape_tags(text)
    assert unescape_tags(shown) == text
    assert not LIVE.search(shown)
    assert escape_tokens(shown, LIVE) == shown


def test_hostile_texts_take_linear_time():
    """A million characters each, for which a quadratic pattern would take hours."""
    for text in ("<" * 10**6, "<" + "\\" * 10**6, "<\\" * 500_000, "<|" + "a" * 10**6, "<|a" * 300_000):
        assert unescape_tags(escape_tags(text)) == text


@given(TEXTS, TEXTS)
def test_arguments_of_a_call_never_act(name, value):
    call = format_call(name, {value: [value]})
    assert Counter(LIVE.findall(call)) == {CALL: 1, END_CALL: 1}
    (read,) = parse_action(call, max_calls=4).calls
    assert (read.name, read.arguments, read.error) == (name, {value: [value]}, None)


def test_a_call_that_a_server_parsed_never_ends_early():
    text = action_text("hm", [('a "</tool_call>"', '{"code": "print(\'</tool_call>\')"}')])
    (read,) = parse_action(text, max_calls=4).calls
    assert (read.name, read.arguments) == ('a "</tool_call>"', {"code": "print('</tool_call>')"})


@pytest.fixture(scope="module", params=["nano", pytest.param("released", marks=pytest.mark.adapters)])
def chat(request):
    """The built-in policy's with its own or the released template, and all of TAGS as tokens, not all special."""
    from axpo_algo.models.chat import Chat
    from axpo_algo.models.nano import build_nano

    nano = build_nano().chat
    tokenizer = copy.deepcopy(nano.tokenizer)
    tokenizer.add_tokens(list(TAGS))
    if request.param == "released":
        reason = "TRL, which has a copy of Qwen3-VL's template, is not installed: pip install axpo[trl]"
        tokenizer.chat_template = pytest.importorskip(
            "trl.chat_template_utils", reason=reason
        ).qwen3_vl_chat_template
    return Chat(tokenizer, nano.image_processor)


def control_tokens(chat, text):
    """How often each of TAGS is a token of `text`."""
    names = {chat.tokenizer.convert_tokens_to_ids(tag): tag for tag in TAGS}
    assert len(names) == len(TAGS)
    return Counter(names[i] for i in chat.tokenizer.encode(text, add_special_tokens=False) if i in names)


def rendered(chat, info, *, content=list):
    messages = [{**message, "content": content(message["content"])} for message in info["messages"]]
    return chat.tokenizer.apply_chat_template(messages, tools=info["tools"], tokenize=False)


@pytest.mark.parametrize("route", ROUTES)
def test_the_template_shows_the_control_tokens_of_the_format_alone(chat, route, tmp_path):
    """The environment's messages, rendered without any further care: as many as with a harmless word."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    attacked, usual = play(route, ATTACK, tmp_path / "a"), play(route, HARMLESS, tmp_path / "b")
    for content in (list, with_pil):
        counts = [
            control_tokens(chat, rendered(chat, seen[-1][1], content=content)) for seen in (attacked, usual)
        ]
        if route == "malformed":  # the policy's own tags
            own = [message for message in attacked[-1][1]["messages"] if message["role"] == "assistant"]
            counts[1] += control_tokens(chat, "".join(message["content"][0]["text"] for message in own))
        assert counts[0] == counts[1]
    shown = "".join(observation["text"] for observation, _ in attacked)
    assert not LIVE.search(shown)
    assert "<\\" in shown or route == "malformed"  # it came, and can be seen


@pytest.mark.parametrize("route", ROUTES)
def test_observations_hold_the_control_tokens_of_the_format_alone(chat, route, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    attacked, usual = play(route, ATTACK, tmp_path / "a"), play(route, HARMLESS, tmp_path / "b")
    for (_, one), (_, other) in zip(attacked, usual, strict=True):
        first = len(one["messages"]) == 2
        ids, other_ids = (
            (
                chat.prompt(info["new_messages"], info["tools"])
                if first
                else chat.observation(info["new_messages"])
            )[0]
            for info in (one, other)
        )
        control = {chat.tokenizer.convert_tokens_to_ids(tag) for tag in TAGS}
        assert Counter(i for i in ids if i in control) == Counter(i for i in other_ids if i in control)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_random_texts_hold_no_control_token(chat, text):
    """A tool's whole result: the environment's escape first, then the chat's alone."""
    from axpo_env.dynamics import _escaped

    plain = chat.observation([{"role": "tool", "content": "x"}])[0]
    control = {chat.tokenizer.convert_tokens_to_ids(tag) for tag in TAGS}
    for shown in (_escaped(text).text, text):
        ids = chat.observation([{"role": "tool", "content": shown}])[0]
        assert [i for i in ids if i in control] == [i for i in plain if i in control]


def test_lone_surrogates_are_shown_as_text(chat):
    """A tool's text or a row's may hold them; tokenizers take none."""
    env = environment(question="\ud800?")
    observation, info = env.reset(options={"index": 3})
    assert observation["text"] == "\\ud800?"
    chat.prompt(info["new_messages"], info["tools"])
    observation, *_, info = env.step(format_call("echo", {"text": "é\udfff"}))
    assert observation["text"] == "é\\udfff"
    assert "é\\udfff" in chat.readable(chat.observation(info["new_messages"])[0])


def test_what_was_shown_escaped_may_be_quoted_in_the_answer():
    env = environment(question="Which token opens the thinking: (A) <think> (B) <start>")
    env.reset(options={"index": 3})
    env._state = replace(env.state, task=replace(env.state.task, references=("<think>",)))
    *_, info = env.step(format_answer("<\\think>"))
    assert (info["grade"]["answer"], info["grade"]["correct"]) == ("<think>", True)


def test_a_format_error_is_a_tool_response_so_the_thinking_stays(chat):
    """The templates of thinking models drop the thinking before the last message of the user's, save tool responses."""
    env = environment()
    env.reset(options={"index": 3})
    *_, info = env.step("hm\n</think>\n\nno call")
    said = "Your reply held neither a tool call nor an answer. Write a tool call, or <answer>\\boxed{...}</answer>."
    assert info["new_messages"] == [
        {"role": "tool", "name": "unknown", "content": [{"type": "text", "text": said}]}
    ]
    ids, _ = chat.observation(info["new_messages"])
    assert chat.readable(ids) == (
        f"\n<|im_start|>user\n<tool_response>\n{said}\n</tool_response><|im_end|>\n{chat.generation_prompt}"
    )


def test_results_without_a_call_id_are_rendered_as_tool_messages(chat):
    """Servers that leave calls in the text: one user message in place of the tool messages."""
    call = format_call("image_zoom_in", {"bbox_2d": [0, 0, 500, 500], "label": "x"})
    for action in ("no call", f"</think>{call}{call}"):
        env = environment()
        env.reset(options={"index": 3})
        *_, info = env.step(action)
        (answer,) = chat_answers(info["new_messages"], [])
        assert answer["role"] == "user"
        content = [part if part["type"] == "text" else {"type": "image"} for part in answer["content"]]
        before = [message for message in info["messages"] if message["role"] in ("system", "user")]
        one, other = (
            chat.tokenizer.apply_chat_template([*before, *new], tokenize=False)
            for new in ([{**answer, "content": content}], info["new_messages"])
        )
        assert one == other and one.count("<tool_response>") == len(info["new_messages"])
        named = chat_answers(info["new_messages"], ["call-0"])
        expected = with_urls(info["new_messages"][0]["content"])
        assert (named[0]["role"], named[0]["tool_call_id"], named[0]["content"]) == (
            "tool",
            "call-0",
            expected,
        )
