"""Selects the adapter with which a module computes, one or none, call by call, also where layers are recomputed.

    with selected(module, "critic"):
        values = module(...)                  # with that adapter alone
    with adapter_off(module): ...             # y = W x, exactly
    (policy_loss + critic_loss).backward()    # outside; each layer as it was computed, under checkpointing too

A selection does not change which parameters train. peft's own switches do: `set_adapter` freezes all adapters but one,
so a joint backward pass gives one of the two exactly zero.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mmalign.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def adapted_layers(module: "nn.Module", name: str = "") -> list[tuple[str, Any]]:
    """(name, peft's layer) of each layer with an adapter, or with the adapter of that name."""
    if "peft" not in sys.modules:  # so there can be no adapter
        return []
    from peft.tuners.lora import LoraLayer

    layers = [(path, child) for path, child in module.named_modules() if isinstance(child, LoraLayer)]
    return [(path, layer) for path, layer in layers if not name or name in layer.lora_A]


@contextmanager
def selected(module: "nn.Module", name: str | None) -> Iterator[None]:
    """Inside the context, the module computes with that adapter alone, or with its own weights alone (None).

    May be nested. The backward pass belongs outside: layers that gradient checkpointing recomputes get the adapter that
    they had. Raises UsageError where there is no such adapter.
    """
    switch = _SWITCHES.get(module) or _find_switch(module)
    if not switch.layers:
        raise UsageError("this backbone has no adapter to switch off", hint="Add one: --set backbone.lora.rank=16")
    if name is not None and name not in switch.names:
        raise UsageError(f"this backbone has no adapter {name!r}; it has {', '.join(sorted(switch.names))}")
    switch.follow()
    with _selection(switch.layers, [] if name is None else [name]):
        yield


def adapter_off(module: "nn.Module") -> AbstractContextManager[None]:
    """Inside the context, the module computes with its own weights alone; raises UsageError where it has no adapter."""
    return selected(module, None)


def select(module: "nn.Module", name: str) -> None:
    """From now on this adapter computes, unless another is `selected`. Call it after adapters were added or removed."""
    _SWITCHES.pop(module, None)
    _activate([(layer, [name]) for _, layer in adapted_layers(module)])
    follow_checkpointing(module)


def follow_checkpointing(module: "nn.Module") -> None:
    """Makes layers recomputed by gradient checkpointing use the adapter they had; does nothing without an adapter.

    Call it after checkpointing was switched on; `selected` does so too.
    """
    _find_switch(module).follow()


@dataclass
class _Switch:
    """The parts of a module that a selection affects, stored because a walk through a large module takes a
    millisecond."""

    layers: list[Any]
    names: frozenset[str]
    checkpointing: list[Any]

    def follow(self) -> None:
        for block in self.checkpointing:
            if block.gradient_checkpointing and not isinstance(block._gradient_checkpointing_func, _WithSameAdapter):
                block._gradient_checkpointing_func = _WithSameAdapter(block._gradient_checkpointing_func, self.layers)


_SWITCHES: "WeakKeyDictionary[nn.Module, _Switch]" = WeakKeyDictionary()


def _find_switch(module: "nn.Module") -> _Switch:
    layers = [layer for _, layer in adapted_layers(module)]
    # Many classes of transformers have this attribute but no class in common; transformers tests for it like this too.
    parts = [part for part in module.modules() if hasattr(part, "gradient_checkpointing")] if layers else []
    switch = _Switch(layers, frozenset(name for layer in layers for name in layer.lora_A), parts)
    if layers:
        _SWITCHES[module] = switch
    return switch


@dataclass
class _WithSameAdapter:
    """transformers' checkpointing function. What it runs, now and again in the backward pass, uses the adapter that is
    selected now. A copy of the module gets a copy of this function, with the copy's layers."""

    checkpoint: Callable[..., Any]
    layers: list[Any]

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        names = self.layers[0].active_adapters

        def run(*again: Any) -> Any:
            if self.layers[0].active_adapters == names:  # all layers have the same
                return function(*again)
            with _selection(self.layers, names):
                return function(*again)

        return self.checkpoint(run, *arguments)


@contextmanager
def _selection(layers: Sequence[Any], names: list[str]) -> Iterator[None]:
    before = [(layer, layer.active_adapters) for layer in layers]
    _activate([(layer, names) for layer in layers])
    try:
        yield
    finally:
        _activate(before)


def _activate(choices: Sequence[tuple[Any, list[str]]]) -> None:
    # Not by peft's set_adapter, which also sets requires_grad; see above. Setting an attribute of a module takes 2 us:
    # with 210 layers that would be a millisecond for each selection.
    for layer, names in choices:
        vars(layer)["_active_adapter"] = names
