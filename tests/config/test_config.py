"""Configuration: merging, the YAML reader's defined outcomes, validation that lists every mistake, round trips."""

import math
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from mmalign.config.schema import commented_yaml, field_rows, json_schema
from mmalign.config.section import SECTIONS
from mmalign.config.validate import build, build_all
from mmalign.config.yaml_reader import MAX_ALIASES, MAX_BYTES, read_yaml
from mmalign.errors import UsageError
from mmalign.registry.catalog import Catalog
from mmalign.train.layers import load_layers, parse_set, recipe_path
from mmalign.train.options import run_layers


class Optimiser(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    rate: float = Field(1e-5, gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the moments")


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    beta: float = Field(0.1, ge=0, description="weight of the divergence")
    loss: Literal["infonce", "sigmoid"] = Field("infonce", description="which loss")
    optimiser: Optimiser = Field(default_factory=Optimiser, description="how to step")
    weights: dict[str, float] = Field(default_factory=dict, description="by name")
    path: Path | None = Field(None, description="a file: 'x' # y")
    width: int | str = Field(3, description="pixels")
    flag: bool = Field(False, description="on or off")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# The YAML reader ------------------------------------------------------------------------------------------------------

VALUES: list[tuple[str, Any]] = [
    ("1e-4", 1e-4),
    ("1E5", 1e5),
    ("-.5", -0.5),
    ("1.", 1.0),
    ("no", "no"),
    ("on", "on"),
    ("012", "012"),
    ("1_0", "1_0"),
    ("0x1F", 31),
    ("0o17", 15),
    ("-7", -7),
    ("true", True),
    ("~", None),
    ("", None),
    ("1:30", "1:30"),
    ("2026-01-01", "2026-01-01"),
    ("'1'", "1"),
    (".inf", math.inf),
    ("!!str 5", "5"),
    ("[1, [two, 3.0]]", [1, ["two", 3.0]]),
    ("ViT-B-32/openai", "ViT-B-32/openai"),
    ("é — ☃", "é — ☃"),
]


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[text or "empty" for text, _ in VALUES])
def test_values(tmp_path: Path, text: str, value: Any) -> None:
    data, lines = read_yaml(write(tmp_path / "x.yaml", f"# comment\na: {text}\n"))
    assert data == {"a": value}
    assert type(data["a"]) is type(value)
    assert lines[("a",)] == 2


REFUSED = {
    "python tag": (
        "a: !!python/object/apply:os.system [id]",
        ":1: tag tag:yaml.org,2002:python/object/apply:os.system",
    ),
    "python name": ("a: !!python/name:os.system", "is not allowed"),
    "own tag": ("a: !thing 1", ":1: tag !thing is not allowed"),
    "binary": ("a: !!binary aGk=", "is not allowed"),
    "set": ("a: !!set {x}", "is not allowed"),
    "duplicate key": ("a: 1\nb: 2\na: 3", ":3: key 'a' is already set in line 1"),
    "nested duplicate": ("a:\n  b: 1\n  b: 1", ":3: key 'b' is already set in line 2"),
    "boolean key": ("true: 1", ":1: a key that is not text: quote it"),
    "number key": ("a: {1: 2}", "a key that is not text"),
    "list key": ("? [a]\n: 1", "a key that is not text"),
    "cycle": ("a: &x [*x]", "a value that contains itself"),
    "billion laughs": (
        "a: &a [x,x]\n"
        + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abc", "bcd", strict=True)),
        f"more than {MAX_ALIASES} aliases",
    ),
    "unknown alias": ("a: *nobody", "found undefined alias"),
    "open bracket": ("a: [1", ":1: expected ',' or ']'"),
    "tab": ("a:\n\tb: 1", ":2: found character"),
    "two documents": ("a: 1\n---\nb: 1", "another document"),
    "too deep": ("a: " + "[" * 5000, "nested too deeply"),
    "NUL": ("a: \0", "unacceptable character"),
    "bad integer": ("a: !!int many", "'many' is not a valid int"),
    "yes as bool": ("a: !!bool yes", "'yes' is not a valid bool"),
    "too large": ("#" * (MAX_BYTES + 1), "is larger than"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    text, part = REFUSED[case]
    path = write(tmp_path / "x.yaml", text)
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    assert part in str(caught.value) and str(path) in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UsageError, match=r"not UTF-8 \(byte 3\)"):
        read_yaml(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_bytes("\ufeffa: 1".encode())
    assert read_yaml(tmp_path / "x.yaml")[0] == {"a": 1}


# Layers ---------------------------------------------------------------------------------------------------------------


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "objective: contrastive\ntrain: {steps: 1, seed: 1}\nbackbone: {name: a, x: 1}")
    one = write(tmp_path / "one.yaml", "train:\n  steps: 2\n  nested: {a: 1, b: 1}\n")
    two = write(tmp_path / "two.yaml", "train:\n  nested: {b: 2}\nbackbone: b\n")
    layers = load_layers(recipe=recipe, files=[one, two], sets=["train.steps=3", "train.nested.c=[1]"])
    assert set(layers) == set(SECTIONS)
    assert layers["train"] == {"steps": 3, "seed": 1, "nested": {"a": 1, "b": 2, "c": [1]}}
    assert layers["objective"] == {"name": "contrastive"}
    assert layers["backbone"] == {"name": "b"}  # options of one name never reach another
    assert layers["backbone"].dropped == {"x": f"{recipe}:3"}
    assert layers["train"].origins["steps"] == "command line"
    assert layers["train"].origins["nested.b"] == f"{two}:2"
    assert layers["train"].origins["seed"] == f"{recipe}:2"


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("objective.beta=0.2", ("objective", "beta"), 0.2),
        ("train.steps=10", ("train", "steps"), 10),
        ("train.a.b=[1, 2]", ("train", "a", "b"), [1, 2]),
        ("backbone.name=open_clip:ViT-B-32/openai", ("backbone", "name"), "open_clip:ViT-B-32/openai"),
        ("dataset.path=a=b", ("dataset", "path"), "a=b"),
        ("dataset.path=", ("dataset", "path"), ""),
        ("train.x=null", ("train", "x"), None),
        ("train.x=NaN", ("train", "x"), "NaN"),
        ('train.x="5"', ("train", "x"), "5"),
        ("backbone=clip-lite", ("backbone",), "clip-lite"),
    ],
)
def test_parse_set(text: str, path: tuple[str, ...], value: Any) -> None:
    assert parse_set(text) == (path, value)


@pytest.mark.parametrize(
    ("sets", "names", "part"),
    [
        (["train.steps"], {}, "is not section.key=value"),
        (["=3"], {}, "is not section.key=value"),
        (["objectiv.beta=1"], {}, "Did you mean objective?"),
        (["train=3"], {}, "section train takes options"),
        (["train.a=1", "train.a.b=2"], {}, "a is already set to a value"),
        (["backbone.name=a"], {"backbone": "b"}, "disagree"),
    ],
)
def test_wrong_sets(sets: list[str], names: dict[str, str], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        load_layers(sets=sets, names=names)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("trian: {}\n", "x.yaml:1: unknown section 'trian'. Did you mean train?"),
        ("- a\n", "holds a list, not sections"),
        ("train: 3\n", "x.yaml:1: section train takes options"),
        ("train: text\n", "takes options (key: value), not text"),
        ("objective: [a]\n", "takes a name or options, not a list"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_layers(files=[write(tmp_path / "x.yaml", text)])
    assert part in str(caught.value)


def test_recipes_are_found_by_plain_names_only() -> None:
    path = recipe_path("contrastive")
    assert path is not None and load_layers(recipe=path)["objective"]["name"] == "contrastive"
    assert recipe_path("no-such-recipe") is None
    assert recipe_path("../pyproject") is None


def test_a_bare_name_for_a_file_is_a_packaged_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layers = load_layers(files=[Path("pasted-objects")], sets=["objective.beta=0.5"])
    assert layers["objective"] == {"name": "dpo", "beta": 0.5} and layers["dataset"]["name"] == "distracted-emoji"
    assert layers["train"].origins["steps"].startswith(f"{recipe_path('pasted-objects')}:")
    with pytest.raises(UsageError, match=r"-c pasted-object: .* Did you mean pasted-objects\?") as caught:
        load_layers(files=[Path("pasted-object")])
    assert "contrastive" in str(caught.value.hint)
    write(tmp_path / "pasted-objects", "objective: own\n")
    assert load_layers(files=[Path("pasted-objects")])["objective"]["name"] == "own", "a file comes first"


def test_a_named_recipe_stands_in_the_place_of_the_objectives(catalog: Catalog) -> None:
    layers, notes = run_layers(catalog, {}, files=[Path("pasted-objects")])
    assert not notes and "tie" not in layers["objective"]
    layers, notes = run_layers(catalog, {"objective": "sft"}, files=[Path("pasted-objects")])
    assert layers["backbone"]["name"] == "clip-lite" and "objective.beta" in notes[0]


# Validation -----------------------------------------------------------------------------------------------------------


def test_all_mistakes_at_once_with_their_lines(tmp_path: Path) -> None:
    text = "objective:\n  name: o\n  betta: 1\n  loss: sigmoi\n  optimiser:\n    rat: 1\n  weights: {a: x}\n"
    layers = load_layers(files=[write(tmp_path / "x.yaml", text)], sets=["objective.beta=-1", "objective.width=[1]"])
    with pytest.raises(UsageError) as caught:
        build(Options, layers["objective"], "objective")
    lines = caught.value.message.splitlines()
    where = tmp_path / "x.yaml"
    assert f"objective.betta: unknown key. Did you mean beta? ({where}:3)" in lines
    assert f"objective.optimiser.rat: unknown key. Did you mean rate? ({where}:6)" in lines
    assert any(line.startswith("objective.loss:") and "Did you mean sigmoid?" in line for line in lines)
    assert any(line.startswith("objective.weights.a:") and line.endswith(f"({where}:7)") for line in lines)
    assert any(line.startswith("objective.beta: Input should be greater than or equal to 0, got -1") for line in lines)
    assert all("objective.width:" in line for line in lines if "width" in line)
    assert caught.value.hint == "All options: mmalign config show o"


def test_several_sections_in_one_error() -> None:
    with pytest.raises(UsageError) as caught:
        build_all({"objective": Options, "train": Optimiser}, {"objective": {"x": 1}, "train": {"y": 1}})
    assert caught.value.message == "objective.x: unknown key.\ntrain.y: unknown key."


def test_text_from_the_command_line_is_coerced_by_type() -> None:
    layers = load_layers(sets=["objective.beta=0.5", "objective.flag=no", "objective.path=1.txt"])
    options = build(Options, layers["objective"], "objective")
    assert (options.beta, options.flag, options.path) == (0.5, False, Path("1.txt"))


def test_required_is_named() -> None:
    class Needy(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        path: Path = Field(description="a file")

    with pytest.raises(UsageError, match=r"dataset\.path: is required and missing"):
        build(Needy, {"name": "x"}, "dataset")
    assert "# path:   (required)" in commented_yaml(Needy, "dataset")


# Schemas --------------------------------------------------------------------------------------------------------------


def test_commented_yaml_reads_back_in_both_dialects(tmp_path: Path) -> None:
    import yaml

    values = {"beta": 1e-7, "optimiser": {"rate": 3e-4}}
    text = commented_yaml(Options, "objective", name="no", values=values)
    layers = load_layers(files=[write(tmp_path / "x.yaml", text)])
    expected = Options(beta=1e-7, optimiser=Optimiser(rate=3e-4))
    assert build(Options, layers["objective"], "objective") == expected
    old = yaml.safe_load(text)["objective"]
    assert old.pop("name") == "no"
    assert Options(**old) == expected
    for row in field_rows(Options):
        assert row["description"] in text


def test_json_schema_accepts_what_we_print_and_names_what_we_refuse() -> None:
    schema = json_schema({"objective": Options, "train": Optimiser})
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"objective", "train", "streams", "trackers"}
    assert schema["properties"]["objective"]["anyOf"][0] == {"type": "string"}
    assert schema["$defs"]["Options"]["additionalProperties"] is False
    assert "name" in schema["$defs"]["Options"]["properties"]
    assert "name" not in schema["$defs"]["Optimiser"]["properties"]
