# ruff: noqa: RUF001
"""What is learnt of a conversation, with the published chat templates of 19 families, against transformers and against
what each family's documentation says the assistant writes. `python -m pytest -s -k table` prints the table.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_lm import texts
from mmalign_lm.texts import TextProcessor
from mmalign_lm.token_spans import tokenise_spans_by_beginnings

from mmalign.contract.examples import Message
from mmalign.errors import BadSample
from mmalign.language.messages import as_turns, read_messages, with_tools
from mmalign.language.protocols import TokenizedAnswers
from tests.support.chat_samples import FAMILIES, TOOLS, conversations, learnt_characters, tokenizer

CASES = [(name, kind) for name in FAMILIES for kind in conversations(name)]


def processor_of(name: str) -> TextProcessor:
    made = tokenizer(name)
    return TextProcessor(made, {}, 1 << 20, made.eos_token_id)


def turns_of(rows: list[dict[str, Any]], tools: list[Any] | None) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """(prompt, answer) as the readers of data cut them."""
    turns = as_turns(with_tools(read_messages(rows), tools))
    first = next(place for place, turn in enumerate(turns) if turn.role == "assistant")
    return turns[:first], turns[first:]


def read(answers: TokenizedAnswers) -> tuple[list[int], list[bool]]:
    learn = [False] * len(answers.prompt) + answers.learn[0].tolist()
    return [*answers.prompt.tolist(), *answers.answers[0].tolist()], learn


def expected(name: str, rows: list[dict[str, Any]], tools: list[Any] | None) -> tuple[list[int], list[bool]]:
    """Ids that transformers gives, and the tokens that hold a character which the assistant writes."""
    made = tokenizer(name)
    ids = made.apply_chat_template(rows, tools=tools, tokenize=True)["input_ids"]
    text = made.apply_chat_template(rows, tools=tools, tokenize=False)
    marks = learnt_characters(name, text)
    places = made(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return ids, [any(marks[start:end]) for start, end in places]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_ids_and_mask_are_those_of_the_template(name, kind) -> None:
    processor = processor_of(name)
    rows, tools = conversations(name)[kind]
    prompt, answer = turns_of(rows, tools)
    answers = processor.answers(prompt, [answer])
    ids, learn = read(answers)
    assert (ids, learn) == expected(name, rows, tools)
    said = [row for row in rows if row["role"] == "assistant"]
    learnt = processor.decode(answers.answers[0][answers.learn[0]]).replace(" ", "")
    assert all(row["content"].rpartition("</think>")[2].strip().replace(" ", "") in learnt for row in said)
    thoughts = {"last": len(said) - 1, "dropped": len(said)}
    assert answers.num_left_out == (thoughts[FAMILIES[name].thinking] if kind == "thinking" else 0)
    assert ids.count(processor.end_id) == expected(name, rows, tools)[0].count(processor.end_id)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_what_the_template_asks_with(name) -> None:
    processor = processor_of(name)
    for kind in ("single", "multi", "tools"):
        if kind in conversations(name):
            rows, tools = conversations(name)[kind]
            asked = rows[:-1]
            turns = as_turns(with_tools(read_messages(asked), tools))
            ids = processor.tokenizer.apply_chat_template(asked, tools=tools, add_generation_prompt=True)["input_ids"]
            assert processor.prompt(turns).tolist() == ids
            assert processor.answers(turns, []).prompt.tolist() == ids


@pytest.mark.parametrize("name", FAMILIES)
def test_two_answers_share_what_both_begin_with(name) -> None:
    """Preferences: each is the rendering of its own conversation, and only its own answer is learnt."""
    processor = processor_of(name)
    rows, tools = conversations(name)["multi"]
    other = [*rows[:-1], {"role": "assistant", "content": "I do not say."}]
    prompt = as_turns(read_messages(rows[:-1]))
    both = processor.answers(prompt, [as_turns(read_messages(r[-1:])) for r in (rows, other)])
    for place, each in enumerate((rows, other)):
        ids, learn = expected(name, each, tools)
        assert [*both.prompt.tolist(), *both.answers[place].tolist()] == ids
        answered = max(i for i in range(1, len(ids)) if learn[i] and not learn[i - 1])  # its last turn
        wanted = [on and i >= answered for i, on in enumerate(learn)]
        assert both.learn[place].tolist() == wanted[len(both.prompt) :]


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "phi-3", "gpt-oss", "deepseek-v3", "llama-2", "gemma-3"])
def test_a_turn_of_weight_zero_is_read_and_not_learnt(name) -> None:
    processor = processor_of(name)
    rows, tools = conversations(name)["multi"]
    weighted = [*rows]
    first = next(place for place, row in enumerate(rows) if row["role"] == "assistant")
    weighted[first] = {**rows[first], "weight": 0}
    prompt, answer = turns_of(weighted, tools)
    ids, learn = read(processor.answers(prompt, [answer]))
    all_ids, all_learn = expected(name, rows, tools)
    assert ids == all_ids
    runs = [i for i in range(1, len(ids)) if all_learn[i] and not all_learn[i - 1]]
    end = next(i for i in range(runs[0], len(ids)) if not all_learn[i])
    assert learn == [on and not runs[0] <= place < end for place, on in enumerate(all_learn)]


@pytest.mark.parametrize("content", ["", None])
def test_a_turn_that_only_calls_a_tool_is_learnt_as_that_call(content) -> None:
    processor = processor_of("qwen3")
    rows, _ = conversations("qwen3")["tools"]
    rows = [{**row, "content": content} if "tool_calls" in row else row for row in rows[:3]]
    prompt, answer = turns_of(rows, TOOLS)
    answers = processor.answers(prompt, [answer])
    learnt = processor.decode(answers.answers[0][answers.learn[0]])
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>\n'
    assert learnt.endswith(call) and '"description": "Tells the weather."' in processor.decode(answers.prompt)


def test_what_a_template_leaves_out_is_refused_by_name() -> None:
    call = [{"type": "function", "function": {"name": "weather", "arguments": {}}}]
    user, bot = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    system = {"role": "system", "content": "Be kind."}
    refused = {
        "smollm3": ([user, {**bot, "tool_calls": call}], "leaves out the tool calls of message 2"),
        "mistral-nemo": ([system, user, bot], "leaves out message 1, of role 'system'"),
        "gemma-2": ([system, user, bot], "does not render.*System role not supported"),
        "qwen2.5": ([user, {**bot, "weight": 0}], "no turn of the assistant to learn from"),
    }
    for name, (rows, words) in refused.items():
        prompt, answer = turns_of(rows, None)
        with pytest.raises(BadSample, match=words):
            processor_of(name).answers(prompt, [answer])


def test_a_template_may_change_the_case_of_texts() -> None:
    made = processor_of("qwen2.5")
    source = "{% for m in messages %}{{ m.content|upper }}\n{% endfor %}"
    tokenizer = copy.deepcopy(made.tokenizer)
    tokenizer.chat_template = source
    loud = TextProcessor(tokenizer, {}, 1 << 20, made.end_id)
    answers = loud.answers((Message("user", "Hi"),), [(Message("assistant", "Hello"),)])
    assert loud.decode(answers.prompt) == "HI\n" and loud.decode(answers.answers[0]) == "HELLO\n<|im_end|>"


def test_a_developer_is_the_system_where_a_template_knows_no_developer() -> None:
    rows = [{"role": "developer", "content": "Be kind."}, *conversations("qwen2.5")["single"][0]]
    for name in ("qwen2.5", "gpt-oss", "phi-4"):
        prompt, answer = turns_of(rows, None)
        ids, _ = read(processor_of(name).answers(prompt, [answer]))
        role = "developer" if name == "gpt-oss" else "system"
        wanted = [{**rows[0], "role": role}, *rows[1:]]
        assert ids == tokenizer(name).apply_chat_template(wanted)["input_ids"]


@pytest.mark.parametrize("name", ["llama-2", "gemma-3", "qwen2.5"])
def test_an_answer_beside_a_prompt_is_tokenised_with_it(name) -> None:
    """trl #1960, transformers #29498: apart from its prompt, an answer of Llama 2's begins with a ▁ of its own."""
    processor = processor_of(name)
    made = processor.tokenizer
    for prompt, said in (
        ("Capital of France?", " Paris."),
        ("Question: weather?\nAnswer:", " It is sunny."),
        ("", "Hi"),
    ):
        both = processor.answers(prompt, [said, " I am not."])
        for answer, text, learn in zip(both.answers, (said, " I am not."), both.learn, strict=True):
            assert [*both.prompt.tolist(), *answer.tolist()] == [*made(prompt + text)["input_ids"], processor.end_id]
            shown = processor.decode(answer[learn])
            assert shown.removesuffix(made.eos_token).strip() == text.strip() and int(answer[-1]) == processor.end_id
    ended = processor.answers("Hi", [f" Paris.{made.eos_token}"]).answers[0].tolist()
    assert ended.count(processor.end_id) == 1


def test_a_tokenizer_without_places_gives_the_same(monkeypatch) -> None:
    for name in ("qwen3", "llama-2", "phi-3"):
        processor = processor_of(name)
        rows, tools = conversations(name)["multi"]
        prompt, answer = turns_of(rows, tools)
        by_places = read(processor.answers(prompt, [answer]))
        monkeypatch.setattr(texts, "tokenise_spans", tokenise_spans_by_beginnings)
        assert read(processor.answers(prompt, [answer])) == by_places
        monkeypatch.undo()


@pytest.mark.parametrize(
    "name", ["qwen2.5", "qwen3", "phi-3", "gpt-oss", "llama-3", "smollm2", "zephyr", "deepseek-v3"]
)
def test_an_observation_stands_between_the_marks_of_the_template(name) -> None:
    processor = processor_of(name)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    ids = processor.observation("Who are you?", in_chat=True).tolist()
    talk = [*talk, {"role": "user", "content": "Who are you?"}]
    whole = processor.tokenizer.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
    assert whole[-len(ids) :] == ids and "Hello" not in processor.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("name", "end"),
    [("qwen2.5", "<e>"), ("qwen3", "<e>"), ("llama-3", "<e>"), ("nemotron-3", "<e>"), ("phi-3", "<|endoftext|>"),
     ("zephyr", "</s>")],
)  # fmt: skip
def test_a_tokenizer_without_the_special_tokens_learns_the_same_text(name, end) -> None:
    """A template beside a tokenizer of another family: the marks of turns are text, and the end token is added."""
    from transformers import PreTrainedTokenizerFast

    from tests.support.chat_samples import byte_level

    made = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token=end, bos_token="<b>")
    made.chat_template = tokenizer(name).chat_template
    processor = TextProcessor(made, {}, 1 << 20, made.eos_token_id)
    for rows, tools in conversations(name).values():
        prompt, answer = turns_of(rows, tools)
        text = made.apply_chat_template(rows, tools=tools, tokenize=False)
        marks = learnt_characters(name, text)
        ids, learn = read(processor.answers(prompt, [answer]))
        places = made(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        closed = end in text
        assert learn == [any(marks[start:end]) for start, end in places] + [True] * (not closed)
        assert ids.count(processor.end_id) == (text.count(end) if closed else 1)


TRL_NAMES = {
    "qwen2.5": "qwen2_5", "qwen3": "qwen3", "deepseek-r1-distill": "deepseek_r1_distill", "deepseek-v3": "deepseekv3",
    "phi-3": "phi3", "gpt-oss": "gptoss", "gemma-3": "gemma3", "llama-3": "llama3", "nemotron-3": "nemotron_3_nano",
}  # fmt: skip
HEADERS = ("\n", "<｜Assistant｜>", "<|start|>assistant", "<think>", "<think>\n")


@pytest.mark.parametrize("name", TRL_NAMES)
def test_the_mask_is_that_of_trl_but_for_headers(name) -> None:
    """TRL's training templates mark the assistant with `{% generation %}`. Where they write the same text, TRL learns
    the same, and in some families the header before an answer, which is given when a model is asked, or the line break
    behind the last end token."""
    trl = pytest.importorskip("trl")
    path = Path(trl.__file__).parent / "chat_templates" / f"{TRL_NAMES[name]}_training.jinja"
    if not path.is_file():
        pytest.skip("this TRL has no such training template")
    processor, compared = processor_of(name), 0
    for rows, tools in conversations(name).values():
        prompt, answer = turns_of(rows, tools)
        ids, learn = read(processor.answers(prompt, [answer]))
        try:
            marked = processor.tokenizer.apply_chat_template(
                rows, tools=tools, chat_template=path.read_text(encoding="utf-8"), return_assistant_tokens_mask=True
            )
        except TypeError:  # DeepSeek's patched template takes arguments as objects, the published one as text
            continue
        if marked["input_ids"] != ids:
            continue
        compared += 1
        mask = [bool(on) for on in marked["assistant_masks"]]
        assert not any(on and not theirs for on, theirs in zip(learn, mask, strict=True))
        extra = [theirs and not on for on, theirs in zip(learn, mask, strict=True)]
        starts = [i for i, on in enumerate(extra) if on and (i == 0 or not extra[i - 1])]
        for start in starts:
            stop = next((i for i in range(start, len(extra)) if not extra[i]), len(extra))
            assert processor.decode(torch.tensor(ids[start:stop])) in HEADERS
    assert compared


def test_the_preview_says_what_a_template_leaves_out() -> None:
    from mmalign.contract.examples import Completion
    from mmalign.data.collate import Encoder
    from mmalign.train.config import DataConfig
    from mmalign.train.preview import survey

    rows, tools = conversations("qwen3")["thinking"]
    examples = [Completion(f"chat:{n}", *turns_of(rows, tools)) for n in range(3)]
    said = survey(examples, Encoder(processor_of("qwen3"), Completion, seed=0), DataConfig())
    assert said.endswith("the chat template leaves out the thinking of 3 turns")
    plain = [Completion("chat:0", *turns_of(*conversations("qwen3")["multi"]))]
    assert "leaves out" not in survey(plain, Encoder(processor_of("qwen3"), Completion, seed=0), DataConfig())


def test_table_of_families() -> None:
    """Every family by the kinds of conversation that are equal, and whose tokenizer it was tried with."""
    lines = []
    for name, family in FAMILIES.items():
        equal = []
        for kind, (rows, tools) in conversations(name).items():
            prompt, answer = turns_of(rows, tools)
            if read(processor_of(name).answers(prompt, [answer])) == expected(name, rows, tools):
                equal.append(kind)
        lines.append(f"{name:20} {family.tokenizer:16} {', '.join(equal)}")
    print("\n" + "\n".join(lines))
    assert len([line for line in lines if "single, multi" in line]) >= 18
