"""What commands that use one backbone share: its source checked against what they need, and its `--set` options."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmalign.errors import IncompatibleError, UsageError

if TYPE_CHECKING:
    from mmalign.catalog import Catalog
    from mmalign.sources import Source


def require_source(catalog: "Catalog", reference: str, needs: Sequence[str], command: str) -> "Source":
    """The backbone's source; raises IncompatibleError where its family lacks what the command needs."""
    from mmalign.compat import check_needs, suggest
    from mmalign.sources import resolve

    source = resolve(reference, catalog)
    verdict = check_needs(needs, source.family)
    if not verdict.ok:
        raise IncompatibleError(
            f"{command} needs {', '.join(needs)}; {reference} ({source.family.name}) provides "
            f"{', '.join(sorted(source.family.provides)) or 'nothing'}: {verdict.explain()}",
            hint=f"{suggest(verdict.missing, catalog)} Try: mmalign list backbones".strip(),
        )
    return source


def backbone_settings(sets: Sequence[str], command: str) -> Mapping[str, Any]:
    """The section `backbone` of --set; raises UsageError for any other."""
    from mmalign.config.load import load_layers

    layers = load_layers(sets=sets)
    others = [name for name, section in layers.items() if section and name != "backbone"]
    if others or "name" in layers["backbone"]:
        what = f"section {others[0]}" if others else "backbone.name"
        raise UsageError(
            f"{command} takes no {what} in --set", hint="Use --backbone MODEL, and --set backbone.key=value."
        )
    return layers["backbone"]
