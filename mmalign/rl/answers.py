"""What rewards see: answers as text and as tokens, with the example that each belongs to.

    answers = Answers.of(examples, sequences, ended, processor)
    answers.texts[0], answers.solutions[0]

N prompts, M answers in all, those of one prompt together and in the order of the batch.
"""

from dataclasses import dataclass

from mmalign.data.examples import Turns
from mmalign.data.sequences import Sequences
from mmalign.protocols import AnswersProcessor


@dataclass(frozen=True)
class Answers:
    """M of each. keys: of the examples; prompts: as the data set gave them; texts: what the model wrote, without the
    end token; solutions: what the example says is right, or ""; ended: whether the end token came before the limit.

    sequences: the N prompts with their M answers in tokens of `processor`, the policy's.
    """

    keys: tuple[str, ...]
    prompts: tuple[Turns, ...]
    texts: tuple[str, ...]
    solutions: tuple[str, ...]
    ended: tuple[bool, ...]
    sequences: Sequences
    processor: AnswersProcessor

    def __len__(self) -> int:
        return len(self.texts)
