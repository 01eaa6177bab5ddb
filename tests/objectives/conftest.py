"""A bench of tiny models for objectives that sample."""

import pytest

from mmalign.testing.bench import Workbench
from mmalign.testing.subjects import single_thread


@pytest.fixture(scope="session")
def bench() -> Workbench:
    return Workbench({}, {})


@pytest.fixture(autouse=True)
def _one_thread():
    with single_thread():
        yield
