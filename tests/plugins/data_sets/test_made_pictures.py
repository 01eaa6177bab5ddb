"""Pictures that are made when they are read: distracted drawings and damaged pictures; the groups of `emoji`."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmalign_data.damaged import DAMAGES, DamagedPictures, DamagedPicturesConfig, damaged
from mmalign_data.distracted import THINGS, DistractedEmoji, DistractedEmojiConfig
from mmalign_data.emoji import GROUPS, Emoji, EmojiConfig, glyphs_of
from PIL import Image
from pydantic import ValidationError

from mmalign.contract.examples import Completion, Preference, Prompt, Ranking
from mmalign.data.images import open_image
from mmalign.errors import DataError
from mmalign.pairs.options import candidates_of

TRAIN, HELD_OUT = "train", "validation"


def distracted(split: str = TRAIN, **options: Any) -> DistractedEmoji:
    return DistractedEmoji.build(DistractedEmojiConfig(**options), split)


def of_damage(split: str = TRAIN, **options: Any) -> DamagedPictures:
    return DamagedPictures.build(DamagedPicturesConfig(**options), split)


def pixels(reference: Any) -> np.ndarray:
    return np.asarray(open_image(reference), dtype=float)


def names(part: DistractedEmoji) -> set[str]:
    examples = (part[index] for index in range(len(part)))
    return {text for example in examples for text in (example.chosen, example.rejected)}


# Distracted drawings --------------------------------------------------------------------------------------------------


def test_the_true_name_is_before_that_of_another_thing_of_the_same_part() -> None:
    train, held_out = distracted(), distracted(HELD_OUT)
    assert len(train) == train.report()["kept"] == 728 and len(held_out) == 129
    assert all(part[index].chosen != part[index].rejected for part in (train, held_out) for index in range(len(part)))
    assert not names(train) & names(held_out)
    assert train[0] == Preference(train[0].key, train[0].prompt, "a drawing of a monkey face", train[0].rejected)
    assert open_image(train[0].prompt).size == (224, 224)


def test_a_picture_is_the_same_at_every_call_and_another_in_every_round() -> None:
    once, twice = distracted(), distracted(rounds=2)
    assert len(twice) == 2 * len(once) and len({twice[index].key for index in range(len(twice))}) == len(twice)
    assert pickle.loads(pickle.dumps(once))[5] == once[5] == distracted()[5] == twice[5]
    first, second = twice[5], twice[5 + len(once)]
    assert first.chosen == second.chosen and first.rejected != second.rejected and first.prompt != second.prompt
    assert once.fingerprint() == distracted().fingerprint()
    assert len({part.fingerprint() for part in (once, twice, distracted(share=0.3), distracted(HELD_OUT))}) == 4


def test_the_small_drawing_covers_one_corner_and_nothing_else() -> None:
    plain, pasted = (distracted(HELD_OUT, distraction=way, share=0.25) for way in ("none", "drawing"))
    corners = set()
    for index in range(12):
        changed = np.argwhere((pixels(plain[index].prompt) != pixels(pasted[index].prompt)).any(2))
        low, high = changed.min(0), changed.max(0)
        assert all(high[axis] < 56 or low[axis] >= 168 for axis in (0, 1))
        corners.add(tuple(low >= 168))
    assert len(corners) > 1


def test_a_word_is_written_across_the_middle() -> None:
    plain, written = (distracted(HELD_OUT, distraction=way) for way in ("none", "word"))
    for index in range(12):
        changed = np.argwhere((pixels(plain[index].prompt) != pixels(written[index].prompt)).any(2))
        assert 60 < changed[:, 0].min() and changed[:, 0].max() < 164
        assert plain[index].chosen == written[index].chosen


def test_kinds_are_of_the_same_pictures() -> None:
    pair, answer, prompt = (distracted(kind=kind)[3] for kind in ("preference", "completion", "prompt"))
    assert answer == Completion(pair.key, pair.prompt, pair.chosen)
    assert prompt == Prompt(pair.key, pair.prompt, pair.chosen)


def test_candidates_are_told_without_making_a_picture() -> None:
    texts = candidates_of((), [distracted(), distracted(HELD_OUT)], required=True)
    things = [glyph for split in (TRAIN, HELD_OUT) for glyph in glyphs_of(split, 0.15) if glyph["group"] in THINGS]
    assert sorted(texts) == sorted({f"a drawing of a {glyph['name']}" for glyph in things})


@pytest.mark.parametrize(("holdout", "split"), [(1e-6, HELD_OUT), (1 - 1e-6, TRAIN)])
def test_a_part_without_two_drawings_is_refused(holdout: float, split: str) -> None:
    with pytest.raises(DataError, match=f"leaves 0 for {split}") as caught:
        distracted(split, holdout=holdout)
    assert "dataset.holdout" in str(caught.value.hint)


# Damaged pictures -----------------------------------------------------------------------------------------------------


def test_a_ranking_goes_from_clean_to_worst() -> None:
    part = of_damage(levels=3)
    for index in range(8):
        ranking = part[index]
        assert isinstance(ranking, Ranking) and ranking.ranks == (1.0, 2.0, 3.0, 4.0)
        assert ranking.prompt == "a sharp, clean photograph"
        clean, *worse = map(pixels, ranking.completions)
        distances = [np.abs(clean - each).mean() for each in worse]
        assert clean.shape == (224, 224, 3) and 0 < distances[0] < distances[1] < distances[2], ranking.key


def test_all_damages_take_turns_on_photographs_and_on_drawings() -> None:
    part = of_damage(damages=tuple(DAMAGES), size=48)
    kinds = [part[index].key.rpartition(":")[2] for index in range(48)]
    assert kinds == list(DAMAGES) * 8
    assert part.report() == {
        "kept": 48,
        "skipped": {},
        "source": "damaged-pictures (embedded)",
        "photographs": 24,
    }
    assert of_damage(photographs=0.0).report()["photographs"] == 0
    assert of_damage(photographs=1.0, size=40).report()["photographs"] == 40


def test_damaged_pictures_are_the_same_at_every_call() -> None:
    part = of_damage(size=40)
    assert len(of_damage(HELD_OUT, size=40)) == 10
    assert pickle.loads(pickle.dumps(part))[7] == part[7] == of_damage(size=40)[7]
    others = (of_damage(size=40, levels=2), of_damage(HELD_OUT, size=40), of_damage(size=40, damages=("blur",)))
    assert len({each.fingerprint() for each in (part, *others)}) == 4


def test_parts_share_no_photograph_and_no_drawing() -> None:
    parts = [of_damage(split, size=200) for split in (TRAIN, HELD_OUT)]
    shown: list[set[str]] = [{Path(s.photograph.path).stem for s in part._sources if s.photograph} for part in parts]
    assert len(shown[0]) == 7 and shown[1] == {"clownfish", "koala"}
    drawings = [{reference.offset for reference in part._drawings} for part in parts]
    assert drawings[0] and drawings[1] and not drawings[0] & drawings[1]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_keeps_the_size_and_depends_on_its_strength_and_key_alone(damage: str) -> None:
    picture = Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1), 50).convert("RGB")
    picture.putpixel((3, 3), (250, 20, 20))
    assert damaged(picture, damage, 0.0, "a") is picture
    once = damaged(picture, damage, 0.5, "a")
    assert once.size == picture.size and once.mode == "RGB" and once.tobytes() != picture.tobytes()
    assert damaged(picture, damage, 0.5, "a").tobytes() == once.tobytes()
    assert (damaged(picture, damage, 0.5, "b").tobytes() == once.tobytes()) == (damage != "noise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damages": ["dust"]}, "blur"),
        ({"damages": []}, "at least 1"),
        ({"levels": 0}, "greater"),
        ({"prompt": ""}, "1"),
    ],
)
def test_wrong_options_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DamagedPicturesConfig(**options)


# Groups of drawings ---------------------------------------------------------------------------------------------------


def test_a_drawing_answers_with_its_group() -> None:
    parts = [Emoji.build(EmojiConfig(kind="prompt", answers="group"), split) for split in (TRAIN, HELD_OUT)]
    named = Emoji.build(EmojiConfig(kind="prompt"), HELD_OUT)
    assert parts[0] is not None and parts[1] is not None and named is not None
    assert [len(part) for part in parts] == [1774, 132]
    assert set(candidates_of((), parts, required=True)) == set(GROUPS.values())
    assert [parts[1][index].prompt for index in range(132)] == [named[index].prompt for index in range(132)]
    groups = {glyph["name"]: GROUPS[glyph["group"]] for glyph in glyphs_of(HELD_OUT, 0.08)}
    for index in range(132):
        assert parts[1][index].solution == groups[named[index].solution.removeprefix("a drawing of a ")]
