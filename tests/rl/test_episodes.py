"""Episodes: one turn is plain generation, several are what a slow twin plays, company changes nothing, limits hold."""

import copy
import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmalign.contract.examples import Message
from mmalign.errors import BadSample
from mmalign.language.sampling import Generated, Sampling
from mmalign.language.sequences import Sequences
from mmalign.rl.environment import Turn
from mmalign.rl.episodes import Episode, play, tally
from tests.support.episode_samples import Counting, load_policy, naive_episode, some_prompts

FAMILIES = ("tiny_llama", "tiny_gpt2", "tiny_bloom")
SEEDS = [11, 12, 13, 2**70 + 5, 15, 16]
TURNS = (1, 2, 3, 3, 4, 2)
WARM = Sampling(max_tokens=24, temperature=0.9)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("policies")
    return {family: load_policy(root, family) for family in FAMILIES}


def same(one: Episode, other: Episode) -> None:
    assert one.ids.tolist() == other.ids.tolist() and one.learn.tolist() == other.learn.tolist()
    torch.testing.assert_close(one.logps, other.logps, rtol=1e-4, atol=1e-5)
    facts = ("turn_rewards", "ended", "num_turns", "text", "last_text", "stopped", "counts")
    assert [vars(one)[name] for name in facts] == [vars(other)[name] for name in facts]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_turn_is_plain_generation(policies, family) -> None:
    policy, prompts, short = policies[family], some_prompts(), Sampling(max_tokens=3, temperature=0.9)
    plain = policy.generate(prompts, short, SEEDS)
    alone = play(policy, prompts, (), short, SEEDS, 1)
    first_turn = play(policy, prompts, [Counting(9) for _ in prompts], short, SEEDS, 1)
    assert any(plain.ended) and not all(plain.ended), "a sample of both kinds"
    for row, (episode, paid) in enumerate(zip(alone, first_turn, strict=True)):
        for played in (episode, paid):
            assert torch.equal(played.ids, plain.ids[row]) and torch.equal(played.logps, plain.logps[row])
            assert played.learn.all() and played.num_turns == 1 and played.ended == plain.ended[row]
        assert episode.turn_rewards == [] and episode.stopped == ("" if plain.ended[row] else "length")
        assert paid.turn_rewards == [(len(plain.ids[row]) - 1, 1.0)]
        assert paid.stopped == ("turns" if plain.ended[row] else "length")


@pytest.mark.parametrize("family", FAMILIES)
def test_several_turns_are_what_the_slow_twin_plays(policies, family) -> None:
    policy, prompts = policies[family], some_prompts()
    episodes = play(policy, prompts, [Counting(n) for n in TURNS], WARM, SEEDS, 3)
    assert {episode.num_turns for episode in episodes} >= {1, 2, 3}
    for row, episode in enumerate(episodes):
        slow = naive_episode(policy, prompts[row], Counting(TURNS[row]), WARM, SEEDS[row], 3)
        assert [episode.ids.tolist(), episode.learn.tolist()] == [slow["ids"], slow["learn"]]
        assert episode.turn_rewards == slow["turn_rewards"] and [episode.ended] == slow["ended"]
        torch.testing.assert_close(episode.logps, torch.tensor(slow["logps"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_tokens", range(2, 14))
def test_every_limit_cuts_where_the_slow_twin_stops(policies, max_tokens) -> None:
    """In one batch each row has another room: what it writes beyond is cut, and an end there is none."""
    policy, prompts, sampling = policies["tiny_llama"], some_prompts() * 2, Sampling(max_tokens=max_tokens)
    episodes = play(policy, prompts, [Counting(9) for _ in prompts], sampling, range(12), 9)
    for row, episode in enumerate(episodes):
        slow = naive_episode(policy, prompts[row], Counting(9), sampling, row, 9)
        assert [episode.ids.tolist(), episode.learn.tolist()] == [slow["ids"], slow["learn"]]
        assert episode.turn_rewards == slow["turn_rewards"] and [episode.ended] == slow["ended"]


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_split_and_order_change_no_token(policies, family) -> None:
    policy, prompts = policies[family], some_prompts()
    together = play(policy, prompts, [Counting(n) for n in TURNS], WARM, SEEDS, 3)
    for rows in ([5, 3, 1, 0, 2, 4], [0], [1], [2, 3], [4, 5]):
        part = play(
            policy, [prompts[r] for r in rows], [Counting(TURNS[r]) for r in rows], WARM, [SEEDS[r] for r in rows], 3
        )
        for row, episode in zip(rows, part, strict=True):
            same(episode, together[row])


def test_observations_are_read_and_not_learnt(policies) -> None:
    policy, prompts = policies["tiny_llama"], some_prompts()
    environments = [Counting(n) for n in TURNS]
    episodes = play(policy, prompts, environments, Sampling(max_tokens=24), SEEDS, 3)
    heard = [episode.ids[~episode.learn] for episode in episodes]
    assert sum(map(len, heard)) > 0
    for episode, environment, ids in zip(episodes, environments, heard, strict=True):
        said = [f" {len(action)} cat" for action in environment.told[: episode.num_turns - 1]]
        assert ids.tolist() == [i for text in said for i in policy.processor.observation(text).tolist()]
        assert len(episode.logps) == int(episode.learn.sum()) and len(episode.ids) == len(episode.learn)
    sequences = Sequences.from_lists(prompts, [[e.ids] for e in episodes], [[e.learn] for e in episodes])
    found = policy.token_logps(policy.hidden_states(sequences)).logps
    # at temperature 1 the sampler's log-probabilities are the model's, behind every observation too
    torch.testing.assert_close(found, torch.cat([e.logps for e in episodes]), rtol=1e-4, atol=1e-4)


def test_no_gradient_comes_from_an_observation(policies) -> None:
    """The loss of an episode is that of its actions alone, whatever stands between them."""
    policy, prompt = policies["tiny_llama"], some_prompts((3,))[0]
    episodes = play(policy, [prompt] * 8, [Counting(3) for _ in range(8)], Sampling(max_tokens=24), range(8), 3)
    episode = next(e for e in episodes if not e.learn.all())

    def gradient(learn: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        policy.module.zero_grad(set_to_none=True)
        sequences = Sequences.from_lists([prompt], [[episode.ids]], [[learn]])
        (policy.token_logps(policy.hidden_states(sequences)).logps * weight).sum().backward()
        return torch.cat([p.grad.flatten() for p in policy.module.parameters()])

    masked = gradient(episode.learn, torch.ones(int(episode.learn.sum())))
    every = torch.ones_like(episode.learn)
    torch.testing.assert_close(masked, gradient(every, episode.learn.float()), rtol=1e-4, atol=1e-6)
    assert (masked - gradient(every, torch.ones(len(every)))).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_limits_hold_and_are_told(policies, family) -> None:
    """GPT-2 has 32 learned positions: one token more would be an error of the model."""
    policy = policies[family]
    prompts = some_prompts((3, 20, 29, 31, 32, 40, 1))
    episodes = play(policy, prompts, [Counting(50) for _ in prompts], Sampling(max_tokens=26), range(7), 50)
    for prompt, episode in zip(prompts, episodes, strict=True):
        assert len(episode.ids) <= min(26, max(0, 32 - len(prompt)))
        assert episode.stopped == "length"
        assert not episode.learn.numel() or episode.learn[-1], "an observation that nobody answers is not kept"
    for empty in episodes[4:6]:
        assert (len(empty.ids), len(empty.logps), empty.num_turns, empty.text, empty.ended) == (0, 0, 0, "", False)
        assert empty.turn_rewards == []
    assert len(episodes[3].ids) == 1, "room for one token"
    counted = tally(episodes)
    assert counted["episodes"] == 7 and counted["stopped_length"] == 7 and counted["stopped_turns"] == 0
    assert counted["steps"] == counted["turns"] == sum(e.num_turns for e in episodes) > 5


def test_what_an_observation_leaves_no_room_for(policies) -> None:
    class Talks:
        def step(self, action: str) -> Turn:
            return Turn("cat " * 40, 1.0, False)

    policy = policies["tiny_llama"]
    episodes = play(policy, some_prompts(), [Talks()] * 6, WARM, SEEDS, 4)
    assert {e.stopped for e in episodes} == {"length"} and {e.num_turns for e in episodes} == {1}
    assert any(e.ended for e in episodes) and all(e.learn.all() for e in episodes)


def test_an_environment_that_never_ends_is_stopped_by_the_turn_limit(tmp_path) -> None:
    """The policy ends each answer at once: an empty text is what environments are told, and its end token is learnt."""
    policy, environment = load_policy(tmp_path, ends=0.9), Counting(10**9)
    greedy = Sampling(max_tokens=24, temperature=0)
    (episode,) = play(policy, some_prompts((3,)), [environment], greedy, [0], 4)
    assert (episode.stopped, episode.num_turns, episode.ended, episode.last_text) == ("turns", 4, True, "")
    assert environment.told == ["", "", "", ""] and episode.text == " 0 cat" * 3
    assert episode.ids[episode.learn].tolist() == [policy.processor.end_id] * 4
    assert episode.turn_rewards == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]
    assert tally([episode]) == {"episodes": 1, "turns": 4, "stopped_turns": 1, "stopped_length": 0, "steps": 4}


def test_what_was_drawn_is_never_encoded_again(policies) -> None:
    """Another pair of tokens spells the same text; the episode keeps the pair that was drawn."""
    policy = policies["tiny_llama"]
    episodes = play(policy, some_prompts() * 4, [Counting(3) for _ in range(24)], Sampling(max_tokens=24), range(24), 3)
    again = [policy.processor.observation(e.text) for e in episodes]
    assert any(a.tolist() != e.ids.tolist() for a, e in zip(again, episodes, strict=True))
    plain = policy.generate(some_prompts() * 4, Sampling(max_tokens=24), range(24))
    assert all(torch.equal(e.ids[: len(ids)], ids) for e, ids in zip(episodes, plain.ids, strict=True))


def test_a_special_token_in_an_observation_is_only_its_letters(policies) -> None:
    processor = policies["tiny_llama"].processor
    ids = processor.observation("a <end> cat")
    assert processor.end_id not in ids.tolist() and processor.decode(ids).strip() == "a <end> cat"
    assert processor.end_id in processor.prompt("a <end> cat").tolist(), "elsewhere it is the token"
    assert processor.observation("").shape == (0,) and processor.observation("").dtype == torch.int64


CHATS = {
    "": "",  # the plain one
    "ended": "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
}


def with_template(processor: Any, template: str) -> Any:
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.chat_template = template
    return dataclasses.replace(processor, tokenizer=tokenizer)


@pytest.mark.parametrize("name", CHATS)
def test_in_a_conversation_an_observation_is_a_turn_of_the_user(policies, name) -> None:
    """What the policy reads before each answer is what the template makes of the conversation up to there."""
    own = policies["tiny_llama"].processor
    processor = dataclasses.replace(with_template(own, CHATS[name]), context_length=400)
    answer = processor.answers("", [" a cat and a dog"]).answers[0]  # its end token included
    writer = SimpleNamespace(
        processor=processor,
        generate=lambda prompts, sampling, seeds: Generated([answer], [torch.zeros(len(answer))], [True]),
    )
    talk = [Message("user", "a photo")]
    (episode,) = play(writer, [processor.prompt(tuple(talk))], [Counting(3)], Sampling(max_tokens=300), [0], 3, [True])
    ends = [0, *(1 + episode.learn.int().diff().nonzero()[:, 0]).tolist()]
    pieces = [episode.ids[start:stop] for start, stop in itertools.pairwise(ends)]  # an answer, what is said to it, ...
    assert len(pieces) == 4
    for written, heard in (pieces[:2], pieces[2:]):
        assert torch.equal(written, answer)
        said = processor.decode(answer[:-1])
        talk += [Message("assistant", said), Message("user", f"{len(said)} cat")]
        whole = processor.render(talk, add_generation_prompt=True)
        # This tokenizer knows no capitals, and begins what is tokenised apart with a space.
        expected = whole.rpartition(said)[2].removeprefix("<end>")
        assert "".join(processor.decode(heard).split()) == "".join(expected.lower().split())
        assert int((heard == processor.end_id).sum()) == ("<end>" in CHATS[name])  # that of the user's turn


def test_a_template_without_such_a_turn_is_named(policies) -> None:
    processor = with_template(policies["tiny_llama"].processor, "{{ messages[0].content }}")
    with pytest.raises(BadSample, match="leaves out a turn of the user"):
        processor.observation("a cat", in_chat=True)


def test_counts_that_do_not_fit_are_our_own_mistake(policies) -> None:
    with pytest.raises(ValueError, match="6 prompts, 6 seeds, 1 environments"):
        play(policies["tiny_llama"], some_prompts(), [Counting(1)], WARM, SEEDS, 1)
    assert play(policies["tiny_llama"], [], [], WARM, [], 3) == []
