"""Conformance of language models: valid log-probabilities, batching and packing without effect, saving."""

from typing import TYPE_CHECKING, Any

from mmalign.contract.capabilities import Capability
from mmalign.testing.bench import Skip, Workbench
from mmalign.testing.rounding import rounding
from mmalign.testing.saving import saving_is_exact

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.contract.batch import Batch
    from mmalign.contract.source import Source
    from mmalign.language.sequences import Sequences

MANY_TOKENS = 20_000
NEEDED = frozenset({Capability.HIDDEN_STATES, Capability.TOKEN_LOGPS})


def probabilities_sum_to_one(backbone: Any, batch: "Batch", source: "Source") -> None:
    """The probabilities of all one-token answers to a prompt sum to 1; entropy and top-1 hit match them."""
    import torch

    from mmalign.language.sequences import Sequences

    if backbone.processor.num_tokens > MANY_TOKENS:
        raise Skip(f"one row for each of {backbone.processor.num_tokens:,} tokens takes too long")
    prompt = batch["sequences"].prompts.rows()[0]
    ids = torch.arange(backbone.processor.num_tokens)
    sequences = Sequences.from_lists([prompt], [list(ids.split(1))])
    with torch.no_grad():
        tokens = backbone.token_logps(backbone.hidden_states(sequences), entropy=True)
    probabilities = tokens.logps.double().exp()
    limit, gap = rounding(backbone.module), abs(float(probabilities.sum()) - 1)
    assert gap < limit, f"the probabilities of all tokens do not sum to 1: they are off by {gap:.1e}"
    assert tokens.hits.sum() == 1 and int(tokens.logps.argmax()) == int(tokens.hits.nonzero()), "hits are not the top-1"
    expected = -(probabilities * tokens.logps.double()).sum()
    gap = float((tokens.entropy.double() - expected).abs().max())
    assert gap < 10 * limit, f"the entropy is wrong by {gap:.1e}"


def company_changes_nothing(backbone: Any, batch: "Batch", source: "Source") -> None:
    """An answer has the same log-probabilities packed with others, behind a shared prompt, alone or reversed."""
    import torch

    together = _rows(backbone, batch["sequences"])
    sequences = batch["sequences"]
    firsts = (sequences.counts.cumsum(0) - sequences.counts).tolist()
    for title, parts in {
        "alone": [sequences.select([n]) for n in range(len(batch))],
        "reversed": [sequences.select(list(reversed(range(len(batch)))))],
        "without its siblings": [_single(sequences, m) for m in range(len(together))],
    }.items():
        rows = [row for piece in parts for row in _rows(backbone, piece)]
        if title == "reversed":
            order = [m for n in reversed(range(len(batch))) for m in range(firsts[n], firsts[n] + sequences.counts[n])]
            rows = [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]
        worst = max(float((a - b).abs().max()) for a, b in zip(together, rows, strict=True))
        assert worst < rounding(backbone.module), f"an answer {title} differs by {worst:.1e}"
    assert all(torch.isfinite(row).all() for row in together), "log-probabilities are not finite"


def gradients_reach_everything(backbone: Any, batch: "Batch", source: "Source") -> None:
    """Every trainable parameter has a gradient from the log-probabilities."""
    backbone.module.zero_grad(set_to_none=True)
    backbone.token_logps(backbone.hidden_states(batch["sequences"])).logps.sum().backward()
    bare = [name for name, p in backbone.module.named_parameters() if p.requires_grad and p.grad is None]
    assert not bare, f"{len(bare)} trainable parameters get no gradient: {', '.join(bare[:5])}"


def answers_are_cut_and_counted(backbone: Any, batch: "Batch", source: "Source") -> None:
    """Prompt and answer are cut to fit the context, cut tokens are counted, and answers end with the end token."""
    processor = backbone.processor
    short = processor.answers("a red car", ["and a dog", "tree"])
    ends = {int(answer[-1]) for answer in short.answers}
    assert short.num_lost == 0 and len(ends) == 1, "answers do not all end with one end token"
    for prompt, answer in (("cat " * 9999, "dog"), ("cat", "dog " * 9999), ("cat " * 9999, "dog " * 9999)):
        long = processor.answers(prompt, [answer])
        length = len(long.prompt) + len(long.answers[0])
        assert length <= processor.context_length, f"{length} tokens in a context of {processor.context_length}"
        assert long.num_lost > 0 or length > 9999, "tokens were cut and not counted"
        assert len(long.answers[0]) > 0 and len(long.learn[0]) == len(long.answers[0])


def prompts_come_alone(backbone: Any, batch: "Batch", source: "Source") -> None:
    """`answers` without answers equals `prompt`; a prompt that is too long is cut and the lost tokens are counted."""
    import torch

    processor = backbone.processor
    alone = processor.answers("a red car", [])
    assert torch.equal(alone.prompt, processor.prompt("a red car")) and not alone.answers and not alone.num_lost
    long = processor.answers("cat " * 9999, [])
    assert len(long.prompt) <= processor.context_length, f"{len(long.prompt)} tokens"
    assert long.num_lost == len(processor.prompt("cat " * 9999)) - len(long.prompt), "tokens were cut and not counted"


def save_and_load(backbone: Any, batch: "Batch", source: "Source", bench: Workbench) -> None:
    """A saved folder loads as the same model, bit for bit, with its processor and description."""

    def logps(model: Any) -> "dict[str, Tensor]":
        import torch

        with torch.no_grad():
            return {"logps": model.token_logps(model.hidden_states(batch["sequences"])).logps}

    saving_is_exact(backbone, bench, logps)


CHECKS = {
    "probabilities sum to one": probabilities_sum_to_one,
    "company changes nothing": company_changes_nothing,
    "log-probabilities reach every trainable parameter": gradients_reach_everything,
    "answers are cut and counted": answers_are_cut_and_counted,
    "prompts come without answers too": prompts_come_alone,
    "a saved language model loads exactly": save_and_load,
}


def _rows(backbone: Any, sequences: "Sequences") -> "list[Tensor]":
    """The log-probabilities of each answer's labels."""
    import torch

    with torch.no_grad():
        hidden = backbone.hidden_states(sequences)
        logps = backbone.token_logps(hidden).logps
    return list(logps.split(hidden.layout.offsets.diff().tolist()))


def _single(sequences: "Sequences", m: int) -> "Sequences":
    from mmalign.language.sequences import Sequences

    prompt, answer = sequences.prompts.rows()[int(sequences.owner[m])], sequences.answers.rows()[m]
    learn = sequences.learn.split(sequences.answers.lengths.tolist())[m]
    return Sequences.from_lists([prompt], [[answer]], [[learn]])
