"""What of examples/mmalign-vllm needs no vLLM: it registers, names what is missing, and maps what goes in and out."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.support.project import EXAMPLES

sys.path.append(str(EXAMPLES / "mmalign-vllm" / "src"))

from mmalign_vllm.mapping import answers, engine_arguments, sampling_arguments
from mmalign_vllm.options import VllmConfig

from mmalign.errors import EngineError, PluginError
from mmalign.language.sampling import Sampling
from mmalign.rl.engines import find
from mmalign.testing.bench import Workbench


def test_it_registers_and_says_that_it_cannot_be_repeated() -> None:
    bench = Workbench({}, {})
    record, _ = bench.find("mmalign_vllm")
    assert record.status == "loaded" and not record.warnings
    (entry,) = record.entries
    assert (entry.kind, entry.spec.name) == ("engines", "vllm")
    assert not entry.spec.exact and not entry.spec.reproducible


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_error_says_what_to_install() -> None:
    bench = Workbench({}, {})
    bench.find("mmalign_vllm")
    with pytest.raises(PluginError, match="needs vllm, which is not installed") as error:
        find(bench.catalog, {"name": "vllm", "memory": 0.5})
    assert error.value.hint == "python -m pip install vllm"


def test_what_vllm_is_asked() -> None:
    arguments = engine_arguments(VllmConfig(memory=0.4, sleep=False), "folder", 512)
    assert (arguments["model"], arguments["max_model_len"], arguments["gpu_memory_utilization"]) == ("folder", 512, 0.4)
    assert arguments["logprobs_mode"] == "processed_logprobs" and not arguments["enable_sleep_mode"]
    asked = sampling_arguments(Sampling(max_tokens=9, temperature=0.7, top_p=0.9), seed=2**64 - 1, end_ids={3})
    assert (asked["max_tokens"], asked["temperature"], asked["top_p"]) == (9, 0.7, 0.9)
    assert asked["stop_token_ids"] == [3] and asked["seed"] == 2**63 - 1 and asked["logprobs"] == 0


def test_what_vllm_answers() -> None:
    places = [{5: SimpleNamespace(logprob=-0.5), 8: SimpleNamespace(logprob=-2.0)}, {3: SimpleNamespace(logprob=-0.1)}]
    found = answers([([8, 3], places), ([5], places[:1])], end_ids={3})
    assert [ids.tolist() for ids in found.ids] == [[8, 3], [5]] and found.ended == [True, False]
    assert torch.equal(found.logps[0], torch.tensor([-2.0, -0.1]))
    with pytest.raises(EngineError, match="0 log-probabilities for the 2 tokens of row 0"):
        answers([([8, 3], None)], end_ids={3})
