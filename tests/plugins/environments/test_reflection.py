"""Reflection: three turns with its instructions between them, and rewards that see the last."""

from typing import Any

import torch
from mmalign_environments.reflection import Reflection, ReflectionConfig

from mmalign.contract.examples import Message, Prompt
from mmalign.language.sampling import Sampling
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.rl.environment import Turn
from mmalign.rl.episodes import play
from mmalign.testing.models import tiny_bloom


def begun(**options: Any) -> Reflection:
    environment = Reflection(ReflectionConfig(**options))
    assert environment.reset(Prompt("p", (Message("user", "hi"),)), 3) == (Message("user", "hi"),)
    return environment


def test_answer_critique_revise() -> None:
    environment = begun(critique=" wrong? ", revise=" again: ")
    said = [environment.step(text) for text in ("first", "", "better")]
    assert said == [Turn(" wrong? ", 0.0, False), Turn(" again: ", 0.0, False), Turn("", 0.0, True)]


def test_an_episode_of_a_model_ends_with_its_revision(tmp_path) -> None:
    """BLOOM has no limit of positions; its config says none shorter than the tokenizer's 32."""
    catalog = Catalog(load_plugins())
    source = find_source(str(tiny_bloom(tmp_path / "model")), catalog)
    backbone_class = catalog.load(source.entry)
    policy = backbone_class.load(source, backbone_class.Config())
    prompt = policy.processor.prompt("a")
    wanted = torch.zeros(policy.processor.num_tokens)
    wanted[policy.processor.end_id] = 0.3
    wanted += 0.7 / len(wanted)
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=1e-2)
    for _ in range(25):
        logits = policy.module(input_ids=torch.arange(1, 301).reshape(15, 20)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.expand(300, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    options = {"critique": " cat", "revise": " dog"}
    played = play(policy, [prompt] * 20, [begun(**options) for _ in range(20)], Sampling(max_tokens=28), range(20), 3)
    whole = [episode for episode in played if episode.stopped == ""]
    assert len(whole) > 5
    for episode in whole:
        assert episode.num_turns == 3 and episode.ended and [reward for _, reward in episode.turn_rewards] == [0.0] * 3
        heard = policy.processor.decode(episode.ids[~episode.learn])
        assert heard == " cat dog" and episode.text.endswith(" dog" + episode.last_text)
        ends = (episode.ids == policy.processor.end_id) & episode.learn
        assert int(ends.sum()) == 3 and bool(ends[-1])
    cut = [episode for episode in played if episode.stopped]
    assert all(episode.stopped == "length" and len(episode.ids) <= 28 for episode in cut)
