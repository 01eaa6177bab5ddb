"""Published data sets, by small files in exactly their columns: what each is read as, by which objectives."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data.texts import (
    CompletionFiles,
    LabelledCompletionFiles,
    PreferenceFiles,
    PromptFiles,
    TextFilesConfig,
    kind_of,
)

from mmalign.contract.examples import Message
from mmalign.errors import DataError

# tatsu-lab/stanford_alpaca, train.py: PROMPT_DICT
ALPACA = {
    "prompt_input": (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    ),
    "prompt_no_input": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:"
    ),
}
SUM = {"instruction": "Add the numbers.", "input": "1 and 2", "output": "3"}
JOKE = {"instruction": "Tell a joke.", "input": "", "output": "No."}
SHAREGPT = {
    "id": "QWJhYvA_0",
    "conversations": [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello."},
        {"from": "human", "value": "Bye"},
        {"from": "gpt", "value": "Goodbye."},
    ],
}
TURNS = (
    Message("user", "Hi"),
    Message("assistant", "Hello."),
    Message("user", "Bye"),
    Message("assistant", "Goodbye."),
)


def write(path: Path, *rows: Any) -> Path:
    if path.suffix == ".json":  # as Alpaca and ShareGPT were published
        path.write_text(json.dumps(list(rows), indent=4), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(cls: Any, path: Path, **options: Any) -> Any:
    return cls.build(TextFilesConfig(path=str(path), **{"holdout": 0, **options}), "train")


@pytest.mark.parametrize("name", ["alpaca_data.json", "a.jsonl", "a.parquet"])
def test_alpaca_is_asked_in_its_published_text(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, SUM, JOKE)
    data, prompts = read(CompletionFiles, path), read(PromptFiles, path)
    for index, (row, published) in enumerate([(SUM, "prompt_input"), (JOKE, "prompt_no_input")]):
        assert data[index].prompt == ALPACA[published].format_map(row) == prompts[index].prompt
        assert data[index].completion == row["output"]
    assert dict(prompts[0].columns) == SUM
    assert data.report()["notes"][0].startswith("prompts are written as Alpaca's published text")
    assert kind_of(str(path), {}) == "completion"


def test_alpaca_as_a_conversation(tmp_path: Path) -> None:
    """With `system` and `history` as LLaMA-Factory has them; what stands in the history is learnt, too."""
    row = {**SUM, "system": "Be brief.", "history": [["Ready?", "Yes."]]}
    data = read(CompletionFiles, write(tmp_path / "a.jsonl", row), alpaca="messages")
    assert data[0].prompt == (Message("system", "Be brief."), Message("user", "Ready?"), Message("assistant", "Yes."),
                              Message("user", "Add the numbers.\n1 and 2"))  # fmt: skip
    assert data[0].completion == (Message("assistant", "3"),)
    assert data.report()["notes"] == ["prompts are written as conversations, not as Alpaca's published text"]
    text = read(CompletionFiles, write(tmp_path / "a.jsonl", row))[0].prompt
    assert text == (
        "Be brief.\n\n### Instruction:\nReady?\n\n### Response:Yes.\n\n"
        "### Instruction:\nAdd the numbers.\n\n### Input:\n1 and 2\n\n### Response:"
    )


def test_alpacas_columns_for_preferences_and_labels(tmp_path: Path) -> None:
    row = {"instruction": "Tell a joke.", "input": "", "chosen": "Yes.", "rejected": "No."}
    example = read(PreferenceFiles, write(tmp_path / "p.jsonl", row))[0]
    assert example.prompt == ALPACA["prompt_no_input"].format_map(JOKE) and example.chosen == "Yes."
    example = read(PreferenceFiles, tmp_path / "p.jsonl", alpaca="messages")[0]
    assert example.prompt == (Message("user", "Tell a joke."),) and example.rejected == (Message("assistant", "No."),)
    example = read(LabelledCompletionFiles, write(tmp_path / "k.jsonl", {**JOKE, "kto_tag": False}))[0]
    assert (example.completion, example.label) == ("No.", False)
    assert kind_of(str(tmp_path / "k.jsonl"), {}) == "labelled-completion"


def test_dolly(tmp_path: Path) -> None:
    row = {"instruction": "Add the numbers.", "context": "1 and 2", "response": "3", "category": "closed_qa"}
    data = read(CompletionFiles, write(tmp_path / "d.jsonl", row))
    assert (data[0].prompt, data[0].completion) == (ALPACA["prompt_input"].format_map(SUM), "3")


@pytest.mark.parametrize("name", ["sharegpt.json", "s.jsonl", "s.parquet"])
def test_sharegpt_is_a_conversation(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, SHAREGPT, {**SHAREGPT, "conversations": SHAREGPT["conversations"][1:]})
    data, prompts = read(CompletionFiles, path), read(PromptFiles, path, max_bad=1)
    assert (data[0].prompt, data[0].completion) == (TURNS[:1], TURNS[1:])
    assert (data[1].prompt, data[1].completion) == ((), TURNS[1:]), "dialogues that begin with the model are common"
    assert prompts[0].prompt == TURNS[:1] and prompts.report()["skipped"] == {"no prompt": 1}
    assert dict(prompts[0].columns) == SHAREGPT
    assert data.report()["notes"] == ["rows are conversations in ShareGPT's form (from, value)"]
    assert kind_of(str(path), {}) == "completion"


def test_sharegpt_with_tools_and_a_system_prompt(tmp_path: Path) -> None:
    """LLaMA-Factory's glaive_toolcall demo."""
    tools = [{"name": "weather", "description": "Of a city", "parameters": {"type": "object", "properties": {}}}]
    row = {
        "conversations": [
            {"from": "human", "value": "Weather in Oslo?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
            {"from": "observation", "value": '{"sky": "clear"}'},
            {"from": "gpt", "value": "Clear."},
        ],
        "system": "Use tools.",
        "tools": json.dumps(tools),
    }
    example = read(CompletionFiles, write(tmp_path / "t.jsonl", row))[0]
    assert [m.role for m in example.prompt] == ["system", "user"]
    assert [m.role for m in example.completion] == ["assistant", "tool", "assistant"]
    call = example.completion[0].fields["tool_calls"][0]["function"]
    assert call == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert example.prompt[0].fields["tools"] == tools


def test_sharegpts_preferences(tmp_path: Path) -> None:
    row = {
        "conversations": SHAREGPT["conversations"][:3],
        "chosen": {"from": "gpt", "value": "Goodbye."},
        "rejected": {"from": "gpt", "value": "No."},
    }
    example = read(PreferenceFiles, write(tmp_path / "p.jsonl", row))[0]
    assert (example.prompt, example.chosen) == (TURNS[:3], TURNS[3:])
    assert example.rejected == (Message("assistant", "No."),)
    assert kind_of(str(tmp_path / "p.jsonl"), {}) == "preference"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "unknown role 'narrator'"),
        ({"conversations": "Hi"}, "conversations are not a list"),
        ({"conversations": ["Hi"]}, "a turn of conversations is not"),
        ({"conversations": [{"from": "human", "value": None}]}, "content is null"),
        ({"conversations": [{"from": "function_call", "value": "weather("}]}, "a function_call is not the JSON"),
        ({"instruction": " ", "output": "x"}, "the instruction is not a text, or is empty"),
        ({"instruction": "x", "input": 3, "output": "x"}, "the input or the system prompt is not a text"),
        ({"instruction": "x", "history": [["a"]], "output": "x"}, "the history is not a list of pairs"),
        ({"instruction": "x", "output": ""}, "an empty answer"),
    ],
)
def test_rows_that_cannot_be_used_say_why(tmp_path: Path, row: dict, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(CompletionFiles, write(tmp_path / "a.jsonl", row))


def test_gsm8k_and_math_are_told_how_to_be_read(tmp_path: Path) -> None:
    """openai/gsm8k: question, answer ("... #### 42"); hendrycks MATH: problem, level, type, solution."""
    gsm8k = write(tmp_path / "g.jsonl", {"question": "6 x 7?", "answer": "6 x 7 = <<6*7=42>>42\n#### 42"})
    with pytest.raises(DataError) as caught:
        read(PromptFiles, gsm8k)
    assert caught.value.hint == """Rename them: --set 'dataset.columns={"prompt": "question"}'"""
    example = read(PromptFiles, gsm8k, columns={"prompt": "question"})[0]
    assert (example.prompt, example.solution) == ("6 x 7?", "6 x 7 = <<6*7=42>>42\n#### 42")
    math = write(tmp_path / "m.jsonl", {"problem": "6 x 7?", "level": "Level 5", "type": "Algebra", "solution": "42."})
    with pytest.raises(DataError, match='"prompt": "problem"'):
        read(PromptFiles, math)
    with pytest.raises(DataError, match='"completion": "solution", "prompt": "problem"'):
        read(CompletionFiles, math)


def test_openr1_math(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "6 x 7?"}, {"role": "assistant", "content": "<think>..</think>42"}]
    row = {"problem": "6 x 7?", "solution": "It is 42.", "answer": "42", "generations": ["a", "b"],
           "correctness_math_verify": [True, False], "messages": messages}  # fmt: skip
    example = read(PromptFiles, write(tmp_path / "o.parquet", row))[0]
    assert (example.prompt, example.solution) == ((Message("user", "6 x 7?"),), "42")
    assert dict(example.columns) == row


def test_a_json_list_that_is_broken_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, message in (
        ('[{"instruction": "x", "output": "y"}, {"instruct', "broken JSON in object 2 of the list"),
        ('[{"instruction": "x", "output": "y"} {}]', "behind object 1 of the list: no comma"),
        ('[{"instruction": "x", "output": "y"}] x', "more behind the list"),
        ("[", "broken JSON in object 1"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read(CompletionFiles, path, max_bad=1)
    path.write_text('\ufeff \n[3, {"instruction": "x", "output": "y"}]\n', encoding="utf-8")
    data = read(CompletionFiles, path, max_bad=1)
    assert data.report()["skipped"] == {"not a JSON object": 1} and data[0].key == "a.json:2"
