"""The input of a causal language model: prompts, each with one or more answers behind it, or none yet.

    sequences = Sequences.from_lists([prompt_ids], [[chosen_ids, rejected_ids]])
    sequences = Sequences.documents(texts)             # no prompt; every token but the first is predicted

N prompts and M answers in all, the answers to one prompt side by side. An answer sees its prompt and itself, never its
siblings.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mmalign.contract.batch import Batch, Ragged
from mmalign.errors import DataError

_MOST_COPIED = 0.1


@dataclass(frozen=True)
class Sequences:
    """prompts: N rows of ids, which may be empty. answers: M rows of ids. counts: [N] int64 on the CPU, the answers of
    each prompt. learn: bool, one for each answer token: whether it is a label (multi-turn answers contain turns that
    are not). pictures: [N, ...], the prompts as the family's processor encodes pictures, if they are pictures;
    answer_pictures: [M, ...], the same of answers. The ids of a picture are one placeholder."""

    prompts: Ragged
    answers: Ragged
    counts: Tensor
    learn: Tensor
    pictures: Tensor | None = None
    answer_pictures: Tensor | None = None

    @classmethod
    def from_lists(
        cls,
        prompts: Sequence[Tensor],
        answers: Sequence[Sequence[Tensor]],
        learn: Sequence[Sequence[Tensor]] | None = None,
    ) -> "Sequences":
        """Ids as int64 [T]; learn as bool [T], on the ids' device, all true by default."""
        flat = [answer for group in answers for answer in group]
        joined = Ragged.from_list(flat)
        mask = torch.ones(len(joined.values), dtype=torch.bool, device=joined.values.device)
        if learn is not None and flat:
            mask = torch.cat([row for group in learn for row in group])
        counts = torch.tensor([len(group) for group in answers], dtype=torch.int64)
        return cls(Ragged.from_list(list(prompts)), joined, counts, mask)

    @classmethod
    def documents(cls, texts: Ragged) -> "Sequences":
        """Each text is the one answer of an empty prompt."""
        offsets = torch.zeros(len(texts) + 1, dtype=torch.int64)
        empty = Ragged(texts.values[:0], offsets)
        learn = torch.ones(len(texts.values), dtype=torch.bool, device=texts.values.device)
        return cls(empty, texts, torch.ones(len(texts), dtype=torch.int64), learn)

    @classmethod
    def of_pictures(cls, pictures: Tensor) -> "Sequences":
        """pictures: [N, ...]. Each is a prompt with one empty answer, so that heads may read it."""
        size, device = len(pictures), pictures.device
        ids = torch.zeros(size, dtype=torch.int64, device=device)
        nothing = Ragged(ids[:0], torch.zeros(size + 1, dtype=torch.int64))
        ones = torch.ones(size, dtype=torch.int64)
        return cls(
            Ragged.of_lengths(ids, ones), nothing, ones, torch.ones(0, dtype=torch.bool, device=device), pictures
        )

    def with_answers(
        self, answers: Sequence[Sequence[Tensor]], learn: Sequence[Sequence[Tensor]] | None = None
    ) -> "Sequences":
        """The same prompts with other answers: for each prompt a list of ids [T]; learn as in `from_lists`."""
        made = Sequences.from_lists([], answers, learn)
        return replace(made, prompts=self.prompts, pictures=self.pictures)

    def inputs(self) -> list[Tensor]:
        """N prompts as `generate` takes them: ids [T], or a picture [...]."""
        return self.prompts.rows() if self.pictures is None else list(self.pictures)

    def one_by_one(self, answers: Sequence[int]) -> "Sequences":
        """The answers with these numbers, in that order, each with a copy of its prompt."""
        owners = self.owner[torch.as_tensor(answers, dtype=torch.int64)].tolist()
        learn = Ragged(self.learn, self.answers.offsets).select(answers).values.to(torch.bool)
        ones = torch.ones(len(owners), dtype=torch.int64)
        pictures = _rows_of(self.pictures, owners), _rows_of(self.answer_pictures, answers)
        return Sequences(self.prompts.select(owners), self.answers.select(answers), ones, learn, *pictures)

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def owner(self) -> Tensor:
        """[M] int64 on the CPU: which prompt an answer belongs to."""
        return torch.repeat_interleave(torch.arange(len(self)), self.counts)

    @cached_property
    def is_label(self) -> Tensor:
        """bool, one for each answer token: it is to be learnt, and a token before it predicts it."""
        first = self.answers.offsets[:-1][(self.answers.lengths > 0) & (self.prompts.lengths[self.owner] == 0)]
        labels = self.learn.clone()
        labels[first.to(labels.device)] = False
        return labels

    def num_labels(self) -> Tensor:
        """[M] int64 on the CPU: the number of labels in each answer."""
        labels_before = torch.cat([torch.zeros(1, dtype=torch.int64), self.is_label.cpu().cumsum(0)])
        return labels_before[self.answers.offsets[1:]] - labels_before[self.answers.offsets[:-1]]

    def num_tokens(self) -> int:
        return len(self.prompts.values) + len(self.answers.values)

    def learning_all(self) -> "Sequences":
        """The same, with every token of the answers as a label."""
        return replace(self, learn=torch.ones_like(self.learn))

    def dealt(self, capacity: int) -> "Sequences":
        """The same answers in the same order, with copies of prompts. A prompt that would fill more than `capacity`
        tokens with its answers is copied, and each copy gets as many answers as it has room for, provided that the
        copies add no more than a tenth to what is read.

        Attention costs the square of a row: 32 short answers behind one short prompt are read faster in four rows.
        """
        lengths, groups, chosen = self.prompts.lengths.tolist(), self.counts.tolist(), []
        answers = iter(self.answers.lengths.tolist())
        counts: list[int] = []
        for index, (prompt, group) in enumerate(zip(lengths, groups, strict=True)):
            own = [next(answers) for _ in range(group)]
            parts = _deal(own, capacity - prompt) if prompt + sum(own) > capacity else [group]
            if (len(parts) - 1) * prompt > _MOST_COPIED * (prompt + sum(own)):
                parts = [group]
            chosen += [index] * len(parts)
            counts += parts
        if len(chosen) == len(self):
            return self
        pictures = _rows_of(self.pictures, chosen), self.answer_pictures
        return Sequences(self.prompts.select(chosen), self.answers, torch.tensor(counts), self.learn, *pictures)

    def whole(self) -> "Sequences":
        """Each answer joined to a copy of its prompt, as one document with every token but the first a label. Raises
        DataError for pictures, and ValueError for several answers to a prompt."""
        if self.pictures is not None or self.answer_pictures is not None:
            raise DataError(
                "a picture has no tokens to learn", hint="Learn the answers alone: --set objective.loss_on=completion"
            )
        prompts, answers = self.prompts.rows(), self.answers.rows()
        texts = [torch.cat([prompts[n], row]) for n, row in zip(self.owner.tolist(), answers, strict=True)]
        documents = Sequences.documents(Ragged.from_list(texts))
        if len(texts) != len(self):
            raise ValueError("several answers to a prompt cannot be read as one document each")
        return documents

    def by_prompt(self, values: Tensor) -> Tensor:
        """values: [M], one an answer -> [N, K], one row a prompt, padded with zeros where a prompt has fewer
        answers."""
        width = int(self.counts.max()) if len(self) else 0
        first = (self.counts.cumsum(0) - self.counts)[self.owner]
        cells = (self.owner.to(values.device), (torch.arange(len(self.owner)) - first).to(values.device))
        return values.new_zeros(len(self), width).index_put(cells, values)

    def row_bytes(self) -> list[bytes]:
        """The content of each prompt with its answers, as bytes."""
        rows = [[prompt] for prompt in self.prompts.rows()]
        learn = self.learn.split(self.answers.lengths.tolist())
        for owner, answer, labels in zip(self.owner.tolist(), self.answers.rows(), learn, strict=True):
            rows[owner] += [answer, labels]
        if self.pictures is not None:
            rows = [[picture.flatten(), *row] for picture, row in zip(self.pictures, rows, strict=True)]
        if self.answer_pictures is not None:
            for owner, picture in zip(self.owner.tolist(), self.answer_pictures, strict=True):
                rows[owner].append(picture.flatten())
        return [b"".join(len(t).to_bytes(4, "little") + t.cpu().numpy().tobytes() for t in row) for row in rows]

    def select(self, indices: Sequence[int]) -> "Sequences":
        """The prompts at `indices`, in that order, with their answers."""
        ends = self.counts.cumsum(0).tolist()
        starts = [end - count for end, count in zip(ends, self.counts.tolist(), strict=True)]
        rows = [row for i in indices for row in range(starts[i], ends[i])]
        learn = Ragged(self.learn, self.answers.offsets).select(rows).values.to(torch.bool)
        counts = self.counts[torch.as_tensor(indices, dtype=torch.int64)]
        pictures = _rows_of(self.pictures, indices), _rows_of(self.answer_pictures, rows)
        return Sequences(self.prompts.select(indices), self.answers.select(rows), counts, learn, *pictures)

    def to(self, device: "torch.device | str") -> "Sequences":
        pictures = (
            None if column is None else column.to(device, non_blocking=True)
            for column in (self.pictures, self.answer_pictures)
        )
        return Sequences(
            self.prompts.to(device), self.answers.to(device), self.counts, self.learn.to(device), *pictures
        )


def _rows_of(pictures: Tensor | None, indices: Sequence[int]) -> Tensor | None:
    if pictures is None:
        return None
    return pictures[torch.as_tensor(indices, dtype=torch.int64, device=pictures.device)]


def _deal(lengths: Sequence[int], room: int) -> list[int]:
    """How many neighbouring answers each copy gets, at least one: as few copies as `room` allows, the longest as short
    as possible."""
    room = max(room, 0)
    fewest = len(_fill(lengths, room))
    tightest = bisect_left(range(room), True, key=lambda tried: len(_fill(lengths, tried)) <= fewest)
    return _fill(lengths, tightest)


def _fill(lengths: Sequence[int], room: int) -> list[int]:
    counts, used = [0], 0
    for length in lengths:
        if counts[-1] and used + length > room:
            counts.append(0)
            used = 0
        counts[-1] += 1
        used += length
    return counts


def sequences_of(batch: Batch) -> Sequences:
    """The prompts and answers of a batch, or its texts as documents, or its pictures as prompts."""
    if "sequences" in batch:
        return batch["sequences"]
    return Sequences.documents(batch["text"]) if "text" in batch else Sequences.of_pictures(batch["image"])


# Ranks of answers, whatever kind of example has them ------------------------------------------------------------------


def rank_lists(batch: Batch) -> Sequence[Sequence[float]]:
    """The ranks of each prompt's answers; a preference has the ranks 1 and 2."""
    return batch["ranks"] if "ranks" in batch else [(1.0, 2.0)] * len(batch)


def ranks_of(batch: Batch, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(ranks, present) of `rank_lists`, in the type and on the device of scores [N, K]."""
    counts = batch["sequences"].counts.to(scores.device)
    column = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
    present = column < counts[:, None]
    ranks = torch.zeros_like(scores)
    ranks[present] = torch.tensor([r for row in rank_lists(batch) for r in row], dtype=scores.dtype).to(scores.device)
    return ranks, present


def num_ranked(batch: Batch, *, tie: float = 0.0, split_ties: bool = False) -> float:
    """The weights of prompts that teach something: those with ranks more than `tie` apart or, with `split_ties`, with
    two answers."""
    teach = (max(ranks) - min(ranks) > tie or (split_ties and len(ranks) > 1) for ranks in rank_lists(batch))
    return sum(weight for weight, counted in zip(weight_list(batch), teach, strict=True) if counted)


def weight_list(batch: Batch) -> Sequence[float]:
    """The weight of each example of a loss: 1 where the batch has none."""
    return batch["weight"] if "weight" in batch else (1.0,) * len(batch)


def weights_of(batch: Batch, losses: Tensor) -> Tensor:
    """[N]: `weight_list`, in the type and on the device of losses [N]."""
    return torch.tensor(weight_list(batch), dtype=losses.dtype).to(losses.device)
