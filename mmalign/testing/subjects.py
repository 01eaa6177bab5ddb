"""What checks work on: loaded tiny models, and batches of examples of any kind that the kit knows."""

import contextlib
import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.contract.source import Source
from mmalign.contract.specs import Entry, ObjectiveSpec
from mmalign.models.load import load_model
from mmalign.models.references import find_source, read_config
from mmalign.registry.compat import check
from mmalign.testing.bench import Skip, Workbench

if TYPE_CHECKING:
    from mmalign.contract.batch import Batch

CLASSES = ("red", "green", "blue")  # of the kit's labelled examples
TEXTS = (
    "a red car",
    "the photo of a small black cat and a dog",
    "tree",
    "a large white house with a green tree",
    "fish",
    "blue bird on the house",
    "two dogs",
    "an unusually long caption of the photo of a car and a bird and a fish and a cat",
)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """One torch thread: models so small only wait for each other on more, many times as long on a busy machine."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def source_of(reference: str, bench: Workbench) -> Source:
    """The source of a tiny model, or of an embedded backbone by its name."""
    return find_source(str(bench.model(reference)) if reference in bench.model_names else reference, bench.catalog)


def load(source: Source, bench: Workbench, seed: int = 0, **options: Any) -> Any:
    """A backbone on the CPU with its default options but these, the same at every call."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_model(bench.catalog, source, options)


def require_compatible(objective: ObjectiveSpec, source: Source) -> None:
    """Skip where the objective cannot run on that family."""
    verdict = check(objective, source.family)
    if not verdict.ok:
        raise Skip(f"{source.family.name}: {verdict.explain()}")


def resolve_or_skip(reference: str, bench: Workbench) -> Source:
    """Skip a tiny model that no installed plugin handles, and an embedded one whose package is not installed; a model
    that two plugins claim is an error."""
    if reference in bench.model_names:
        config = read_config(bench.model(reference))
        families = [family for entry in bench.catalog.entries("backbones") for family in entry.spec.families]
        if not any(family.matches(config) for family in families):
            raise Skip(f"no installed plugin handles {reference}")
    else:
        spec = bench.catalog.find("backbones", reference).spec
        if spec.extra and importlib.util.find_spec(spec.bundled.partition(":")[0]) is None:
            raise Skip(f"{spec.extra} is not installed")
    return source_of(reference, bench)


def make_batch(
    kind: str, processor: Any, folder: Path, size: int, bench: Workbench, *, answer_tokens: int = 0
) -> "Batch":
    """`size` different examples of a kind, through the processor and the collator that training uses.

    answer_tokens: the room that prompts leave for what is sampled.
    """
    from mmalign.data.collate import Encoder, collate

    encoder = Encoder(processor, kind, seed=0, answer_tokens=answer_tokens)
    examples = make_examples(kind, folder, size, bench)
    return collate([encoder.encode(example, 0, index, train=False) for index, example in enumerate(examples)])


def make_examples(kind: str, folder: Path, size: int, bench: Workbench) -> list[Any]:
    """Invented examples of the core's kinds; for a plugin's own kind the first of its default data set."""
    from mmalign.contract import examples as kinds
    from mmalign.contract.examples import Completion, ImageLabel, ImageText, Preference, Ranking, Text, TextPair

    texts = [TEXTS[i % len(TEXTS)] + " and a cat" * (i // len(TEXTS)) for i in range(size)]
    if kind == "image-text":
        return [ImageText(f"example:{i}", _picture(folder, i), text) for i, text in enumerate(texts)]
    if kind == "image-label":
        return [ImageLabel(f"example:{i}", _picture(folder, i), i % len(CLASSES)) for i in range(size)]
    if kind == "text":
        return [Text(f"example:{i}", text) for i, text in enumerate(texts)]
    if kind == "text-label":
        return [kinds.TextLabel(f"example:{i}", text, i % len(CLASSES)) for i, text in enumerate(texts)]
    if kind == "text-pair":
        return [TextPair(f"example:{i}", text, texts[-1 - i]) for i, text in enumerate(texts)]
    if kind == "prompt":
        return [kinds.Prompt(f"example:{i}", text) for i, text in enumerate(texts)]
    answers = [" ".join(reversed(text.split())) for text in texts]
    if kind == "completion":
        return [Completion(f"example:{i}", text, answers[i]) for i, text in enumerate(texts)]
    if kind == "labelled-completion":
        return [kinds.LabelledCompletion(f"example:{i}", t, answers[i], i % 2 == 0) for i, t in enumerate(texts)]
    if kind == "preference":
        return [Preference(f"example:{i}", text, answers[i], texts[-1 - i]) for i, text in enumerate(texts)]
    if kind == "ranking":
        ranked = (1.0, 2.0, 2.0)
        return [Ranking(f"example:{i}", t, (answers[i], texts[-1 - i], "tree"), ranked) for i, t in enumerate(texts)]
    entry = next((e for e in bench.catalog.entries("datasets") if kind in e.spec.default_for), None)
    if entry is None:
        raise Skip(f"the kit has no {kind} examples, and no data set is the default for them")
    return default_examples(entry, bench, size, kind)


def default_examples(entry: Entry, bench: Workbench, size: int, kind: str) -> list[Any]:
    target = bench.catalog.load(entry)
    options = {**bench.datasets.get(entry.spec.name, {}), **entry.spec.options(kind)}
    data = target.build(target.Config(**options), "train")
    assert data is not None and len(data) >= size, f"{entry.qualified} has fewer than {size} examples"
    return [data[index] for index in range(size)]


def _picture(folder: Path, index: int) -> Any:
    """A picture of its own for each index: blocks of random colours."""
    from PIL import Image

    from mmalign.contract.examples import ImageRef

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{index}.png"
    if not path.exists():
        pixels = random.Random(index).randbytes(4 * 4 * 3)
        Image.frombytes("RGB", (4, 4), pixels).resize((40, 32), Image.Resampling.NEAREST).save(path)
    return ImageRef(str(path))
