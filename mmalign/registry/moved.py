"""Names that a plugin of an earlier version uses, and where they are now.

where_now(error)              # "mmalign.objective is mmalign.contract.objective now", or ""
old_members(MyObjective)      # ["start is phases(models) now, ..."]
"""

import re

_LACKING = re.compile(r"cannot import name '(\w+)'")
_UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MODULES = {
    "mmalign.adapters": "mmalign.models.adapters",
    "mmalign.capabilities": "mmalign.contract.capabilities",
    "mmalign.catalog": "mmalign.registry.catalog",
    "mmalign.compat": "mmalign.registry.compat",
    "mmalign.config.load": "mmalign.train.layers",
    "mmalign.data.batch": "mmalign.contract.batch",
    "mmalign.data.examples": "mmalign.contract.examples",
    "mmalign.data.layout": "mmalign.language.layout",
    "mmalign.data.ranks": "mmalign.language.sequences",
    "mmalign.data.sequences": "mmalign.language.sequences",
    "mmalign.derive": "mmalign.language.derive",
    "mmalign.evaluate.runtime": "mmalign.contract.evaluation",
    "mmalign.hookspecs": "mmalign.contract.hooks",
    "mmalign.hub": "mmalign.models.hub",
    "mmalign.lora": "mmalign.models.lora",
    "mmalign.objective": "mmalign.contract.objective",
    "mmalign.plugins": "mmalign.registry.plugins",
    "mmalign.pretrained": "mmalign.models.folder",
    "mmalign.protocols": "mmalign.contract.backbone, mmalign.contract.dataset or mmalign.language.protocols",
    "mmalign.rl.columns": "mmalign.rl.rollout_batch",
    "mmalign.rl.objective": "mmalign.rl.online_objective",
    "mmalign.rl.turns": "mmalign.rl.environment",
    "mmalign.safety": "mmalign.models.folder",
    "mmalign.sampling": "mmalign.language.sampling",
    "mmalign.sources": "mmalign.models.references",
    "mmalign.specs": "mmalign.contract.specs",
    "mmalign.train.models": "mmalign.contract.roles",
}
NAMES = {
    "mmalign.rl.config.CriticOptions": "mmalign.contract.roles.CriticOptions",
    "mmalign.contract.examples.declare": "an ExampleSpec of register_examples",
    "mmalign.contract.examples.EXAMPLE_KINDS": 'Catalog.entries("examples")',
}
OPTIONS = {"ObjectiveSpec.online": "feed=SAMPLED_ANSWERS (mmalign.SAMPLED_ANSWERS)"}
MEMBERS = {
    "best_by": "an option of ObjectiveSpec",
    "comparable": "an option of EvaluationSpec",
    "fewest_answers": "an option of ObjectiveSpec",
    "finish": "part of save(models, folder, batches)",
    "load_state": "not needed: `state` is a dict that checkpoints keep and give back",
    "needless": "Role(only_with=...)",
    "of_updates": "an option of ObjectiveSpec",
    "start": "phases(models), which returns the phases",
    "streams": "ObjectiveSpec(side_streams=...)",
    "turns": "phases(models), which returns the phases",
    "watched": "an option of ObjectiveSpec",
}


def where_now(error: BaseException) -> str:
    """A sentence on an error by a module or name that moved, or by an option of a spec that changed; else ""."""
    if isinstance(error, TypeError) and (unknown := _UNKNOWN.match(str(error))):
        option = ".".join(unknown.groups())
        return f"{option} is {OPTIONS[option]} now" if option in OPTIONS else ""
    if not isinstance(error, ImportError):
        return ""
    name, moved = error.name or "", MODULES
    if not isinstance(error, ModuleNotFoundError):
        lacking = _LACKING.match(error.msg)  # until Python 3.12, only the message holds the imported name
        name, moved = f"{name}.{lacking.group(1) if lacking else ''}", NAMES
    return f"{name} is {moved[name]} now" if name in moved else ""


def old_members(objective: type) -> list[str]:
    """One clause for each member of an objective that nothing calls any more, with its replacement."""
    own = [kind for kind in objective.__mro__ if not kind.__module__.startswith("mmalign.")]
    names = dict.fromkeys(name for kind in own for name in vars(kind) if name in MEMBERS)
    return [f"{name} is {MEMBERS[name]} now" for name in names]
