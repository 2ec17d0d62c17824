"""The plan of memory and disk: parameters against real models, each row of an 8B by hand, an update as measured, and
what is refused, with which remedy."""

import dataclasses
import json
from importlib import resources

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from axpo_algo import machine, train
from axpo_algo.config import ConfigError, TrainConfig, load_config
from axpo_algo.config.loading import recipe_names
from axpo_algo.dry_run import check_fits, format_plan, make_plan, problems
from axpo_algo.machine import Machine, find_machine
from axpo_algo.models.nano import build_nano, nano_model_config
from axpo_algo.plan import Plan
from axpo_algo.sizes import Sizes, decoder_block_bytes, vision_block_bytes
from benchmarks import learner_memory
from benchmarks.learner_memory import MicroBatch, measure, measured_bytes


def hub_config(size):
    """What the config.json of a published Qwen3-VL says, as far as sizes go."""
    hidden, intermediate, layers, heads = {
        "2b": (2048, 6144, 28, 16),
        "4b": (2560, 9728, 36, 32),
        "8b": (4096, 12288, 36, 32),
    }[size]
    vision = dict(depth=24, hidden_size=1024, intermediate_size=4096, deepstack_visual_indexes=[5, 11, 17])
    if size == "8b":
        vision = dict(
            depth=27, hidden_size=1152, intermediate_size=4304, deepstack_visual_indexes=[8, 16, 24]
        )
    return Qwen3VLConfig(
        text_config=dict(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151_936,
        ),
        vision_config=dict(**vision, num_heads=16, out_hidden_size=hidden),
        tie_word_embeddings=size != "8b",
    )


def a_machine(ranks=1, gb=80.0, **changes):
    numbers = dict(host_bytes=2e12, disk_bytes=2e12, max_processes=1e5, max_files=1e5)
    numbers |= dict(ranks=ranks, local_ranks=ranks, device_bytes=gb * 1e9, has_accelerator=True)
    return Machine(**{**numbers, **changes})


def a_plan(recipe, size, *overrides, machine=None):
    config = load_config([f"recipe={recipe}", *overrides], TrainConfig)
    return Plan(config=config, sizes=Sizes.from_config(hub_config(size)), machine=machine or a_machine())


@pytest.mark.parametrize("size", ["2b", "4b", "8b", "nano"])
def test_parameters_are_those_of_the_model(size):
    config = nano_model_config() if size == "nano" else hub_config(size)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    sizes = Sizes.from_config(config)

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    language, visual = model.model.language_model, model.model.visual
    assert sizes.total == count(model)
    assert sizes.embeddings == language.embed_tokens.weight.numel()
    assert sizes.head == (0 if sizes.tied else model.lm_head.weight.numel())
    assert sizes.decoder_block == count(language.layers[0])
    assert sizes.decoder == count(language) - sizes.embeddings
    assert sizes.vision_block == count(visual.blocks[0])
    assert sizes.vision == count(visual)
    blocks = sizes.num_layers * sizes.decoder_block + sizes.vision_depth * sizes.vision_block
    assert sizes.root == sizes.total - blocks


def test_nano_is_planned_from_its_own_configuration():
    sizes = Sizes.from_config(nano_model_config())
    assert sizes.total == sum(p.numel() for p in build_nano(seed=0).model.parameters())


def test_parts_of_an_8b_by_hand():
    sizes = Sizes.from_config(hub_config("8b"))
    assert sizes.embeddings == sizes.head == 622_329_856  # 151,936 x 4,096
    # 2 x 4096^2 + 2 x 4096 x 1024 + 2 x 128, 3 x 4096 x 12288, 2 x 4096
    assert sizes.decoder_block == 41_943_296 + 150_994_944 + 8_192
    # 4 x 1152^2 + 2 x 1152 x 4304, biases and norms
    assert sizes.vision_block == 5_308_416 + 9_916_416 + 9 * 1152 + 4304
    # patches, positions, four mergers of 4608 -> 4608 -> 4096, norms of 1152 and thrice 4608
    assert sizes.vision_root == 1_770_624 + 2_654_208 + 4 * 40_116_736 + 29_952
    assert sizes.total == 8_767_123_696
    # rank 16: q and o 4096+4096, k and v 4096+1024, three of 4096+12288
    assert sizes.adapters(16, vision=False) == 16 * 36 * (2 * 8192 + 2 * 5120 + 3 * 16384)
    tower = 16 * 27 * ((1152 + 3456) + (1152 + 1152) + 2 * (1152 + 4304))
    assert sizes.adapters(16, vision=True) == sizes.adapters(16, vision=False) + tower
    assert sizes.image_tokens(1024 * 1024) == 1024


def test_activations_and_cache_per_token_by_hand():
    large, small = (Sizes.from_config(hub_config(size)) for size in ("8b", "2b"))
    # 16 x 4096 of norms, 8 x 5120 of the queries' and keys', 2 x 5120 of attention, 8 x 12288 of the MLP
    assert decoder_block_bytes(large, 2) == 65_536 + 40_960 + 10_240 + 98_304
    assert 36 * decoder_block_bytes(large, 2) == pytest.approx(7.75e6, rel=0.01)
    assert 28 * decoder_block_bytes(small, 2) == pytest.approx(3.16e6, rel=0.01)
    assert decoder_block_bytes(large, 2, masked=True) == 215_040 + 12_288
    assert vision_block_bytes(large, 2) == 22 * 1152 + 4 * 4304
    assert (large.kv_bytes(2), small.kv_bytes(2)) == (147_456, 114_688)


def test_every_row_of_an_8b_on_eight_gpus_by_hand():
    plan = a_plan("qwen3-vl-8b", "8b", machine=a_machine(8))
    num = 8_767_123_696
    # a question, three images, two observations; three turns of 8,192: 29,696 tokens, so 27,118 of 32,768 are trained
    batch = plan.micro_batch
    assert (plan.longest(plan.config.rollout), plan.longest(plan.config.evaluation)) == (29_696, 40_960)
    assert (batch.num_tokens, batch.num_trained, batch.mask_width) == (32_768, 27_118, 4096)
    assert batch.num_patches == 35_744  # 8.727 images of 1,024 tokens of 4 patches
    rows = [(row.what.split(" (")[0], round(row.num_bytes), row.when) for row in plan.device_rows]
    assert rows == [
        ("masters, float32: embeddings", 4 * 622_329_856 // 8, "always"),
        ("masters, float32: head", 4 * 622_329_856 // 8, "always"),
        ("masters, float32: decoder", 4 * 6_946_075_648 // 8, "always"),
        ("masters, float32: vision tower", 4 * 576_388_336 // 8, "always"),
        ("gradients, float32", num // 2, "always"),
        ("AdamW's moments, float32", num, "always"),
        ("reference", num // 4, "always"),
        ("engine's replica", 2 * num, "always"),
        ("CUDA context", 600_000_000, "always"),
        # 147,456 a token, and a layer's keys or values twice: 1/72
        ("key-value cache, 2 x 40960 tokens", 12_247_367_680, "rollout"),
        # 4 x 4096 + 3 x 12288 + 2 x 4096 numbers of 2 bytes, and 3 bytes for each token that a token might see
        ("prefill, 2 x 40960 tokens", 81_920 * (122_880 + 122_880), "rollout"),
        ("logits of the next tokens", 8_508_416, "rollout"),
        ("root group, gathered", 2_819_171_072, "update"),
        ("root group's gradient", 2_819_171_072, "update"),
        ("two largest blocks, gathered", 8 * 192_946_432, "update"),
        ("pixel values, 35744 patches", 35_744 * 1536 * 6, "update"),
        # 36 inputs of 4096, the last norm, the trained tokens' hidden states
        ("decoder activations, 32768 tokens", 9_663_676_416 + 1_073_741_824 + 222_150_656, "update"),
        # 27 inputs of 1152 and the last output, four mergers, three features
        ("vision activations, deepstack, 35744 patches", 28 * 82_354_176 + 988_250_112 + 219_611_136, "update"),
        ("attention mask", 32_768 * 4096 * 3, "update"),
        ("at work: logits chunk, head", 4 * 622_329_856, "update, head"),  # more than 12 x 441 x 151,936
        ("at work: a decoder block", 7_449_083_904 - 1_073_741_824 + 2_147_483_648, "update, decoder"),
        ("at work: a vision block", 35_744 * (42_560 + 13_216), "update, vision"),
        ("root's gradient, float32", 5_638_342_144, "update, reduction"),
        ("roots of the second moments", num // 2, "AdamW's step"),
    ]  # fmt: skip
    always = 4 * num // 8 * 4 + num // 4 + 2 * num + 600_000_000
    gathered = 2 * 2_819_171_072 + 8 * 192_946_432
    kept = 329_416_704 + 10_959_568_896 + 3_513_778_176 + 402_653_184
    assert plan.moments["rollout"] == always + 12_247_367_680 + 20_132_659_200 + 8_508_416
    assert plan.moments["update, decoder"] == always + gathered + kept + 8_522_825_728
    assert plan.moments["update, vision"] == always + gathered + 329_416_704 + 3_513_778_176 + 1_993_657_344
    assert plan.moments["update, reduction"] == always + 2 * 2_819_171_072 + 5_638_342_144
    assert plan.moments["AdamW's step"] == always + num // 2


def test_host_disk_tokens_and_sandboxes_by_hand():
    plan = a_plan("qwen3-vl-8b", "8b", machine=a_machine(8))
    num = 8_767_123_696
    assert (plan.episodes, plan.tokens_per_step) == (1280, 1280 * 24_576)
    # 128 questions' images and two crops of each episode, 6 bytes a pixel; 80 bytes a token
    assert [row.num_bytes for row in plan.host_rows] == [1.5e9, 2688 * 2**20 * 6 / 8, 80 * 1280 * 29_696 / 8]
    # bfloat16 weights, float32 masters, two moments; two kept, one written, the best
    assert [row.num_bytes for row in plan.disk_rows] == [4 * 14 * num, 2 * 2 * num]
    assert plan.sandbox == (8 * 5 + 1280 * 4, 8 * 9 + 1280 * 7, 8 * 40_000_000 + 1280 * 8_500_000)
    assert a_plan("qwen3-vl-8b", "8b", "env.kwargs.tools=[image_zoom_in]").sandbox == (0, 0, 0)
    assert a_plan("qwen3-vl-8b", "8b", "env.kwargs.sandbox=docker").sandbox == (0, 0, 0)


def test_the_state_of_one_float32_process_of_adapters_and_of_a_frozen_tower():
    def state(*overrides, recipe="qwen3-vl-2b"):
        plan = a_plan(recipe, "2b", *overrides)
        return {row.what: row.num_bytes for row in plan.device_rows if row.when == "always"}, plan

    num = 2_127_532_032
    rows, plan = state("policy.dtype=float32")
    assert plan.is_plain and rows["engine's replica"] == 0 and rows["reference"] == 4 * num
    assert sum(n for name, n in rows.items() if name.startswith("weights: ")) == 4 * num
    assert plan.checkpoint_bytes == 4 * num + 12 * num
    assert not [row for row in plan.device_rows if "gathered" in row.what]
    assert state("policy.dtype=float32", "loss.kl_coefficient=0")[0]["reference"] == 0
    rows, plan = state(recipe="qwen3-vl-2b-lora")
    adapters = 16 * 28 * (2 * 4096 + 2 * 3072 + 3 * 8192)
    assert rows["adapters, float32"] == rows["gradients, float32"] == 4 * adapters
    assert rows["AdamW's moments, float32"] == 8 * adapters and rows["reference"] == 0
    assert sum(n for name, n in rows.items() if name.startswith("frozen weights: ")) == 2 * num
    assert plan.checkpoint_bytes == 2 * num + 12 * adapters
    rows, plan = state("optimizer.offload=true")
    assert rows.keys() == {"reference", "engine's replica", "CUDA context (assumed)"}
    host = [row for row in plan.host_rows if "float32" in row.what]
    assert sum(row.num_bytes for row in host) == (4 + 4 + 8) * num
    rows, plan = state("policy.freeze_vision=true")
    assert rows["gradients, float32"] == 4 * (num - 406_957_056)
    assert plan.update.vision < a_plan("qwen3-vl-2b", "2b").update.vision / 5


SMALL = {
    **learner_memory.WIDTHS_2B,
    **dict(hidden_size=256, intermediate_size=768, num_attention_heads=8, num_key_value_heads=4, head_dim=32),
    **dict(vocab_size=4000, vision_hidden_size=128, vision_heads=4, vision_intermediate_size=512),
}
BATCH = MicroBatch(num_tokens=1024, num_trained=437, num_images=4, grid=(22, 22))


def test_an_update_takes_what_is_planned_within_15_percent():
    rows = measure(SMALL, BATCH, num_logits=1 << 18)
    assert [row["way"] for row in rows] == list(learner_memory.WAYS)
    assert [row["measured / planned"] for row in rows] == pytest.approx([1, 1, 1], abs=0.15)
    both, checkpointing, chunks = (row["measured, GB"] for row in rows)
    assert both < checkpointing < chunks / 2


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"vocab_size": 20_000}, torch.bfloat16),
        ({"vision_depth": 8}, torch.bfloat16),
        ({"num_hidden_layers": 8}, torch.float32),
    ],
)
def test_it_does_so_with_other_sizes_and_precisions(changes, dtype):
    widths = {**SMALL, **changes}
    settings = dict(checkpointing=True, num_logits=1 << 20)
    measured = measured_bytes(widths, BATCH, **settings, dtype=dtype, compute=False)
    planned = learner_memory.planned_bytes(widths, BATCH, **settings, width=dtype.itemsize)
    assert measured == pytest.approx(planned, rel=0.15)


def test_leaving_the_arithmetic_out_measures_the_same():
    settings = dict(checkpointing=True, num_logits=1 << 18)
    computed, followed = (measured_bytes(SMALL, BATCH, **settings, compute=c) for c in (True, False))
    assert followed == pytest.approx(computed, rel=0.01)


PLANNED = {"2b": 1, "4b": 4, "8b": 8}  # recipe's size -> GPUs of 80 GB that it names


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_fits_where_it_says(recipe):
    config = load_config([f"recipe={recipe}"], TrainConfig)
    if not recipe.startswith("qwen3-vl-"):
        check_fits(config)
        return
    size = recipe.split("-")[2]
    gb = 24 if recipe.endswith("-lora") else 80
    plan = a_plan(recipe, size, machine=a_machine(PLANNED[size], gb))
    assert problems(plan) == []
    assert plan.config.policy.path == f"Qwen/Qwen3-VL-{size.upper()}-Thinking"
    assert ("sft" in recipe) == bool(plan.config.sft.phases)


def test_a_recipe_states_the_papers_constants_and_what_is_assumed():
    for size in PLANNED:
        config = load_config([f"recipe=qwen3-vl-{size}"], TrainConfig)
        assert (config.rollout.group_size, config.rollout.max_turns, config.rollout.temperature) == (
            8,
            3,
            1.0,
        )
        assert (config.axpo.extra_budget, config.axpo.continuations) == (0.25, 4)
        assert (config.loss.clip_low, config.loss.clip_high, config.loss.kl_coefficient) == (0.2, 0.4, 1e-3)
        sampling = config.evaluation
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.8, 20)
        assert (sampling.presence_penalty, sampling.max_response_tokens) == (1.5, 32_768)
        text = (resources.files("axpo_algo") / "recipes" / f"qwen3-vl-{size}.yaml").read_text()
        for line in text.splitlines():
            if line.lstrip().startswith(("learning_rate", "questions_per_step", "max_tokens_per")):
                assert "assumed" in line


@pytest.mark.parametrize(
    ("size", "ranks", "gb", "overrides", "setting"),
    [
        ("8b", 8, 80, ["policy.gradient_checkpointing=false"], "policy.gradient_checkpointing=true"),
        ("8b", 8, 80, ["rollout.max_batch_size=256"], "rollout.max_batch_size=2"),
        ("4b", 4, 80, ["loss.max_tokens_per_micro_batch=524288"], "loss.max_tokens_per_micro_batch="),
        ("8b", 1, 80, [], "optimizer.offload=true"),
        ("2b", 1, 40, ["rollout.max_batch_size=1"], "optimizer.offload=true"),
    ],
)
def test_what_does_not_fit_is_refused_with_settings_that_make_it_fit(size, ranks, gb, overrides, setting):
    plan = a_plan(f"qwen3-vl-{size}", size, *overrides, machine=a_machine(ranks, gb))
    (line,) = problems(plan)
    assert setting in line and f"{gb:.1f} GB" in line and "\n" not in line
    changed = plan
    for assignment in line.split(": set ")[1].split():
        key, value = assignment.split("=")
        changed = changed.with_setting(key, True if value == "true" else int(value))
    assert problems(changed) == []


def test_where_no_setting_helps_it_says_how_many_ranks_would_or_that_none_do():
    (line,) = problems(a_plan("qwen3-vl-8b", "8b", machine=a_machine(1, 32.0)))
    assert "start 2 ranks (torchrun) with rollout.max_batch_size=1" in line
    (line,) = problems(a_plan("qwen3-vl-8b", "8b", machine=a_machine(1, 8.0)))
    assert "no setting makes it fit" in line and "policy.path" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"disk_bytes": 1e11}, ["checkpoint.keep", "run_dir", "526.0 GB"]),
        ({"host_bytes": 1e10}, ["rollout.questions_per_step", "10.0 GB of memory"]),
        ({"max_files": 1024}, ["1024 open files", "ulimit -n", "9032"]),
        ({"max_processes": 4096}, ["4096 processes", "ulimit -u", "5160"]),
    ],
)
def test_too_little_disk_memory_files_or_processes_are_refused(changes, words):
    plan = a_plan("qwen3-vl-8b", "8b", machine=a_machine(8, **changes))
    (line,) = problems(plan)
    assert all(word in line for word in words)


@pytest.fixture
def folder_of_8b(tmp_path):
    """A checkpoint's folder without its weights."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    values = {**hub_config("8b").to_dict(), "model_type": "qwen3_vl"}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_a_dry_run_prints_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["dry_run=true"]) is None
    printed = capsys.readouterr().out
    assert "key-value cache, 256 x " in printed and "update, decoder" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_weights_and_refuses_in_one_line(folder_of_8b, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    arguments = ["recipe=qwen3-vl-8b", f"policy.path={folder_of_8b}", "dry_run=true", "plan.device_gb=24"]
    with pytest.raises(SystemExit) as ended:
        train.main(arguments)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert "4 ranks, 4 a node, each on 24.0 GB" in captured.out
    assert captured.err.startswith("error: a rank's device has 24.0 GB") and captured.err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_a_run_that_cannot_fit_is_refused_before_it_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        train.main(["plan.device_gb=6", "policy.device=cpu", "rollout.max_batch_size=4096"])
    assert ended.value.code == 2
    assert "set rollout.max_batch_size=" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_a_world_of_no_size_is_refused(value, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(ConfigError, match=f"WORLD_SIZE .* got '{value}'"):
        find_machine(TrainConfig())


def test_the_machine_is_this_one_or_as_said(monkeypatch):
    monkeypatch.setattr(machine, "_host_bytes", lambda: 64e9)
    monkeypatch.setenv("WORLD_SIZE", "16")
    found = find_machine(TrainConfig())
    assert (found.ranks, found.local_ranks, found.host_bytes) == (16, 8, 64e9)
    if not torch.cuda.is_available():
        assert not found.has_accelerator and found.device_bytes == 64e9
    config = load_config(["plan.device_gb=40"], TrainConfig)
    assert find_machine(config).has_accelerator and find_machine(config).device_bytes == 40e9


def test_on_a_cpu_all_ranks_share_the_memory():
    plan = a_plan("nano", "2b", "policy.dtype=bfloat16", machine=a_machine(2, 10.0, has_accelerator=False))
    (line,) = problems(dataclasses.replace(plan, machine=dataclasses.replace(plan.machine, local_ranks=2)))
    assert "this machine's memory has 10.0 GB" in line


def test_a_policy_whose_configuration_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"policy\.path: .*no config\.json"):
        make_plan(load_config([f"policy.path={tmp_path}"], TrainConfig))


def test_the_table_names_every_moment():
    text = format_plan(a_plan("qwen3-vl-8b", "8b", machine=a_machine(8)))
    for name in ("rollout", "update, head", "update, decoder", "update, vision", "AdamW's step"):
        assert f"| {name} " in text
    assert "tokens written per step, at most: 31457280, in 1280 trajectories" in text
