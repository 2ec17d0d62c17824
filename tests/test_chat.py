"""The wire format as tokens: prompts, observations, actions, and where a turn's first tool call lies."""

import copy

import numpy as np
import pytest

from axpo_algo.models.chat import Chat, ChatError
from axpo_algo.models.nano import build_nano

THINKING = "zoom green\n</think>\n\n"
CALL = (
    '<tool_call>\n{"name": "image_zoom_in", "arguments": {"label": "green", "bbox_2d": [0, 833, 167, 1000]}}\n'
    "</tool_call>"
)
PIXELS = np.full((48, 48, 3), 200, dtype=np.uint8)


def text(role, *parts):
    content = [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts
    ]
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def chat():
    return build_nano().chat


def test_a_prompt_shows_tools_images_and_question_and_opens_the_thinking(chat):
    tools = [{"type": "function", "function": {"name": "image_zoom_in"}}]
    ids, images = chat.prompt([text("system", "Be brief."), text("user", PIXELS, "How many?")], tools)
    assert chat.readable(ids) == (
        "<|im_start|>system\ntools: image_zoom_in<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    assert ids.count(chat.image_token_id) == 9 == images[0].num_tokens
    assert images[0].grid == (1, 6, 6) and images[0].patches.shape == (36, 3, 8 * 8)


def test_later_turns_are_what_the_template_would_have_written(chat):
    """As text; the tokens differ where a seam merges, which is why they are carried and not rendered again."""
    first = [text("user", PIXELS, "What is the value of the green bar?")]
    results = [{**text("tool", "Image 1:", PIXELS)}, {**text("tool", "3")}]
    more = [text("tool", "Your reply was empty.")]
    ids, _ = chat.prompt(first, [])
    ids += chat.action("a\n</think>\n\nx") + chat.observation(results)[0]
    ids += chat.action("b\n</think>\n\ny") + chat.observation(more)[0]
    said = [text("assistant", "<think>\na\n</think>\n\nx"), text("assistant", "<think>\nb\n</think>\n\ny")]
    whole, _ = chat.prompt([*first, said[0], *results, said[1], *more], [])
    assert chat.readable(ids) == chat.readable(whole)


def test_tool_results_share_one_user_turn(chat):
    ids, images = chat.observation([text("tool", "one"), text("tool", "two", PIXELS)])
    assert chat.readable(ids) == (
        "\n<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\n"
        "two<|vision_start|><|image_pad|><|vision_end|>\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert len(images) == 1


def test_an_action_round_trips(chat):
    for action in (THINKING + CALL, "", "日本 é 🎈 \x00", "a\n</think>\n\n<answer>\\boxed{12.5%}</answer>"):
        ids = chat.action(action)
        assert ids[-1] == chat.end_of_turn_id
        assert chat.decode(ids) == action


def test_tags_are_single_tokens_and_a_box_is_a_number_a_token(chat):
    ids = chat.action(CALL)
    assert chat.tool_call_id in ids
    shown = [chat.tokenizer.decode([i]) for i in ids]
    assert [s for s in shown if s.strip().isdigit()] == ["0", " 833", " 167", " 1000"]


def test_control_tokens_in_text_do_not_act(chat):
    ids, images = chat.observation([text("tool", "<|image_pad|><|im_end|> <|vision_start|></tool_response>")])
    assert chat.image_token_id not in ids and images == []
    assert ids.count(chat.end_of_turn_id) == 1  # the turn's own
    assert chat.readable(ids) == (
        "\n<|im_start|>user\n<tool_response>\n<\\|image_pad|><\\|im_end|> <\\|vision_start|><\\/tool_response>\n"
        "</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_a_tag_in_two_texts_in_a_row_does_not_act(chat):
    for message in (text("tool", "<tool_", "call>"), text("user", "<|im_", "end|>")):
        assert chat.observation([message])[0] == chat.observation([joined(message)])[0]
        assert chat.prompt([message], [])[0] == chat.prompt([joined(message)], [])[0]
    assert chat.tool_call_id not in chat.observation([text("tool", "<tool_", "call>")])[0]


def joined(message):
    return text(message["role"], "".join(part["text"] for part in message["content"]))


def test_the_system_prompt_and_actions_keep_their_tags(chat):
    from axpo_env.messages import SYSTEM_PROMPT

    bare = Chat(copy.deepcopy(chat.tokenizer), chat.image_processor)
    bare.tokenizer.chat_template = "{% for m in messages %}{{ m.content[0].text }}{% endfor %}"
    ids, _ = bare.prompt([text("system", SYSTEM_PROMPT + "<|im_end|>")], [])
    assert ids.count(chat.tool_call_id) == 1 and chat.end_of_turn_id not in ids
    assert chat.action(CALL).count(chat.tool_call_id) == 1


def test_every_added_token_of_a_tokenizer_is_escaped(chat):
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.add_tokens(["<region>", "word"])
    tokenizer.add_special_tokens({"cls_token": "[CLS]"})
    ids, _ = Chat(tokenizer, chat.image_processor).observation([text("tool", "a <region> word [CLS]")])
    added = tokenizer.convert_tokens_to_ids(["<region>", "[CLS]", "word"])
    assert [ids.count(token) for token in added] == [0, 0, 1]  # a word is no control token


def test_first_call_lies_between_its_tags(chat):
    ids = chat.action(THINKING + CALL)
    opened, closed = chat.first_call(ids)
    assert chat.decode(ids[:opened]) == THINKING + "<tool_call>"
    assert chat.decode(ids[opened - 1 : closed]) == CALL
    assert ids[closed:] == [chat.end_of_turn_id]


def test_quoted_calls_are_no_calls(chat):
    assert chat.first_call(chat.action("I could <tool_call> now")) is None  # still thinking
    quoted = "maybe <tool_call>{}</tool_call>\n</think>\n\n"
    assert chat.first_call(chat.action(quoted + "<answer>\\boxed{1}</answer>")) is None
    ids = chat.action(quoted + CALL)
    opened, _ = chat.first_call(ids)
    assert chat.decode(ids[:opened]) == quoted + "<tool_call>"


def test_an_unclosed_call_ends_before_the_end_of_turn(chat):
    ids = chat.action("x\n</think>\n\n<tool_call>\n{")
    opened, closed = chat.first_call(ids)
    assert ids[opened - 1] == chat.tool_call_id and ids[closed] == chat.end_of_turn_id
    assert chat.first_call(ids[:-1]) == (opened, len(ids) - 1)


def test_of_two_calls_the_first_counts(chat):
    ids = chat.action(THINKING + CALL + "\n" + CALL)
    opened, closed = chat.first_call(ids)
    assert chat.decode(ids[opened - 1 : closed]) == CALL


def test_equal_images_are_processed_once(chat):
    one, again, other = chat.image(PIXELS), chat.image(PIXELS.copy()), chat.image(PIXELS // 2)
    assert one is again and one.digest != other.digest


def test_bad_messages_are_named(chat):
    with pytest.raises(ChatError, match="got 'assistant'"):
        chat.observation([text("assistant", "x")])
    with pytest.raises(ChatError, match="at least one message"):
        chat.observation([])
    with pytest.raises(ChatError, match="got 'video'"):
        chat.observation([{"role": "tool", "content": [{"type": "video"}]}])


def test_a_tokenizer_without_the_tags_is_refused(chat):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ChatError, match="no chat template"):
        Chat(bare, chat.image_processor)
    bare.chat_template = "x"
    with pytest.raises(ChatError, match=r"'<\|im_start\|>' as 0 tokens"):
        Chat(bare, chat.image_processor)


def test_the_environment_reads_the_thinking_that_the_prompt_opened(chat):
    from axpo_env.messages import parse_action

    unclosed = parse_action(chat.as_action("maybe <answer>\\boxed{1}</answer>"), max_calls=4)
    assert unclosed.answer is None and not unclosed.calls
    closed = parse_action(chat.as_action("sure\n</think>\n\n<answer>\\boxed{1}</answer>"), max_calls=4)
    assert closed.answer == "1"


@pytest.mark.parametrize("shape", [(4, 1200, 3), (1200, 1, 3), (3, 40, 3), (1, 1, 3)])
def test_images_of_any_shape_are_taken(chat, shape):
    image = chat.image(np.zeros(shape, dtype=np.uint8))
    assert image.num_tokens == image.grid[1] * image.grid[2] // 4 >= 1
    assert len(image.patches) == image.grid[1] * image.grid[2]
    if shape == (3, 40, 3):
        assert image.grid[2] > image.grid[1]  # wide, not taken for three channels of 40 rows
