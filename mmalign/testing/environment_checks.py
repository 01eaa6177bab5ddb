"""Conformance of environments: seed and actions determine the episode, and every episode ends.

Environments run as in training, in a separate process with a time limit for every reply.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from mmalign.contract.specs import Entry
from mmalign.testing.bench import Check, Skip, Workbench

if TYPE_CHECKING:
    from mmalign.rl.environment import Turn
    from mmalign.rl.environment_host import EnvironmentHost, Started

MAX_TURNS = 100
SECONDS = 10.0  # for one reply
_ACTIONS = ("", "42", "<<1+1>> {} [call](x) <tool>\n", "\x00\ufffd \U0001f600", "no " * 3000)


def checks(entry: Entry, bench: Workbench) -> list[Check]:
    return [
        Check(f"environment {entry.spec.name}: {title}", partial(function, entry, bench))
        for title, function in {
            "the same for the same seed and actions": repeats,
            "comes to an end, whatever it is told": ends,
        }.items()
    ]


def repeats(entry: Entry, bench: Workbench) -> None:
    examples = _examples(entry, bench)
    seeds = list(range(len(examples)))
    with _host(entry, bench) as host:
        first, again = ([(s.prompt, _told(s, _ACTIONS)) for s in host.begin(examples, seeds)] for _ in range(2))
        backwards = host.begin(examples[::-1], seeds[::-1])[::-1]
        mixed = [(s.prompt, _told(s, _ACTIONS)) for s in backwards]
    assert first == again, "the same example, seed and actions give another episode the second time"
    assert first == mixed, "an episode depends on other episodes that run at the same time"


def ends(entry: Entry, bench: Workbench) -> None:
    examples = _examples(entry, bench)
    with _host(entry, bench) as host:
        for action in _ACTIONS:
            for started in host.begin(examples, [0] * len(examples)):
                turns = _told(started, [action] * MAX_TURNS)
                shown = f"{action[:20]!r}..." if len(action) > 20 else repr(action)
                assert turns[-1].done, f"{MAX_TURNS} actions {shown} do not end the episode ({started.key})"
                assert not turns[-1].observation, (
                    f"the last turn has the observation {turns[-1].observation!r}, which nobody reads"
                )


def _told(started: "Started", actions: Any) -> "list[Turn]":
    turns = []
    for action in actions:
        turns.append(started.step(action))
        if turns[-1].done:
            break
    return turns


@contextlib.contextmanager
def _host(entry: Entry, bench: Workbench) -> "Iterator[EnvironmentHost]":
    from mmalign.rl.environment_host import EnvironmentHost

    config_class = bench.catalog.load_config(entry)
    required = [name for name, field in config_class.model_fields.items() if field.is_required()]
    if required:
        raise Skip(f"no defaults for {', '.join(required)}")
    with EnvironmentHost(entry, config_class(), SECONDS) as host:
        yield host


def _examples(entry: Entry, bench: Workbench) -> list[Any]:
    from mmalign.testing.subjects import default_examples, make_examples

    if entry.spec.dataset:
        return default_examples(bench.catalog.find("datasets", entry.spec.dataset), bench, 4, "prompt")
    return make_examples("prompt", 4, bench)
