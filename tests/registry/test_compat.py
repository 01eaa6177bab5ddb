"""The compatibility matrix: every cell follows from the declared needs, and a refusal says what would work."""

import itertools

import pytest

from mmalign.contract.capabilities import DERIVATIONS, Capability, Derived, satisfy
from mmalign.contract.specs import Entry, Family, ObjectiveSpec, Role
from mmalign.errors import IncompatibleError
from mmalign.registry.catalog import Catalog
from mmalign.registry.compat import check, matrix, require
from mmalign.registry.plugins import load_plugins

DUAL = frozenset({Capability.ENCODE_IMAGE, Capability.ENCODE_TEXT, Capability.CONTRASTIVE_HEAD})
LANGUAGE = frozenset({Capability.HIDDEN_STATES, Capability.TOKEN_LOGPS})
JUDGED = "as a reward model, which scores a picture and a text by their similarity"
VIEWED = "as a language model of one token, whose vocabulary is a list of texts"


def family(*provides: Capability, modalities: frozenset[str] = frozenset({"image", "text"})) -> Family:
    return Family(name="f", matches=lambda config: True, provides=frozenset(provides), modalities=modalities)


def objective(*needs: str, kinds: tuple[str, ...] = ("image-text",)) -> ObjectiveSpec:
    roles = (Role(name="policy", needs=needs),)
    return ObjectiveSpec(name="o", summary="s", target="m:T", roles=roles, examples={"main": kinds})


def test_satisfy_agrees_with_a_naive_reading_for_every_subset() -> None:
    everything = list(Capability)
    for size in range(len(everything) + 1):
        for provided in itertools.combinations(everything, size):
            have = frozenset(provided)
            for capability in Capability:
                assert satisfy(capability, have)[0] == (capability in have)
            for derived in Derived:
                ways = [way for way in DERIVATIONS[derived] if not way - have]
                met, through = satisfy(derived, have)
                assert met == bool(ways)
                assert through == ways[0] if ways else through and not through & have


@pytest.mark.parametrize(
    ("needs", "provides", "word", "text"),
    [
        (("encode_image", "encode_text"), DUAL, "yes", ""),
        (("sequence_logp",), {Capability.TOKEN_LOGPS}, "no", "missing hidden_states"),
        (("sequence_logp",), LANGUAGE, "derived", "sequence_logp from hidden_states + token_logps"),
        (("token_logps",), DUAL, "derived", VIEWED),
        (("sequence_logp",), DUAL, "derived", VIEWED),
        (("generate", "token_logps"), DUAL, "derived", VIEWED),
        (("score_sequences",), DUAL, "derived", JUDGED),
        (("score_sequences",), LANGUAGE, "no", "missing score_sequences"),
        (("token_logps",), {Capability.ENCODE_IMAGE, Capability.ENCODE_TEXT}, "no", "missing token_logps"),
        (("encode_image",), {Capability.ENCODE_IMAGE}, "yes", ""),
    ],
)
def test_verdicts(needs: tuple[str, ...], provides: frozenset[Capability], word: str, text: str) -> None:
    verdict = check(objective(*needs), family(*provides), Catalog(load_plugins()))
    assert (verdict.word, verdict.explain()) == (word, text)


def test_a_kind_whose_prompts_a_family_does_not_read_is_a_no() -> None:
    catalog, log_likelihood = Catalog(load_plugins()), ("hidden_states", "token_logps")
    documents = check(objective(*log_likelihood, kinds=("text",)), family(*DUAL), catalog)
    assert (documents.word, documents.unread) == ("no", ()) and documents.view is None
    assert documents.explain() == "missing hidden_states, token_logps"
    both = check(objective(*log_likelihood, kinds=("text-label", "image-label")), family(*DUAL), catalog)
    assert (both.word, both.kinds) == ("derived", ("image-label",))
    texts = check(objective(*log_likelihood, kinds=("text-label", "image-label")), family(*LANGUAGE), catalog)
    assert (texts.word, texts.kinds) == ("yes", ("text-label",))
    pictures = check(objective(*log_likelihood, kinds=("image-label",)), family(*LANGUAGE), catalog)
    assert pictures.explain() == "cannot read image-label examples"


def test_pictures_as_answers_are_for_objectives_that_use_differences_alone() -> None:
    catalog = Catalog(load_plugins())
    clip = catalog.find("backbones", "clip-lite").spec.families[0]
    relative = {
        e.spec.name for e in catalog.entries("objectives") if ("text", "image") in check(e.spec, clip, catalog).pairs
    }
    assert relative == {"dpo", "reward", "simpo"}


def test_the_matrix_shows_fourteen_objectives_on_clip_lite_but_one() -> None:
    words = {o.spec.name: v.word for b, _, o, v in matrix(Catalog(load_plugins())) if b.spec.name == "clip-lite"}
    assert words.pop("contrastive") == "yes" and words.pop("pretrain") == "no"
    assert set(words.values()) == {"derived"} and len(words) == 12


def test_a_modality_that_no_example_kind_avoids_is_a_no() -> None:
    text_only, catalog = family(*DUAL, modalities=frozenset({"text"})), Catalog(load_plugins())
    verdict = check(objective("encode_text"), text_only, catalog)
    assert (verdict.word, verdict.explain()) == ("no", "cannot read image")
    for kinds in (("image-text", "text"), ("no-such-kind",)):
        assert check(objective("encode_text", kinds=kinds), text_only, catalog).word == "yes"


def test_a_refusal_says_what_was_asked_what_is_missing_and_what_would_work() -> None:
    catalog = Catalog(load_plugins())
    entry = Entry("objectives", "p", objective("encode_image", "encode_text"))
    with pytest.raises(IncompatibleError) as caught:
        require(entry, family(Capability.ENCODE_IMAGE), "resnet-probe", catalog)
    assert caught.value.exit_code == 2
    assert caught.value.message == (
        "o needs encode_image, encode_text; resnet-probe (f) provides encode_image: missing encode_text"
    )
    assert "clip-lite" in caught.value.hint and "mmalign matrix o" in caught.value.hint


def test_matrix_has_every_pair_once() -> None:
    catalog = Catalog(load_plugins())
    cells = [(b.qualified, f.name, o.qualified) for b, f, o, _ in matrix(catalog)]
    assert len(cells) == len(set(cells))
    assert {("mmalign_clip/clip-lite", "open-clip", "mmalign_objectives/contrastive")} <= set(cells)


def test_unknown_needs_are_refused_when_the_spec_is_made() -> None:
    with pytest.raises(ValueError, match="telepathy"):
        objective("telepathy")
