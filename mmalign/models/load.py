"""The one way to load a model: its source is checked against the needed capabilities, then it is built with its
options.

source = require_source(catalog, "runs/dpo/model", ("generate",), "generate")
model = load_model(catalog, source, {"lora": {"rank": 8}}, needs=("generate",), device=device, say=print)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmalign.contract.capabilities import ALONE
from mmalign.models.folder import refuse_random_weights
from mmalign.models.references import find_source
from mmalign.registry.compat import check_needs, require_needs
from mmalign.registry.views import through

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from mmalign.contract.source import Source
    from mmalign.registry.catalog import Catalog


def require_source(catalog: "Catalog", reference: str, needs: Sequence[str], who: str) -> "Source":
    """The source of a reference; raises IncompatibleError where its family lacks a capability that `who` needs, and no
    view of a model alone has it."""
    source = find_source(reference, catalog)
    require_needs(who, needs, source.family, reference, catalog, ALONE)
    return source


def load_model(
    catalog: "Catalog",
    source: "Source",
    options: "Mapping[str, Any] | BaseModel | None" = None,
    *,
    needs: Sequence[str] = (),
    device: "torch.device | None" = None,
    frozen: bool = False,
    if_random: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Any:
    """The model on its device (None: the CPU, where it was built); raises UsageError for wrong options, and its
    loader's errors.

    options: the backbone's, as a user gave them or checked already. needs: capabilities; where the family has them only
    through a view of the model alone, that view is returned. frozen: without gradient, in evaluation mode.
    if_random: the consequence of random weights, which are then refused unless the options ask for them; empty: they
    are allowed. say: is told where the model is, if not where the reference points, and notes on it.
    """
    from pydantic import BaseModel

    from mmalign.config.validate import build

    backbone_class = catalog.load(source.entry)
    given = {} if options is None or isinstance(options, BaseModel) else options
    if if_random:
        refuse_random_weights(source, given, {}, if_random)
    hint = f"All options: mmalign show {source.entry.spec.name} --options"
    config: BaseModel = (
        options if isinstance(options, BaseModel) else build(backbone_class.Config, given, "backbone", hint=hint)
    )
    model = backbone_class.load(source, config)
    facts = model.describe()
    if if_random:
        refuse_random_weights(source, given, facts, if_random)
    if device is not None:
        model.module.to(device)
    if frozen:
        model.module.requires_grad_(False).eval()
    for note in filter(None, (source.note, facts.get("note"))):
        say(note)
    view = check_needs(needs, source.family, ALONE).view
    return model if view is None else through(view, model, config, say=say)
