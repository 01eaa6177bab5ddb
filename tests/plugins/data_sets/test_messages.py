"""Conversations as data sets write them: tool calls, tools, weights, contents that are null or in parts."""

import json
import pickle

import pytest
from mmalign_data.texts import CompletionFiles, PreferenceFiles, PromptFiles

from mmalign.contract.examples import Message
from mmalign.language.messages import as_rows, as_turns, read_messages, tools_of, with_tools

USER = {"role": "user", "content": "Weather in Paris?"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
FLAT = {"name": "weather", "arguments": {"city": "Paris", "unit": None}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {}}}


def read_one(reader, path, row: dict):
    path.write_text(json.dumps(row) + "\n")
    return reader.build(reader.Config(path=str(path), holdout=0), "train")[0]


def turn(**values: object) -> dict:
    return {"role": "assistant", **values}


@pytest.mark.parametrize("calls", [[CALL], [FLAT], json.dumps([CALL])], ids=["nested", "flat", "json"])
@pytest.mark.parametrize("content", ["", None])
def test_tool_calls_have_one_form(calls, content) -> None:
    messages = read_messages([USER, turn(content=content, tool_calls=calls)])
    assert messages == [USER, turn(content="", fields={"tool_calls": [CALL]})]
    turns = as_turns(messages)
    assert turns[1] == Message("assistant", "", True, {"tool_calls": [CALL]})
    assert read_messages(as_rows(turns)) == messages
    assert {turns, as_turns(messages)} == {turns} and pickle.loads(pickle.dumps(turns)) == turns


def test_arguments_that_are_text_stay_as_they_are() -> None:
    messages = read_messages(
        [USER, turn(content="", tool_calls=[{"name": "weather", "arguments": '{"city":"Paris"}'}])]
    )
    assert messages[1]["fields"]["tool_calls"][0]["function"]["arguments"] == '{"city":"Paris"}'


def test_weights_names_thinking_and_parts() -> None:
    messages = read_messages(
        [
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
            turn(content="A", weight=0, tool_calls=None, reasoning="Hm.", id=7),
            turn(content="B", train=False),
            turn(content="C", weight=1, train=None),
            {"role": "tool", "content": "5", "name": "weather", "tool_call_id": "c1"},
        ]
    )
    assert messages == [
        {"role": "developer", "content": "Be kind."},
        turn(content="A", learn=False, fields={"reasoning_content": "Hm."}),
        turn(content="B", learn=False),
        turn(content="C"),
        {"role": "tool", "content": "5", "fields": {"name": "weather", "tool_call_id": "c1"}},
    ]
    assert read_messages(as_rows(as_turns(messages))) == messages


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (turn(content=None), "content is null"),
        (turn(content="A", weight=0.5), "weight '0.5' of a message; it is 0"),
        (turn(content="A", tool_calls="weather()"), "tool_calls are neither a list"),
        (turn(content="A", tool_calls=[{"function": "weather"}]), "a tool call is not"),
        ({**USER, "tool_calls": [CALL]}, "only the assistant calls tools"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "a message holds 'image_url'"),
        ({"role": "user", "content": 7}, "with a text as its content"),
        ({"role": "function", "content": "5"}, "unknown role 'function'"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(message, words) -> None:
    found = read_messages([USER, message])
    assert isinstance(found, str) and words in found


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])], ids=["list", "json"])
def test_a_row_keeps_its_tools(tmp_path, tools) -> None:
    bot = turn(content="", tool_calls=[CALL])
    rows = {
        "a": ({"messages": [USER, bot], "tools": tools}, CompletionFiles),
        "b": ({"prompt": [USER], "completion": [bot], "tools": tools}, CompletionFiles),
        "c": ({"chosen": [USER, bot], "rejected": [USER, turn(content="No.")], "tools": tools}, PreferenceFiles),
        "d": ({"prompt": [USER], "tools": tools}, PromptFiles),
    }
    for name, (row, reader) in rows.items():
        prompt = read_one(reader, tmp_path / f"{name}.jsonl", row).prompt
        assert tools_of(prompt) == [TOOL] and prompt[0].content == USER["content"]
    assert with_tools([USER], None) == with_tools([USER], "[]") == [USER] and tools_of((Message("user", "?"),)) == []
    assert with_tools([USER], "weather") == "tools are neither a list of JSON schemas nor the JSON of one"
