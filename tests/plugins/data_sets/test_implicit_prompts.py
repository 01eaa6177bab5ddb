"""Preferences whose prompt stands in the answers: whole texts and whole conversations; TRL extracts them too."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmalign_data.texts import PreferenceFiles, PromptFiles, RankingFiles, TextFilesConfig

from mmalign.contract.examples import Message
from mmalign.errors import DataError

USER, BOT, OTHER = (
    {"role": "user", "content": "What colour is the sky?"},
    {"role": "assistant", "content": "It is blue."},
    {"role": "assistant", "content": "It is green."},
)
# As Anthropic/hh-rlhf has them: two columns, each the whole dialogue.
DIALOGUE = "\n\nHuman: What is 1 + 1?\n\nAssistant: Which base?\n\nHuman: Ten.\n\nAssistant:"


def read(cls: Any, folder: Path, *rows: Any) -> Any:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return cls.build(TextFilesConfig(path=str(path), holdout=0), "train")


# Where the answers differ from the start of a word on, TRL cuts in the same place.
@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (f"{DIALOGUE} Two.", f"{DIALOGUE} Eleven."),
        (f"{DIALOGUE} It is two.", f"{DIALOGUE} It is eleven."),
        ("The sky is blue.", "The sky is green."),
        ("Q: a?\nA:\nyes", "Q: a?\nA:\nno"),
        ("Q:\tyes", "Q:\tno"),
    ],
)
def test_the_prompt_of_whole_texts_is_what_trl_takes_off(tmp_path: Path, chosen: str, rejected: str) -> None:
    extract_prompt = pytest.importorskip("trl").extract_prompt
    example = read(PreferenceFiles, tmp_path, {"chosen": chosen, "rejected": rejected})[0]
    expected = extract_prompt({"chosen": chosen, "rejected": rejected})
    found = {"prompt": example.prompt, "chosen": example.chosen, "rejected": example.rejected}
    assert found == expected
    assert read(PromptFiles, tmp_path, {"chosen": chosen, "rejected": rejected})[0].prompt == expected["prompt"]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        (f"{DIALOGUE} I am.", f"{DIALOGUE} I'm.", DIALOGUE),  # TRL: "... I"
        (f"{DIALOGUE} Paris.", f"{DIALOGUE} Paris!", DIALOGUE),
        (f"{DIALOGUE} Yes", f"{DIALOGUE} Yes indeed", DIALOGUE),  # one begins with the other; TRL: "... Ye"
        ("Yes", "Yet", ""),
        ("A", "B", ""),
        ("A:  two  spaces", "A:  two  words", "A:  two "),
    ],
)
def test_a_word_is_never_cut_and_nothing_is_lost(tmp_path: Path, chosen: str, rejected: str, prompt: str) -> None:
    example = read(PreferenceFiles, tmp_path, {"chosen": chosen, "rejected": rejected})[0]
    assert example.prompt == prompt
    assert (prompt + example.chosen, prompt + example.rejected) == (chosen, rejected)


def test_the_whole_conversations_may_repeat_the_prompt(tmp_path: Path) -> None:
    """The prompt beside whole conversations, as messages (OpenRLHF #909) or as text (HuggingFaceH4's
    ultrafeedback_binarized)."""
    chosen, rejected = [USER, BOT], [USER, OTHER]
    for prompt in (None, [USER], USER["content"]):
        row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "score_chosen": 8.0}
        example = read(PreferenceFiles, tmp_path, row)[0]
        assert example.prompt == (Message(**USER),)
        assert (example.chosen, example.rejected) == ((Message(**BOT),), (Message(**OTHER),))
    row = {"prompt": [USER], "completions": [chosen, rejected], "ranks": [1, 2]}
    assert read(RankingFiles, tmp_path, row)[0].completions == ((Message(**BOT),), (Message(**OTHER),))


def test_an_answer_that_merely_begins_like_the_prompt_stays_whole(tmp_path: Path) -> None:
    row = {"prompt": "Say a", "chosen": "Say a", "rejected": "Say"}
    example = read(PreferenceFiles, tmp_path, row)[0]
    assert (example.prompt, example.chosen, example.rejected) == ("Say a", "Say a", "Say")


def test_a_conversation_that_is_all_prompt_has_no_answer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an empty answer"):
        read(PreferenceFiles, tmp_path, {"prompt": [USER], "chosen": [USER], "rejected": [USER, BOT]})
    with pytest.raises(DataError, match="mix text and messages"):
        read(PreferenceFiles, tmp_path, {"prompt": "Q", "chosen": [BOT], "rejected": [OTHER]})
