"""What transformers itself says of a sequence alone, for every family of its causal list: equal, or refused at loading.

    python -m pytest -m slow -s tests/plugins/lm/test_every_family.py      # all of them, and a table of what each is

Log-probabilities are compared with a plain forward of each sequence alone, greedy answers with `generate` of each
prompt alone (without a cache where transformers' own cache changes the answer). The sequences lie beside others of
other lengths, shared prompts among them, and go past every window and past LongRoPE's original length.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.errors import CheckpointError, MmalignError
from mmalign.language.sampling import Sampling
from mmalign.language.sequences import Sequences
from tests.support import tiny_families
from tests.support.lm_samples import naive_logps
from tests.support.tiny_families import CannotBuild

TOKENS = 12  # of an answer
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 5.0],
    "original_max_position_embeddings": 24, "factor": 4.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 24}
# What default configs leave out: title -> (family, changes).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3 with longrope": ("phi3", {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 24}),
    "llama with longrope": ("llama", {"rope_parameters": LONG_ROPE}),
    "llama with yarn": ("llama", {"rope_parameters": YARN}),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    "bert, not a decoder": ("bert", {"is_decoder": False}),
}
# One of each kind: full attention, local windows of two names, a recurrence, ALiBi, no cache, LongRoPE, keys selected.
TELLING = ("llama", "gpt_neo", "gemma3_text", "rwkv", "bloom", "bart", "phi3 with longrope", "doge")


def some_ids(generator: torch.Generator, length: int) -> torch.Tensor:
    return torch.randint(3, 300, (length,), generator=generator)


def some_sequences() -> Sequences:
    generator = torch.Generator().manual_seed(0)
    prompts = [some_ids(generator, length) for length in (20, 0, 7, 1, 30)]
    lengths = ((3, 15), (9,), (1, 2, 24), (4,), (12,))
    return Sequences.from_lists(prompts, [[some_ids(generator, n) for n in group] for group in lengths])


def some_prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [some_ids(generator, length) for length in (3, 20, 11, 1, 11, 30, 5)]


def greedy(module: Any, prompt: torch.Tensor, end: int, **options: Any) -> list[int]:
    from transformers import GenerationConfig

    # In place of the model's own, of which some force a token or forbid one.
    module.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=0)
    ids = prompt[None]
    options = {"max_new_tokens": TOKENS, "do_sample": False, **options}
    return module.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


@torch.no_grad()
def wrong(backbone: Any, module: Any) -> list[str]:
    """What differs from `module`, transformers' model of the same folder."""
    found, sequences = [], some_sequences()
    expected = naive_logps(module, sequences)
    alone = [sequences.select([place]) for place in range(len(sequences))]
    for title, parts in {"together": [sequences], "alone": alone}.items():
        logps = torch.cat([backbone.token_logps(backbone.hidden_states(part)).logps for part in parts])
        gap = float((logps - expected).abs().max())
        if not gap < 1e-4:
            found.append(f"log-probabilities {title} by {gap:.1e}")
    prompts, end = some_prompts(), backbone.processor.end_id
    own = backbone.generate(prompts, Sampling(max_tokens=TOKENS, temperature=0), [0] * len(prompts))
    for prompt, ids in zip(prompts, own.ids, strict=True):
        if ids.tolist() != greedy(module, prompt, end) and ids.tolist() != greedy(module, prompt, end, use_cache=False):
            found.append(f"the answer to a prompt of {len(prompt)} tokens")
    return found


def verdict(load_lm: Any, name: str, folder: Path) -> str:
    """ "equal", "refused: why", "could not be built tiny: why", or "WRONG: what"."""
    from transformers import AutoModelForCausalLM

    family, changes = VARIANTS.get(name, (name, {}))
    try:
        tiny_families.write(family, folder, **changes)
    except CannotBuild as error:
        return f"could not be built tiny: {error}"
    try:
        backbone = load_lm(folder, row_length=64)
    except MmalignError as error:
        return f"refused: {error.message.replace(str(folder), 'the folder')}"
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    differences = wrong(backbone, module)
    return f"WRONG: {'; '.join(differences)}" if differences else "equal"


@pytest.fixture
def quietly(recwarn: pytest.WarningsRecorder) -> Any:
    """transformers warns of configs that are as tiny as these."""
    import warnings

    from mmalign.models.folder import quiet

    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", TELLING)
def test_a_telling_family(load_lm, quietly, tmp_path, name) -> None:
    expected = {"doge": "refused"}.get(name, "equal")
    assert verdict(load_lm, name, tmp_path / "model").startswith(expected)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_family_is_equal_or_refused(load_lm, quietly, tmp_path, capsys) -> None:
    verdicts = {}
    for name in [*tiny_families.families(), *VARIANTS]:
        verdicts[name] = verdict(load_lm, name, tmp_path / "model")
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
    counts = Counter(text.partition(":")[0] for text in verdicts.values())
    with capsys.disabled():
        print()
        for name, text in verdicts.items():
            print(f"{name:26} {text[:150]}")
        print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()), f"of {len(verdicts)}")
    assert not counts["WRONG"] and counts["equal"] > 120


def test_dynamic_ntk_is_used_up_to_where_it_is_defined(load_lm, quietly, tmp_path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    tiny_families.write("llama", tmp_path / "model", rope_parameters=rope, max_position_embeddings=24)
    assert load_lm(tmp_path / "model").processor.context_length == 24
    with pytest.raises(CheckpointError, match="of the type dynamic are defined up to 24 tokens") as error:
        load_lm(tmp_path / "model", context_length=48)
    assert "backbone.context_length=24" in error.value.hint


@pytest.mark.parametrize(("family", "changes"), [("gpt_neo", {}), ("mistral", {})])
def test_default_random_weights_do_not_hide_a_window(load_lm, quietly, tmp_path, family, changes) -> None:
    """With deviations of 0.02 attention is nearly a mean, and a window that is passed over does not show."""
    folder = tiny_families.write(family, tmp_path / "model", **changes)
    torch.manual_seed(0)
    backbone = load_lm(folder, random_weights=True)
    torch.manual_seed(0)
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).state_dict()
    assert not backbone.packs
    assert all(torch.equal(tensor, plain[name]) for name, tensor in backbone.module.state_dict().items())
