"""Names in the catalog: bare, qualified, colliding, wrong; and what loading an entry says when it fails."""

import click
import pytest

from mmalign.cli import run
from mmalign.errors import PluginError, UsageError
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from tests.support.hostile_plugins import SPEC

TWIN = SPEC + "@hookimpl\ndef register_objectives():\n    return [spec('twin')]"

DATASET = """
from mmalign import DatasetSpec, hookimpl
from pydantic import BaseModel


class Tiny:
    class Config(BaseModel):
        pass

    @classmethod
    def build(cls, config, split):
        return cls()

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return None

    def report(self):
        return {"kept": 1, "skipped": {}, "source": "tiny"}

    def fingerprint(self):
        return "1"


@hookimpl
def register_datasets():
    return [DatasetSpec(name="tiny", summary="one", target=f"{__name__}:Tiny", kind="text")]
"""


def catalog() -> Catalog:
    return Catalog(load_plugins())


def test_builtin_keeps_the_bare_name(install) -> None:
    install("mine", SPEC + "@hookimpl\ndef register_objectives():\n    return [spec('contrastive')]")
    found = catalog()
    assert found.find("objectives", "contrastive").plugin == "mmalign_objectives"
    assert found.find("objectives", "mine/contrastive").plugin == "mine"
    names = [found.display_name(entry) for entry in found.entries("objectives")]
    assert [name for name in names if "contrastive" in name] == ["contrastive", "mine/contrastive"]


def test_two_third_parties_with_one_name_are_an_error_that_names_both(install) -> None:
    install("left", TWIN)
    install("right", TWIN)
    found = catalog()
    with pytest.raises(UsageError, match="left/twin and right/twin"):
        found.find("objectives", "twin")
    assert found.find("objectives", "right/twin").plugin == "right"


def test_unknown_names_suggest(install) -> None:
    with pytest.raises(UsageError) as caught:
        catalog().find("objectives", "contrastiv")
    assert caught.value.message == "unknown objective 'contrastiv'"
    assert caught.value.hint == "Did you mean contrastive? Try: mmalign list objectives"


def test_entries_are_sorted_whatever_the_order_of_registration(install) -> None:
    install("b", SPEC + "@hookimpl\ndef register_objectives():\n    return [spec('zz'), spec('aa')]")
    names = [entry.spec.name for entry in catalog().entries("objectives")]
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_module_of_this_name:Thing", "cannot load no_module_of_this_name:Thing"),
        ("json:NoThing", "cannot load json:NoThing"),
    ],
)
def test_a_target_that_does_not_load_names_the_check(install, target: str, message: str) -> None:
    install("bad", TWIN.replace("m:T", target))
    found = catalog()
    with pytest.raises(PluginError, match=message) as caught:
        found.load(found.find("objectives", "twin"))
    assert "mmalign plugins check bad" in caught.value.hint


def test_a_missing_package_gives_the_install_command(install) -> None:
    install("needy", TWIN.replace("summary=", "packages=('pluggy', 'no-such-package-x'), summary="))
    found = catalog()
    with pytest.raises(PluginError) as caught:
        found.load(found.find("objectives", "twin"))
    assert caught.value.hint == "python -m pip install no-such-package-x"


COMMANDS = """
import click
from mmalign import CommandSpec, hookimpl

@click.command()
@click.argument("name")
def greet(name):
    "Say hello."
    click.echo(f"hello {name}")

@hookimpl
def register_commands():
    return [CommandSpec(name="greet", summary="Say hello", target="plug_polite:greet"),
            CommandSpec(name="train", summary="Not ours", target="plug_polite:greet")]
"""


def test_plugin_commands_run_and_built_in_names_stay_ours(install, capsys: pytest.CaptureFixture[str]) -> None:
    install("polite", COMMANDS)
    assert run(["greet", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"
    assert run(["polite/train", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "From plugins:" in text and "greet" in text and "polite/train" in text
    assert isinstance(__import__("mmalign.cli.train", fromlist=["command"]).command, click.Command)


@pytest.mark.parametrize("name", ["report", "fingerprint", "__len__"])
def test_a_data_set_that_lacks_a_method_names_its_plugin(install, name: str) -> None:
    install("mine", DATASET.replace(f"def {name}(", "def other("))
    found = catalog()
    with pytest.raises(PluginError, match=f"mine/tiny: its class Tiny has no {name}") as caught:
        found.load(found.find("datasets", "tiny"))
    assert "mmalign plugins check mine" in caught.value.hint
