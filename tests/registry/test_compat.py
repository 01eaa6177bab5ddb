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
        (("pair_score",), DUAL, "derived", "pair_score from contrastive_head + encode_image + encode_text"),
        (("sequence_logp",), {Capability.TOKEN_LOGPS}, "derived", "sequence_logp from token_logps"),
        (("token_logps",), DUAL, "no", "missing token_logps"),
        (("generate", "token_logps"), DUAL, "no", "missing generate, token_logps"),
        (("encode_image",), {Capability.ENCODE_IMAGE}, "yes", ""),
    ],
)
def test_verdicts(needs: tuple[str, ...], provides: frozenset[Capability], word: str, text: str) -> None:
    verdict = check(objective(*needs), family(*provides), Catalog(load_plugins()))
    assert (verdict.word, verdict.explain()) == (word, text)


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
