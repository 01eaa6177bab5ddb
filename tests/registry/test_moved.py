"""A plugin of an earlier version hears what changed, and where it is now."""

import importlib
import importlib.util

import pytest

from mmalign.contract.objective import Objective
from mmalign.errors import PluginError
from mmalign.registry.catalog import Catalog
from mmalign.registry.moved import MEMBERS, MODULES, NAMES
from mmalign.registry.plugins import load_plugins

SPEC = """
from mmalign import ObjectiveSpec, Role, hookimpl
@hookimpl
def register_objectives():
    role = Role(name="policy", needs=("encode_text",))
    return [ObjectiveSpec(name="older", summary="x", target="plug_older:Older", roles=(role,), examples={"main": ()})]
"""


def test_old_modules_are_gone_and_their_successors_are_there() -> None:
    for old, new in MODULES.items():
        assert importlib.util.find_spec(old) is None, old
        for module in new.replace(" or ", ", ").split(", "):
            assert importlib.util.find_spec(module) is not None, module
    for place in NAMES:
        module, _, name = place.rpartition(".")
        assert name not in dir(importlib.import_module(module)), place
    assert not [name for name in MEMBERS if hasattr(Objective, name)]


def test_an_import_of_old_says_where_it_is_now(install) -> None:
    install("older", "from mmalign.objective import Objective")
    why = load_plugins().record("older").why
    assert "No module named 'mmalign.objective'; mmalign.objective is mmalign.contract.objective now" in why


def test_a_name_that_is_gone_says_what_is_in_its_place(install) -> None:
    install("older", "from mmalign.contract.examples import declare")
    why = load_plugins().record("older").why
    assert why.endswith("; mmalign.contract.examples.declare is an ExampleSpec of register_examples now")
    install("wrong", "from mmalign.contract.examples import nothing_of_this_name")
    assert " now" not in load_plugins().record("wrong").why


def test_a_target_that_imports_old_says_so_too(install, tmp_path) -> None:
    install("older", SPEC.replace("plug_older:Older", "plug_target:Older"))
    (tmp_path / "site" / "plug_target.py").write_text("import mmalign.protocols")
    catalog = Catalog(load_plugins())
    with pytest.raises(PluginError) as caught:
        catalog.load(catalog.find("objectives", "older"))
    assert "mmalign.protocols is mmalign.contract.backbone" in caught.value.hint


def test_old_members_are_named_with_what_is_in_their_place(install) -> None:
    body = "class Older(Objective):\n    def start(self, models): ...\n    def finish(self, models, batches): ...\n"
    install("older", f"{SPEC}\nfrom mmalign import Objective\n{body}")
    catalog = Catalog(load_plugins())
    with pytest.raises(PluginError, match=r"start is phases\(models\).*finish is part of save") as caught:
        catalog.load(catalog.find("objectives", "older"))
    assert "docs/plugins.md" in caught.value.hint
