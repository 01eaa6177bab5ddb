"""A reward function, as a user writes one."""


def score(prompts: list[str], answers: list[str], solutions: list[str]) -> list[float]:
    return [float("please" in answer) for answer in answers]
