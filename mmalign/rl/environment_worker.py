"""The process that runs environments: `python -m mmalign.rl.environment_worker FD SECONDS`.

`mmalign.rl.environment_host` starts it and talks to it over a socket in JSON, one request and one reply at a time:

    {"do": "load", "target": "pkg.module:Class", "config": {...}}    -> {"ok": true}
    {"do": "reset", "number": 3, "example": [...], "seed": 7}        -> {"prompt": "..."}
    {"do": "step", "number": 3, "action": "..."}                     -> {"turn": [observation, reward, done, counts]}
    {"do": "clear"}                                                  -> {"ok": true}

An exception or a wrong reply of the plugin comes back as {"error": ..., "hint": ...}. A request that takes longer than
SECONDS ends the process with a traceback on stderr, so that none outlives a killed run.
"""

import faulthandler
import importlib
import json
import math
import numbers
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from mmalign.contract.examples import Message, Prompt, Turns
from mmalign.errors import MmalignError, raised_at
from mmalign.rl.environment import Environment, Turn


class _WrongReply(Exception):
    """The environment returned a value of the wrong type or form."""


class Worker:
    """Environments by number, all of one class and config."""

    def __init__(self) -> None:
        self._class: Any = None
        self._target = ""
        self._config: Any = None
        self._environments: dict[int, Environment] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a request; nothing but SystemExit and the like escapes."""
        try:
            if request["do"] == "load":
                self._target = request["target"]
                module, _, name = self._target.partition(":")
                self._class = getattr(importlib.import_module(module), name)
                self._config = self._class.Config.model_validate(request["config"])
            elif request["do"] == "clear":
                self._environments.clear()
            elif request["do"] == "reset":
                environment = self._class(self._config)
                self._environments[request["number"]] = environment
                key, prompt, solution, columns = request["example"]
                example = Prompt(key, turns_of(prompt), solution, columns)
                return {"prompt": as_json(_checked_prompt(environment.reset(example, request["seed"])))}
            else:
                turn = _checked_turn(self._environments[request["number"]].step(request["action"]))
                return {"turn": [turn.observation, float(turn.reward), turn.done, dict(turn.counts)]}
        except (MmalignError, _WrongReply) as error:
            hint = error.hint if isinstance(error, MmalignError) else ""
            return {"error": str(error).removesuffix(f"\n{hint}"), "hint": hint}
        except Exception as error:  # a plugin's code, which may raise anything
            return {"error": f"raised {type(error).__name__}: {error}{raised_at(error, self._target)}", "hint": ""}
        return {"ok": True}


def as_json(turns: Turns) -> Any:
    """A text, or messages as lists."""
    return turns if isinstance(turns, str) else [list(message) for message in turns]


def turns_of(value: Any) -> Turns:
    """Undo `as_json`."""
    return value if isinstance(value, str) else tuple(Message(*message) for message in value)


def _checked_prompt(turns: Any) -> Turns:
    are_messages = isinstance(turns, tuple) and bool(turns) and all(isinstance(m, Message) for m in turns)
    if not isinstance(turns, str) and not are_messages:
        raise _WrongReply(f"returned {_kind(turns)}, not text or a tuple of Message")
    return turns


def _checked_turn(turn: Any) -> Turn:
    if not isinstance(turn, Turn):
        raise _WrongReply(f"returned {_kind(turn)}, not a Turn")
    if not isinstance(turn.observation, str):
        raise _WrongReply(f"returned {_kind(turn.observation)} as its observation, not text")
    if not isinstance(turn.done, bool):
        raise _WrongReply(f"returned {_kind(turn.done)} as `done`, not True or False")
    if not isinstance(turn.reward, numbers.Real) or not math.isfinite(turn.reward):
        shown = turn.reward if isinstance(turn.reward, numbers.Real) else _kind(turn.reward)
        raise _WrongReply(f"returned the reward {shown}, not a finite number")
    if not isinstance(turn.counts, Mapping) or not all(
        isinstance(name, str) and type(count) is int for name, count in turn.counts.items()
    ):
        raise _WrongReply(f"returned the counts {turn.counts!r}, not whole numbers by name")
    return turn


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def main() -> None:
    channel, seconds = Connection(int(sys.argv[1])), float(sys.argv[2])
    worker = Worker()
    while True:
        try:
            request = json.loads(channel.recv_bytes())
        except EOFError:
            return
        # A watchdog thread in C, which works even while a library holds the interpreter's lock.
        faulthandler.dump_traceback_later(seconds, exit=True)
        reply = worker.answer(request)
        faulthandler.cancel_dump_traceback_later()
        channel.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
