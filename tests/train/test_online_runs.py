"""Whole runs of online objectives where something is wrong with answers, prompts, limits or streams."""

import json
import math
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mmalign.contract.examples import Prompt
from mmalign.errors import BadSample, DataError, NonFiniteError, UsageError
from mmalign.language.sampling import Generated
from mmalign.rl.counts import worth_telling
from mmalign.train import checkpoint, heldout, preview
from mmalign.train import run as launch
from mmalign.train.build import assemble
from mmalign.train.distributed import Processes
from tests.support.resume_cases import REWARD, Lab, newest, quiet, write_prompts

SAME = f'rollout.rewards=[{{"name": "function", "function": "{REWARD.rpartition(":")[0]}:same"}}]'
SHORT = ("train.steps=3", "train.save_every=1", "train.eval_every=0", "data.max_lost=1")


def begin(lab: Lab, folder: Path, objective: str, *options: str, say=quiet, dataset: str = ""):
    plan = lab.plan(objective, "micro-batches", *SHORT, *options, dataset=dataset)
    return launch.start(plan, lab.catalog, folder=folder, device="cpu", say=say)


def test_past_the_limit_of_kl_nothing_is_updated_and_the_checkpoint_before_stands(lab, tmp_path, monkeypatch) -> None:
    updates, update = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: (updates.append(1), update(self, *a))[1])
    with pytest.raises(NonFiniteError, match=r"above its limit of 0\.001") as error:
        begin(
            lab,
            tmp_path / "run",
            "ppo",
            "objective.max_kl=0.001",
            "train.learning_rate=0.1",
            "objective.kl_coef=0.01",
        )
    assert "objective.max_kl=" in error.value.hint
    assert f"mmalign train --resume {tmp_path / 'run'} --allow-change --set" in error.value.hint
    done = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert 1 <= done < 3 and len(updates) == 4 * done, "four updates a step, none in the last"
    saved = checkpoint.load(newest(tmp_path / "run"))
    assert f"not saved; the last checkpoint is of step {done}." in error.value.hint
    assert saved.step == done and all(bool(t.isfinite().all()) for t in saved.model.values())


def test_answers_that_all_score_the_same_make_no_update(lab, tmp_path) -> None:
    lines: list[str] = []
    outcome = begin(
        lab, tmp_path / "run", "grpo", SAME, "objective.epochs=1", "objective.minibatches=1", say=lines.append
    )
    assert outcome.summary["skipped_updates"] == 3
    counts = outcome.summary["counts"]
    assert (counts["prompts"], counts["answers"], counts["prompts_unlearnt"]) == (12, 36, 12)
    assert "12 of 12 prompts skipped because all their answers scored the same" in worth_telling(counts)
    assert sum("nothing to learn from: all answers to a prompt score the same" in line for line in lines) == 3
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["no_difference"] for record in records if "no_difference" in record] == [1.0, 1.0, 1.0]
    saved = [checkpoint.load(path).model for path in checkpoint.committed(tmp_path / "run" / "checkpoints")]
    assert len(saved) > 1 and all(torch.equal(saved[0][name], tensor) for name, tensor in saved[-1].items())


def test_prompts_are_cut_at_their_beginning_and_counted_and_empty_ones_are_named(lab, tmp_path) -> None:
    long = "a red car and a blue house and a large white bird and the photo of a small black cat " * 3
    path = write_prompts(tmp_path / "prompts.jsonl", long, long + "tree", "a dog", " ")
    lines: list[str] = []
    sets = ("dataset.max_bad=0.5", "dataset.holdout=0")
    outcome = begin(lab, tmp_path / "run", "rloo", *sets, dataset=path, say=lines.append)
    assert outcome.summary["truncated_texts"] == 8, "of 12 prompts in three steps, each read four times"
    assert "8 of 12 prompts cut to fit the context" in worth_telling(outcome.summary["counts"])
    assert any(
        re.fullmatch(r"3 of 3 prompts looked at: \d+ tokens; \d+ tokens cut from 2 prompts; .*", s) for s in lines
    )
    assert any(line.startswith("1 left out of") and line.endswith("no prompt") for line in lines)
    job = assemble(lab.plan("rloo", "micro-batches"), Processes("cpu"))
    with pytest.raises(BadSample, match="an empty prompt"):
        job.encoder.encode(Prompt("p", ""), 0, 0, train=True)
    room = job.encoder.processor.context_length - 4
    row = job.encoder.encode(Prompt("p", long), 0, 0, train=True)
    whole = job.encoder.processor.prompt(long)
    assert row["sequences"].prompt.tolist() == whole[-room:].tolist()
    assert int(row["num_lost"]) == len(whole) - room


def test_streams_are_dealt_over_the_updates_and_go_on_in_order(lab) -> None:
    plan = lab.plan("ppo", "micro-batches", "objective.ptx_batch_size=6")
    job = assemble(plan, Processes("cpu"))
    batch = next(iter(job.stream(0)))[1]
    prepared = job.prepare(0, batch)
    stream = job.other_streams(0)["ptx"]
    texts = [stream.next_batch("ptx") for _ in range(2)]
    stream.close()
    again = job.other_streams(1)["ptx"]
    assert again.next_batch("ptx")["key"] == texts[1]["key"] != texts[0]["key"]
    again.close()
    seen, keys, numbers = [], [], []
    for main, ptx in job.updates(0, prepared, {"ptx": texts[0]}):
        assert ptx.stream == "ptx" and 1 <= len(ptx) <= 2
        keys += ptx["key"]
        seen.append(main["key"])
        numbers += main["update"].tolist()
    assert tuple(keys) == texts[0]["key"] and numbers == [0, 0, 1, 1, 2, 2, 3, 3]
    for epoch in (0, 2):
        assert sorted(seen[epoch] + seen[epoch + 1]) == sorted(batch["key"]), "each row once an epoch"
    assert seen[:2] != seen[2:], "dealt anew in each"


def test_each_update_is_adamws_at_its_steps_rate_clipped_and_averaged(lab, tmp_path) -> None:
    """Three steps of four updates against AdamW by its formula: moments count updates, and the rate counts steps."""
    options = ("backbone.dropout=0", "backbone.neftune_alpha=0", "train.clip_norm=0.05", "train.ema_decay=0.8")
    begin(lab, tmp_path / "run", "ppo", *options)
    saved = checkpoint.load(newest(tmp_path / "run")).model
    job = assemble(lab.plan("ppo", "micro-batches", *SHORT, *options), Processes("cpu"))
    trained = job.models.trainable()
    first, second = ([torch.zeros_like(p) for _, p in trained] for _ in range(2))
    averages = {name: p.detach().clone() for name, p in trained if name.startswith("policy.")}
    other, count, clipped = job.other_streams(0)["ptx"], 0, 0
    for index, batch in job.stream(0):
        rate = 0.003 * (0.5 * (1 + math.cos(math.pi * (index - 1) / 2)) if index else 1.0)
        for parts in job.updates(index, job.prepare(index, batch), {"ptx": other.next_batch("ptx")}):
            loss, count = torch.zeros(()), count + 1
            phases = [(part, phase) for part in parts for phase in job.engine.of(part)]
            for update, phase in phases:
                sums, _ = phase.loss(phase.forward(job.models, update), update)
                counts, weights = phase.count(update), job.objective.weights
                loss = loss + torch.stack([weights.get(n, 1.0) * s / counts[n] for n, s in sums.items()]).sum()
            grads = torch.autograd.grad(loss, [p for _, p in trained])
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
            clipped += norm > 0.05
            for (name, p), m, v, grad in zip(trained, first, second, grads, strict=True):
                g = grad * min(1.0, 0.05 / (norm + 1e-6))
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.98).add_(0.02 * g * g)
                step = m / (1 - 0.9**count) / ((v / (1 - 0.98**count)).sqrt() + 1e-6)
                with torch.no_grad():
                    p -= rate * (step + (0.1 * p if p.ndim > 1 else 0.0))
                    if name in averages:
                        averages[name] = 0.8 * averages[name] + 0.2 * p
        if index == 2:
            break
    other.close()
    assert count == 12 and clipped > 6
    expected = {name: p.detach() for name, p in trained} | {f"average/{n}": a for n, a in averages.items()}
    assert set(expected) == set(saved) and "average/critic_head.weight" not in saved
    for name, tensor in expected.items():
        torch.testing.assert_close(saved[name], tensor, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("objective.ptx_batch_size=3",), "at least one for each of 4 updates"),
        (("streams.ptx.no_such=1",), "no_such"),
        (("streams.other.name=x",), "reads no such stream"),
        (("streams.ptx=1",), "takes a data set's name or options"),
        (("streams.ptx.name=no-such-data",), "no-such-data"),
        (("objective.ptx_coef=0", "streams.ptx.name=x"), "reads no such stream"),
        (("objective.kl_coef=0",), "0 would stay 0"),
        (("train.batch_size=1",), "some would be empty"),
        (("rollout.max_tokens=32",), "leaves no room for a prompt"),
    ],
)
def test_wrong_options_are_refused_before_the_first_step(lab, options, message) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        assemble(lab.plan("ppo", "micro-batches", *options), Processes("cpu"))


def test_what_a_batch_is_compared_with_is_rounded_as_its_passes_are(lab) -> None:
    """In bf16 what was noted of the policy is what it finds, to the bit, and not what it finds in fp32."""
    plain = ("backbone.dropout=0", "backbone.neftune_alpha=0")
    job = assemble(lab.plan("ppo", "whole", "train.precision=bf16", *plain), Processes("cpu"))
    batch = job.prepare(0, next(iter(job.stream(0)))[1])
    with torch.no_grad():
        phase = job.engine.of(batch)[0]
        rounded, exact = job.engine.run(phase, batch), phase.forward(job.models, batch)
    assert torch.equal(batch["old"].values, rounded["logps"])
    assert not torch.equal(batch["old"].values, exact["logps"])
    assert not batch["kl"].any(), "the reference is the starting policy"


def test_what_happened_in_episodes_is_counted(lab, tmp_path) -> None:
    environment = ('rollout.environment={"name": "calculator"}', "rollout.max_turns=2", "rollout.max_tokens=8")
    begin(lab, tmp_path / "run", "rloo", *environment, "train.steps=2", dataset="arithmetic")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    assert [record["num_episodes"] for record in steps] == [12, 12]
    assert all(record["num_turns"] >= 12 and record["num_prompt_tokens_cut"] > 0 for record in steps)
    summary = json.loads((tmp_path / "run" / "run.json").read_text())["summary"]
    assert summary["counts"]["turns"] == sum(record["num_turns"] for record in steps)
    told = " ".join(worth_telling(summary["counts"]))
    assert "prompt tokens cut" in told and "answers cut at rollout.max_tokens" in told, told


def test_an_episode_without_turns_left_is_not_cut_at_its_tokens(lab, tmp_path, monkeypatch) -> None:
    """Each is counted as what it is: such an episode has no end, and room for tokens all the same."""

    def ends_at_once(self, prompts, sampling, seeds, on_token=None) -> Generated:
        rows, end = range(len(prompts)), torch.tensor([self.processor.end_id])
        return Generated([end for _ in rows], [torch.zeros(1) for _ in rows], [True for _ in rows])

    options = ("rollout.environment=reflection", "rollout.max_turns=1", "train.steps=1")
    monkeypatch.setattr(lab.plan("rloo", "micro-batches").backbone_class, "generate", ends_at_once)
    counts = begin(lab, tmp_path / "run", "rloo", *options).summary["counts"]
    assert counts["stopped_turns"] == counts["answers"] == 12
    assert counts["answers_cut"] == counts["stopped_length"] == 0


def test_counts_are_those_of_the_answers_and_of_each_step_once(lab, tmp_path) -> None:
    """Also where a run is killed behind its last checkpoint and goes on."""
    outcome = begin(lab, tmp_path / "run", "grpo", "train.save_every=2", "rollout.keep_experience=1")
    run = outcome.folder
    rows = [row for path in sorted((run / "experience").iterdir()) for row in pq.read_table(path).to_pylist()]
    counts = outcome.summary["counts"]
    assert counts["answers"] == len(rows) == 36 and counts["prompts"] == 12
    assert counts["answers_empty"] == sum(not row["answer"].strip() for row in rows)
    assert counts["answers_cut"] == sum(not row["ended"] for row in rows) > 0
    groups: dict[tuple[str, int], set[float]] = {}
    for place, row in enumerate(rows):
        groups.setdefault((row["key"], place // 12), set()).add(row["score"])
    assert counts["prompts_unlearnt"] == sum(len(scores) == 1 for scores in groups.values())
    last = checkpoint.committed(run / "checkpoints")[-1]
    shutil.rmtree(last)
    shutil.rmtree(run / "model")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "status": "running"}))
    again = launch.resume(run, lab.catalog, sets=(), allow_change=False, device="cpu", say=quiet)
    assert again.summary["counts"] == counts


def test_a_batch_shared_out_between_trained_models_is_a_split_one(lab) -> None:
    """Live running statistics would depend on how many models learn."""
    for kind, options, passes in (("ppo", ("objective.critic.kind=copy",), 2), ("grpo", (), 1)):
        job = assemble(lab.plan(kind, "whole", *options), Processes("cpu"))
        assert job.engine.passes == passes and job.freezes_batchnorm == (passes > 1)


def test_held_out_rows_are_of_held_out_data(lab, tmp_path) -> None:
    for objective in ("ppo", "grpo", "rloo"):
        job = assemble(lab.plan(objective, "whole"), Processes("cpu"))
        found = heldout.measure(job, lab.catalog)
        updates = {f"heldout/{name}" for name in ("clipped", "beta", "loss", "examples")}
        assert not updates & found.keys(), objective
        assert found["heldout/prompts"] == min(4, job.num_heldout)
        assert found["heldout/answers"] == 8, "rollout.heldout_answers, of all prompts together"
        assert {"heldout/score", "heldout/kl", "heldout/length"} <= found.keys()


def test_what_other_streams_lose_is_limited_and_told(lab, tmp_path) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text("".join(json.dumps({"text": "a red car and a blue house " * 40}) + "\n" for _ in range(8)))
    # Rows of a table are texts of their own, and what does not fit the context is cut.
    sets, short = (
        (f"streams.ptx.name={long}", "data.max_lost=0.1"),
        write_prompts(tmp_path / "short.jsonl", *"abcdefgh"),
    )
    with pytest.raises(DataError, match="of the stream ptx are longer than the context"):
        list(preview.preview(assemble(lab.plan("ppo", "whole", *sets, dataset=short), Processes("cpu"))))
    job = assemble(lab.plan("ppo", "whole", *sets, "data.max_lost=1", dataset=short), Processes("cpu"))
    assert any("examples of the stream ptx looked at" in line for line in preview.preview(job))


def test_what_cannot_begin_leaves_no_folder_behind(lab, tmp_path) -> None:
    """Asked for rightly, it may have the name."""
    nowhere = 'rollout.rewards=[{"name": "reward-model", "path": "/nowhere"}]'
    with pytest.raises(UsageError, match=r"reward reward-model \(of mmalign_rewards, path=/nowhere\): unknown folder"):
        begin(lab, tmp_path / "run", "rloo", nowhere)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"objective\.critic\.source names /nowhere"):
        lab.plan("ppo", "whole", "objective.critic.source=/nowhere")


def test_held_out_prompts_are_measured_in_several_batches(lab) -> None:
    """As many answers to each as their number allows, in the first batch and in those behind it."""
    options = ("train.batch_size=1", "evaluation.max_examples=4", "objective.minibatches=1", "objective.ptx_coef=0")
    job = assemble(lab.plan("ppo", "whole", *options), Processes("cpu"))
    assert job.num_heldout > 1
    results = heldout.measure(job, lab.catalog)
    prompts = min(4, job.num_heldout)
    assert results["heldout/prompts"] == prompts
    assert results["heldout/answers"] == prompts * job.plan.rollout.answers_heldout(prompts, 1)
