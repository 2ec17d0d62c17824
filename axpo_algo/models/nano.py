"""The embedded default policy: a random Qwen3-VL of about a million parameters, built in a second without any download.

It is the real architecture behind the real wire format, small enough to learn rendered charts on a laptop's CPU
in minutes. Its tokenizer is trained here on a few lines of the project's own: phrases of the wire format become
single tokens, and so does every whole number up to 1000, so that a box is four tokens. Any other text falls back
to bytes.
"""

from dataclasses import dataclass

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from axpo_algo.models.chat import Chat
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy

__all__ = ["NanoConfig", "build_nano", "nano_model_config"]


@dataclass(frozen=True, kw_only=True)
class NanoConfig:
    """Sizes of the small policy."""

    hidden_size: int = 128
    num_layers: int = 3
    vision_hidden_size: int = 64
    vision_depth: int = 1
    deepstack: tuple[int, ...] = ()
    """vision layers whose features also enter the decoder"""
    patch_px: int = 8
    """side of a patch; a visual token is 2 x 2 patches"""
    max_pixels: int = 64 * 64
    """an image with more is shrunk to this, in pixels"""
    tie_word_embeddings: bool = True


SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# Qwen3-VL's turns, with the tools by name only: so small a policy learns the schemas from demonstrations,
# not from a prompt.
CHAT_TEMPLATE = r"""
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
<|im_start|>system
tools:{% for tool in tools %} {{ tool.function.name }}{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '' if not loop.first and loop.previtem.role == 'tool' else '<|im_start|>user' -}}
{{- '\n<tool_response>\n' + render(message.content) + '\n</tool_response>' -}}
{{- '' if not loop.last and loop.nextitem.role == 'tool' else '<|im_end|>\n' -}}
{%- elif message.role != 'system' -%}
<|im_start|>{{ message.role }}
{{ render(message.content) }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
<think>
{% endif -%}
""".strip()


# What becomes one token each. BPE merges nothing across two pieces, so colours and numbers stay tokens of their own.
PIECES = (
    "system\ntools: image_zoom_in",
    " python",
    "user\n",
    "assistant\n",
    "Image",
    "What is the value of the ",
    " bar?",
    "Which bar is leftmost: ",
    "zoom ",
    "guess ",
    "\n\n",
    '\n{"name": "image_zoom_in", "arguments": {"label": "',
    '", "bbox_2d": [',
    "]}}\n",
    ", ",
    ",",
    '\n{"name": "python", "arguments": {"code": "',
    '", "timeout": ',
    "}}\n",
    "print(",
    "<answer>",
    "\\boxed{",
    "</answer>",
    *("red", "green", "blue", "orange", "purple", "gray", "yellow", "teal", "black", "brown", "pink", "cyan"),
    *(
        "How many",
        "What is the",
        "Which",
        " is the",
        " of the",
        " in the",
        " the",
        " and",
        " between",
        " year",
    ),
    *(
        "percentage",
        "difference",
        "highest",
        "lowest",
        "average",
        "total",
        "people",
        "share",
        "ratio",
        "value",
        "sum",
    ),
)


def _corpus() -> list[str]:
    """Short texts to train the tokenizer on: the pieces many times, every whole number up to 1000 a few times."""
    return [piece for piece in PIECES for _ in range(30)] + [
        f"{space}{number}" for space in ("", " ") for number in range(1001) for _ in range(3)
    ]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE over whole phrases, split only around tags and numbers; the wire format's tags are
    single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"<[^<>]*>| [0-9]{1,4}|(?<![a-z_0-9])[0-9]{1,4}"), behavior="isolated"
            ),  # tags, numbers
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2900,  # more than the merges it finds: training stops when every piece is one token
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens(list(TAGS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def build_nano(config: NanoConfig | None = None, *, seed: int = 0) -> Qwen3VLPolicy:
    """A policy with random weights drawn from `seed`; the caller's random state is left as it was."""
    config = config or NanoConfig()
    tokenizer = build_tokenizer()
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=config.patch_px,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": (2 * config.patch_px) ** 2, "longest_edge": config.max_pixels},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(_model_config(config, tokenizer))
        _initialize(model)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return Qwen3VLPolicy(model.eval(), Chat(tokenizer, image_processor))


def nano_model_config() -> Qwen3VLConfig:
    """The configuration of `build_nano`'s model, without its weights."""
    return _model_config(NanoConfig(), build_tokenizer())


def _model_config(config: NanoConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    head_dim = 32
    return Qwen3VLConfig(
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.hidden_size // head_dim,
            num_key_value_heads=max(1, config.hidden_size // head_dim // 2),
            head_dim=head_dim,
            max_position_embeddings=8192,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_interleaved": True,
                "mrope_section": [6, 5, 5],
            },
            tie_word_embeddings=config.tie_word_embeddings,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        vision_config=dict(
            depth=config.vision_depth,
            hidden_size=config.vision_hidden_size,
            intermediate_size=3 * config.vision_hidden_size,
            num_heads=max(1, config.vision_hidden_size // 32),
            patch_size=config.patch_px,
            spatial_merge_size=2,
            temporal_patch_size=2,
            out_hidden_size=config.hidden_size,
            num_position_embeddings=256,
            deepstack_visual_indexes=list(config.deepstack),
        ),
        image_token_id=_id(tokenizer, "<|image_pad|>"),
        video_token_id=_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=config.tie_word_embeddings,
    )


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(index, int)
    return index


def _initialize(model: Qwen3VLForConditionalGeneration) -> None:
    """Rescales transformers' initial weights (std 0.02, meant for widths in the thousands) to the width of this model.

    Text weights get std 0.09, about 1 / sqrt(hidden_size); vision weights 0.05; the patches' position embeddings
    1.0, so that where a patch stands is as loud as what it shows. Measured on questions of what stands where:
    learned in 100 to 200 steps, against chance after 500 with transformers' own scale.
    """
    seen: set[int] = set()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            std = 1.0 if "pos_embed" in name else 0.05 if "visual" in name else 0.09
            parameter.mul_(std / 0.02)
