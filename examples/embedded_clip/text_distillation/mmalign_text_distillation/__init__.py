"""Stage one of clip-lite: texts with target vectors, and the objective that learns them.

mmalign train --objective text-distillation -c stage1.yaml
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from mmalign import DatasetSpec, ObjectiveSpec, Role, hookimpl
from mmalign.contract.examples import declare


@declare
@dataclass(frozen=True)
class TextTarget:
    """A text and the embedding [D], a float32 array of unit length, that it should have."""

    kind: ClassVar[str] = "text-target"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
    text: str
    target: Any


@hookimpl
def register_objectives() -> list[ObjectiveSpec]:
    return [
        ObjectiveSpec(
            name="text-distillation",
            summary="Move each text's embedding to the one that a teacher gives it",
            target="mmalign_text_distillation.objective:TextDistillation",
            roles=(Role(name="policy", needs=("encode_text",)),),
            examples={"main": ("text-target",)},
        )
    ]


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="noun-targets",
            summary="Nouns in templates, drawn by weight, each with its target embedding",
            target="mmalign_text_distillation.nouns:NounTargets",
            kind="text-target",
            default_for=("text-target",),
        )
    ]
