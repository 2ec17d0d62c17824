"""The embedded engine: exact log-probs, seeded sampling, shared prefixes, filters."""

import numpy as np
import pytest
import torch

from axpo_algo.engines import GenerationRequest, Sampling, generate, make_engine
from axpo_algo.engines.transformers import TransformersEngine, filter_logits, sample_tokens
from axpo_algo.models.nano import NanoConfig, build_nano


@pytest.fixture(scope="module")
def policy():
    return build_nano(NanoConfig(vision_depth=2, deepstack=(0,)), seed=2)


def request(policy, seed, *, tail=5, image=True):
    rng = np.random.default_rng(seed)
    ids, images = [301], []
    if image:
        images = [policy.chat.image(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))]
        ids += [policy.chat.image_token_id] * images[0].num_tokens
    ids += [int(i) for i in rng.integers(300, 1000, tail)]
    return GenerationRequest(token_ids=ids, images=images, seed=(seed,))


@pytest.mark.filterwarnings("error::FutureWarning")  # of transformers: every user would read it
def test_sampled_logprobs_are_those_of_a_full_forward_pass(policy):
    """Images or none, ragged prompts, rows that leave the batch early: cached decoding against one pass
    over everything."""
    requests = [request(policy, seed, tail=3 + seed, image=seed % 3 != 0) for seed in range(8)]
    generations = generate(TransformersEngine(policy), requests, Sampling(max_new_tokens=12))
    for given, generation in zip(requests, generations, strict=True):
        ids = [*given.token_ids, *generation.token_ids]
        batch = policy.batch([(ids, given.images)])
        columns = torch.arange(len(given.token_ids), len(ids))
        with torch.no_grad():
            logprobs = policy.token_logprobs(batch, torch.zeros_like(columns), columns)
        assert torch.allclose(logprobs, torch.tensor(generation.logprobs), atol=1e-5)
        assert generation.finished == (generation.token_ids[-1] == policy.chat.end_of_turn_id)
        assert len(generation.token_ids) <= 12


def test_a_request_samples_the_same_whoever_shares_its_batch(policy):
    requests = [request(policy, seed, tail=4 + seed % 3) for seed in range(6)]
    engine = TransformersEngine(policy)
    together = generate(engine, requests, Sampling(max_new_tokens=8))
    alone = [generate(engine, [r], Sampling(max_new_tokens=8))[0] for r in requests]
    split = generate(TransformersEngine(policy, max_batch_size=2), requests, Sampling(max_new_tokens=8))
    assert [g.token_ids for g in together] == [g.token_ids for g in alone] == [g.token_ids for g in split]


def test_equal_prompts_are_prefilled_once_and_sampled_apart(policy):
    base = request(policy, 3)
    requests = [
        GenerationRequest(token_ids=base.token_ids, images=base.images, seed=(3, k)) for k in range(4)
    ]
    engine = TransformersEngine(policy)
    generations = generate(engine, requests, Sampling(max_new_tokens=6))
    assert engine.num_prefilled_tokens == len(base.token_ids)
    assert len({tuple(g.token_ids) for g in generations}) > 1
    fresh = generate(engine, [requests[2]], Sampling(max_new_tokens=6))[0]
    assert fresh.token_ids == generations[2].token_ids
    assert fresh.logprobs == pytest.approx(generations[2].logprobs, abs=1e-5)


def test_generation_stops_at_the_end_of_turn(policy):
    with torch.no_grad():
        weights = policy.model.get_input_embeddings().weight
        kept = weights.clone()
        weights[policy.chat.end_of_turn_id] *= 20
    try:
        requests = [request(policy, seed) for seed in range(40)]
        generations = generate(TransformersEngine(policy), requests, Sampling(max_new_tokens=30))
        assert any(g.finished and len(g.token_ids) < 30 for g in generations)
        for generation in generations:
            assert policy.chat.end_of_turn_id not in generation.token_ids[:-1]
    finally:
        with torch.no_grad():
            weights.copy_(kept)


def test_banned_tokens_are_never_sampled(policy):
    requests = [request(policy, seed) for seed in range(16)]
    for generation in generate(TransformersEngine(policy), requests, Sampling(max_new_tokens=20)):
        assert not set(generation.token_ids) & set(policy.chat.banned_token_ids)


def test_sampling_follows_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.0, 0.3, 0.2]])).expand(1000, -1)
    uniforms = (np.arange(1000) + 0.5) / 1000
    tokens, logprobs = sample_tokens(logits, uniforms)
    assert np.bincount(tokens, minlength=4).tolist() == [500, 0, 300, 200]
    assert logprobs[:500].tolist() == pytest.approx([np.log(0.5)] * 500)


def test_the_last_possible_token_is_never_overshot():
    logits = torch.tensor([[0.0, 0.0, float("-inf")]])
    tokens, _ = sample_tokens(logits, np.array([np.nextafter(1.0, 0.0)]))
    assert tokens.tolist() == [1]


def test_filters():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    kept = lambda sampling, written=None: torch.isfinite(filter_logits(logits, sampling, written)).tolist()  # noqa: E731
    assert kept(Sampling()) == [[True] * 4]
    assert kept(Sampling(top_k=2)) == [[True, True, False, False]]
    assert kept(Sampling(top_p=0.5)) == [[True, False, False, False]]
    assert kept(Sampling(top_p=0.6)) == [[True, True, False, False]]
    assert kept(Sampling(top_p=1e-9)) == [[True, False, False, False]]
    written = torch.tensor([[True, False, False, False]])
    penalised = filter_logits(logits, Sampling(presence_penalty=1.5), written)
    assert (penalised - logits).tolist()[0] == pytest.approx([-1.5, 0, 0, 0])
    assert torch.allclose(filter_logits(logits, Sampling(temperature=0.5)), logits * 2)


def test_temperature_zero_takes_the_likeliest(policy):
    requests = [request(policy, 1), GenerationRequest(**{**vars(request(policy, 1)), "seed": (99,)})]
    first, second = generate(TransformersEngine(policy), requests, Sampling(max_new_tokens=6, temperature=0))
    assert first.token_ids == second.token_ids


def test_bad_settings_are_named(policy):
    with pytest.raises(
        ValueError, match=r"unknown engine 'transformer'; known: transformers; nearest: transformers"
    ):
        make_engine("transformer", policy)
    with pytest.raises(ValueError, match="top_p in"):
        Sampling(top_p=0.0)
    with pytest.raises(ValueError, match="max_batch_size"):
        TransformersEngine(policy, max_batch_size=0)


def finish(engine, tickets, done=()):
    """Polls until all tickets are back; no more than 200 times."""
    done = dict(done)
    for _ in range(200):
        if len(done) == len(tickets):
            break
        done.update(engine.poll())
    return [done[ticket] for ticket in tickets]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_requests_join_a_running_batch_and_sample_as_alone(policy, penalty):
    requests = [request(policy, seed, tail=3 + 4 * (seed % 3), image=seed % 2 == 0) for seed in range(6)]
    limits = [5, 20, 24, 20, 6, 20]
    requests = [
        GenerationRequest(**{**vars(given), "max_new_tokens": limit})
        for given, limit in zip(requests, limits, strict=True)
    ]
    sampling = Sampling(max_new_tokens=None, presence_penalty=penalty)
    engine = TransformersEngine(policy, lockstep=False)
    tickets = [engine.submit(given, sampling) for given in requests[:3]]
    done = [pair for _ in range(5) for pair in engine.poll()]
    assert [ticket for ticket, _ in done] == tickets[:1]  # it had its 5 tokens
    tickets += [engine.submit(given, sampling) for given in requests[3:]]
    joined = finish(engine, tickets, done)
    # Two rows for 8 - 5 more steps, then five: those that joined share one prefill.
    assert engine.num_prefills == 2
    assert engine.num_steps == 8 + 20 and engine.num_sampled_tokens == sum(limits)
    alone = [generate(TransformersEngine(policy), [given], sampling)[0] for given in requests]
    assert [g.token_ids for g in joined] == [g.token_ids for g in alone]
    for one, other in zip(joined, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert one.finished == other.finished


def test_in_lockstep_a_batch_is_what_was_there_when_it_began(policy):
    engine = TransformersEngine(policy, max_batch_size=2)
    tickets = [engine.submit(request(policy, seed), Sampling(max_new_tokens=4)) for seed in range(3)]
    engine.poll()
    tickets.append(engine.submit(request(policy, 3), Sampling(max_new_tokens=4)))
    finish(engine, tickets)
    assert (engine.num_prefills, engine.num_steps, engine.num_sampled_tokens) == (2, 8, 16)


def test_requests_of_other_settings_wait_for_a_batch_of_their_own(policy):
    engine = TransformersEngine(policy, lockstep=False)
    settings = [Sampling(max_new_tokens=12), Sampling(max_new_tokens=12, temperature=0)]
    tickets = [engine.submit(request(policy, 1), sampling) for sampling in settings]
    greedy = finish(engine, tickets)[1]
    assert engine.num_prefills == 2
    assert greedy.token_ids == generate(engine, [request(policy, 1)], settings[1])[0].token_ids


def test_cancelled_requests_do_not_come_back(policy):
    engine = TransformersEngine(policy, max_batch_size=3)
    tickets = [engine.submit(request(policy, seed), Sampling(max_new_tokens=6)) for seed in range(5)]
    engine.poll()
    engine.cancel(tickets[1:2] + tickets[3:4])
    done = dict(pair for _ in range(20) for pair in engine.poll())
    assert set(done) == {tickets[0], tickets[2], tickets[4]}
    kept = generate(TransformersEngine(policy), [request(policy, 2)], Sampling(max_new_tokens=6))[0]
    assert done[tickets[2]].token_ids == kept.token_ids
    tickets = [engine.submit(request(policy, 1), Sampling(max_new_tokens=6))]
    engine.poll()
    engine.cancel(tickets)
    assert engine.poll() == []


def test_a_request_has_a_limit(policy):
    engine = TransformersEngine(policy)
    with pytest.raises(ValueError, match="max_new_tokens"):
        engine.submit(request(policy, 1), Sampling(max_new_tokens=None))
    base = vars(request(policy, 1))
    for own, turn, limit in ((3, 9, 3), (9, 3, 3), (4, None, 4)):
        given = GenerationRequest(**{**base, "max_new_tokens": own})
        (generation,) = generate(engine, [given], Sampling(max_new_tokens=turn))
        assert len(generation.token_ids) == limit
