"""A trained reward model: `--set rollout.rewards='[{"name": "reward-model", "path": "runs/reward/model"}]'`.

It may be any backbone that provides `score_sequences`. If its tokenizer equals the policy's, it reads the policy's
tokens directly. Otherwise prompt and answer are tokenised again for it, which it reports once. Tokenizers are compared
by content: the token of every id, the end token, and the ids of some texts with and without a chat template.

To pictures as prompts, it is a dual encoder (`mmalign.pairs.judge`). They are opened again for it, because its
transform may differ from the policy's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor

from mmalign.contract.capabilities import ALONE, TEXT_PAIRS, Pair, in_words
from mmalign.data.collate import join_answers, with_pixels
from mmalign.data.images import open_image
from mmalign.errors import CheckpointError, UsageError
from mmalign.language.protocols import AnswersProcessor
from mmalign.language.sequences import Sequences
from mmalign.models.load import load_model, require_source
from mmalign.registry.compat import check_needs
from mmalign.rl.answers import Answers
from mmalign_rewards.cut import CutTexts
from mmalign_rewards.options import RewardModelRewardConfig

if TYPE_CHECKING:
    from mmalign.registry.catalog import Catalog
    from mmalign.rl.reward import PolicyTrunk

_PROBES = ("The film was good.", " 1,234 x\n\tÄpfel ∑ 猫 🙂", "")
_PROMPTS_COMPARED = 8
_PICTURES_AT_ONCE = 32
_NEEDS = ("score_sequences",)


class RewardModelReward:
    """Scores the answer behind its prompt, frozen and without dropout, minus the mean of good answers where that is
    known."""

    Config: ClassVar[type[BaseModel]] = RewardModelRewardConfig

    def __init__(self, config: RewardModelRewardConfig) -> None:
        self.config = config
        self._same: bool | None = None  # whether its tokenizer equals the policy's
        self._backbone: Any = None
        self._pairs = TEXT_PAIRS

    def share(self, trunk: "PolicyTrunk", name: str, say: Callable[[str], None]) -> None:
        """Use the reward model as an adapter on the policy's weights, if it was trained as one: no second model is
        loaded."""
        if not trunk.lends:
            return
        try:
            self._backbone = trunk.add_scorer(Path(self.config.path).expanduser(), name)
        except CheckpointError as error:
            say(f"a model of its own: {error.message}")
            return
        self._processor, self._same = trunk.processor, True
        say("an adapter on the policy's weights")

    def open(self, catalog: "Catalog", device: torch.device, say: Callable[[str], None]) -> None:
        """Load the reward model; raises MmalignError where there is none, or the model is not a reward model."""
        self._device, self._say = device, say
        if self._backbone is None:
            self._load(catalog, device)
        self._cut = CutTexts(self._processor.context_length, say)

    def _load(self, catalog: "Catalog", device: torch.device) -> None:
        source = require_source(catalog, self.config.path, _NEEDS, "reward reward-model")
        self._backbone = load_model(catalog, source, needs=_NEEDS, device=device, frozen=True)
        self._processor: AnswersProcessor = self._backbone.processor
        self._pairs = check_needs(_NEEDS, source.family, ALONE).pairs

    def check_pair(self, pair: Pair) -> None:
        if pair not in self._pairs:
            read = " or ".join(in_words(each) for each in sorted(self._pairs) if all(each))
            raise UsageError(
                f"{self.config.path} scores {read}; this run has {in_words(pair)}",
                hint="Texts to pictures are scored by a dual encoder, texts to texts by a reward model of texts; "
                "--objective reward trains either.",
            )

    @torch.no_grad()
    def score(self, answers: Answers) -> Tensor:
        """[M] float32 on the CPU. Raises BadSample for a prompt that does not render."""
        if ("image", "text") in self._pairs:
            return self._score_pictured(answers)
        if self._same is None:
            self._same = same_tokenizer(self._processor, answers)
            if not self._same:
                self._say("the answers are text or another tokenizer's: prompts and answers are tokenised again for it")
        rows, lost = self._policy_rows(answers) if self._same else self._own_rows(answers)
        self._cut.add(lost)
        scores = torch.zeros(len(rows))
        for places in token_batches([len(p) + len(a) for p, a in rows], self.config.tokens_at_once):
            part = Sequences.from_lists([rows[i][0] for i in places], [[rows[i][1]] for i in places])
            scores[places] = self._backbone.score_sequences(part.to(self._device)).float().cpu()
        return scores

    def _score_pictured(self, answers: Answers) -> Tensor:
        """[M], of texts to pictures, some prompts at once."""
        processor = self._processor
        scores, rows, start = [], [], 0
        counts = answers.sequences.counts.tolist()
        for number, count in enumerate(counts, start=1):
            prompt, texts = answers.prompts[start], answers.texts[start : start + count]
            start += count
            tokens = processor.answers(prompt, texts)
            self._cut.add([tokens.num_lost])
            rows.append(with_pixels(tokens, prompt, texts, lambda picture: processor.image(open_image(picture))))
            if len(rows) == _PICTURES_AT_ONCE or number == len(counts):
                scores.append(self._backbone.score_sequences(join_answers(rows).to(self._device)).float().cpu())
                rows = []
        return torch.cat(scores)

    def _policy_rows(self, answers: Answers) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
        """(prompt, answer) of each in the policy's ids, and how many tokens were cut."""
        sequences = answers.sequences.to("cpu")
        prompts, end, fitted = sequences.prompts.rows(), torch.tensor([self._processor.end_id]), []
        for owner, answer in zip(sequences.owner.tolist(), sequences.answers.rows(), strict=True):
            fitted.append(self._fit(prompts[owner], answer if len(answer) else end))
        return [(prompt, answer) for prompt, answer, _ in fitted], [lost for *_, lost in fitted]

    def _own_rows(self, answers: Answers) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
        """The same in the reward model's ids; an answer that was stopped before its end gets no end token here
        either."""
        end, fitted = torch.tensor([self._processor.end_id]), []
        for prompt, text, ended in zip(answers.prompts, answers.texts, answers.ended, strict=True):
            if not text.strip():
                fitted.append(self._fit(self._processor.prompt(prompt), end))
                continue
            encoded = self._processor.answers(prompt, [text])
            ids, lost = encoded.answers[0], encoded.num_lost
            # The processor ends every answer; if it cut the answer, it cut that end token too.
            if not ended and int(ids[-1]) != self._processor.end_id:
                lost -= 1
            elif not ended and len(ids) > 1:
                ids = ids[:-1]
            fitted.append((encoded.prompt, ids, lost))
        return [(prompt, answer) for prompt, answer, _ in fitted], [lost for *_, lost in fitted]

    def _fit(self, prompt: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, int]:
        """Cuts the beginning of a prompt and the end of an answer that are too long; the answer has half of the
        context."""
        limit = self._processor.context_length
        kept = min(len(prompt), limit - min(len(answer), limit // 2))
        lost = len(prompt) - kept + max(0, len(answer) - (limit - kept))
        return prompt[len(prompt) - kept :], answer[: limit - kept], lost


def same_tokenizer(own: AnswersProcessor, answers: Answers) -> bool:
    """Whether the policy's ids mean the same to `own`; `own` may have more ids behind them (a padding token)."""
    policy = answers.processor
    if own.end_id != policy.end_id or own.num_tokens < policy.num_tokens:
        return False
    texts = [*_PROBES, *answers.prompts[:_PROMPTS_COMPARED]]
    if any(not torch.equal(own.prompt(text), policy.prompt(text)) for text in texts):
        return False
    ids = torch.arange(policy.num_tokens)
    return all(own.decode(ids[i : i + 1]) == policy.decode(ids[i : i + 1]) for i in range(len(ids)))


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Batches of indices, longest first, each of `budget` tokens when padded; at least one index in each."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > budget:
            batches.append([])
        batches[-1].append(place)
    return batches
