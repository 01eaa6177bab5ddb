"""Plugins that do what no plugin should: name -> (source, what its record must say, how it must end)."""

GOOD = """
from mmalign import ObjectiveSpec, Role, hookimpl

@hookimpl
def register_objectives():
    return [ObjectiveSpec(name="good-objective", summary="fine", target="nowhere:Nothing",
                          roles=(Role(name="policy", needs=("encode_image",)),), examples={"main": ("image-text",)})]
"""

SPEC = """
from mmalign import ObjectiveSpec, Role, hookimpl

def spec(name="other"):
    return ObjectiveSpec(name=name, summary="s", target="m:T", roles=(Role(name="policy", needs=("encode_image",)),),
                         examples={"main": ("image-text",)})
"""

HOSTILE: dict[str, tuple[str, str, str]] = {
    "import-error": ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'", "failed"),
    "system-exit": ("import sys\nsys.exit(7)", "SystemExit: 7", "failed"),
    "endless-loop": ("while True:\n    pass", "still loading after 0.3 s", "failed"),
    "swallows-exceptions": (
        "import time\nwhile True:\n    try:\n        time.sleep(0.2)\n    except Exception:\n        pass",
        "still loading after 0.3 s",
        "failed",
    ),
    "shadows-core": (
        SPEC + "@hookimpl\ndef register_objectives():\n    return [spec('contrastive')]",
        "objective contrastive is built in; this one is called shadows-core/contrastive",
        "loaded",
    ),
    "wrong-hook": (
        SPEC + "@hookimpl\ndef register_objective():\n    return [spec()]",
        "unknown hook register_objective. Did you mean register_objectives",
        "loaded",
    ),
    "wrong-signature": (
        SPEC + "@hookimpl\ndef register_objectives(catalog):\n    return [spec()]",
        "register_objectives",
        "failed",
    ),
    "forgot-return": (
        SPEC + "@hookimpl\ndef register_objectives():\n    [spec()]",
        "register_objectives returned None; return a list of ObjectiveSpec",
        "failed",
    ),
    "default-argument": (
        SPEC + "@hookimpl\ndef run_started(run=None):\n    pass",
        "arguments with defaults are never filled",
        "failed",
    ),
    "prints": ("print('NOISE ON STDOUT')\n" + GOOD.replace("good-objective", "noisy"), "", "loaded"),
    "registers-twice": (
        SPEC + "@hookimpl\ndef register_objectives():\n    return [spec(), spec()]",
        "returned 'other' twice",
        "failed",
    ),
    "bad-spec": (
        SPEC + "@hookimpl\ndef register_objectives():\n    return ['contrastive']",
        "returned str, not ObjectiveSpec",
        "failed",
    ),
    "not-decorated": (
        SPEC + "def register_objectives():\n    return [spec()]",
        "register_objectives lacks @hookimpl and is not called",
        "loaded",
    ),
}
