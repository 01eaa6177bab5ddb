"""Dual encoders: open_clip's models, transformers' CLIP and SigLIP, and the embedded clip-lite.

mmalign zero-shot photo.jpg --backbone open_clip:ViT-B-32/openai --labels "a photo of a <object>"
"""

from mmalign import BackboneSpec, Capability, Family, hookimpl
from mmalign_clip import families

_DUAL_ENCODER = frozenset(
    {Capability.ENCODE_IMAGE, Capability.ENCODE_TEXT, Capability.CONTRASTIVE_HEAD, Capability.ADAPTER_SWITCH}
)
_USE = (
    "It is a dual encoder: mmalign zero-shot names what is in pictures, mmalign score ranks texts to a picture or "
    "pictures to a text."
)
_IMAGE_TEXT = frozenset({"image", "text"})


def _family(name: str, matches: families.Matches) -> Family:
    return Family(name=name, matches=matches, provides=_DUAL_ENCODER, modalities=_IMAGE_TEXT, use=_USE)


@hookimpl
def register_backbones() -> list[BackboneSpec]:
    contrastive = _family("open-clip", families.is_open_clip)
    return [
        BackboneSpec(
            name="clip-lite",
            summary="The embedded CLIP: EfficientNet-Lite0 and a small text transformer, offline",
            target="mmalign_clip.open_clip_backbone:OpenClipBackbone",
            families=(contrastive,),
            bundled="mmalign_clip:clip_lite",
            default_for=("image-text", "image-label"),
        ),
        BackboneSpec(
            name="open_clip",
            summary="open_clip's architectures and weights, its hub repositories and its local folders",
            target="mmalign_clip.open_clip_backbone:OpenClipBackbone",
            families=(contrastive, _family("open-clip-coca", families.is_open_clip_coca)),
            prefixes=("open_clip",),
        ),
        BackboneSpec(
            name="transformers-clip",
            summary="transformers' CLIP, SigLIP and fixed-resolution SigLIP 2, from a hub id or a folder",
            target="mmalign_clip.transformers_backbone:TransformersClipBackbone",
            families=(_family("clip", families.is_clip), _family("siglip", families.is_siglip)),
            prefixes=("hf",),
        ),
    ]
