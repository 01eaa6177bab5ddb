"""Triplet margin loss for mmalign: `mmalign train --objective triplet`."""

from mmalign import ObjectiveSpec, Role, hookimpl


@hookimpl
def register_objectives() -> list[ObjectiveSpec]:
    return [
        ObjectiveSpec(
            name="triplet",
            summary="Keep each pair closer than its hardest in-batch negative, by a margin",
            target="mmalign_triplet.triplet:Triplet",
            roles=(Role(name="policy", needs=("encode_image", "encode_text")),),
            examples={"main": ("image-text",)},
        )
    ]
