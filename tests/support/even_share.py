"""A reward of token ids, as a user's function."""


def even(completion_ids: list[list[int]]) -> list[float]:
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def same(answers: list[str]) -> list[float]:
    return [1.0 for _ in answers]
