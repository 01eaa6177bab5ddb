"""What is learnt of a conversation with unusual tokenizers, templates and turns: by hand-written ids and by places."""

import pytest
from mmalign_lm.texts import TextProcessor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmalign.contract.examples import Message
from mmalign.errors import BadSample

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["<unk>", "<|im_start|>", "<|im_end|>", "<s>", "<pad>", "user", "assistant", "one", "two", "three", "four"]
TALK = (
    Message("user", "three"),
    Message("assistant", "one two"),
    Message("user", "four"),
    Message("assistant", "two"),
)


def processor_of(template: str = CHATML, *, word_piece: bool = False) -> TextProcessor:
    """A tokenizer of whole words that drops white space."""
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    model = models.WordPiece(vocabulary, unk_token="<unk>") if word_piece else models.WordLevel(vocabulary, "<unk>")
    words = Tokenizer(model)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer() if word_piece else pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", pad_token="<pad>", eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    made.chat_template = template
    return TextProcessor(made, {}, 1 << 10, made.eos_token_id)


@pytest.mark.parametrize("word_piece", [False, True])
def test_the_header_of_the_next_turn_is_not_learnt_where_a_tokenizer_drops_white_space(word_piece: bool) -> None:
    processor = processor_of(word_piece=word_piece)
    answers = processor.answers(TALK[:1], [TALK[1:]])
    words = processor.tokenizer.convert_ids_to_tokens(answers.answers[0].tolist())
    learnt = [word for word, on in zip(words, answers.learn[0].tolist(), strict=True) if on]
    assert words == "one two <|im_end|> <|im_start|> user four <|im_end|> <|im_start|> assistant two <|im_end|>".split()
    assert learnt == "one two <|im_end|> two <|im_end|>".split()


MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}{% endgeneration %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = {"tool_calls": [{"type": "function", "function": {"name": "one", "arguments": {}}}]}


@pytest.mark.parametrize("template", [CHATML, MARKED])
@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_turn_is_refused_by_name(template: str, content: str) -> None:
    """From it a model would learn to end at once; text answers are refused, too."""
    processor, empty = processor_of(template), Message("assistant", content)
    with pytest.raises(BadSample, match=r"^an empty answer$"):
        processor.answers(TALK[:1], [(empty,)])
    with pytest.raises(
        BadSample, match="an empty answer: message 4 of the conversation; give it weight 0 not to learn it"
    ):
        processor.answers(TALK[:1], [(*TALK[1:3], empty)])
    answers = processor.answers(TALK[:1], [(empty._replace(learn=False), *TALK[2:])])
    words = processor.decode(answers.answers[0][answers.learn[0]])
    assert words.split() == (["two"] if template == MARKED else ["two", "<|im_end|>"])


def test_a_turn_that_only_thinks_or_calls_is_no_empty_answer() -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.tool_calls }}{{ m.content }}")
    for fields in ({"reasoning_content": "one"}, CALL):
        answers = processor_of(template).answers(TALK[:1], [(Message("assistant", "", True, fields),)])
        assert answers.learn[0].any()


def test_a_template_that_marks_nothing_of_the_turns_is_refused() -> None:
    template = MARKED.replace("{{ m.content }}{% endgeneration %}", "{% endgeneration %}{{ m.content }}")
    with pytest.raises(BadSample, match="nothing of the assistant's turns is left to learn"):
        processor_of(template).answers(TALK[:1], [TALK[1:2]])


BARE = "{% for m in messages %}{{ m.content }} {% endfor %}"


@pytest.mark.parametrize("word", ["<unk>", "<pad>", "<s>"])
def test_a_special_token_that_ends_no_text_closes_no_turn(word: str) -> None:
    """An answer that ends in one still learns its end, and drawing one ends no answer."""
    processor = processor_of(BARE)
    said = "one zzz" if word == "<unk>" else f"one {word}"
    answers = processor.answers(TALK[:1], [(Message("assistant", said),)])
    words = processor.tokenizer.convert_ids_to_tokens(answers.answers[0].tolist())
    assert words == ["one", word, "<|im_end|>"] and answers.learn[0].all()
    behind = "zzz" if word == "<unk>" else word
    assert processor_of("{% for m in messages %}{{ m.content }} " + behind + " {% endfor %}").end_ids == {2}


def test_a_start_token_that_is_the_end_token_closes_turns() -> None:
    """One token is all of them in GPT-2."""
    made = processor_of(CHATML).tokenizer
    made.bos_token = made.unk_token = made.pad_token = "<|im_end|>"
    processor = TextProcessor(made, {}, 1 << 10, made.eos_token_id)
    answers = processor.answers(TALK[:1], [TALK[1:2]])
    assert processor.decode(answers.answers[0]).split() == ["one", "two", "<|im_end|>"]
    stopped = TextProcessor(made, {}, 1 << 10, made.convert_tokens_to_ids("four"), stops=frozenset({made.eos_token_id}))
    assert stopped.answers(TALK[:1], [TALK[1:2]]).answers[0].tolist() == answers.answers[0].tolist()


def test_a_start_token_behind_an_answer_is_no_part_of_its_turn() -> None:
    """A template that begins each turn with it, writes no end, and writes a last turn in another way."""
    template = (
        "{% for m in messages %}<s> {{ m.role }} {{ m.content }} {% if loop.last %}zzz {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<s> assistant {% endif %}"
    )
    processor = processor_of(template)
    answers = processor.answers(TALK[:1], [TALK[1:]])
    learnt = processor.tokenizer.convert_ids_to_tokens(answers.answers[0][answers.learn[0]].tolist())
    assert learnt == ["one", "two", "two", "<unk>", "<|im_end|>"]


TURN = (
    "<|im_start|> {{ m.role }} {% if m.role == 'assistant' %}{% generation %}{{ m.content }} <|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }} <|im_end|>{% endif %} "
)
ASK = "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
LOOP = "{% for m in messages %}"


@pytest.mark.parametrize(
    "template",
    [
        f"{LOOP}{TURN}{{% endfor %}}",
        f"{{% macro turn(m) %}}{TURN}{{% endmacro %}}{LOOP}{{{{ turn(m) }}}}{{% endfor %}}",
        f"{LOOP}{{% set turn %}}{TURN}{{% endset %}}{{{{ turn | trim }}}} {{% endfor %}}",
        f"{LOOP}{{% filter replace('  ', ' ') %}}{TURN}{{% endfilter %}}{{% endfor %}}",
        LOOP.replace("%}", "recursive %}") + f"{TURN}{{% endfor %}}",
        "{% macro wrap() %}{{ caller() }}{% endmacro %}"
        f"{LOOP}{{% call wrap() %}}{TURN}{{% endcall %}}{{% endfor %}}",
    ],
    ids=["plain", "macro", "set", "filter", "recursive", "call"],
)
def test_generation_tags_in_blocks_that_are_written_later_mark_no_other_text(template: str) -> None:
    """A tag there marked places in the text written until then; now the turns are learnt as without the tag."""
    processor = processor_of(template + ASK)
    answers = processor.answers(TALK[:1], [TALK[1:]])
    learnt = processor.tokenizer.convert_ids_to_tokens(answers.answers[0][answers.learn[0]].tolist())
    assert learnt == "one two <|im_end|> two <|im_end|>".split()
