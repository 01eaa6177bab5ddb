"""The built-in data: the kinds of example, readers of image-text, image-label and text files, and the embedded sets."""

from mmalign import DatasetSpec, ExampleSpec, hookimpl
from mmalign.contract.capabilities import TEXT_PAIRS

_REVIEWS = ("text", "completion", "preference", "ranking", "labelled-completion", "text-label", "prompt")


@hookimpl
def register_examples() -> list[ExampleSpec]:
    """The core's own kinds, from here and not from the core: nothing then has a list of kinds but the catalog, and they
    come in by the way that a third party's must take."""
    both, image, text = ("image", "text"), ("image",), ("text",)
    prompts = (("text", ""), ("image", ""))
    answered = (("text", "text"), ("image", "text"), ("text", "image"))
    return [
        _example("image-text", "ImageText", both, "An image and a caption"),
        _example("image-label", "ImageLabel", image, "An image and its class", (("image", ""),)),
        _example("text", "Text", text, "A document", (("", "text"),)),
        _example("text-label", "TextLabel", text, "A text and its class", (("", "text"),)),
        _example(
            "text-pair",
            "TextPair",
            text,
            "A text to search with and one to find, and perhaps one that is near and wrong",
        ),
        _example("prompt", "Prompt", text, "What a model is to answer, without an answer", prompts),
        _example("completion", "Completion", text, "An answer to a prompt", answered),
        _example(
            "labelled-completion", "LabelledCompletion", text, "An answer to a prompt that is wanted or not", answered
        ),
        _example("preference", "Preference", text, "Two answers to a prompt, the better one first", answered),
        _example("ranking", "Ranking", text, "Answers to a prompt with a rank each", answered),
    ]


def _example(
    name: str, target: str, modalities: tuple[str, ...], summary: str, pairs: tuple[tuple[str, str], ...] = ()
) -> ExampleSpec:
    return ExampleSpec(
        name=name,
        summary=summary,
        target=f"mmalign.contract.examples:{target}",
        modalities=frozenset(modalities),
        pairs=frozenset(pairs),
        samples=f"mmalign.testing.samples:{name.replace('-', '_')}",
    )


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="emoji",
            summary="Embedded: 1,906 drawings of the Noto font with names and tags",
            target="mmalign_data.emoji:Emoji",
            kind="image-text",
            more_kinds=("completion", "prompt"),
            default_for=("image-text", "completion", "prompt"),
            pairs=frozenset({("image", "text"), ("image", "")}),
        ),
        DatasetSpec(
            name="distracted-emoji",
            summary="Embedded: drawings with a small drawing of another thing in a corner, or its name across them",
            target="mmalign_data.distracted:DistractedEmoji",
            kind="preference",
            more_kinds=("completion", "prompt"),
            pairs=frozenset({("image", "text"), ("image", "")}),
        ),
        DatasetSpec(
            name="damaged-pictures",
            summary="Embedded: photographs and drawings under growing blur, noise, compression or loss of colour",
            target="mmalign_data.damaged:DamagedPictures",
            kind="ranking",
            pairs=frozenset({("text", "image")}),
        ),
        DatasetSpec(
            name="photos",
            summary="Embedded: a few sample photographs, each its own class",
            target="mmalign_data.photos:Photos",
            kind="image-label",
            default_for=("image-label",),
        ),
        DatasetSpec(
            name="movie-reviews",
            summary="Embedded: 10,603 sentences of film reviews with the ratings of people",
            target="mmalign_data.reviews:Reviews",
            kind=_REVIEWS[0],
            more_kinds=_REVIEWS[1:],
            default_for=_REVIEWS,
            pairs=TEXT_PAIRS,
            splits=("train", "validation", "test"),
        ),
        DatasetSpec(
            name="wordnet",
            summary="Embedded: definitions of 27,000 senses of words, to find the word by",
            target="mmalign_data.wordnet:WordNet",
            kind="text-pair",
            default_for=("text-pair",),
        ),
        DatasetSpec(
            name="arithmetic",
            summary="Generated: questions such as 12 * 34 with their answers",
            target="mmalign_data.arithmetic:Arithmetic",
            kind="prompt",
            pairs=TEXT_PAIRS,
            splits=("train", "validation", "test"),
        ),
        DatasetSpec(
            name="image-text",
            summary="Images with captions: CSV, TSV, JSONL, parquet, webdataset tars, or a folder",
            target="mmalign_data.image_text:ImageTextFiles",
            kind="image-text",
            reads_files=True,
        ),
        DatasetSpec(
            name="image-label",
            summary="Images in one folder per class",
            target="mmalign_data.image_label:ImageFolders",
            kind="image-label",
            more_kinds=("completion", "prompt"),
            pairs=frozenset({("image", "text"), ("image", "")}),
            reads_files=True,
        ),
        _text("text-files", "TextDocuments", "text", "Documents: .txt files, or tables with the column text"),
        _text("completions", "CompletionFiles", "completion", "Answers: columns prompt and completion, or messages"),
        _text("preferences", "PreferenceFiles", "preference", "Pairs of answers: columns prompt, chosen, rejected"),
        _text(
            "labelled-completions",
            "LabelledCompletionFiles",
            "labelled-completion",
            "Answers, each wanted or unwanted: columns prompt, completion, label",
        ),
        _text("labelled-texts", "LabelledTextFiles", "text-label", "Texts with a class: columns text and label"),
        _text("prompts", "PromptFiles", "prompt", "Prompts to sample from: column prompt; or those of answers' tables"),
        _text(
            "text-pairs",
            "TextPairFiles",
            "text-pair",
            "Pairs of texts: columns anchor and positive, or query and document, and perhaps negative",
        ),
        _text("rankings", "RankingFiles", "ranking", "Ranked answers: columns prompt, completions, ranks"),
    ]


def _text(name: str, target: str, kind: str, summary: str) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        summary=summary,
        target=f"mmalign_data.texts:{target}",
        kind=kind,
        reads_files=True,
        prefixes=("hf",),
        recognises="mmalign_data.texts:kind_of",
        splits=("train", "validation", "test"),
    )
