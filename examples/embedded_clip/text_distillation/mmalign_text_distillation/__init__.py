"""Stage one of clip-lite: texts with target vectors, and the objective that learns them.

mmalign train --objective text-distillation -c stage1.yaml
"""

from mmalign import DatasetSpec, ExampleSpec, ObjectiveSpec, Role, hookimpl


@hookimpl
def register_examples() -> list[ExampleSpec]:
    return [
        ExampleSpec(
            name="text-target",
            summary="A text and the embedding that it should have",
            target="mmalign_text_distillation.text_target:TextTarget",
            modalities=frozenset({"text"}),
        )
    ]


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
