"""A tiny model with its data, made once a session, and pipelines on it."""

from pathlib import Path

import pytest

from tests.support.pipeline_samples import Lab, Words, write_words


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return write_words(tmp_path_factory.mktemp("words"))


@pytest.fixture
def lab(tmp_path: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> Lab:
    """Writes pipeline files and runs them; tests of other folders have a lab of single runs."""
    return Lab(tmp_path, words, capsys)
