"""Packed and bucketed rows against a plain reading of what a layout must be."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.language.layout import Cost, Layout, bucketed, packed, states_at
from mmalign.language.sequences import Sequences

ids = st.lists(st.integers(1, 99), max_size=9)
groups = st.lists(
    st.tuples(ids, st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=7), max_size=4)), max_size=6
)


def sequences_of(drawn) -> Sequences:
    tensor = lambda row: torch.tensor(row, dtype=torch.int64)  # noqa: E731
    return Sequences.from_lists([tensor(p) for p, _ in drawn], [[tensor(a) for a in answers] for _, answers in drawn])


def flat_ids(layout: Layout) -> list[int]:
    return [int(i) for grid in layout.grids for i in grid.ids.flatten()]


def seen_by(layout: Layout, flat: int) -> list[int]:
    """The ids that the token at a flat position may attend to, in the order of their position ids."""
    for grid in layout.grids:
        if flat >= grid.ids.numel():
            flat -= grid.ids.numel()
            continue
        row, column = divmod(flat, grid.ids.shape[1])
        if grid.unit is None:
            visible = [j for j in range(column + 1) if grid.real[row, j]]
        else:
            visible = (grid.mask(torch.float32)[row, 0, column] == 0).nonzero()[:, 0].tolist()
        places = [int(grid.positions[row, j]) for j in visible]
        assert places == list(range(len(places))), "positions count from 0 through prompt and answer"
        return [int(grid.ids[row, j]) for j in visible]
    raise AssertionError("no such position")


@settings(deadline=None, max_examples=60)
@given(drawn=groups)
def test_lengths_are_of_the_example_and_not_of_the_row(drawn) -> None:
    sequences = sequences_of(drawn)
    dealt = sequences.dealt(16)
    own = dealt.prompts.lengths.index_add(0, dealt.owner, dealt.answers.lengths)
    for grid in packed(sequences, 16).grids:
        assert grid.unit is not None
        expected = [[int(own[unit]) if unit >= 0 else None for unit in row] for row in grid.unit.tolist()]
        for row, wanted in zip(grid.lengths().tolist(), expected, strict=True):
            assert all(length == want or want is None for length, want in zip(row, wanted, strict=True))
            assert all(length >= 1 for length in row)
    for grid in bucketed(sequences).grids:
        assert torch.equal(grid.lengths()[:, 0], grid.real.sum(1).clamp(min=1))


@settings(deadline=None, max_examples=60)
@given(drawn=groups, capacity=st.integers(1, 40))
def test_every_label_is_predicted_from_its_prompt_and_what_precedes_it(drawn, capacity) -> None:
    sequences = sequences_of(drawn)
    for layout in (packed(sequences, capacity), bucketed(sequences)):
        number, answer = 0, 0
        for prompt, answers in drawn:
            for tokens in answers:
                start = 0 if prompt else 1
                assert layout.offsets[answer + 1] - layout.offsets[answer] == len(tokens) - start
                for t in range(start, len(tokens)):
                    assert int(layout.labels[number]) == tokens[t]
                    assert seen_by(layout, int(layout.predict[number])) == prompt + tokens[:t]
                    number += 1
                assert seen_by(layout, int(layout.last[answer])) == prompt + tokens
                answer += 1
        assert number == len(layout.labels) and answer == len(layout.last)


@settings(deadline=None, max_examples=60)
@given(drawn=groups, capacity=st.integers(1, 40))
def test_packing_keeps_every_token_once_in_few_rows(drawn, capacity) -> None:
    sequences = sequences_of(drawn)
    layout = packed(sequences, capacity)
    (grid,) = layout.grids
    dealt = sequences.dealt(capacity)
    kept = sorted(int(i) for i in grid.ids[grid.real])
    assert kept == sorted([*dealt.prompts.values.tolist(), *sequences.answers.values.tolist()])
    units = dealt.prompts.lengths.index_add(0, dealt.owner, dealt.answers.lengths).tolist()
    if sum(units):
        assert grid.ids.shape[1] <= max(capacity, *units)
        # No two rows that would fit into one (what best fit guarantees)
        used = sorted(grid.real.sum(1).tolist())
        assert len(used) < 2 or used[0] + used[1] > min(max([capacity, *units]), sum(units))


@settings(deadline=None, max_examples=60)
@given(drawn=groups, capacity=st.integers(1, 40))
def test_dealing_copies_few_tokens_of_prompts_and_loses_none(drawn, capacity) -> None:
    sequences = sequences_of(drawn)
    dealt = sequences.dealt(capacity)
    assert torch.equal(dealt.answers.values, sequences.answers.values) and torch.equal(dealt.learn, sequences.learn)
    owners = [dealt.prompts.rows()[n].tolist() for n in dealt.owner.tolist()]
    assert owners == [prompt for prompt, answers in drawn for _ in answers]
    copies = len(dealt.prompts.values) - len(sequences.prompts.values)
    assert copies <= 0.1 * sequences.num_tokens()
    if sequences.owner.numel() and max(map(len, (p for p, _ in drawn))) == 0:  # copies are free
        sizes = dealt.prompts.lengths.index_add(0, dealt.owner, dealt.answers.lengths)
        assert ((sizes <= capacity) | (dealt.counts == 1)).all()


def test_many_short_answers_to_a_short_prompt_are_dealt_to_rows_of_the_capacity() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = [torch.ones(int(n), dtype=torch.int64) for n in torch.randint(10, 40, (32,), generator=generator)]
    prompt = torch.ones(3, dtype=torch.int64)
    (grid,) = packed(Sequences.from_lists([prompt], [answers]), 256).grids
    assert grid.ids.shape[1] <= 256 and grid.real.float().mean() > 0.85
    long_prompt = torch.ones(200, dtype=torch.int64)  # read once, whatever the rows
    (grid,) = packed(Sequences.from_lists([long_prompt], [answers]), 256).grids
    assert int(grid.real.sum()) == 200 + sum(map(len, answers))


def test_buckets_hold_little_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.ones(int(n), dtype=torch.int64) for n in torch.randint(5, 200, (64,), generator=generator)]
    layout = bucketed(Sequences.from_lists([torch.zeros(0, dtype=torch.int64)] * 64, [[row] for row in rows]))
    total = sum(grid.ids.numel() for grid in layout.grids)
    assert sum(map(len, rows)) / total > 0.9 and len(layout.grids) < 40
    many = bucketed(Sequences.from_lists([rows[0][:0]] * 2000, [[torch.ones(50, dtype=torch.int64)]] * 2000))
    assert [grid.ids.numel() for grid in many.grids] == [16_350] * 6 + [1_900]


def test_selecting_and_moving_keep_prompts_with_their_answers() -> None:
    drawn = [([1, 2], [[3], [4, 5]]), ([], [[6, 7]]), ([8], [[9]])]
    sequences = sequences_of(drawn)
    chosen = sequences.select([2, 0]).to("cpu")
    assert chosen.prompts.values.tolist() == [8, 1, 2] and chosen.answers.values.tolist() == [9, 3, 4, 5]
    assert chosen.counts.tolist() == [1, 2] and chosen.num_labels().tolist() == [1, 1, 2]
    assert sequences.num_labels().tolist() == [1, 2, 1, 1] and sequences.num_tokens() == 9
    whole = sequences.select([1, 2]).whole()
    assert whole.answers.values.tolist() == [6, 7, 8, 9] and whole.num_labels().tolist() == [1, 1]


def test_learn_masks_choose_the_labels() -> None:
    prompt, answer = torch.tensor([1, 2]), torch.tensor([3, 4, 5])
    sequences = Sequences.from_lists([prompt], [[answer]], [[torch.tensor([True, False, True])]])
    layout = packed(sequences, 10)
    assert layout.labels.tolist() == [3, 5] and flat_ids(layout) == [1, 2, 3, 4, 5]
    assert layout.predict.tolist() == [1, 3]
    assert packed(sequences.learning_all(), 10).labels.tolist() == [3, 4, 5]


@settings(deadline=None, max_examples=40)
@given(drawn=groups, attention=st.floats(0.01, 1))
def test_rows_are_shortened_only_where_that_is_cheaper_and_read_the_same(drawn, attention) -> None:
    sequences = sequences_of(drawn)
    plain, chosen = packed(sequences, 32), packed(sequences, 32, Cost(attention, call=2))
    cost = lambda layout: (  # noqa: E731
        sum(2 + g.ids.numel() * (1 + attention * g.ids.shape[1]) for g in layout.grids)
    )
    assert cost(chosen) <= cost(plain) and len(chosen.grids) in (1, 2)
    assert torch.equal(chosen.labels, plain.labels) and torch.equal(chosen.offsets, plain.offsets)
    for layout in (plain, chosen):
        seen = [seen_by(layout, int(place)) for place in layout.predict]
        expected = [seen_by(plain, int(place)) for place in plain.predict]
        assert seen == expected


def test_gradients_of_shared_states_repeat_to_the_bit_on_two_threads() -> None:
    """128 answers to one prompt: the state behind it has 128 gradients, in whatever order threads work."""
    prompt, answers = torch.arange(1, 5), [torch.arange(1, 24) for _ in range(128)]
    layout = packed(Sequences.from_lists([prompt], [answers]), 512)
    size = sum(grid.ids.numel() for grid in layout.grids)
    states, slope = torch.randn(size, 256), torch.randn(len(layout.predict), 256)
    threads, found = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        for _ in range(60):
            leaf = states.clone().requires_grad_()
            states_at(leaf, layout.predict).backward(slope)
            found.add(leaf.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
