"""Checks from specs alone, before weights are loaded, whether an objective runs on a backbone and what is missing.

verdict = check(objective_spec, family, catalog)
verdict.word          # "yes", "derived" or "no"
verdict.missing       # {"token_logps"}
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmalign.contract.capabilities import Capability, satisfy
from mmalign.contract.specs import Entry, Family, ObjectiveSpec
from mmalign.errors import IncompatibleError
from mmalign.registry.catalog import Catalog


@dataclass(frozen=True)
class Verdict:
    """derived: need -> the capabilities that it is derived from. missing: capabilities that the family lacks.
    modalities: those of the examples that the family cannot read."""

    derived: dict[str, tuple[str, ...]]
    missing: frozenset[str]
    modalities: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        return not self.missing and not self.modalities

    @property
    def word(self) -> str:
        return "no" if not self.ok else "derived" if self.derived else "yes"

    def explain(self) -> str:
        if self.missing:
            return f"missing {', '.join(sorted(self.missing))}"
        if self.modalities:
            return f"cannot read {', '.join(sorted(self.modalities))}"
        return "; ".join(f"{need} from {' + '.join(sources)}" for need, sources in self.derived.items())


def check_needs(needs: Iterable[str], family: Family) -> Verdict:
    """Check a list of needs (of a role, an evaluation, a command) against a family."""
    from mmalign.contract.capabilities import parse_need

    derived, missing = {}, frozenset()
    for name in needs:
        met, capabilities = satisfy(parse_need(name), family.provides)
        if not met:
            missing |= capabilities
        elif capabilities:
            derived[name] = tuple(sorted(capabilities))
    return Verdict(derived, frozenset(map(str, missing)))


def check(objective: ObjectiveSpec, family: Family, catalog: Catalog) -> Verdict:
    """Check the needs of every role, and the modalities of the examples; kinds that no plugin registers are skipped."""
    verdict = check_needs((need for role in objective.roles for need in role.needs), family)
    unread = frozenset[str]()
    for kinds in objective.examples.values():
        entries = [entry for kind in kinds if (entry := catalog.lookup("examples", kind))]
        gaps: list[frozenset[str]] = [entry.spec.modalities - family.modalities for entry in entries]
        if gaps:
            unread |= sorted(gaps, key=len)[0]
    return Verdict(verdict.derived, verdict.missing, unread if verdict.ok else frozenset())


def require(objective: Entry, family: Family, reference: str, catalog: Catalog) -> Verdict:
    """Return the verdict for a pair that works; else raises IncompatibleError, which says what would work."""
    verdict = check(objective.spec, family, catalog)
    if verdict.ok:
        return verdict
    name = objective.spec.name
    needs = sorted({need for role in objective.spec.roles for need in role.needs})
    raise incompatible(name, needs, verdict, family, reference, catalog, f"mmalign matrix {name}")


def require_needs(who: str, needs: Sequence[str], family: Family, reference: str, catalog: Catalog) -> None:
    """Raise IncompatibleError if `who`, a command or an evaluation, needs what the family does not provide."""
    verdict = check_needs(needs, family)
    if not verdict.ok:
        raise incompatible(who, needs, verdict, family, reference, catalog, "mmalign list backbones")


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
