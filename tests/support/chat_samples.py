# ruff: noqa: RUF001
"""Published chat templates with what is known of each family by its own documentation, and tokenizers to go with them.

Templates are real files (templates/ATTRIBUTION.md). Tokenizers are stand-ins: a byte-level BPE, or one that
works as Llama 2's does (▁ before the text by a Prepend normaliser or by Metaspace, bytes for what it does not know),
with the special tokens of the family. A slow test takes SmolLM2's own.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"

_TEXTS = [
    "The capital of France is Paris.\n\nWhat is the weather in Paris? Hello! Who are you? I am an assistant.\n",
    'You are a kind helper. {"name": "weather", "arguments": {"city": "Paris"}} It is 21 degrees, and sunny.\n\n',
    "user\nassistant\nsystem\nmodel\n[INST] Hello [/INST] analysis final to=functions.weather json\n\n\n",
]


@dataclass(frozen=True)
class Family:
    """learnt: what the assistant writes, group 1: from behind the header of its turn to the end of the turn, as the
    family's documentation has them. special: special tokens. tools: it renders tool calls. thinking: "none", "all",
    "last" (of the last turn alone) or "dropped" (it takes thinking and never writes it). system: it has such a role.
    """

    learnt: str
    bos: str
    eos: str
    special: tuple[str, ...] = ()
    tokenizer: str = "byte-level BPE"
    tools: bool = False
    thinking: str = "none"
    system: bool = True
    text_arguments: bool = False


_CHATML = r"<\|im_start\|>assistant\n(.*?<\|im_end\|>\n)"
_IM = ("<|im_start|>", "<|im_end|>")
_DEEPSEEK = r"(?:<｜Assistant｜>|<｜tool▁outputs▁end｜>)(.*?<｜end▁of▁sentence｜>)"
_DEEPSEEK_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
_DEEPSEEK_MARKS = tuple(
    f"<｜{mark}｜>"
    for mark in ("User", "Assistant", "tool▁calls▁begin", "tool▁calls▁end", "tool▁call▁begin", "tool▁call▁end",
                 "tool▁sep", "tool▁outputs▁begin", "tool▁outputs▁end", "tool▁output▁begin", "tool▁output▁end")
)  # fmt: skip
_GEMMA = r"<start_of_turn>model\n(.*?<end_of_turn>\n)"
_LLAMA_3 = r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)"
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>")
_GPT_OSS = (
    r"<\|start\|>assistant((?:<\|channel\|>analysis.*?<\|end\|><\|start\|>assistant)?"
    r".*?(?:<\|return\|>|<\|call\|>|<\|end\|>))"
)
_SPM = "Llama-2-like"

FAMILIES = {
    "qwen2.5": Family(_CHATML, "", "<|im_end|>", _IM, tools=True),
    "qwen3": Family(_CHATML, "", "<|im_end|>", _IM, tools=True, thinking="last"),
    "deepseek-r1-distill": Family(_DEEPSEEK, *_DEEPSEEK_TOKENS, _DEEPSEEK_MARKS, thinking="dropped"),
    "deepseek-v3": Family(_DEEPSEEK, *_DEEPSEEK_TOKENS, _DEEPSEEK_MARKS, tools=True, text_arguments=True),
    "phi-3": Family(
        r"<\|assistant\|>\n(.*?<\|end\|>\n(?:<\|endoftext\|>)?)",
        "<s>", "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), _SPM,
    ),
    "phi-4": Family(
        r"<\|im_start\|>assistant<\|im_sep\|>(.*?<\|im_end\|>)", "<|endoftext|>", "<|im_end|>", (*_IM, "<|im_sep|>")
    ),
    "gpt-oss": Family(
        _GPT_OSS, "<|startoftext|>", "<|return|>",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|constrain|>"),
        tools=True, thinking="last",
    ),
    "gemma-2": Family(_GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), "Metaspace", system=False),
    "gemma-3": Family(_GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), "Metaspace"),
    "llama-2": Family(r"\[/INST\]( .*?</s>)", "<s>", "</s>", (), _SPM),
    "llama-3": Family(_LLAMA_3, "<|begin_of_text|>", "<|eot_id|>", _HEADERS),
    "llama-3.1": Family(_LLAMA_3, "<|begin_of_text|>", "<|eot_id|>", _HEADERS, tools=True),
    "llama-4": Family(
        r"<\|header_start\|>assistant<\|header_end\|>\n\n(.*?<\|eot\|>)", "<|begin_of_text|>", "<|eot|>",
        ("<|header_start|>", "<|header_end|>", "<|python_start|>", "<|python_end|>"), tools=True,
    ),
    "mistral-7b": Family(r"\[/INST\]( .*?</s>)", "<s>", "</s>", (), _SPM),
    "mistral-nemo": Family(
        r"(?:\[/INST\]|\[/TOOL_RESULTS\])(.*?</s>)", "<s>", "</s>",
        ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
         "[/TOOL_RESULTS]"), tools=True, system=False,
    ),
    "nemotron-3": Family(
        r"<\|im_start\|>assistant\n<think>\n?(.*?<\|im_end\|>\n)", "<s>", "<|im_end|>", _IM, tools=True, thinking="last"
    ),
    "smollm2": Family(_CHATML, "<|im_start|>", "<|im_end|>", _IM),
    "smollm3": Family(_CHATML, "", "<|im_end|>", _IM),
    "zephyr": Family(r"<\|assistant\|>\n(.*?</s>\n)", "<s>", "</s>", (), _SPM),
}  # fmt: skip

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "A city."}},
                "required": ["city"],
            },
        },
    }
]


def conversations(name: str) -> dict[str, tuple[list[dict[str, Any]], list[Any] | None]]:
    """By kind, (messages, tools) as a data set has them, for a family."""
    family = FAMILIES[name]
    user, bot = (
        [{"role": "user", "content": text} for text in ("Hello! Who are you?", "Capital of France?")],
        [{"role": "assistant", "content": text} for text in ("I am an assistant.", "Paris, café ☕.\n\nIt is sunny.")],
    )
    system = [{"role": "system", "content": "You are a kind helper."}] if family.system else []
    made: dict[str, tuple[list[dict[str, Any]], list[Any] | None]] = {
        "single": ([user[0], bot[0]], None),
        "multi": ([*system, user[0], bot[0], user[1], bot[1], user[0], bot[0]], None),
    }
    if family.tools:
        made["tools"] = ([*system, *_called(family), user[0], bot[0]], TOOLS)
    if family.thinking != "none":
        key = "thinking" if name == "gpt-oss" else "reasoning_content"
        turns = [{**turn, key: f"Let me think of {n}."} for n, turn in enumerate(bot)]
        if family.thinking == "dropped":
            turns = [{**t, "content": f"<think>\nLet me think.\n</think>\n\n{t['content']}"} for t in bot]
        made["thinking"] = ([user[0], turns[0], user[1], turns[1]], None)
    return made


def _called(family: Family) -> list[dict[str, Any]]:
    arguments: Any = '{"city":"Paris"}' if family.text_arguments else {"city": "Paris"}
    call = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "weather", "tool_call_id": "abcdef123", "content": "21 degrees"},
        {"role": "assistant", "content": "It is 21 degrees."},
    ]


def learnt_characters(name: str, text: str) -> list[bool]:
    """By the family's documentation, which characters of a rendering the assistant writes."""
    marks = [False] * len(text)
    for match in re.finditer(FAMILIES[name].learnt, text, re.DOTALL):
        marks[match.start(1) : match.end(1)] = [True] * (match.end(1) - match.start(1))
    return marks


@functools.cache
def tokenizer(name: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    special = dict.fromkeys([family.bos, family.eos, *family.special])
    made = PreTrainedTokenizerFast(
        tokenizer_object=_TOKENIZERS[family.tokenizer](),
        eos_token=family.eos,
        additional_special_tokens=[token for token in special if token and token != family.eos],
        clean_up_tokenization_spaces=False,
        **({"bos_token": family.bos} if family.bos else {}),
    )
    made.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return made


def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    made.train_from_iterator(_TEXTS * 3, trainer)
    return made


def prepending() -> Any:
    """As Llama 2's: a Prepend normaliser and no pre-tokenizer."""
    from tokenizers import decoders, normalizers

    made = _sentencepiece_like()
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def metaspace() -> Any:
    """With a Metaspace pre-tokenizer that puts ▁ before the first piece, as newer files of Llama 2's have it."""
    from tokenizers import decoders, pre_tokenizers

    made = _sentencepiece_like()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)])
    return made


def _sentencepiece_like() -> Any:
    """Pieces of words with the ▁ before them, and bytes."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=[^▁])(?=▁)|\n"), "isolated")
    texts = [text.replace(" ", "▁") for text in _TEXTS * 3]
    alphabet = [chr(code) for code in range(33, 127)]
    learnt.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, show_progress=False, min_frequency=1, initial_alphabet=alphabet)
    )
    pieces, merges = _pieces(learnt)
    for byte in (f"<0x{byte:02X}>" for byte in range(256)):
        pieces.setdefault(byte, len(pieces))
    pieces.setdefault("<unk>", len(pieces))
    return Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))


def _pieces(made: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    import json

    model = json.loads(made.to_str())["model"]
    return dict(model["vocab"]), [tuple(pair) for pair in model["merges"]]


_TOKENIZERS = {"byte-level BPE": byte_level, _SPM: prepending, "Metaspace": metaspace}
