"""The kit's checks of what is sampled find what they are for."""

from functools import partial

import pytest

from mmalign.language.sampling import Sampling, uniforms
from mmalign.testing.online_checks import company_changes_no_answer, first_ratio_is_one
from mmalign.testing.trainer import Trainer, build_trainer
from tests.support.online_samples import MODEL

pytestmark = pytest.mark.usefixtures("one_thread")


def build(bench, **how) -> Trainer:
    return build_trainer(bench.catalog.find("objectives", "ppo"), MODEL, bench, **how)


def test_sound_ones_pass(bench) -> None:
    company_changes_no_answer(partial(build, bench))
    first_ratio_is_one(partial(build, bench))


def test_numbers_drawn_by_place_in_the_batch(bench, monkeypatch) -> None:
    monkeypatch.setattr("mmalign_lm.generation.uniforms", lambda seeds, step: uniforms(range(len(seeds)), step))
    with pytest.raises(AssertionError, match=r"1 at a time: answer .* has other tokens"):
        company_changes_no_answer(partial(build, bench))


def test_a_first_ratio_that_is_only_nearly_one(bench, monkeypatch) -> None:
    monkeypatch.setattr("mmalign.rl.rollout_batch.old_logps", lambda batch, logps: batch["old"].values)
    with pytest.raises(AssertionError, match="not exactly 1"):
        first_ratio_is_one(partial(build, bench))


def test_another_temperature_than_was_sampled_at(bench) -> None:
    def cooler(**how) -> Trainer:
        trainer = build(bench, **how)
        trainer.objective.sampling = Sampling(4, 0.5)
        return trainer

    with pytest.raises(AssertionError, match="sampler_logps and the logps of forward differ"):
        first_ratio_is_one(cooler)
