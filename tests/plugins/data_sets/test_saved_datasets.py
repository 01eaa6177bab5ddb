"""Hugging Face `datasets`: saved folders read with pyarrow alone, clones of hub repositories, hub ids, and splits."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data import hub
from mmalign_data.splits import find_splits
from mmalign_data.texts import CompletionFiles, LabelledTextFiles, PreferenceFiles, TextFilesConfig, kind_of

from mmalign.cli import run
from mmalign.contract.examples import Message
from mmalign.data.find import find_dataset
from mmalign.errors import DataError, UsageError
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from tests.support.saved_samples import chat_pairs, save_dataset, save_dict


def read(path: Path | str, split: str = "train", cls: Any = PreferenceFiles, **options: Any) -> Any:
    return cls.build(TextFilesConfig(path=str(path), **options), split)


def prompts(data: Any) -> list[str]:
    return [data[i].prompt[0].content for i in range(len(data))]


def test_a_saved_data_set_is_read_whole_and_in_order(tmp_path: Path) -> None:
    rows = chat_pairs(1200)
    one, three = save_dataset(tmp_path / "one", rows), save_dataset(tmp_path / "three", rows, shards=3)
    data, same = read(one, holdout=0), read(three, holdout=0)
    assert prompts(data) == prompts(same) == [f"Q{i}" for i in range(1200)]
    assert data.fingerprint() == same.fingerprint()
    assert data[7].chosen == (Message("assistant", "A7"),) and data[7].key == "data-00000-of-00001.arrow:8"
    assert same[1199].key == "data-00002-of-00003.arrow:400"
    assert prompts(read(one / "data-00000-of-00001.arrow", holdout=0)) == prompts(data)


def test_a_dict_of_splits_trains_on_train_and_holds_out_validation(tmp_path: Path) -> None:
    folder = save_dict(tmp_path / "d", train=chat_pairs(50), validation=chat_pairs(5, "v"), test=chat_pairs(4, "t"))
    parts = {split: read(folder, split) for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [50, 5, 4]
    assert prompts(parts["validation"])[0] == "Qv0" and prompts(parts["test"])[0] == "Qt0"
    assert parts["train"].report()["source"] == f"{folder} [train]"
    keys = [data[i].key for data in parts.values() for i in range(len(data))]
    assert len(set(keys)) == 59
    assert prompts(read(folder, validation_split="test", split="validation"))[0] == "Qt0"
    assert read(folder, "test", validation_split="test") is None  # it is the validation part now


def test_without_a_validation_split_a_part_of_train_is_held_out_and_never_test(tmp_path: Path) -> None:
    folder = save_dict(tmp_path / "d", train=chat_pairs(200), test=chat_pairs(9, "t"))
    train, validation = read(folder, holdout=0.2), read(folder, "validation", holdout=0.2)
    assert set(prompts(train)) | set(prompts(validation)) == {f"Q{i}" for i in range(200)}
    assert not set(prompts(train)) & set(prompts(validation)) and len(validation) > 20
    assert len(read(folder, "test")) == 9


def test_training_on_test_has_to_be_asked_for(tmp_path: Path) -> None:
    only = save_dict(tmp_path / "only", test=chat_pairs(3))
    with pytest.raises(DataError, match=r"none of its splits is called train; it has test\n.*dataset.split=NAME"):
        read(only)
    alone = save_dataset(tmp_path / "alone", chat_pairs(3), split="test")  # load_dataset(...)["test"].save_to_disk
    with pytest.raises(DataError, match="it has test"):
        read(alone)
    data = TextFilesConfig(path=str(only), split="test", holdout=0)
    assert len(PreferenceFiles.build(data, "train")) == 3 and PreferenceFiles.build(data, "test") is None
    both = save_dict(tmp_path / "both", train_prefs=chat_pairs(2), test_prefs=chat_pairs(2))
    with pytest.raises(DataError, match=r"it has train_prefs, test_prefs\nName one: --set dataset.split=train_prefs"):
        read(both)
    with pytest.raises(DataError, match=r"no split 'train_pref'; .*\nDid you mean train_prefs"):
        PreferenceFiles.build(TextFilesConfig(path=str(both), split="train_pref"), "train")
    twice = TextFilesConfig(path=str(both), split="train_prefs", validation_split="train_prefs")
    with pytest.raises(DataError, match="for training and for validation"):
        PreferenceFiles.build(twice, "train")


def test_damaged_folders_say_what_is_wrong(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "d", chat_pairs(30), shards=2)
    state = json.loads((folder / "state.json").read_text())
    for change, message in (
        ({"_indices_data_files": [{"filename": "indices.arrow"}]}, "file of indices"),
        ({"_data_files": [{"filename": "../other.arrow"}]}, "odd ones"),
        ({"_data_files": []}, "names no data files"),
        ({"_data_files": [{"filename": "data-00007-of-00009.arrow"}]}, "data-00007-of-00009.arrow is missing"),
    ):
        (folder / "state.json").write_text(json.dumps(state | change))
        with pytest.raises(DataError, match=message):
            read(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state.json: Expecting"):
        read(folder)
    (folder / "state.json").write_text(json.dumps(state))
    content = (folder / "data-00001-of-00002.arrow").read_bytes()
    for broken in (b"", b"not arrow at all", content[: len(content) // 2]):
        (folder / "data-00001-of-00002.arrow").write_bytes(broken)
        with pytest.raises(DataError, match=r"data-00001-of-00002.arrow: not an Arrow stream, or damaged"):
            read(folder)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["a.jsonl", "b.jsonl"], {"": 2}),
        (["train.jsonl", "dev.jsonl"], {"train": 1, "validation": 1}),
        (["wiki.train.jsonl", "wiki.valid.jsonl", "wiki.test.jsonl"], {"train": 1, "validation": 1, "test": 1}),
        (["train/a.jsonl", "train/b.jsonl", "eval/a.jsonl"], {"train": 2, "test": 1}),
        (["data/train_sft-00000-of-00002.jsonl", "data/train_sft-00001-of-00002.jsonl"], {"train_sft": 2}),
        (["data/extra-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"], {"extra": 1, "test": 1}),
        (["part-00000-of-00002.jsonl", "part-00001-of-00002.jsonl"], {"": 2}),
        (["train.jsonl", "dataset_infos.json", ".cache/test.jsonl"], {"train": 1}),
        (["contest.jsonl", "the-test-of-time.jsonl"], {"": 2}),
    ],
)
def test_names_in_a_folder_tell_the_split(tmp_path: Path, names: list[str], splits: dict[str, int]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    assert {name: len(files) for name, files in find_splits(str(tmp_path), "", "completion").items()} == splits


def test_a_folder_where_only_some_files_name_a_split_is_refused(tmp_path: Path) -> None:
    for name in ("more.jsonl", "test.jsonl"):
        (tmp_path / name).write_text('{"prompt": "Q", "completion": "A"}\n')
    with pytest.raises(DataError, match=r"test.jsonl is of the split test, more.jsonl of no split\n.*/more.jsonl, or"):
        read(tmp_path, cls=CompletionFiles)
    assert len(read(f"{tmp_path}/*.jsonl", cls=CompletionFiles, holdout=0)) == 2  # asked for, both


def test_hints_never_lead_to_test_data(tmp_path: Path) -> None:
    for name in ("test_gen", "test_prefs", "train_gen", "train_prefs"):
        place = tmp_path / "clone" / "data" / f"{name}-00000-of-00001.jsonl"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n')
    with pytest.raises(DataError, match=r"it has test_gen, test_prefs, train_gen, train_prefs") as raised:
        read(tmp_path / "clone")
    assert "dataset.split=train_gen" in raised.value.hint
    only = tmp_path / "only"
    only.mkdir()
    (only / "test.jsonl").write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n')
    with pytest.raises(DataError, match="none of its splits is called train") as raised:
        read(only)
    assert "dataset.split=NAME" in raised.value.hint
    (only / "train.jsonl").write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n')
    (only / "more.jsonl").write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n')
    with pytest.raises(DataError, match=r"test\.jsonl is of the split test, more\.jsonl of no split") as raised:
        read(only)
    assert str(only / "train.jsonl") in str(raised.value.hint)


@pytest.mark.parametrize("name", ["train/test.jsonl", "training/eval/x.jsonl", "train_test.jsonl"])
def test_names_that_say_two_splits_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n')
    with pytest.raises(DataError, match=r"its path names the splits (train and test|test and train)"):
        read(tmp_path)


def test_a_clone_of_a_repository_is_read_by_its_splits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, count in (("train", 40), ("test", 6)):
        table = pa.Table.from_pylist(chat_pairs(count, split))
        pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("a card")
    assert len(read(tmp_path)) + len(read(tmp_path, "validation")) == 40 and len(read(tmp_path, "test")) == 6
    assert kind_of(str(tmp_path), {}) == "preference"


def test_classes_are_those_of_the_training_split(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 3} for i in range(9)]
    folder = save_dict(tmp_path / "d", train=rows, test=[{"text": "x", "label": 2}])
    data = read(folder, "test", cls=LabelledTextFiles)
    assert data.classes == ("0", "1", "2") and data[0].label == 2
    other = save_dict(tmp_path / "o", train=rows, test=[{"text": "x", "label": 7}])
    with pytest.raises(DataError, match=r"\[test\]: label '7' is in no training example"):
        read(other, "test", cls=LabelledTextFiles)


def test_hub_ids_reach_the_reader_that_knows_their_columns(tmp_path: Path) -> None:
    catalog = Catalog(load_plugins())
    entry, path = find_dataset(catalog, "hf:org/name", ("completion",), {})
    assert (entry.spec.name, path) == ("completions", "hf:org/name")
    folder = save_dict(tmp_path / "d", train=chat_pairs(3))
    entry, path = find_dataset(catalog, f"hf:{folder}", ("ranking", "preference"), {})
    assert (entry.spec.name, path) == ("preferences", str(folder))
    with pytest.raises(UsageError, match="nothing here reads image-text examples from hf:"):
        find_dataset(catalog, "hf:org/name", ("image-text",), {})
    renamed = tmp_path / "r.jsonl"
    renamed.write_text('{"prompt": "Q", "answers": ["A", "B"], "places": [1, 2]}\n')
    columns = {"columns": {"completions": "answers", "ranks": "places"}}
    assert find_dataset(catalog, str(renamed), ("preference", "ranking"), columns)[0].spec.name == "rankings"


def test_a_hub_id_without_the_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    hub.fetch.cache_clear()
    assert run(["train", "--objective", "dpo", "--dataset", "hf:trl-lib/ultrafeedback_binarized"]) == 2
    said = capsys.readouterr().err
    assert "hf:trl-lib/ultrafeedback_binarized: reading data of the hub needs the package datasets" in said
    assert 'pip install "mmalign[datasets]"' in said and "save_to_disk('FOLDER')" in said
    with pytest.raises(DataError, match=r"dataset.subset goes with hf:ORG/NAME"):
        read("x.jsonl", subset="en")


def test_what_datasets_itself_writes_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    rows = chat_pairs(30)
    table = datasets.Dataset.from_list(rows)
    table.save_to_disk(tmp_path / "theirs", num_shards=3)
    ours = save_dataset(tmp_path / "ours", rows, shards=3)
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in (tmp_path / "theirs").iterdir())
    assert (
        json.loads((ours / "state.json").read_text()).keys()
        == json.loads((tmp_path / "theirs" / "state.json").read_text()).keys()
    )
    assert read(ours, holdout=0).fingerprint() == read(tmp_path / "theirs", holdout=0).fingerprint()
    table.shuffle(seed=0).select(range(10)).save_to_disk(tmp_path / "shuffled")  # through indices, written flat
    assert len(read(tmp_path / "shuffled", holdout=0)) == 10
    datasets.DatasetDict(train=table, test=table.select(range(4))).save_to_disk(tmp_path / "dict")
    assert len(read(tmp_path / "dict", holdout=0)) == 30 and len(read(tmp_path / "dict", "test")) == 4

    (tmp_path / "clone" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "clone" / "data" / "train-00000-of-00001.parquet")
    hub.fetch.cache_clear()
    through_the_package = f"hf:{tmp_path / 'clone'}"
    data = read(through_the_package, holdout=0)
    assert prompts(data) == [f"Q{i}" for i in range(30)] and data.report()["source"].endswith("[train]")
    with pytest.raises(DataError, match=r"\(subset nope\) cannot be loaded"):
        read(through_the_package, subset="nope")
    with pytest.raises(DataError, match=r"hf:org/none is not on this machine and could not be downloaded"):
        read("hf:org/none")
