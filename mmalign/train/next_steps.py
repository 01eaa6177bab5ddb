"""Commands to try with a run's saved model, with examples of its own data.

commands = next_commands(Path("runs/x/model"), plan, job.heldout or job.data)
"""

import itertools
import shlex
from pathlib import Path
from typing import Any

from mmalign.contract.capabilities import Capability
from mmalign.contract.examples import (
    Completion,
    Content,
    ImageLabel,
    ImageRef,
    ImageText,
    LabelledCompletion,
    Preference,
    Prompt,
    Ranking,
    Text,
    TextLabel,
    TextPair,
    Turns,
)
from mmalign.data.contents import readable
from mmalign.printable import printable
from mmalign.train.plan import Plan

_LOOKED_AT = 50  # examples
_LONGEST = 80  # characters of a text in a command
_WORDS = 6  # first words of a document, as a prompt


def next_commands(model: Path, plan: Plan, data: Any) -> list[str]:
    """Commands, the most likely first. data: its examples may stand in them."""
    heads = {role.head for role in plan.objective.spec.roles}
    examples = list(itertools.islice(readable(data), _LOOKED_AT))
    if "scalar" in heads:
        return [_score(model, plan, examples)]
    if "classes" in heads and plan.verdict.view is not None:
        files = (_file(example.image) for example in examples if isinstance(example, ImageLabel))
        picture = next(filter(None, files), "photo.jpg")
        load = "from mmalign.evaluate.classifier import PictureClassifier"
        return [f"python -c {shlex.quote(f'{load}; print(PictureClassifier.load({str(model)!r})({picture!r}))')}"]
    if "classes" in heads:
        texts = (example.text for example in examples if isinstance(example, TextLabel))
        text = next(filter(_typed, texts), "A fine film.")
        code = f"from transformers import pipeline; print(pipeline('text-classification', {str(model)!r})({text!r}))"
        return [f"python -c {shlex.quote(code)}"]  # a classifier of transformers
    provides = plan.source.family.provides
    if Capability.ENCODE_TEXT not in provides and any(isinstance(example, TextPair) for example in examples):
        load = "from sentence_transformers import SentenceTransformer"
        code = f"{load}; print(SentenceTransformer({str(model)!r}).encode(['A text.']))"
        data = f"--dataset {_quoted(data_name(plan))}"
        return [
            f"mmalign evaluate text-retrieval --backbone {_quoted(model)} {data}",
            f"python -c {shlex.quote(code)}",
        ]
    commands = [_zero_shot(model, examples)] if Capability.ENCODE_IMAGE in provides else []
    if Capability.GENERATE in provides:
        commands.append(_generate(model, plan, examples))
    return [*commands, f"mmalign train --objective {plan.objective.spec.name} --backbone {_quoted(model)}"]


def _generate(model: Path, plan: Plan, examples: list[Any]) -> str:
    """With a prompt of the data, as a user's message if the data are conversations."""
    command = f"mmalign generate --backbone {_quoted(model)}"
    chat = any(not isinstance(prompt, str) for prompt in map(_prompt, examples))
    for prompt in map(_prompt, examples):
        if isinstance(prompt, str):
            if _typed(prompt) and not chat:
                return f"{command} {_quoted(prompt)}"
        elif prompt and prompt[-1].role == "user" and _typed(prompt[-1].content):
            return f"{command} --chat {_quoted(prompt[-1].content)}"
    if any(_prompt(example) for example in examples):  # none can be typed
        return f"{command} --dataset {_quoted(data_name(plan))} --limit 3"
    return f'{command} {"--chat " if chat else ""}"Once upon a time"'


def _score(model: Path, plan: Plan, examples: list[Any]) -> str:
    """With the answers to one prompt of the data."""
    command = f"mmalign score --backbone {_quoted(model)}"
    for example in examples:
        if not isinstance(example, Preference | Ranking):
            continue
        prompt, *answers = (_argument(content) for content in (example.prompt, *example.answers()))
        if prompt is not None and None not in answers and all(answers):
            asked = f" --prompt {_quoted(prompt)}" if prompt else ""
            return " ".join([f"{command}{asked}", *(_quoted(str(answer)) for answer in answers[:3])])
    return f"{command} --dataset {_quoted(data_name(plan))}"


def _argument(content: Content) -> str | None:
    """A text that can be typed, or the path of a picture that is a file; None for what no argument can say."""
    if isinstance(content, ImageRef):
        return _file(content)
    return content if isinstance(content, str) and (not content or _typed(content)) else None


def _file(image: ImageRef) -> str | None:
    is_file = image.data is None and image.size is None and Path(image.path).is_file()
    return image.path if is_file else None


def _zero_shot(model: Path, examples: list[Any]) -> str:
    """With a picture of the data, if it is a file, and captions as labels."""
    command = f"mmalign zero-shot --backbone {_quoted(model)}"
    captioned = [example for example in examples if isinstance(example, ImageText) and _typed(example.text)]
    labels = list(dict.fromkeys(example.text for example in captioned))[:3]
    if len(labels) < 2:
        return f'{command} --labels "a photo of a <object>"'
    options = " ".join(f"--labels {_quoted(label)}" for label in labels)
    image = _file(captioned[0].image)
    if image is not None:
        return f"mmalign zero-shot {_quoted(image)} --backbone {_quoted(model)} {options}"
    return f"{command} {options}"


def _prompt(example: Any) -> Turns:
    """The prompt of an example; for a document its first words."""
    if isinstance(example, Prompt | Completion | Preference | LabelledCompletion | Ranking):
        return "" if isinstance(example.prompt, ImageRef) else example.prompt
    return " ".join(example.text.split()[:_WORDS]) if isinstance(example, Text) else ""


def _typed(text: str) -> bool:
    """Whether a person could type the text as an argument, and it is neither an option nor a file to read."""
    if text.startswith(("-", "@")):
        return False
    return 0 < len(text) <= _LONGEST and bool(text.strip()) and text.isprintable() and text == printable(text)


def _quoted(text: str | Path) -> str:
    return shlex.quote(str(text))


def data_name(plan: Plan) -> str:
    """The data as a user names it: the file, folder or reference, else the data set's name."""
    path = plan.configs["dataset"].model_dump(mode="json").get("path")
    return str(path) if path else plan.names()["dataset"]
