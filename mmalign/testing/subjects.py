"""The subjects of checks: loaded tiny models, and batches of examples of any kind."""

import contextlib
import dataclasses
import importlib.util
import io
import math
import random
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

from mmalign.contract.capabilities import Pair
from mmalign.contract.examples import ImageRef
from mmalign.contract.source import Source
from mmalign.contract.specs import Entry, ObjectiveSpec
from mmalign.models.load import load_model
from mmalign.models.references import find_source, read_config
from mmalign.registry.compat import Verdict, check
from mmalign.registry.views import through
from mmalign.testing.bench import Skip, Workbench

if TYPE_CHECKING:
    from mmalign.contract.batch import Batch

_SCALE = 20.0  # of the logits of a dual encoder
CLASSES = ("red", "green", "blue")  # classes of the kit's labelled examples
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
    """Use one torch thread: with more, threads wait longer for each other than such small models take to compute."""
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
    """A backbone on the CPU with its default options except `options`, the same at every call."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_model(bench.catalog, source, options)


def require_compatible(objective: ObjectiveSpec, source: Source, bench: Workbench) -> Verdict:
    """How the objective runs on that family; skips where it cannot."""
    verdict = check(objective, source.family, bench.catalog)
    if not verdict.ok:
        raise Skip(f"{source.family.name}: {verdict.explain()}")
    return verdict


def through_view(model: Any, verdict: Verdict) -> Any:
    """The model as an objective with that verdict sees it; its candidates are all answers of the kit's samples."""
    import torch

    from mmalign.pairs.candidates import CandidateModel

    if verdict.view is None:
        return model
    if verdict.view.alone:
        return through(verdict.view, model, None)
    with torch.no_grad():  # as of a trained model; at 1 no answer could become much likelier than another
        model.contrastive_head().log_scale.fill_(math.log(_SCALE))
    return CandidateModel(model, dict.fromkeys([*TEXTS, *(" ".join(reversed(text.split())) for text in TEXTS)]))


def resolve_or_skip(reference: str, bench: Workbench) -> Source:
    """The source of a model. Skips a tiny model that no installed plugin handles and an embedded model whose package is
    not installed. A model that two plugins claim is an error."""
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
    kind: str,
    processor: Any,
    size: int,
    bench: Workbench,
    *,
    answer_tokens: int = 0,
    pairs: Set[Pair] = frozenset(),
) -> "Batch":
    """`size` different examples of a kind, through the processor and the collator that training uses.

    answer_tokens: the room that prompts leave for sampled answers. pairs: the contents of prompts and answers that the
    model reads; without texts as prompts, prompts are pictures.
    """
    from mmalign.data.collate import Encoder, collate

    example_class = bench.catalog.load(bench.catalog.find("examples", kind))
    encoder = Encoder(processor, example_class, seed=0, answer_tokens=answer_tokens)
    examples = make_examples(kind, size, bench)
    if pairs and not any(prompt == "text" for prompt, answer in pairs if answer != "image"):
        examples = [_with_picture(example, index) for index, example in enumerate(examples)]
    return collate([encoder.encode(example, 0, index, train=False) for index, example in enumerate(examples)])


def _with_picture(example: Any, index: int) -> Any:
    """The example with a picture as its prompt, if it has one."""
    has_prompt = "prompt" in {field.name for field in dataclasses.fields(example)}
    return dataclasses.replace(example, prompt=picture(index)) if has_prompt else example


def picture(index: int) -> ImageRef:
    """A different picture for each index: blocks of random colours."""
    from PIL import Image

    pixels, file = random.Random(index).randbytes(4 * 4 * 3), io.BytesIO()
    Image.frombytes("RGB", (4, 4), pixels).resize((40, 32), Image.Resampling.NEAREST).save(file, "PNG")
    return ImageRef(f"{index}.png", data=file.getvalue())


def make_examples(kind: str, size: int, bench: Workbench) -> list[Any]:
    """Samples from the kind's spec, or the first examples of the kind's default data set if the spec has none."""
    entry = bench.catalog.find("examples", kind)
    if entry.spec.samples:
        return bench.catalog.load_place(entry, entry.spec.samples)(size)
    dataset = bench.catalog.default_data([kind])
    if dataset is None:
        raise Skip(f"{entry.qualified} has no samples, and no data set is the default for {kind} examples")
    return default_examples(dataset, bench, size, kind)


def default_examples(entry: Entry, bench: Workbench, size: int, kind: str) -> list[Any]:
    """The first examples of a data set; skips if a required option is missing."""
    data = bench.catalog.load(entry).build(dataset_config(entry, bench, kind), "train")
    assert data is not None and len(data) >= size, f"{entry.qualified} has fewer than {size} examples"
    return [data[index] for index in range(size)]


def dataset_config(entry: Entry, bench: Workbench, kind: str) -> Any:
    """A data set's options for the kit; skips if a required one is missing."""
    config_class = bench.catalog.load(entry).Config
    options = {**bench.datasets.get(entry.spec.name, {}), **entry.spec.options(kind)}
    required = [name for name, field in config_class.model_fields.items() if field.is_required()]
    missing = [name for name in required if name not in options]
    if missing:
        raise Skip(f"needs {', '.join(missing)}: conformance(..., datasets={{{entry.spec.name!r}: {{...}}}})")
    return config_class(**options)
