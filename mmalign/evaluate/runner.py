"""Runs one evaluation, for `mmalign evaluate`, training runs and the conformance kit.

values = run_evaluation(catalog, entry, backbone, part, runtime, {"max_examples": 1000})
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmalign.config.validate import build
from mmalign.contract.evaluation import Runtime
from mmalign.contract.specs import Entry
from mmalign.evaluate.parts import Part
from mmalign.registry.catalog import Catalog


def run_evaluation(
    catalog: Catalog, entry: Entry, backbone: Any, part: Part, runtime: Runtime, options: Mapping[str, Any]
) -> dict[str, float]:
    """Metrics by name, as Python numbers; raises UsageError for wrong options, and the evaluation's errors."""
    evaluation = catalog.load(entry)(evaluation_config(catalog, entry, options))
    values = evaluation.run(backbone, part.dataset, replace(runtime, split=part.sibling))
    return {name: value if isinstance(value, int) else float(value) for name, value in values.items()}


def evaluation_config(catalog: Catalog, entry: Entry, options: Mapping[str, Any], section: str = "evaluation") -> Any:
    """The evaluation's options, checked; raises UsageError. section: the config section that they are from."""
    hint = f"All options: mmalign show {entry.spec.name} --options"
    return build(catalog.load_config(entry), options, section, hint=hint)
