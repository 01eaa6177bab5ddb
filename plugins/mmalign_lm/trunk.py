"""The trunk of a transformers model: takes the rows of a layout, returns hidden states.

trunk = Trunk(below_head(module), width)
states = trunk(layout)                 # [L, H], flat over the grids
"""

import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.language.layout import Cost, Grid, Layout, bucketed, packed
from mmalign.language.sequences import Sequences
from mmalign_lm.noise import noisy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def below_head(module: "PreTrainedModel") -> nn.Module:
    """The trunk of a language model or classifier. Llama 4 names a base model that it does not have; its trunk is the
    one part that is a model itself."""
    from transformers import PreTrainedModel

    if module.base_model is not module:
        return module.base_model
    inner = [child for child in module.children() if isinstance(child, PreTrainedModel)]
    return inner[0] if len(inner) == 1 else module


class Trunk:
    """Runs the module and owns no parameters. width: H; neftune_alpha: see `mmalign_lm.noise`. bidirectional: a token
    attends to later ones, too; transformers then reads `is_causal` of the module's config."""

    def __init__(
        self, module: nn.Module, width: int, neftune_alpha: float = 0.0, *, bidirectional: bool = False
    ) -> None:
        self.module, self.width, self.bidirectional = module, width, bidirectional
        self._neftune_alpha = neftune_alpha
        if bidirectional:
            config: Any = module.config
            config.is_causal = False
        self._takes_positions = "position_ids" in inspect.signature(module.forward).parameters

    def __call__(self, layout: Layout) -> Tensor:
        """[L, H]: the outputs of all grids, flat."""
        states = [self.of_grid(grid).flatten(0, 1) for grid in layout.grids]
        if not states:
            return next(self.module.parameters()).new_zeros(0, self.width)
        return torch.cat(states)

    def of_one(self, ids: Tensor) -> Tensor:
        """[T] -> [T, H], one row without padding."""
        return self.module(input_ids=ids[None], use_cache=False).last_hidden_state[0]

    def of_grid(self, grid: Grid) -> Tensor:
        """[R, T, H]."""
        if grid.full:
            return self.module(use_cache=False, **self._inputs(grid)).last_hidden_state
        # The mask is added to attention scores, so it has their precision.
        dtype = next(self.module.parameters()).dtype
        device = grid.ids.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        mask = grid.real.long() if grid.unit is None else grid.mask(dtype, bidirectional=self.bidirectional)
        positions: dict[str, Any] = {"position_ids": grid.positions} if self._takes_positions else {}
        inputs = {**self._inputs(grid), **positions}
        return self.module(attention_mask=mask, use_cache=False, **inputs).last_hidden_state

    def _inputs(self, grid: Grid) -> dict[str, Tensor]:
        if not (self._neftune_alpha and self.module.training):
            return {"input_ids": grid.ids}
        model: Any = self.module
        embeddings = model.get_input_embeddings()(grid.ids)
        return {"inputs_embeds": noisy(embeddings, grid.lengths(), self._neftune_alpha)}


@dataclass(frozen=True)
class Rows:
    """packs, pads: which ways are right; packs_up_to, pads_up_to: in rows of up to how many tokens. window: the largest
    number of the config that the trial went past. switch: LongRoPE's length, past which all positions of a call change;
    0: none. rounds: texts tried; a selection of keys is wrong for some texts only."""

    packs: bool
    pads: bool
    packs_up_to: float = math.inf
    pads_up_to: float = math.inf
    window: int = 0
    switch: int = 0
    rounds: int = 1

    def layout(self, sequences: Sequences, row_length: int = 512, cost: Cost | None = None) -> Layout:
        """row_length: tokens of a packed row; more where an example is longer."""
        if self.packs:
            layout = packed(sequences, row_length, cost)
            if all(grid.ids.shape[1] <= self.packs_up_to for grid in layout.grids):
                return layout
        totals = sequences.prompts.lengths[sequences.owner] + sequences.answers.lengths
        return bucketed(sequences, padded=self.pads and max(totals.tolist(), default=0) <= self.pads_up_to)

    def describe(self) -> str:
        """For the report that people read."""
        if self.packs:
            return "rows shared behind masks"
        return (
            "one example a row, in rows of similar length"
            if self.pads
            else "one example a row, in rows of equal length"
        )


def some_ids(vocabulary: int, length: int, seed: int = 0) -> Tensor:
    """[length] ids to try a model on, the same at every call. A third are one token, because texts repeat tokens and a
    selection among keys ties at equal tokens."""
    ids = (torch.arange(length) * 7919 + 104_729 * (seed + 1)) % vocabulary
    ids[2::3] = ids[0]
    return ids
