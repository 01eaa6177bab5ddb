"""The built-in plugins and the example plugin pass the checks that every third party's must pass."""

import sys
from pathlib import Path

from mmalign.testing import conformance

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "mmalign-triplet" / "src"))

test_objectives = conformance("mmalign_objectives")
test_data = conformance("mmalign_data")
test_clip = conformance("mmalign_clip")
test_lm = conformance("mmalign_lm")
test_evaluations = conformance("mmalign_evals")
test_rewards = conformance(
    "mmalign_rewards",
    rewards={
        "function": {"function": f"{Path(__file__).with_name('polite.py')}:score"},
        "reward-model": {"path": "tiny-reward-model"},
        "clip-score": {"text": "a red car", "backbone": "tiny-open-clip"},
    },
)
test_environments = conformance("mmalign_environments")
test_engines = conformance("mmalign_engines")
test_triplet = conformance("mmalign_triplet")
