r"""Text classification by a language model from examples in the prompt, without training: `mmalign evaluate few-shot`.

    prompt:  K examples "Review: ...\nSentiment: positive", a blank line after each, then "Review: ...\nSentiment:"
    answer:  argmax over the classes y of  log p(y | prompt)                      (Brown 2020, sections 2.1 and 2.4)
    calibrated:                            log p(y | prompt) - log p(y | prompt with "N/A" for the text)   (Zhao 2021)

log p is summed over the tokens of the class's name, with the space before it. Each question has its own K examples,
drawn at random from the training part, the same ones at every call. Where they exceed the context, the first ones are
left out; a question that exceeds it alone loses its beginning. Both are counted.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from mmalign.contract.dataset import LabelledDataset
from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import TextLabel
from mmalign.data.order import spread
from mmalign.errors import DataError
from mmalign.evaluate.intervals import with_interval
from mmalign.hashing import stable_hash
from mmalign.language.derive import sequence_logps
from mmalign.language.protocols import AnswersProcessor
from mmalign.language.sequences import Sequences

TEXT, LABEL = "{text}", "{label}"
_SEPARATOR = "\n\n"
_NO_CONTENT = "N/A"


class FewShotConfig(BaseModel):
    """How the prompts are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: int = Field(8, ge=0, description="labelled examples before each question; 0: the question alone")
    template: str = Field(
        f"Review: {TEXT}\nSentiment: {LABEL}", description="an example: {text} once, and at its end {label}"
    )
    calibrate: bool = Field(False, description='subtract log-probabilities for the text "N/A"; twice the time')
    seed: int = Field(0, ge=0, description="seed of the random choice of examples")
    max_examples: int = Field(0, ge=0, description="questions to ask, evenly spread over the data; 0: all")

    @field_validator("template")
    @classmethod
    def _has_both(cls, template: str) -> str:
        if template.count(TEXT) != 1 or template.count(LABEL) != 1 or not template.endswith(LABEL):
            raise ValueError(f"the template needs {TEXT} once, and {LABEL} once at its end")
        return template


class FewShot:
    """The share of questions answered correctly, with its 95% interval; a tie with a wrong class is wrong."""

    Config: ClassVar[type[BaseModel]] = FewShotConfig

    def __init__(self, config: FewShotConfig) -> None:
        self.config = config

    def run(self, backbone: Any, dataset: LabelledDataset, runtime: Runtime) -> Mapping[str, float]:
        """Raises DataError where the training part has too few examples."""
        asker = Asker(backbone.processor, dataset.classes, self.config, self._examples(runtime))
        questions: list[TextLabel] = [dataset[index] for index in spread(len(dataset), self.config.max_examples)]
        right = 0
        with runtime.evaluating(backbone):
            for start in range(0, len(questions), runtime.batch_size):
                batch = questions[start : start + runtime.batch_size]
                logps = self._logps(backbone, [asker.prompt(question) for question in batch], asker, runtime)
                if self.config.calibrate:
                    empty = [asker.prompt(question, _NO_CONTENT) for question in batch]
                    logps = logps - self._logps(backbone, empty, asker, runtime)
                for row, question in zip(logps, batch, strict=True):
                    right += int((row >= row[question.label]).sum()) == 1
        truths = Counter(question.label for question in questions)
        majority = max(truths.values()) / len(questions)
        metrics = {**with_interval("accuracy", right, len(questions)), "majority": majority}
        return {**metrics, "examples": len(questions), **asker.counts()}

    def _examples(self, runtime: Runtime) -> Any:
        """The training part, or None where no shots are wanted."""
        if not self.config.shots:
            return ()
        train = runtime.split("train")
        size = 0 if train is None else len(train)
        if size <= self.config.shots:
            raise DataError(
                f"few-shot: {self.config.shots} examples before each question need a training part of more than that; "
                f"it has {size}",
                hint="Ask for fewer: --set evaluation.shots=0",
            )
        return train

    @staticmethod
    def _logps(backbone: Any, prompts: Sequence[Tensor], asker: "Asker", runtime: Runtime) -> Tensor:
        """[N, C] on the CPU."""
        sequences = Sequences.from_lists(prompts, [asker.labels] * len(prompts)).to(runtime.device)
        return sequence_logps(backbone, sequences).cpu().view(len(prompts), -1)


@dataclass
class Asker:
    """Builds prompts as ids, and counts what did not fit. shots: the data to draw examples from."""

    processor: AnswersProcessor
    classes: Sequence[str]
    config: FewShotConfig
    shots: Any

    def __post_init__(self) -> None:
        before = self.config.template.removesuffix(LABEL)
        # Most tokenizers join a space to the word behind it, so the space belongs to the answer.
        self._question = before.rstrip(" ")
        answers = [before[len(self._question) :] + name for name in self.classes]
        # Tokenised behind the question, as in prompts: some tokenizers put a space before a text that stands alone.
        asked = self.processor.answers(self._question.replace(TEXT, ""), answers)
        answered = zip(asked.answers, asked.learn, strict=True)
        self.labels = [ids[learn][:-1] for ids, learn in answered]  # no end token
        self._room = self.processor.context_length - max(map(len, self.labels))
        self._shown: dict[str, int] = {}
        self._truncated: set[str] = set()

    def prompt(self, question: TextLabel, text: str | None = None) -> Tensor:
        """[T] ids of the question, behind its examples; about its own text, or about `text`."""
        blocks = [
            self.config.template.replace(LABEL, self.classes[shot.label]).replace(TEXT, shot.text)
            for shot in self._drawn(question)
        ]
        asked = self._question.replace(TEXT, question.text if text is None else text)
        ids = self.processor.prompt(_SEPARATOR.join([*blocks, asked]))
        while len(ids) > self._room and blocks:
            blocks = blocks[1:]
            ids = self.processor.prompt(_SEPARATOR.join([*blocks, asked]))
        self._shown[question.key] = min(len(blocks), self._shown.get(question.key, len(blocks)))
        if len(ids) > self._room:
            self._truncated.add(question.key)
        return ids[max(0, len(ids) - self._room) :]

    def counts(self) -> dict[str, float]:
        """So far: examples for each question, questions with fewer than wanted, and questions that lost their
        beginning."""
        shown = self._shown.values()
        fewer = sum(number < self.config.shots for number in shown)
        return {"mean_shots": sum(shown) / len(shown), "fewer_shots": fewer, "truncated": len(self._truncated)}

    def _drawn(self, question: TextLabel) -> list[TextLabel]:
        """Never the question itself, which may be in the training part too."""
        if not self.config.shots:
            return []
        rng = random.Random(stable_hash("shots", self.config.seed, question.key))
        drawn = [self.shots[index] for index in rng.sample(range(len(self.shots)), self.config.shots + 1)]
        return [shot for shot in drawn if shot.key != question.key][: self.config.shots]
