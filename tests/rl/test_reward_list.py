"""The list of rewards: weights, names, what is refused before anything is loaded, and scores that are no scores."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmalign.errors import RewardError, UsageError
from mmalign.rl.rewards import RewardList, check_rewards
from mmalign.stop import Interrupted

CPU = torch.device("cpu")
TEXTS = (" a cat", " a dog", " two dogs", " a bird and a fish", " tree")


def build(bench, *options: dict) -> RewardList:
    return RewardList.build(bench.catalog, options, CPU, print)


def function(tmp_path: Path, body: str) -> dict:
    path = tmp_path / "mine.py"
    path.write_text(f"import math\n\ndef score(answers):\n    {body}\n")
    return {"name": "function", "function": f"{path}:score"}


def test_the_total_is_the_weighted_sum_and_every_part_is_reported(bench, answered) -> None:
    rewards = build(
        bench,
        {"name": "length"},
        {"name": "regex", "pattern": "dog", "weight": -2},
        {"name": "regex", "pattern": "^ a ", "weight": 0},
        {"name": "mmalign_rewards/regex", "pattern": "bird", "weight": 0.5},
    )
    scores = rewards.score(answered(TEXTS))
    assert rewards.names == tuple(scores.parts) == ("length", "regex", "regex-2", "regex-3")
    assert scores.parts["length"].tolist() == [2, 2, 2, 5, 1]
    assert scores.parts["regex-2"].tolist() == [1, 1, 0, 1, 0]
    assert scores.total.tolist() == [2, 0, 0, 5.5, 1]
    assert scores.total.dtype == torch.float32 and scores.total.device.type == "cpu"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "there is no reward to learn from.*vader"),
        ([{"name": "vader", "weight": 0}], "every reward has weight 0"),
        ([{"name": "vadr"}], "unknown reward 'vadr'\nDid you mean vader"),
        ([{"weight": 1}], r"rollout.rewards\[0\]: .* names no reward"),
        (
            [{"name": "vader"}, {"name": "vader", "weight": "much"}],
            r"rollout.rewards\[1\].weight: 'much' is not a number",
        ),
        ([{"name": "vader", "weight": True}], "weight: True is not a number"),
        ([{"name": "vader", "weight": float("nan")}], "weight: nan is not a number"),
        ([{"name": "length", "taget": 3}], r"rollout.rewards\[0\].taget: unknown key. Did you mean target\?"),
        ([{"name": "length", "target": -3}], r"rollout.rewards\[0\].target: .*greater than or equal to 0"),
        ([{"name": "regex"}], r"pattern: is required and missing\n.*mmalign show regex --options"),
        ([{"name": "regex", "pattern": "(a"}], "pattern: not a regular expression"),
        ([{"name": "exact-match", "after": "["}], "after: not a regular expression"),
        ([{"name": "function", "function": "score"}], "names no function"),
        ([{"name": "function", "function": "nowhere.py:score"}], "no file nowhere.py"),
        ([{"name": "clip-score"}], "give one of `image` and `text`"),
        ([{"name": "clip-score", "image": "nowhere.png"}], "image: no such file"),
        ([{"name": "code", "memory_mb": 1}], "memory_mb"),
    ],
)
def test_wrong_options_are_refused_with_the_way_out(bench, options, expected) -> None:
    with pytest.raises(UsageError, match=f"(?s){expected}"):
        check_rewards(bench.catalog, options)


def test_an_environment_needs_no_other_reward(bench, answered) -> None:
    assert check_rewards(bench.catalog, [], required=False) == ()
    rewards = RewardList.build(bench.catalog, [], CPU, print, required=False)
    assert rewards.score(answered(TEXTS)).total.tolist() == [0.0] * 5


def test_checking_imports_nothing_heavy(tmp_path: Path) -> None:
    options = [
        {"name": "vader"}, {"name": "code"}, {"name": "reward-model", "path": "x"}, {"name": "clip-score", "text": "x"},
        {"name": "regex", "pattern": "x"}, {"name": "exact-match"},
    ]  # fmt: skip
    code = (
        "import json, sys; from mmalign.registry.catalog import Catalog;"
        "from mmalign.registry.plugins import load_plugins;"
        "from mmalign.rl.rewards import check_rewards;"
        "print(len(check_rewards(Catalog(load_plugins()), json.loads(sys.argv[1]))));"
        "print([name for name in ('torch', 'numpy', 'transformers', 'vaderSentiment') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(options)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["6", "[]"]


def test_a_run_keeps_the_options_with_paths_from_anywhere(bench, tmp_path: Path, monkeypatch) -> None:
    function(tmp_path, "return [0.0 for _ in answers]")
    monkeypatch.chdir(tmp_path)
    given = [{"name": "function", "function": "mine.py:score", "weight": 2}, {"name": "vader"}]
    kept = [chosen.options() for chosen in check_rewards(bench.catalog, given)]
    assert kept == [
        {"name": "function", "weight": 2.0, "function": f"{tmp_path / 'mine.py'}:score"},
        {"name": "vader", "weight": 1.0},
    ]
    monkeypatch.chdir("/")
    assert [chosen.options() for chosen in check_rewards(bench.catalog, kept)] == kept


@pytest.mark.parametrize(
    ("body", "expected", "row"),
    [
        ("return [1 / (len(a) - 5) for a in answers]", "failed: ZeroDivisionError: division by zero", 4),
        ("return [1 / (len(a) - 9) for a in answers]", "failed: ZeroDivisionError", 2),
        ("raise SystemExit(0)", "failed: SystemExit: 0", 0),
        ("return [math.nan if 'bird' in a else 0.0 for a in answers]", r"gave nan \(1 of 5 scores are not finite\)", 3),
        ("return [-math.inf for a in answers]", r"gave -inf \(5 of 5", 0),
        ("return [1e300 for a in answers]", "gave 1e[+]300", 0),
        ("return [1.0]", r"gave the shape \[1\] for 5 answers", 0),
        ("return [[1.0] for a in answers]", r"gave \[1.0\], which is not a number", 0),
        ("import torch; return torch.zeros(len(answers), 1)", r"gave the shape \[5, 1\] for 5 answers", 0),
        ("import torch; return torch.tensor(1.0)", r"gave the shape \[\] for 5 answers", 0),
        ("import torch; return torch.zeros(len(answers), dtype=torch.complex64)", "gave complex numbers", 0),
        ("return [1.0, 2.0, '1', None, 2.0]", "gave the text '1', which is not a number", 2),
        ("return [1.0, 2.0, [], 1.0, 2.0]", r"gave \[\], which is not a number", 2),
        ("return 'good'", "gave str, not a list or tensor", 0),
        ("return (1.0 for a in answers)", "gave generator, not a list or tensor", 0),
        ("return None", "gave NoneType", 0),
    ],
)
def test_what_is_no_score_stops_with_the_culprit(bench, answered, tmp_path, body, expected, row) -> None:
    answers = answered(TEXTS)
    rewards = build(bench, {"name": "vader"}, function(tmp_path, body))
    whose = r"reward function \(of mmalign_rewards, function=[^ ]+\)"
    with pytest.raises(RewardError, match=f"(?s){whose} {expected}") as caught:
        rewards.score(answers)
    assert f"First at example {answers.keys[row]}, answer {TEXTS[row]!r}" in caught.value.message
    assert caught.value.hint and caught.value.exit_code == (4 if "not finite" in caught.value.message else 1)


def test_lists_arrays_and_tensors_of_any_real_type_are_scores(bench, answered, tmp_path) -> None:
    answers = answered(TEXTS)
    for body in (
        "return [True, 0, 1, 2, 3]",
        "import numpy; return numpy.array([1, 0, 1, 2, 3], dtype='int16')",
        "import numpy; return [numpy.float32(v) for v in (1, 0, 1, 2, 3)]",
        "import numpy; return numpy.array([3.0, 2, 1, 0, 1])[::-1]",
        "import numpy; return numpy.array([1, 0, 1, 2, 3], dtype='>f4')",
        "import numpy; return numpy.array([1, 0, 1, 2, 3], dtype=numpy.longdouble)",
        "import torch; return torch.tensor([1.0, 0, 1, 2, 3], dtype=torch.float64, requires_grad=True)",
        "import torch; return [torch.tensor(v) for v in (1, 0, 1, 2, 3)]",
    ):
        total = build(bench, function(tmp_path, body)).score(answers).total
        assert total.tolist() == [1, 0, 1, 2, 3] and not total.requires_grad


def test_none_is_no_score_and_the_weighted_sum_goes_without_it(bench, answered, tmp_path) -> None:
    """As TRL's nansum over its reward functions (trl #3079)."""
    first = function(tmp_path, "return [1.0, None, 3.0, None, -1.0]") | {"weight": 2}
    (tmp_path / "more").mkdir()
    second = function(tmp_path / "more", "return [None, None, 0.5, 4, None]") | {"weight": 0.5}
    scores = build(bench, first, second).score(answered(TEXTS))
    nan = math.nan
    parts = torch.tensor([[1, nan, 3, nan, -1], [nan, nan, 0.5, 4, nan]])
    assert torch.equal(scores.total, (parts * torch.tensor([[2], [0.5]])).nansum(0))
    assert scores.unscored.tolist() == [False, True, False, False, False]
    for found, expected in zip(scores.parts.values(), parts, strict=True):
        assert torch.equal(found.nan_to_num(-9), expected.nan_to_num(-9))


def test_a_reward_that_only_reports_scores_no_answer(bench, answered, tmp_path) -> None:
    """Beside it, an answer that no weighed reward scored is still none to learn from."""
    learnt = function(tmp_path, "return [None, 1, 2, 3, None]")
    alone = build(bench, learnt).score(answered(TEXTS))
    beside = build(bench, learnt, {"name": "length", "weight": 0}).score(answered(TEXTS))
    assert alone.unscored.tolist() == beside.unscored.tolist() == [True, False, False, False, True]
    assert torch.equal(alone.total, beside.total)


def test_a_long_answer_is_shown_cut(bench, answered, tmp_path) -> None:
    rewards = build(bench, function(tmp_path, "return [math.nan for a in answers]"))
    with pytest.raises(RewardError, match=r"x x\.\.\. \(4,000 characters\)|x \.\.\. \(4,000 characters\)|\(4,000 char"):
        rewards.score(answered([" x" * 2000]))


def test_a_signal_during_scoring_is_no_fault_of_the_reward(bench, answered, tmp_path) -> None:
    body = "from mmalign.stop import Interrupted; raise Interrupted(2)"
    with pytest.raises(Interrupted):
        build(bench, function(tmp_path, body)).score(answered(TEXTS))


def test_selected_answers_keep_their_prompts(answered) -> None:
    answers = answered(TEXTS)
    chosen = answers.select([3, 0])
    assert chosen.texts == (TEXTS[3], TEXTS[0]) and chosen.keys == ("example:1", "example:0")
    assert [row.tolist() for row in chosen.sequences.prompts.rows()] == [
        answers.sequences.prompts.rows()[1].tolist(),
        answers.sequences.prompts.rows()[0].tolist(),
    ]
    assert chosen.sequences.answers.rows()[0].tolist() == answers.sequences.answers.rows()[3].tolist()
    assert len(chosen.sequences) == len(chosen) == 2 and chosen.sequences.learn.all()
