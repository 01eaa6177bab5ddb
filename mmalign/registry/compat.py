"""Checks from specs alone, before weights are loaded, whether an objective runs on a backbone and what is missing.

verdict = check(objective_spec, family, catalog)
verdict.word          # "yes", "derived" or "no"
verdict.missing       # {"token_logps"}
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mmalign.contract.capabilities import (
    VIEWS,
    Capability,
    Pair,
    View,
    parse_need,
    reads_sequences,
    satisfy,
)
from mmalign.contract.specs import Entry, Family, ObjectiveSpec
from mmalign.errors import IncompatibleError
from mmalign.registry.catalog import Catalog


@dataclass(frozen=True)
class Verdict:
    """derived: need -> the capabilities that it is derived from. missing: capabilities that the family lacks.
    modalities: those of the examples that the family cannot read. unread: example kinds of the main stream, if all of
    them have prompts or answers that the family does not read. view: the objective runs on this view of the family.
    kinds: the example kinds of the main stream that it reads. pairs: the contents of their prompts and answers."""

    derived: dict[str, tuple[str, ...]]
    missing: frozenset[str]
    modalities: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    view: View | None = None
    kinds: tuple[str, ...] = ()
    pairs: frozenset[Pair] = frozenset()

    @property
    def ok(self) -> bool:
        return not self.missing and not self.modalities and not self.unread

    @property
    def word(self) -> str:
        return "no" if not self.ok else "derived" if self.derived else "yes"

    def explain(self) -> str:
        if self.missing:
            return f"missing {', '.join(sorted(self.missing))}"
        if self.modalities:
            return f"cannot read {', '.join(sorted(self.modalities))}"
        if self.unread:
            return f"cannot read {' or '.join(self.unread)} examples"
        if self.view is not None:
            return f"as {self.view.summary}"
        return "; ".join(f"{need} from {' + '.join(sources)}" for need, sources in self.derived.items())


def check_needs(needs: Sequence[str], family: Family, views: Iterable[View] = (), *, relative: bool = False) -> Verdict:
    """Check a list of needs (of a role, an evaluation, a command) against a family, and then against it through each of
    the views; the verdict has the pairs that the family, or the view of it, reads.

    relative: only differences between answers to one prompt are used.
    """
    direct = _needs(needs, family.provides)
    for view in views if not direct.ok else ():
        if view.source <= family.provides:
            verdict = _needs(needs, family.provides | view.provides)
            if verdict.ok:
                pairs = view.pairs | (view.relative_pairs if relative else frozenset())
                return replace(_seen_through(view, verdict, needs, family), pairs=pairs)
    return replace(direct, pairs=family.pairs)


def _seen_through(view: View, verdict: Verdict, needs: Iterable[str], family: Family) -> Verdict:
    """The verdict on a family through a view: what the family lacks is derived from what the view needs."""
    through = tuple(sorted(map(str, view.source)))
    names = {*verdict.derived, *(need for need in needs if need not in family.provides)}
    return replace(verdict, derived=dict.fromkeys(sorted(names), through), view=view)


def _needs(needs: Iterable[str], provides: frozenset[Capability]) -> Verdict:
    derived, missing = {}, frozenset()
    for name in needs:
        met, capabilities = satisfy(parse_need(name), provides)
        if not met:
            missing |= capabilities
        elif capabilities:
            derived[name] = tuple(sorted(capabilities))
    return Verdict(derived, frozenset(map(str, missing)))


def check(objective: ObjectiveSpec, family: Family, catalog: Catalog) -> Verdict:
    """Check the needs of every role and the main stream's examples, on the family itself and then through each view of
    it; kinds that no plugin registers are skipped."""
    direct = _check(objective, family.provides, family.modalities, family.pairs, catalog)
    if direct.ok:
        return direct
    for view in VIEWS:
        if view.source <= family.provides:
            pairs = view.pairs | (view.relative_pairs if objective.relative else frozenset())
            verdict = _check(objective, family.provides | view.provides, family.modalities, pairs, catalog)
            if verdict.ok:
                needs = {need for role in objective.roles for need in role.needs}
                return _seen_through(view, verdict, needs, family)
    return direct


def _check(
    objective: ObjectiveSpec,
    provides: frozenset[Capability],
    modalities: frozenset[str],
    pairs: frozenset[Pair],
    catalog: Catalog,
) -> Verdict:
    needs = [need for role in objective.roles for need in role.needs]
    verdict, kinds = _needs(needs, provides), objective.examples["main"]
    as_sequences = any(reads_sequences(parse_need(need)) for need in needs)
    specs = {kind: entry.spec for kind in kinds if (entry := catalog.lookup("examples", kind))}
    seen = {kind: spec for kind, spec in specs.items() if spec.modalities <= modalities}
    fits = {kind for kind, spec in seen.items() if not as_sequences or not spec.pairs or spec.pairs & pairs}
    read = tuple(kind for kind in kinds if kind not in specs or kind in fits)
    gaps: list[frozenset[str]] = [spec.modalities - modalities for spec in specs.values()]
    unseen = sorted(gaps, key=len)[0] if gaps and not seen and len(specs) == len(kinds) else frozenset[str]()
    if not verdict.ok:
        return verdict
    return replace(verdict, modalities=unseen, unread=() if read or unseen else kinds, kinds=read, pairs=pairs)


def require(objective: Entry, family: Family, reference: str, catalog: Catalog) -> Verdict:
    """Return the verdict for a pair that works; else raises IncompatibleError, which says what would work."""
    verdict = check(objective.spec, family, catalog)
    if verdict.ok:
        return verdict
    name = objective.spec.name
    needs = sorted({need for role in objective.spec.roles for need in role.needs})
    raise incompatible(name, needs, verdict, family, reference, catalog, f"mmalign matrix {name}")


def require_needs(
    who: str, needs: Sequence[str], family: Family, reference: str, catalog: Catalog, views: Iterable[View] = ()
) -> Verdict:
    """Raise IncompatibleError if `who`, a command or an evaluation, needs what the family does not provide, itself or
    through one of the views."""
    verdict = check_needs(needs, family, views)
    if not verdict.ok:
        raise incompatible(who, needs, verdict, family, reference, catalog, "mmalign list backbones")
    return verdict


def incompatible(
    who: str,
    needs: Sequence[str],
    verdict: Verdict,
    family: Family,
    reference: str,
    catalog: Catalog,
    command: str,
) -> IncompatibleError:
    """The error; it says what is missing, which backbones have it, what the model is for, and the command to try."""
    hints = (family.use, suggest(verdict.missing, catalog), f"Try: {command}")
    return IncompatibleError(
        f"{who} needs {', '.join(needs)}; {reference} ({family.name}) provides "
        f"{', '.join(sorted(family.provides)) or 'nothing'}: {verdict.explain()}",
        hint=" ".join(filter(None, hints)),
    )


def suggest(missing: Iterable[str], catalog: Catalog) -> str:
    """A sentence that names the backbones with all missing capabilities, or ""."""
    wanted = {Capability(name) for name in missing}
    names = [
        entry.spec.name
        for entry in catalog.entries("backbones")
        if any(wanted <= family.provides for family in entry.spec.families)
    ]
    return f"Provided by: {', '.join(names)}." if wanted and names else ""


def matrix(catalog: Catalog) -> list[tuple[Entry, Family, Entry, Verdict]]:
    """Every backbone family against every objective."""
    return [
        (backbone, family, objective, check(objective.spec, family, catalog))
        for backbone in catalog.entries("backbones")
        for family in backbone.spec.families
        for objective in catalog.entries("objectives")
    ]
