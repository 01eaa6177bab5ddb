"""Fifty slips of the keyboard: each names the right fix, on stderr, with exit 2 and no traceback."""

import sys
import time

import pytest

from mmalign.cli import run

# An architecture that needs no weights on the disk.
TRAIN = "train --objective contrastive --backbone open_clip:ViT-B-32"

TYPOS: list[tuple[str, str]] = [
    # commands
    ("trian", "train"),
    ("trin", "train"),
    ("zeroshot", "zero-shot"),
    ("zero-shto", "zero-shot"),
    ("lst objectives", "list"),
    ("matrx", "matrix"),
    ("plugin list", "plugins"),
    ("doktor", "doctor"),
    ("confg show contrastive", "config"),
    ("shw contrastive", "show"),
    ("complete bash", "completion"),
    # sub-commands
    ("plugins lst", "list"),
    ("plugins chek x", "check"),
    ("plugins disabel x", "disable"),
    ("config sho contrastive", "show"),
    ("config shema", "schema"),
    # options
    ("list objectives --jsn", "--json"),
    ("matrix --jsno", "--json"),
    ("doctor --securty", "--security"),
    ("show contrastive --option", "--options"),
    ("train --objectve contrastive", "--objective"),
    ("train --backbon clip-lite", "--backbone"),
    ("train --datset emoji", "--dataset"),
    ("train --dryrun", "--dry-run"),
    ("train --devise cpu", "--device"),
    ("zero-shot --lables x", "--labels"),
    ("zero-shot --templats plain", "--templates"),
    ("--versoin", "--version"),
    # words from a list
    ("list objectivs", "objectives"),
    ("list backbon", "backbones"),
    ("list datset", "datasets"),
    ("list evalution", "evaluations"),
    ("completion bsh", "bash"),
    ("completion fsh", "fish"),
    # names in the catalog
    ("matrix contrastve", "contrastive"),
    ("show contrastiv", "contrastive"),
    ("show clip-lit", "clip-lite"),
    ("config show contrastif", "contrastive"),
    ("config show contrastive --backbone clip-lte", "clip-lite"),
    ("config show contrastive --dataset emojy", "emoji"),
    ("plugins show mmalign_clop", "mmalign_clip"),
    ("train --objective contrastiv", "contrastive"),
    ("train --objective contrastive --backbone clip-lit", "clip-lite"),
    (f"{TRAIN} --dataset emojii", "emoji"),
    # configuration
    (f"{TRAIN} --set objectve.loss=sigmoid", "objective"),
    (f"{TRAIN} --set trian.steps=1", "train"),
    (f"{TRAIN} --set train.step=1", "steps"),
    (f"{TRAIN} --set train.batchsize=1", "batch_size"),
    (f"{TRAIN} --set train.learning_rat=1", "learning_rate"),
    (f"{TRAIN} --set train.schedule=cosin", "cosine"),
    (f"{TRAIN} --set objective.los=infonce", "loss"),
    (f"{TRAIN} --set objective.loss=sigmiod", "sigmoid"),
    (f"{TRAIN} --set data.num_worker=1", "num_workers"),
    (f"{TRAIN} --set evaluation.max_example=1", "max_examples"),
]


@pytest.mark.parametrize(("words", "fix"), TYPOS, ids=[words for words, _ in TYPOS])
def test_a_slip_names_the_fix(words: str, fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.process_time()
    code = run(words.split())
    seconds = time.process_time() - began
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    suggestion = captured.err.replace("'", "").partition("Did you mean")[2]
    assert fix in suggestion.split("?")[0].replace(",", " ").split(), captured.err
    assert "Traceback" not in captured.err
    if "torch" not in sys.modules:
        assert seconds < 1.0


def test_there_are_at_least_fifty() -> None:
    assert len(TYPOS) >= 50
