"""The generated questions: right answers, the same for the same options, and no question in two parts."""

import pytest
from mmalign_data.arithmetic import Arithmetic, ArithmeticConfig
from pydantic import ValidationError

PARTS = ("train", "validation", "test")


def build(split: str = "train", **options: object) -> Arithmetic:
    return Arithmetic.build(ArithmeticConfig(**options), split)


@pytest.mark.parametrize("operator", ["+", "-", "*", "/"])
def test_answers_are_right_and_whole(operator: str) -> None:
    data = build(size=200, digits=3, operators=(operator,), template="{question}")
    assert len(data) == 200
    for example in data:
        a, op, b = example.prompt.split()
        assert op == operator and max(int(a), int(b)) <= 999
        assert eval(f"{a} {op} {b}") == int(example.solution)


def test_parts_share_no_question_whatever_the_seed_and_size() -> None:
    options = [{"seed": 0, "size": 1000}, {"seed": 1, "size": 300, "digits": 1}]
    keys = [{e.key for config in options for e in build(part, **config)} for part in PARTS]
    assert all(keys) and not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_the_same_for_the_same_options_and_other_for_another_seed() -> None:
    first = build()
    assert first.fingerprint() == build().fingerprint() != build(seed=1).fingerprint()
    assert [len(build(part)) for part in PARTS] == [2000, 200, 200]
    assert first[0].prompt.startswith("Question: What is ") and first[0].prompt.endswith("?\nAnswer:")


def test_few_digits_make_fewer_questions_and_the_report_says_so() -> None:
    data = build(size=1000, digits=1, operators=("+",))
    assert 50 < len(data) < 100 and data.report()["asked_for"] == 1000 and data.report()["kept"] == len(data)
    assert len({example.key for example in data}) == len(data)


def test_options_are_checked() -> None:
    for wrong in ({"operators": ()}, {"operators": ("%",)}, {"digits": 0}, {"size": 1}):
        with pytest.raises(ValidationError):
            ArithmeticConfig(**wrong)
