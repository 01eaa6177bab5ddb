"""How a dual encoder reads prompts and answers: pictures with texts, or texts with pictures.

    check_pair(prompt, answers)           # BadSample for a conversation, texts with texts, pictures with pictures
    prompt_tokens(processor, prompt)      # the ids of a text, or one placeholder for a picture

Processors of views of dual encoders (`mmalign.pairs`) share these rules.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmalign.contract.backbone import TokenizedText
from mmalign.contract.examples import ImageRef
from mmalign.errors import BadSample

if TYPE_CHECKING:
    from mmalign.contract.backbone import Processor
    from mmalign.contract.examples import Content

_PLACEHOLDER = 0  # the one id of a picture


def placeholder() -> Tensor:
    """[1]: the ids of a picture."""
    return torch.tensor([_PLACEHOLDER])


def prompt_tokens(processor: "Processor", prompt: "Content") -> TokenizedText:
    """The ids [T] of a text, or the placeholder of a picture. Raises BadSample for a conversation."""
    if isinstance(prompt, ImageRef):
        return TokenizedText(placeholder(), 0)
    if isinstance(prompt, str):
        return processor.text(prompt)
    raise BadSample("a prompt of a dual encoder is a picture or a text, not a conversation")


def check_pair(prompt: "Content", answers: "Sequence[Content]") -> None:
    """Raises BadSample unless the answers are texts to a picture, or pictures to a text."""
    wanted, name = (str, "texts") if isinstance(prompt, ImageRef) else (ImageRef, "pictures")
    if not all(isinstance(answer, wanted) for answer in answers):
        raise BadSample(f"the answers are no {name}: a dual encoder reads pictures with texts, or texts with pictures")
