"""The built-in objectives: one algorithm, one file."""

from mmalign import ObjectiveSpec, Role, hookimpl


@hookimpl
def register_objectives() -> list[ObjectiveSpec]:
    return [
        ObjectiveSpec(
            name="contrastive",
            summary="Pull matching image-text pairs together: InfoNCE (CLIP) or sigmoid (SigLIP)",
            target="mmalign_objectives.contrastive:Contrastive",
            roles=(Role(name="policy", needs=("encode_image", "encode_text", "contrastive_head")),),
            examples={"main": ("image-text",)},
        )
    ]
