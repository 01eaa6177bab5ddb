"""Causal language models of transformers as a backbone: one pass through the trunk, and log-probabilities from its
output.

    backbone = CausalLMBackbone.load(source, CausalLMConfig())
    hidden = backbone.hidden_states(batch["sequences"])
    backbone.token_logps(hidden).logps                      # [P], without ever holding the [P, V] logits

Loading tries the model on a few tokens. It checks that the logits are the head on the trunk's output (refused
otherwise: a family may scale or cap them in an unknown way), how examples may share rows (`mmalign_lm.rows`), and how
prompts may be answered together (`mmalign_lm.writing`). Every row gets what transformers computes for it alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from mmalign.errors import CheckpointError, UsageError
from mmalign.language.layout import Cost, Layout, states_at
from mmalign.language.protocols import Hidden
from mmalign.language.sampling import Generated, Sampling
from mmalign.language.sequences import Sequences
from mmalign.models import adapters, lora
from mmalign.models.folder import quiet
from mmalign.models.reward_trunk import ReadScorer
from mmalign.models.size import ModelSize
from mmalign.ops import Head, TokenLogps, token_logps
from mmalign.pairs.embedder_options import Embedding
from mmalign.pairs.sentence_transformers import settings_of
from mmalign_lm import folder as model_folder
from mmalign_lm import four_bit, gguf_file, scratch
from mmalign_lm.critic import read_scorer_adapter, read_scorer_copy
from mmalign_lm.embedder_folder import require_ending, save_embedder_files
from mmalign_lm.folder import Parts, text_config
from mmalign_lm.generation import batches, generate
from mmalign_lm.options import CausalLMConfig
from mmalign_lm.rows import FAILURES, try_rows
from mmalign_lm.scorer import save_classifier, save_scorer
from mmalign_lm.size import model_size
from mmalign_lm.trunk import Trunk, below_head, some_ids
from mmalign_lm.writing import Writing, try_writing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mmalign.contract.source import Source

_TOLERANCE = 1e-4  # relative; float32 under another kernel


class CausalLMBackbone(lora.Adaptable):
    """A transformers model with a language-modelling head."""

    Config: ClassVar[type[BaseModel]] = CausalLMConfig

    def __init__(self, module: "PreTrainedModel", parts: Parts, config: CausalLMConfig) -> None:
        self.module = module
        self.processor = replace(parts.processor, stops=_stops(module))
        self.vocabulary: tuple[str, ...] = ()
        self._parts = parts
        self._in_four_bits = config.load_in == "4bit"
        self._tolerance = four_bit.TOLERANCE if self._in_four_bits else _TOLERANCE
        output: Any = module.get_output_embeddings()
        self._output = output
        self.hidden_width = int(output.weight.shape[1])
        stated = text_config(parts.config).to_dict()
        self._bidirectional = config.embedder.bidirectional or stated.get("is_causal") is False
        self._trunk = Trunk(
            below_head(module), self.hidden_width, config.neftune_alpha, bidirectional=self._bidirectional
        )
        self._row_length = config.row_length
        self._embedder = config.embedder
        self._scale, self._softcap = _head_options(stated)
        self._check_head()
        self._rows = try_rows(
            self._trunk,
            stated,
            len(output.weight),
            context_length=self.processor.context_length,
            packing=config.packing == "auto",
            tolerance=self._tolerance,
            sharpen=not parts.has_weights,
        )
        self._writing: Writing | None = None
        if not self._bidirectional:
            self._writing = try_writing(
                module, self._rows, len(output.weight), tolerance=self._tolerance, sharpen=not parts.has_weights
            )

    @classmethod
    def load(cls, source: "Source", config: CausalLMConfig) -> Self:
        """Build the model in float32 on the CPU, in evaluation mode; raises CheckpointError."""
        lora.require(config.lora)
        adapters.require(source.adapters)
        four_bit.require(config, source)
        if source.size:
            parts, module = scratch.load(source, config)
        elif config.from_scratch:
            raise UsageError(
                f"backbone.{config.from_scratch[0]} is for models from scratch, and {source.reference} has its own",
                hint="From scratch: --backbone gpt-1, gpt-2 or llama. Try: mmalign list backbones",
            )
        else:
            parts, module = gguf_file.load(source, config) if source.file else model_folder.load(source, config)
        if source.adapters:
            parts = _merge(module, parts, source, config)
        lora.inject(module, config.lora, spare=[module.get_output_embeddings()])
        return cls(module.eval(), parts, config)

    @classmethod
    def size(cls, source: "Source", config: CausalLMConfig) -> ModelSize:
        """The number of parameters; see `mmalign_lm.size`."""
        return model_size(source, config)

    @property
    def packs(self) -> bool:
        """Whether several examples share a row."""
        return self._rows.packs

    def hidden_states(self, sequences: Sequences) -> Hidden:
        """One pass: every prompt once where the model packs, else one row for each answer. Raises UsageError for
        prompts, where the model is bidirectional: they would see their answers."""
        if self._bidirectional and len(sequences.prompts.values):
            raise self._writes_nothing()
        layout = self._layout(sequences)
        return Hidden(self._trunk(layout), layout)

    def token_logps(
        self, hidden: Hidden, *, temperature: float = 1.0, entropy: bool = False, uniform: bool = False
    ) -> TokenLogps:
        """[P] each; see `mmalign.ops.token_logps`. Raises UsageError for a bidirectional model."""
        if self._bidirectional:
            raise self._writes_nothing()
        layout = hidden.layout
        options = {"temperature": temperature, "entropy": entropy, "uniform": uniform}
        return token_logps(states_at(hidden.states, layout.predict), self._head(), layout.labels, **options)

    def generate(
        self,
        prompts: Sequence[Tensor],
        sampling: Sampling,
        seeds: Sequence[int],
        on_token: Callable[[int, int], None] | None = None,
    ) -> Generated:
        """An answer to each prompt, in order; prompts of similar length are answered together. Raises UsageError for a
        bidirectional model."""
        if self._writing is None:
            raise self._writes_nothing()
        answers: dict[int, list[Any]] = {}
        longest = max(map(len, prompts), default=0) + sampling.max_tokens
        way = self._writing.up_to(longest)
        # BLOOM's softmax is in float32: in a float64 model it gives NaN for a padding token that attends to nothing.
        padded = way.padded and self._output.weight.dtype != torch.float64
        for rows in batches(prompts, sampling.max_tokens, padded=padded):

            def tell(line: int, token: int, rows: list[int] = rows) -> None:
                if on_token is not None:
                    on_token(rows[line], token)

            generated = generate(
                self.module,
                [prompts[r] for r in rows],
                sampling,
                [seeds[r] for r in rows],
                self.processor.end_ids,
                tell,
                way,
            )
            answers |= {row: answer for row, *answer in zip(rows, *generated, strict=True)}
        ids, logps, ended = ([answers[row][field] for row in range(len(prompts))] for field in range(3))
        return Generated(ids, logps, ended)

    def save(self, folder: Path) -> None:
        """Write what transformers' from_pretrained loads: config, safetensors and tokenizer files.

        The weights written have the adapter merged in; `adapter/` beside them holds it alone, for peft.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            module = self._saved_module()
            module.save_pretrained(folder, state_dict=lora.merged_state(module))
        lora.save_adapter(self.module, folder / lora.ADAPTER_FOLDER, base=self._parts.origin, task="CAUSAL_LM")
        self.processor.save(folder)

    def save_scorer(self, folder: Path, head: nn.Linear, mean: float) -> bool:
        """Write a reward model with this trunk, and its adapter beside it; see `mmalign_lm.scorer`."""
        known = save_scorer(self._saved_module(), head, self.processor.tokenizer, folder, mean)
        lora.save_adapter(self.module, folder / lora.ADAPTER_FOLDER, base=self._parts.origin)
        return known

    @property
    def embedding(self) -> Embedding:
        """How the model encodes texts: its options over what its folder states. Raises CheckpointError and
        UsageError."""
        settings = settings_of(self._embedder, self._parts.folder)
        if settings.pooling == "eos":
            require_ending(self.processor.tokenizer)
        return settings

    def save_embedder(self, folder: Path, settings: Embedding, max_tokens: int) -> None:
        """Write what transformers and sentence-transformers load; see `mmalign_lm.embedder_folder`."""
        self.save(folder)
        save_embedder_files(folder, self.processor.tokenizer, settings, width=self.hidden_width, max_tokens=max_tokens)

    def scorer_copy(self, folder: Path) -> ReadScorer:
        """A reward model's own trunk and head, its rows laid out as this model's; see `mmalign_lm.critic`."""
        return read_scorer_copy(self.module, self.processor, folder, self._layout)

    def scorer_adapter(self, folder: Path, name: str, *, trains: bool) -> ReadScorer:
        """A reward model's adapter on this trunk, and its head; see `mmalign_lm.critic`."""
        head, mean = read_scorer_adapter(self.module, self.processor.tokenizer, folder, name, trains=trains)
        return ReadScorer(self, head, mean)

    def save_classifier(self, folder: Path, head: nn.Linear, classes: tuple[str, ...]) -> bool:
        """Write a classifier with this trunk; see `mmalign_lm.scorer`."""
        return save_classifier(self._saved_module(), head, self.processor.tokenizer, folder, classes)

    def describe(self) -> Mapping[str, Any]:
        """Architecture and sizes, as loaded."""
        parameters = list(self.module.parameters())
        return {
            "architecture": type(self.module).__name__,
            "pretrained": self._parts.has_weights,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            "context_length": self.processor.context_length,
            "vocabulary_size": self.processor.num_tokens,
            **({"linear_layers": "in 4 bits (NF4)"} if self._in_four_bits else {}),
            "packing": self._rows.describe(),
            "generation": self._writing.describe() if self._writing else "none: attention in both directions",
            "chat_template": "its own" if self.processor.has_template else "plain",
            **lora.describe_adapter(self.module),
            **({"note": self._parts.note} if self._parts.note else {}),
        }

    def _writes_nothing(self) -> UsageError:
        return UsageError(
            f"{self._parts.origin} attends in both directions, so it embeds texts and neither writes nor predicts any",
            hint="Without backbone.embedder.bidirectional, or with the causal model that it was made from, it can.",
        )

    def _saved_module(self) -> "PreTrainedModel":
        return four_bit.unquantised(self.module, self._parts.config) if self._in_four_bits else self.module

    def _head(self) -> Head:
        return Head(self._output.weight, self._output.bias, self._scale, self._softcap)

    def _cost(self) -> Cost:
        """On a CPU a second grid costs a few milliseconds, and masked attention costs more than its operations: in rows
        of 1.5 hidden widths it takes as long as all else (measured, BENCHMARKS.md). Counted in operations, this length
        is 6 widths."""
        on_cpu = self._output.weight.device.type == "cpu"
        return Cost(1 / ((1.5 if on_cpu else 6) * self.hidden_width), 64 if on_cpu else math.inf)

    def _layout(self, sequences: Sequences) -> Layout:
        return self._rows.layout(sequences, min(self._row_length, self.processor.context_length), self._cost())

    # Trials at loading ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _check_head(self) -> None:
        ids = some_ids(self._output.weight.shape[0], 6).to(self._output.weight.device)
        name = type(self.module).__name__
        try:
            logits = self.module(input_ids=ids[None]).logits[0].float().log_softmax(-1)
            computed = token_logps(self._trunk.of_one(ids)[:-1], self._head(), ids[1:]).logps
        except FAILURES as error:
            raise CheckpointError(
                f"{name} gives no logits or hidden states for a row of tokens alone ({type(error).__name__}: {error})",
                hint="It needs more than text, or is not a language model for this version of transformers.",
            ) from error
        expected = logits[:-1].gather(1, ids[1:, None])[:, 0]
        if not expected.isfinite().all():
            raise CheckpointError(
                f"{self._parts.origin}: the model gives NaN or infinity",
                hint="Its weights are damaged, or its training diverged: take an earlier checkpoint.",
            )
        if not torch.allclose(computed, expected, rtol=self._tolerance, atol=self._tolerance):
            raise CheckpointError(
                f"the logits of {name} are not its output layer applied to its hidden states: the model has an unknown "
                "operation between the two or after the output layer",
                hint="Known: a scale (logit_scale, logits_scaling), a cap (final_logit_softcapping, logits_soft_cap).",
            )


def _stops(module: "PreTrainedModel") -> frozenset[int]:
    """Ids that end an answer, by the model's generation config (by its config where it has none)."""
    stated = module.generation_config.eos_token_id if module.generation_config else None
    return frozenset([stated] if isinstance(stated, int) else stated or ())


def _merge(module: "PreTrainedModel", parts: Parts, source: "Source", config: CausalLMConfig) -> Parts:
    if config.random_weights:
        raise UsageError(
            f"{source.reference} is an adapter, which changes trained weights: backbone.random_weights has no use here"
        )
    for adapter in source.adapters:
        adapters.merge(module, adapter)
    names = ", then ".join(map(str, source.adapters))
    return replace(parts, note=f"merged into the weights of {source.file or source.folder or source.name}: {names}")


def _head_options(config: Mapping[str, Any]) -> tuple[float, float]:
    """(scale, cap) of the logits, as families write them in their configs."""
    scale = float(config.get("logit_scale") or 1.0)  # Cohere
    scale /= float(config.get("logits_scaling") or 1.0)  # Granite
    cap = config.get("final_logit_softcapping") or config.get("logits_soft_cap")  # Gemma 2 and 3; RecurrentGemma
    return scale, float(cap or 0.0)
