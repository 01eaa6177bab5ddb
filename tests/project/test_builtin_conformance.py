"""The built-in plugins and the example plugin pass the checks that every third party's must pass.

python -m pytest tests/project/test_builtin_conformance.py             # PPO on all language models, its siblings on one
python -m pytest -m slow tests/project/test_builtin_conformance.py     # its siblings on the others
"""

import sys

from mmalign.testing import conformance
from tests.support.project import EXAMPLES, SUPPORT
from tests.support.table_samples import write_datasets

sys.path.append(str(EXAMPLES / "mmalign-triplet" / "src"))

# These sample and score with PPO's code: what differs between models shows in PPO.
test_objectives = conformance("mmalign_objectives", slow=r"objective (grpo|rloo|online-dpo) on tiny-(llama|bloom)")
test_data = conformance("mmalign_data", datasets=write_datasets())
test_clip = conformance("mmalign_clip")
test_lm = conformance("mmalign_lm")
test_evaluations = conformance("mmalign_evals")
test_rewards = conformance(
    "mmalign_rewards",
    rewards={
        "regex": {"pattern": "red|blue"},
        "function": {"function": f"{SUPPORT / 'polite.py'}:score"},
        "reward-model": {"path": "tiny-reward-model"},
        "clip-score": {"text": "a red car", "backbone": "tiny-open-clip"},
    },
)
test_environments = conformance("mmalign_environments")
test_engines = conformance("mmalign_engines")
test_optimizers = conformance("mmalign_optimizers")
test_report = conformance("mmalign_report")
test_answers = conformance("mmalign_answers")
test_triplet = conformance("mmalign_triplet")
