"""Save what a step or a measurement changes besides weights, and restore it if the step does not count.

before = Moment(job)
...                        # drawing, dropout, an objective that steers its own coefficients
before.restore()
"""

import json

from mmalign.train import rng
from mmalign.train.build import Job


class Moment:
    """The random state of this process and the objective's own state, at construction."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._torch, self._host = rng.capture(job.device), rng.capture_host()
        self._own = json.dumps(job.objective.state)

    def restore(self) -> None:
        self._job.objective.state = json.loads(self._own)
        rng.restore(self._torch, self._job.device)
        rng.restore_host(self._host)
