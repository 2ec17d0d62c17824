"""Parsing actions: the documented rules, a corpus of malformed ones, and speed on huge ones."""

import random

import pytest

from axpo_env.messages import (
    NotText,
    format_action,
    format_answer,
    format_call,
    parse_action,
    split_thinking,
)

CALL = format_call("image_zoom_in", {"bbox_2d": [0, 0, 9, 9], "label": "x"})
ANSWER = format_answer("42")


def parse(action, max_calls=4):
    return parse_action(action, max_calls=max_calls)


@pytest.mark.parametrize(
    ("text", "thinking", "body"),
    [
        ("a\n</think>\n\nb", "a", "\n\nb"),
        ("<think>\na\n</think>b", "a", "b"),
        ("</think>b", "", "b"),
        ("a</think>b</think>c", "a", "b</think>c"),
        ("b", None, "b"),
        ("<think>a", "a", None),
        ("b <think> a", "b <think> a", None),
    ],
)
def test_split_thinking(text, thinking, body):
    assert split_thinking(text) == (thinking, body)


def test_formats():
    arguments = '{"bbox_2d": [0, 0, 9, 9], "label": "x"}'
    assert f'<tool_call>\n{{"name": "image_zoom_in", "arguments": {arguments}}}\n</tool_call>' == CALL
    assert ANSWER == "<answer>\\boxed{42}</answer>"
    assert format_action("hm", CALL, ANSWER) == f"hm\n</think>\n\n{CALL}\n{ANSWER}"


def test_answer_and_call():
    assert parse(format_action("hm", ANSWER)).answer == "42"
    parsed = parse(format_action("hm", CALL))
    assert (parsed.thinking, parsed.answer, parsed.problem, parsed.num_calls) == ("hm", None, None, 1)
    assert parsed.calls[0].name == "image_zoom_in"
    assert parsed.calls[0].arguments == {"bbox_2d": [0, 0, 9, 9], "label": "x"}
    assert parsed.calls[0].error is None


def test_quoted_in_thinking_is_neither_call_nor_answer():
    parsed = parse(f"I could write {CALL} or {ANSWER}\n</think>\n\nhm")
    assert (parsed.calls, parsed.answer) == ((), None)
    assert parsed.problem == "Your reply held neither a tool call nor an answer."
    assert parse(f"or {CALL}</think>{ANSWER}").answer == "42"
    assert parse(f"<think>{CALL}{ANSWER}").problem == "Your thinking has no closing tag."


def test_without_any_thinking_tag_all_counts():
    assert parse(ANSWER).answer == "42" and parse(ANSWER).thinking is None
    assert parse(CALL).num_calls == 1


def test_call_wins_over_answer_whatever_the_order():
    for action in (format_action("", CALL, ANSWER), format_action("", ANSWER, CALL)):
        parsed = parse(action)
        assert (len(parsed.calls), parsed.answer, parsed.answer_ignored) == (1, None, True)


def test_calls_past_the_limit_are_counted_only():
    parsed = parse(format_action("", *[CALL] * 7), max_calls=3)
    assert (len(parsed.calls), parsed.num_calls) == (3, 7)


@pytest.mark.parametrize(
    ("inside", "error"),
    [
        ("{", "the call is not JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
        ("", "the call is not JSON: Expecting value at line 1 column 1"),
        ("[1]", "the call must be a JSON object with name and arguments"),
        ("null", "the call must be a JSON object with name and arguments"),
        ('{"name": "python"}', "the call lacks 'arguments'"),
        ('{"arguments": {}}', "the call lacks 'name'"),
        ('{"name": 3, "arguments": {}}', "name must be a string, not 3"),
        ('{"name": "python", "arguments": "x"}', "arguments must be an object, not 'x'"),
        (
            '{"name": "python", "arguments": {}, "argument": {}}',
            "unknown key 'argument'; known: arguments, name; nearest: arguments (of a call)",
        ),
        ('{"name": "python", "arguments": {"x": NaN}}', "the call is not JSON: 'NaN is no JSON number'"),
        ("[" * 100_000, "the call is nested too deeply"),
    ],
)
def test_broken_calls_say_why(inside, error):
    parsed = parse(f"</think><tool_call>{inside}</tool_call>")
    assert [call.error for call in parsed.calls] == [error]


def test_an_integer_too_long_to_read_is_an_error_not_an_exception():
    parsed = parse('</think><tool_call>{"name": "x", "arguments": {"y": ' + "9" * 10_000 + "}}</tool_call>")
    assert parsed.calls[0].error.startswith("the call is not JSON: 'Exceeds the limit")


def test_unclosed_call_is_a_call_with_an_error():
    parsed = parse('</think><tool_call>{"name": "python", "arguments": {}}')
    assert (parsed.num_calls, parsed.calls[0].error) == (1, "the call has no closing tag")


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        ("", "Your reply was empty."),
        (" \n ", "Your reply was empty."),
        ("hm\n</think>\n\n", "Nothing followed your thinking."),
        ("</think><answer>4", "<answer> was never closed by </answer>."),
        ("</think><answer></answer>", "Your answer was blank."),
        ("</think>\\boxed{4}", "Your reply held neither a tool call nor an answer."),
        (NotText(type_name="int"), "Your reply must be text, not 'int'."),
    ],
)
def test_malformed_actions_say_why(action, problem):
    parsed = parse(action)
    assert (parsed.problem, parsed.calls, parsed.answer) == (problem, (), None)


PIECES = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>", "\\boxed{", "}"]
PIECES += ["{", '"', '{"name": "python", "arguments": {"code": "1"}}', "\n", "\0", "\ud800", "é", "42", " "]


def test_random_strings_raise_nothing_and_always_say_something():
    rng = random.Random(0)
    for _ in range(5_000):
        parsed = parse("".join(rng.choice(PIECES) for _ in range(rng.randrange(30))))
        outcomes = [bool(parsed.calls), parsed.answer is not None, parsed.problem is not None]
        assert outcomes.count(True) == 1


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_of_anything_is_parsed(piece):
    # Quadratic parsing of these would take hours and so run into the suite's time limit.
    num_pieces = 1_000_000 // len(piece)
    parsed = parse("</think>" + piece * num_pieces)
    assert parsed.num_calls == (1 if piece == "<tool_call>" else 0)
    assert parsed.answer is None


@pytest.mark.parametrize("num_brackets", [0, 40, 60, 500, 5000])
def test_a_call_nested_too_deeply_is_an_error_of_the_call(num_brackets):
    text = '{"name": "t", "arguments": {"a": ' + "[" * num_brackets + "1" + "]" * num_brackets + "}}"
    (call,) = parse_action(f"</think><tool_call>{text}</tool_call>", max_calls=4).calls
    too_deep = num_brackets > 48  # the call and its arguments are two more
    assert call.error == ("the call is nested too deeply" if too_deep else None)
    assert (call.arguments is None) is too_deep
    wide = '{"name": "t", "arguments": {"a": [' + "[]," * 5000 + "[]]}}"
    (call,) = parse_action(f"</think><tool_call>{wide}</tool_call>", max_calls=4).calls
    assert call.error is None and len(call.arguments["a"]) == 5001
