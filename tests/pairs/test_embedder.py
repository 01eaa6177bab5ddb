"""A language model as an encoder of texts: equal to its hidden states pooled one text at a time, and to
sentence-transformers."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmalign.contract.batch import Ragged
from mmalign.errors import BadSample, CheckpointError, UsageError
from mmalign.language.sampling import Sampling
from mmalign.language.sequences import Sequences
from mmalign.models.load import load_model
from mmalign.models.references import find_source
from mmalign.pairs.embedder import Embedder
from mmalign.pairs.embedder_options import EmbedderOptions, Embedding
from mmalign.pairs.sentence_transformers import settings_of
from mmalign.registry.catalog import Catalog
from mmalign.testing.bench import Workbench
from tests.support import tiny_families

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ("a cat on a tree", "a dog", "a", "the house of a bird")
LONG = "a bird that sings and sings " * 5
NEEDS = ("encode_text", "contrastive_head")
POOLINGS = ("last", "eos", "mean", "weighted-mean")
INSTRUCTION = "find it:\n"


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench({}, {})


def encoder(catalog: Catalog, folder: Path, **options: Any) -> Embedder:
    return load_model(catalog, find_source(str(folder), catalog), {"embedder": options}, needs=NEEDS)


def encoded(model: Embedder, side: str = "text", texts: tuple[str, ...] = TEXTS) -> Tensor:
    rows = [getattr(model.processor, side)(text).ids for text in texts]
    with torch.no_grad():
        return model.encode_text(Ragged.from_list(rows))


def twin(model: Any, pooling: str, instruction: str = "") -> Tensor:
    """By transformers' base model on each text alone, and loops."""
    tokenizer, rows = model.processor.base.tokenizer, []
    for text in TEXTS:
        ids = tokenizer(instruction + text)["input_ids"]
        if pooling == "eos" and ids[-1] != tokenizer.eos_token_id:
            ids.append(tokenizer.eos_token_id)
        skipped = len(tokenizer(instruction)["input_ids"]) if instruction else 0
        with torch.no_grad():
            states = model.module.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        weights = [0.0] * len(ids)
        for place in range(skipped, len(ids)):
            is_last = float(place == len(ids) - 1)
            weights[place] = {"mean": 1.0, "weighted-mean": place + 1.0}.get(pooling, is_last)
        rows.append(sum(weight * state for weight, state in zip(weights, states, strict=True)) / sum(weights))
    return normalize(torch.stack(rows), dim=1)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_embeddings_are_the_pooled_states_of_each_text_alone(bench: Workbench, name: str, pooling: str) -> None:
    model = encoder(bench.catalog, bench.model(name), pooling=pooling, query_instruction=INSTRUCTION)
    model.module.double()
    exact = {"rtol": 0, "atol": 1e-10 if name == "tiny-gpt2" else 1e-6}  # Llama's norms are in float32
    torch.testing.assert_close(encoded(model), twin(model, pooling), **exact)
    torch.testing.assert_close(encoded(model, "query"), twin(model, pooling, INSTRUCTION), **exact)


def test_a_pooled_instruction_counts(bench: Workbench) -> None:
    model = encoder(bench.catalog, bench.model("tiny-gpt2"), query_instruction=INSTRUCTION, pool_instruction=True)
    whole = encoder(bench.catalog, bench.model("tiny-gpt2"))
    ids = [whole.processor.text(INSTRUCTION + text).ids for text in TEXTS]
    with torch.no_grad():
        torch.testing.assert_close(encoded(model, "query"), whole.encode_text(Ragged.from_list(ids)))


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_attention_in_both_directions_is_that_of_transformers(bench: Workbench, name: str) -> None:
    model = encoder(bench.catalog, bench.model(name), bidirectional=True)
    causal = encoder(bench.catalog, bench.model(name))
    plain = copy.deepcopy(causal.module.base_model)
    plain.config.is_causal = False
    with torch.no_grad():
        rows = [plain(input_ids=causal.processor.text(t).ids[None]).last_hidden_state[0].mean(0) for t in TEXTS]
    torch.testing.assert_close(encoded(model), normalize(torch.stack(rows), dim=1), rtol=0, atol=1e-5)
    assert float((encoded(model) - encoded(causal)).abs().max()) > 1e-3


@pytest.mark.parametrize("family", ["gpt_neo", "mamba"])
def test_a_family_that_looks_back_alone_is_refused(catalog: Catalog, family: str, tmp_path: Path) -> None:
    folder = tiny_families.write(family, tmp_path / family)
    with pytest.raises(CheckpointError, match="cannot attend in both directions"):
        encoder(catalog, folder, bidirectional=True)


def test_a_model_that_looks_both_ways_writes_nothing(bench: Workbench) -> None:
    source = find_source(str(bench.model("tiny-gpt2")), bench.catalog)
    model = load_model(bench.catalog, source, {"embedder": {"bidirectional": True}})
    ids = torch.tensor([3, 4, 5])
    with pytest.raises(UsageError, match="embeds texts and neither writes nor predicts"):
        model.generate([ids], Sampling(max_tokens=2), [0])
    with pytest.raises(UsageError, match="neither writes"):
        model.hidden_states(Sequences.from_lists([ids], [[ids]]))


@pytest.mark.parametrize(
    "options",
    [
        *({"pooling": pooling} for pooling in POOLINGS),
        {"query_instruction": INSTRUCTION, "document_instruction": "an animal:\n"},
        {"pooling": "weighted-mean", "query_instruction": "find: ", "pool_instruction": True},
        {"bidirectional": True},
        {"learn_temperature": True, "temperature": 0.1},
        {"lora": {"rank": 2}},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_sentence_transformers_gives_the_same_embeddings(
    bench: Workbench, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    source = find_source(str(bench.model(name)), bench.catalog)
    options = options if "lora" in options else {"embedder": options}
    model = load_model(bench.catalog, source, options, needs=NEEDS)
    with torch.no_grad():
        for parameter_name, parameter in model.module.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.1)
    model.save(tmp_path / "saved")
    other = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    again = load_model(bench.catalog, find_source(str(tmp_path / "saved"), bench.catalog), needs=NEEDS)
    for side, encode in (("query", other.encode_query), ("text", other.encode_document)):
        mine = encoded(model, side, (*TEXTS, LONG))
        torch.testing.assert_close(encode([*TEXTS, LONG], convert_to_tensor=True), mine, rtol=0, atol=1e-5)
        torch.testing.assert_close(encoded(again, side, (*TEXTS, LONG)), mine, rtol=0, atol=1e-6)
    assert again.settings.temperature == pytest.approx(model.settings.temperature)


def test_a_learned_temperature_is_a_parameter_that_no_saved_model_holds(bench: Workbench, tmp_path: Path) -> None:
    model = encoder(bench.catalog, bench.model("tiny-gpt2"), learn_temperature=True)
    scale = model.contrastive_head().log_scale
    assert scale.requires_grad and float(scale.detach()) == pytest.approx(math.log(20))
    with torch.no_grad():
        scale.fill_(math.log(50))
    model.save(tmp_path / "saved")
    assert model.contrastive_head().log_scale is scale
    assert encoder(bench.catalog, tmp_path / "saved").settings.temperature == pytest.approx(0.02)
    fixed = encoder(bench.catalog, bench.model("tiny-gpt2"), temperature=0.02).contrastive_head().log_scale
    assert not fixed.requires_grad and float(fixed) == pytest.approx(math.log(50))


# Folders as published: Qwen3-Embedding, SGPT, E5-Mistral, and what sentence-transformers 6 writes.
_TYPE = "sentence_transformers.models."
PUBLISHED: dict[str, tuple[Any, Any, Any, Embedding | str]] = {
    "qwen3": (
        ["Transformer", "Pooling", "Normalize"],
        {"word_embedding_dimension": 1024, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True,
         "include_prompt": True},
        {"prompts": {"query": "Instruct: Find\nQuery:", "document": ""}, "similarity_fn_name": "cosine"},
        Embedding("last", "Instruct: Find\nQuery:", "", pool_instruction=True),
    ),
    "sgpt": (
        ["Transformer", "Pooling"],
        {"word_embedding_dimension": 768, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False,
         "pooling_mode_weightedmean_tokens": True},
        None,
        Embedding("weighted-mean", pool_instruction=True),
    ),
    "e5-mistral": (
        ["Transformer", "Pooling", "Normalize"],
        {"word_embedding_dimension": 4096, "pooling_mode_lasttoken": True},
        {"prompts": {"web_search_query": "Instruct: Given a query\nQuery: "}},
        Embedding("last", pool_instruction=True),
    ),
    "version 6": (
        ["Transformer", "Pooling", "Normalize"],
        {"embedding_dimension": 256, "pooling_mode": "weightedmean", "include_prompt": False},
        {"prompts": {"query": "q:\n", "document": ""}, "model_type": "SentenceTransformer"},
        Embedding("weighted-mean", "q:\n"),
    ),
    "with a dense layer": (
        ["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, None, "Transformer, Pooling, Dense",
    ),
    "of the first token": (["Transformer", "Pooling"], {"pooling_mode_cls_token": True}, None, "cls_token"),
}  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_folders_say_how_they_pool(case: str, tmp_path: Path) -> None:
    modules, pooling, main, expected = PUBLISHED[case]
    paths = ["", "1_Pooling", "2_Normalize"]
    stated = [{"path": path, "type": _TYPE + name} for path, name in zip(paths, modules, strict=False)]
    (tmp_path / "modules.json").write_text(json.dumps(stated))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(pooling))
    if main is not None:
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(main))
    if isinstance(expected, str):
        with pytest.raises(CheckpointError, match=expected):
            settings_of(EmbedderOptions(), tmp_path)
        return
    assert settings_of(EmbedderOptions(), tmp_path) == expected
    assert settings_of(EmbedderOptions(pooling="mean"), tmp_path).pooling == "mean"


def test_what_cannot_be_embedded_is_refused(bench: Workbench) -> None:
    folder = bench.model("tiny-gpt2")
    with pytest.raises(UsageError, match="joins the text behind it"):
        encoder(bench.catalog, bench.model("tiny-llama"), query_instruction="find ")
    model = encoder(bench.catalog, folder, query_instruction=INSTRUCTION)
    with pytest.raises(BadSample):
        model.processor.text("")
    long = model.processor.text("a cat " * 500)
    assert len(long.ids) == model.processor.context_length and long.num_lost > 0
    ended = encoder(bench.catalog, folder, pooling="eos").processor.text("a cat " * 500)
    assert int(ended.ids[-1]) == model.processor.base.end_id
