"""What a run takes where it is told nothing: learning rates against the papers' and TRL's, warm-up, passes, and that
`mmalign config show` prints what a run then runs with."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmalign.cli import run
from mmalign.cli.config import _heading
from mmalign.config.yaml_reader import read_yaml
from mmalign.contract.rates import Rates, in_words
from mmalign.contract.specs import ObjectiveSpec, Role
from mmalign.models.references import find_source
from mmalign.models.size import ModelSize
from mmalign.registry.catalog import Catalog
from mmalign.train.config import TrainConfig
from mmalign.train.layers import load_layers
from mmalign.train.length import never_warm, passes, with_examples, with_steps
from mmalign.train.optim import learning_rate
from mmalign.train.rates import default_rate
from tests.support.project import ROOT


def rates_of(catalog: Catalog, objective: str) -> Rates:
    return catalog.find("objectives", objective).spec.rates


# Learning rates -------------------------------------------------------------------------------------------------------

PUBLISHED = [
    # objective, parameters, from random weights, rate, whose
    ("pretrain", 125e6, True, 6e-4, "GPT-3"),
    ("pretrain", 1.3e9, True, 2e-4, "GPT-3"),
    ("pretrain", 13e9, True, 1e-4, "GPT-3"),
    ("sft", 8e9, False, 5e-6, "Tulu 3"),
    ("sft", 70e9, False, 2e-6, "Tulu 3"),
    ("dpo", 8e9, False, 5e-7, "Tulu 3"),
    ("dpo", 70e9, False, 2e-7, "Tulu 3"),
    ("dpo", 7e9, False, 5e-7, "Zephyr"),
    ("reward", 6e9, False, 9e-6, "InstructGPT"),
    ("contrastive", 151e6, True, 5e-4, "CLIP"),
    ("contrastive", 428e6, True, 4e-4, "CLIP"),
]


@pytest.mark.parametrize(("objective", "parameters", "random", "rate", "whose"), PUBLISHED)
def test_default_rates_are_near_the_published_ones(
    catalog: Catalog, objective: str, parameters: float, random: bool, rate: float, whose: str
) -> None:
    default, _ = default_rate(rates_of(catalog, objective), ModelSize(int(parameters), random), adapter=False)
    assert rate / 2.5 < default < rate * 2.5, whose


def trl_class(trl: Any, name: str) -> Any:
    return getattr(trl, name)  # loaded when it is asked for


def test_default_rates_are_those_of_trl_at_a_billion_parameters(catalog: Catalog) -> None:
    trl = pytest.importorskip("trl")
    configs = {"sft": "SFTConfig", "dpo": "DPOConfig", "kto": "KTOConfig", "grpo": "GRPOConfig", "rloo": "RLOOConfig"}
    for objective, config in configs.items():
        default, _ = default_rate(rates_of(catalog, objective), ModelSize(10**9, False), adapter=False)
        assert default == trl_class(trl, config).__dataclass_fields__["learning_rate"].default, objective


def test_an_adapter_takes_ten_times_the_rate_and_a_small_model_a_higher_one() -> None:
    rates = Rates(trained=1e-6, size=1e9, source="a paper")
    whole, why = default_rate(rates, ModelSize(10**9, False), adapter=False)
    assert (whole, why) == (
        1e-6,
        "a paper: 1e-06 for all weights at 1 billion parameters, and this model has 1 billion",
    )
    assert default_rate(rates, ModelSize(10**9, False), adapter=True)[0] == 1e-5
    assert default_rate(rates, ModelSize(125_000_000, False), adapter=False)[0] == 2e-6  # the cube root of 8
    assert default_rate(rates, ModelSize(8 * 10**9, False), adapter=False)[0] == 5e-7
    unknown, why = default_rate(rates, ModelSize(0, False), adapter=False)
    assert unknown == 1e-6 and "not known before it is loaded" in why


def test_a_third_party_states_its_own_rates_and_needs_none() -> None:
    roles = (Role(name="policy", needs=()),)
    spec = ObjectiveSpec(name="mine", summary="Mine", target="my.own:Mine", roles=roles, examples={"main": ("text",)})
    assert default_rate(spec.rates, ModelSize(10**9, False), adapter=False)[0] == 1e-5


@pytest.mark.parametrize("reference", ["gpt-mini", "llama:15m", "gpt-1", "tiny_llama", "tiny_gpt2", "tiny_bloom"])
def test_the_size_told_beforehand_is_that_of_the_model(
    catalog: Catalog, lm_folders: dict[str, Path], reference: str
) -> None:
    import torch

    source = find_source(str(lm_folders.get(reference, reference)), catalog)
    backbone = catalog.load(source.entry)
    before = torch.random.get_rng_state()
    size = backbone.size(source, backbone.Config())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert size.random == (reference in ("llama:15m", "gpt-1"))
    module = backbone.load(source, backbone.Config()).module
    assert size.parameters == sum(parameter.numel() for parameter in module.parameters())


def test_sizes_named_after_another_vocabulary_say_how_many_parameters_they_have(catalog: Catalog, capsys: Any) -> None:
    for name in ("gpt-1", "gpt-2", "llama"):
        spec = catalog.find("backbones", name).spec
        assert set(spec.parameters) == set(spec.sizes)
        for size, number in spec.parameters.items():
            source = find_source(f"{name}:{size}", catalog)
            backbone = catalog.load(source.entry)
            assert backbone.size(source, backbone.Config()).parameters == number
    assert run(["show", "gpt-2"]) == 0
    assert "gpt-2:124m has 90,561,024" in capsys.readouterr().out


def test_sizes_are_told_in_words() -> None:
    assert [in_words(n) for n in (17_000, 4_830_720, 999_900_000, 1.3e9)] == [
        "17,000", "4.83 million", "1 billion", "1.3 billion"
    ]  # fmt: skip


# Length ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5, 19, 200])
def test_a_run_of_any_length_leaves_its_warm_up(steps: int) -> None:
    config, _ = with_steps(TrainConfig(steps=steps, learning_rate=1.0, schedule="constant"))
    assert max(learning_rate(config, step) for step in range(steps)) == 1.0
    assert not never_warm(config)


def test_the_warm_up_in_steps_stays_and_one_that_never_ends_is_told() -> None:
    config, reasons = with_steps(TrainConfig(steps=10, warmup_steps=20, learning_rate=1.0))
    assert config.warmup_steps == 20 and not reasons
    assert learning_rate(config, 9) == 0.5
    assert "the run ends within its warm-up" in never_warm(config) and "warmup_share" in never_warm(config)
    assert with_steps(TrainConfig(steps=100, warmup_share=0.07))[0].warmup_steps == 7
    assert with_steps(TrainConfig(steps=100, warmup_share=0.0))[0].warmup_steps == 0


def test_epochs_are_passes_over_the_examples() -> None:
    config = TrainConfig(epochs=2.5, batch_size=8, warmup_share=0.1)
    assert with_steps(config) == (config, {})  # until the data is there
    whole = with_examples(config, 100)
    assert (whole.steps, whole.warmup_steps) == (32, 4)  # 250 examples, the last step completing them
    assert passes(whole, 100) == "32 steps of 8 are 2.6 passes over 100 examples"
    assert passes(with_steps(TrainConfig(batch_size=5))[0], 1000) == "200 steps of 5 are 1 pass over 1,000 examples"
    assert passes(TrainConfig(steps=1, batch_size=5), 1000, "prompts") == (
        "1 steps of 5 are 0.005 of a pass over 1,000 prompts"
    )
    with pytest.raises(ValueError, match="both given"):
        TrainConfig(steps=3, epochs=1)


def test_the_later_of_steps_and_epochs_counts(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train: {steps: 70, warmup_steps: 5, epochs: 0}")
    train = load_layers(files=[file], sets=["train.epochs=2", "train.warmup_share=0.2"])["train"]
    assert "steps" not in train and "warmup_steps" not in train and train["epochs"] == 2
    file.write_text("train: {epochs: 3, warmup_share: 0.2}")
    train = load_layers(files=[file], sets=["train.steps=5", "train.warmup_steps=1"])["train"]
    assert "epochs" not in train and (train["steps"], train["warmup_steps"]) == (5, 1)


# Recipes --------------------------------------------------------------------------------------------------------------


def test_packaged_recipes_say_their_own_rates_lengths_and_warm_ups() -> None:
    stages = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        document = read_yaml(path)[0]
        stages += [(path.name, stage) for stage in document.get("stages", {"": document}).values()]
    trained = [(name, stage["train"]) for name, stage in stages if stage.get("run", "train") == "train"]
    assert len(trained) > 10
    for name, train in trained:
        assert {"steps", "learning_rate", "warmup_steps"} <= set(train), name


# config show ----------------------------------------------------------------------------------------------------------


def pairs(folder: Path) -> Path:
    rows = [{"prompt": f"Is {n} odd?", "chosen": f" It is {n}.", "rejected": " No."} for n in range(12)]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SHORT = ("train.steps=1", "train.batch_size=2", "data.num_workers=0", "evaluation.samples=0", "train.save_every=0")


@pytest.mark.parametrize(
    ("objective", "own", "sets"),
    [
        ("dpo", True, ()),
        ("simpo", True, ("backbone.lora.rank=2",)),
        ("dpo", True, ("train.epochs=0.1", "train.steps=0")),
        ("sft", False, ("evaluation.max_examples=4",)),
    ],
)
def test_config_show_prints_what_the_run_runs_with(
    objective: str, own: bool, sets: tuple[str, ...], lm_folders: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    names = ["--backbone", str(lm_folders["tiny_llama"]), "--dataset", str(pairs(tmp_path))] if own else []
    options = [part for text in (*SHORT, *sets) for part in ("--set", text)]
    assert run(["-q", "config", "show", objective, *names, *options]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    out = tmp_path / "run"
    assert run(["-q", "train", "--objective", objective, *names, *options, "--out", str(out)]) == 0
    written = (out / "config.yaml").read_text()
    assert shown == yaml.safe_load(written)
    warmup = 10 if not own else -1 if shown["train"]["epochs"] else 1  # the recipe's, by epochs, a share of one step
    assert shown["train"]["learning_rate"] > 0 and shown["train"]["warmup_steps"] == warmup
    assert ("# train.learning_rate" in written) == own  # the recipe names its own


def test_config_show_says_whose_options_it_prints(capsys: Any, tmp_path: Path) -> None:
    assert run(["config", "show", "dpo"]) == 0
    recipe = capsys.readouterr().out
    assert "the packaged recipe dpo.yaml" in recipe and "mmalign config show dpo --backbone MODEL" in recipe
    assert yaml.safe_load(recipe)["objective"]["beta"] == 4.0
    assert run(["config", "show", "dpo", "--dataset", str(pairs(tmp_path))]) == 0
    out, err = capsys.readouterr()
    own = yaml.safe_load(out)
    assert own["objective"]["beta"] == 0.1 and own["train"]["learning_rate"] == 5.9e-6  # 1e-6 x (1e9 / 4.8e6) ** (1/3)
    assert "here: TRL's DPO: 1e-06 for all weights" in out and "dpo.yaml is tuned to gpt-mini and movie-reviews" in err
    assert "it has no recipe" in _heading("mine", "", own=True)
