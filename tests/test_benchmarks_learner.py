"""The learner's benchmarks, on a policy so small that seconds suffice: what they claim, and that it can fail."""

import pytest
import torch

from axpo_algo.packing import make_trees, pack, token_logprobs
from benchmarks import learner_exactness, prefix_tree, training_throughput
from benchmarks.learner_cases import SIZES, build_policy


@pytest.fixture(scope="module")
def policy():
    return build_policy(SIZES["tiny"])


def test_all_paths_are_as_exact_as_padded_rows():
    rows = learner_exactness.measure("tiny", list(learner_exactness.PATHS))
    assert [row["path"] for row in rows] == list(learner_exactness.PATHS)
    assert [row["path"] for row in rows if not row["holds"]] == []
    assert rows[0]["largest ratio"] == 1.0 and 0 < rows[0]["gradients L2, %"] < 5
    tokens = {row["path"]: row["tokens"] for row in rows}
    assert tokens["padded"] > tokens["packed"] > tokens["prefix-tree"]


def other_temperature(case):
    policy = case.policy()
    policy.model.lm_head.register_forward_hook(lambda module, inputs, logits: logits * 1.02)
    return learner_exactness.in_rows(case, policy, share=True)


def lost_gradient(case):
    found = learner_exactness.prefix_tree(case)
    name = min(found.gradients, key=lambda name: found.gradients[name].norm())
    found.gradients[name].zero_()
    return found


def bfloat16_frequencies(case):
    policy = case.policy()
    policy.model.to(torch.bfloat16)  # buffers too
    return learner_exactness.in_rows(case, policy, share=True)


def bfloat16_tables(case):
    """What casts the inputs of each block does this."""
    policy = case.policy()

    def cast(module, args, kwargs):
        tables = tuple(table.bfloat16() for table in kwargs["position_embeddings"])
        return args, {**kwargs, "position_embeddings": tables}

    policy.model.model.visual.blocks[-1].register_forward_pre_hook(cast, with_kwargs=True)
    return learner_exactness.in_rows(case, policy, share=True)


BROKEN = (other_temperature, lost_gradient, bfloat16_frequencies, bfloat16_tables)


def test_what_is_broken_is_found(monkeypatch):
    monkeypatch.setattr(
        learner_exactness, "PATHS", {**learner_exactness.PATHS, **{b.__name__: b for b in BROKEN}}
    )
    rows = learner_exactness.measure("tiny", [broken.__name__ for broken in BROKEN])
    assert [row["holds"] for row in rows] == [True, False, False, False, False]
    by_path = {row["path"]: row for row in rows}
    assert by_path["other_temperature"]["largest ratio"] > 2
    assert by_path["lost_gradient"]["worst tensor, %"] == pytest.approx(100)
    assert [by_path[b.__name__]["rotary tables"] == "equal" for b in BROKEN] == [True, True, False, False]


def test_an_unknown_path_is_refused_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        learner_exactness.main(["--paths", "prefix-tre"])
    assert "prefix-tree" in capsys.readouterr().err


@pytest.mark.parametrize(("case", "tree", "rows"), [("4x100+600", 1000, 2800), ("8x200+2000", 3600, 17600)])
def test_a_tree_holds_a_prefix_once(policy, case, tree, rows):
    samples = prefix_tree.make_samples(policy, *prefix_tree.read_case(case))
    for share, wanted in ((True, tree), (False, rows)):
        assert sum(len(t.token_ids) for t in make_trees(policy, samples, share=share)) == wanted


def test_a_line_compares_trees_with_rows(policy):
    line = prefix_tree.measure_case(policy, "3x10+90", repeats=1)
    assert (line["trees"], line["tokens"], line["separate rows"], line["their tokens"]) == (1, 120, 3, 300)
    assert line["tokens ratio"] == 2.5


@pytest.mark.parametrize("case", ["4x100", "axb+c", "0x1+100", "4x100+64"])
def test_a_case_of_another_form_is_refused(case):
    with pytest.raises(ValueError, match=r"got '"):
        prefix_tree.read_case(case)


def test_plain_loops_have_the_loss_of_the_learners_rows():
    policy = build_policy(SIZES["tiny"])
    policy.network.banned[:] = False  # transformers' loss knows none
    samples = training_throughput.make_samples(policy, 2)
    losses = []
    with torch.no_grad():
        for pack_rows in (True, False):
            loop = training_throughput.PlainLoop(policy, samples, 4096, pack=pack_rows)
            inputs = loop.packed(samples) if pack_rows else loop.padded(samples)
            losses.append(float(loop.loss(inputs)))
        (batch,) = pack(policy, make_trees(policy, samples), 1 << 20)
        logprobs = token_logprobs(policy, batch)
    assert losses == pytest.approx([-float(logprobs.mean())] * 2, abs=1e-4)


def test_micro_batches_hold_every_sample_once(policy):
    samples = training_throughput.make_samples(policy, 2)
    for pack_rows in (True, False):
        loop = training_throughput.PlainLoop(policy, samples, 700, pack=pack_rows)
        batches = list(loop.micro_batches())
        assert sorted(map(id, (s for batch in batches for s in batch))) == sorted(map(id, samples))
        assert len(batches) > 1
        for batch in batches:
            inputs = loop.packed(batch) if pack_rows else loop.padded(batch)
            assert inputs["input_ids"].numel() <= 700


def test_throughput_of_all_paths_is_measured_on_one_batch():
    rows = training_throughput.measure(
        "tiny", num_questions=1, scale=1, max_tokens=1024, repeats=1, device="cpu", dtype="float32"
    )
    assert [row["path"] for row in rows] == ["axpo_algo", "transformers, packed", "transformers, padded"]
    assert len({row["trained"] for row in rows}) == 1
    processed = [row["processed"] for row in rows]
    assert processed == sorted(processed) and rows[0]["ratio"] == rows[0]["memory ratio"] == 1.0
