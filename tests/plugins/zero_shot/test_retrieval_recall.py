"""Recall against a naive twin; embedding a data set; the two evaluations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_zero_shot.retrieval import Embedded, embed_dataset, recall_at_k, recalls
from torch import Tensor

from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import ImageLabel, ImageRef, ImageText
from mmalign.data.order import spread
from mmalign.errors import DataError

RUNTIME = Runtime(batch_size=3)


def naive_recall(queries: Tensor, items: Tensor, pairs: list[tuple[int, int]], k: int) -> float:
    """One query at a time: sort all items, wrong ones first among equals, and look at the first k."""
    hits = total = 0
    for query, vector in enumerate(queries):
        right = {item for asked, item in pairs if asked == query}
        if not right:
            continue
        scores = [float(vector @ item) for item in items]
        order = sorted(range(len(items)), key=lambda item: (-scores[item], item in right))
        hits += any(item in right for item in order[:k])
        total += 1
    return hits / total


@pytest.mark.parametrize("chunk", [1, 40, 10**9])
@pytest.mark.parametrize("seed", range(4))
def test_recall_equals_its_naive_twin(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmalign_zero_shot.retrieval._SCORES_AT_ONCE", chunk)
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: exact products, and many ties.
    queries = torch.randint(-2, 3, (13, 3), generator=generator).float()
    items = torch.randint(-2, 3, (17, 3), generator=generator).float()
    pairs = torch.stack(
        [torch.randint(0, 11, (20,), generator=generator), torch.randint(0, 17, (20,), generator=generator)], 1
    )
    pairs = pairs.unique(dim=0)[torch.randperm(len(pairs.unique(dim=0)), generator=generator)]
    ks = (1, 2, 5, 17)
    found = recall_at_k(queries, items, pairs, ks)
    listed = [(int(a), int(b)) for a, b in pairs]
    assert found == {k: pytest.approx(naive_recall(queries, items, listed, k)) for k in ks}


def test_a_model_that_answers_all_the_same_gets_nothing() -> None:
    same = torch.ones(5, 4)
    pairs = torch.arange(5).repeat(2, 1).T
    assert recall_at_k(same, same, pairs, (1, 4)) == {1: 0.0, 4: 0.0}
    assert recall_at_k(torch.eye(5), torch.eye(5), pairs, (1,)) == {1: 1.0}


def test_both_ways_and_their_mean() -> None:
    image = torch.eye(3)[[0, 1]]
    text = torch.eye(3)[[0, 0, 2]] + 0.1 * torch.eye(3)[[1, 2, 1]]
    found = recalls(Embedded(image, text, torch.tensor([[0, 0], [0, 1], [1, 2]]), {}, 0), ks=(1,))
    assert found == {"image_to_text_r1": 0.5, "text_to_image_r1": 1.0, "mean_r1": 0.75}


def test_spread_is_even_and_bounded() -> None:
    assert list(spread(5, 0)) == list(spread(5, 9)) == [0, 1, 2, 3, 4]
    assert spread(10, 4) == [0, 2, 5, 7]


@dataclass
class Pairs:
    """A data set in memory."""

    examples: list[Any]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


def pairs_of(pictures: Path, bad: Path) -> Pairs:
    cat, dog = ImageRef(str(pictures / "cat/0.jpg")), ImageRef(str(pictures / "dog/0.jpg"))
    other = ImageRef(str(pictures / "dog/1.jpg"))
    rows = [(cat, "a cat", "1"), (dog, "a dog", "2"), (cat, "a small cat on a tree", "1"), (other, "a dog", "")]
    rows.insert(2, (ImageRef(str(bad)), "never seen", "3"))
    return Pairs([ImageText(f"row {n}", ref, text, group) for n, (ref, text, group) in enumerate(rows)])


def test_embedding_shares_images_and_texts(tiny: Any, pictures: Path, tmp_path: Path) -> None:
    _, backbone = tiny
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff no")
    embedded = embed_dataset(backbone, pairs_of(pictures, bad), RUNTIME)  # type: ignore[arg-type]
    assert embedded.image.shape == (3, 16) and embedded.text.shape == (3, 16)
    assert list(embedded.unreadable) == ["row 2"]
    # images: cat, dog 0, dog 1; texts: a cat, a dog, a small cat on a tree
    assert embedded.pairs.tolist() == [[0, 0], [0, 2], [1, 1], [2, 1]]
    torch.testing.assert_close(embedded.text.norm(dim=1), torch.ones(3))
    from mmalign.contract.batch import Ragged
    from mmalign.data.images import open_image

    with torch.no_grad():
        alone = backbone.encode_text(Ragged.from_list([backbone.processor.text("a small cat on a tree").ids]))
        image = backbone.encode_image(backbone.processor.image(open_image(ImageRef(str(pictures / "dog/1.jpg"))))[None])
    torch.testing.assert_close(embedded.text[2:], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(embedded.image[2:], image, atol=1e-6, rtol=0)
    with pytest.raises(DataError, match="none of 1 images"):
        embed_dataset(backbone, Pairs(pairs_of(pictures, bad).examples[2:3]), RUNTIME)  # type: ignore[arg-type]


def test_the_evaluations_run_from_the_catalog(tiny: Any, catalog: Any, pictures: Path, tmp_path: Path) -> None:
    _, backbone = tiny
    data = {"image-text": pairs_of(pictures, tmp_path / "absent.jpg")}
    labelled = [
        ImageLabel(f"{name}/{n}", ImageRef(str(pictures / name / f"{n}.jpg")), label)
        for label, name in enumerate(("cat", "dog"))
        for n in range(4)
    ]
    data["image-label"] = Pairs([*labelled, ImageLabel("no", ImageRef("no.jpg"), 0)], classes=("cat", "dog"))
    state, found = torch.random.get_rng_state(), {}
    for name in ("retrieval", "zero-shot"):
        entry = catalog.find("evaluations", name)
        evaluation_class = catalog.load(entry)
        values = evaluation_class(evaluation_class.Config()).run(backbone, data[entry.spec.kind], RUNTIME)
        assert entry.spec.primary in values and all(isinstance(value, int | float) for value in values.values())
        assert values["unreadable"] == 1
        found[name] = values
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found["zero-shot"]["examples"] == 8 and found["zero-shot"]["top5"] == 1.0
    assert (found["retrieval"]["images"], found["retrieval"]["texts"]) == (3, 3)
