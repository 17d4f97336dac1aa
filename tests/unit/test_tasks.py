"""The built-in tasks, their data, and tasks of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.client.tasks import Sampler, load_task
from barnraise.client.tasks.causal_lm import CausalLM
from barnraise.client.tasks.classification import Classification
from barnraise.client.tasks.text import documents, split_documents
from barnraise.protocols.charter import TaskSection
from barnraise.protocols.errors import BarnraiseError

DOCUMENTS = [f"document {i}\n" * 20 for i in range(40)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    for i, text in enumerate(DOCUMENTS):
        path = tmp_path / "texts" / f"part{i % 3}" / f"{i}{('.txt', '.md', '.py', '.rst')[i % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "texts"


def section(name: str, **options: object) -> TaskSection:
    return TaskSection.model_validate({"name": name, **options})


def refused(code: str, name: str, home: Path | None = None, **options: object) -> str:
    with pytest.raises(BarnraiseError) as caught:
        load_task(section(name, **options), home)
    assert caught.value.code == code
    return str(caught.value)


# --- text -----------------------------------------------------------------------------------------


def test_documents_are_text_files_and_lines_of_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text(
        '{"text": "two"}\n\n{"text": "three", "id": 3}\n{"text": " "}\n'
    )
    (tmp_path / "c.bin").write_bytes(b"no text")
    (tmp_path / ".hidden.txt").write_text("hidden")
    for folder in (".git", "__pycache__", "more"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    (tmp_path / "link.txt").symlink_to(tmp_path / "more" / "a.txt")
    (tmp_path / "linked").symlink_to(tmp_path / ".git")
    (tmp_path / "empty.md").write_text("\n")
    assert list(documents(tmp_path)) == [b"one", b"two", b"three", b"more"]


def test_whether_a_document_is_held_out_does_not_hang_on_the_others(texts: Path) -> None:
    train, held_out = split_documents(texts, 0.3)
    assert sorted(train + held_out) == sorted(text.encode() for text in DOCUMENTS)
    assert train
    assert held_out
    (texts / "new.txt").write_text("another document")
    more_train, more_held_out = split_documents(texts, 0.3)
    assert set(held_out) <= set(more_held_out)
    assert set(train) <= set(more_train)


def test_a_document_that_stands_twice_is_never_on_both_sides(texts: Path) -> None:
    for i, text in enumerate(DOCUMENTS):
        (texts / f"again{i}.txt").write_text(text)
    train, held_out = split_documents(texts, 0.3)
    assert not set(train) & set(held_out)


@pytest.mark.parametrize("line", ["{", '{"txt": "x"}', "[]", '{"text": 3}', '"text"'])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(f"{json.dumps({'text': 'fine'})}\n{line}\n")
    with pytest.raises(BarnraiseError) as caught:
        list(documents(tmp_path))
    assert caught.value.code == "D202"
    assert "line 2" in str(caught.value)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_documents_are_d201(tmp_path: Path, count: int) -> None:
    for i in range(count):
        (tmp_path / f"{i}.txt").write_text("text")
    with pytest.raises(BarnraiseError) as caught:
        split_documents(tmp_path, 0.1)
    assert caught.value.code == "D201"


def test_a_directory_that_is_not_there_is_d201(tmp_path: Path) -> None:
    with pytest.raises(BarnraiseError) as caught:
        CausalLM().data(tmp_path / "nowhere")
    assert caught.value.code == "D201"


def test_an_unreadable_document_is_d202(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("text")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BarnraiseError) as caught:
        list(documents(tmp_path))
    assert caught.value.code == "D202"
    assert "a.txt" in str(caught.value)


# --- causal-lm --------------------------------------------------------------------------------------


def small_lm() -> CausalLM:
    return CausalLM(context=16, width=16, layers=1, heads=2, held_out=0.3)


def test_every_window_of_the_training_text_is_an_example(texts: Path) -> None:
    task = small_lm()
    split = task.data(texts)
    train, _ = split_documents(texts, 0.3)
    text = b"\n\n".join(train)
    assert split.sizes()[0] == len(text) - 16
    assert bytes(split.train[3].tolist()) == text[3:20]


def test_held_out_windows_predict_each_byte_once(texts: Path) -> None:
    split = small_lm().data(texts)
    _, held_out = split_documents(texts, 0.3)
    text = b"\n\n".join(held_out)
    predicted = b"".join(bytes(split.held_out[i][1:].tolist()) for i in range(split.sizes()[1]))
    assert predicted == text[1 : 1 + len(predicted)]
    assert len(text) - len(predicted) <= 16


def test_text_shorter_than_the_context_is_d201(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(BarnraiseError) as caught:
        small_lm().data(tmp_path)
    assert caught.value.code == "D201"


def test_a_fresh_language_model_knows_nothing_and_no_byte_sees_what_follows() -> None:
    torch.manual_seed(0)
    task = small_lm()
    model = task.model()
    batch = torch.randint(256, (4, 17))
    assert task.loss(model, batch).item() == pytest.approx(np.log(256), abs=0.1)
    changed = batch.clone()
    changed[:, 10:] = 0
    with torch.no_grad():
        assert torch.allclose(model(batch[:, :-1])[:, :10], model(changed[:, :-1])[:, :10])


def test_a_sample_continues_the_prompt() -> None:
    task = small_lm()
    assert isinstance(task, Sampler)
    torch.manual_seed(1)
    text = task.sample(task.model(), "def ", 30)
    assert text.startswith("def ")
    assert len(text) > 10


def test_heads_must_divide_width() -> None:
    assert "task.heads" in refused("C104", "causal-lm", width=10, heads=4)


# --- classification -----------------------------------------------------------------------------------


def small_classes() -> Classification:
    return Classification(features=3, classes=2, hidden=[4], held_out=0.25)


def test_rows_come_from_npz_and_csv(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(12, dtype=np.float64).reshape(4, 3), y=[0, 1, 0, 1])
    (tmp_path / "b.csv").write_text("p,label,q,r\n1.5,1,2,3\n-1,0,0,1e3\n")
    split = small_classes().data(tmp_path)
    rows = {tuple(x.tolist()): int(y) for part in (split.train, split.held_out) for x, y in part}  # type: ignore[attr-defined]
    assert rows[(1.5, 2.0, 3.0)] == 1
    assert rows[(3.0, 4.0, 5.0)] == 1
    assert sum(split.sizes()) == 6


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((3, 2)), np.zeros(3, int)),
        (np.zeros((3, 3)), np.array([0, 1, 2])),
        (np.zeros((3, 3)), np.array([0, -1, 1])),
        (np.zeros((3, 3)), np.zeros(2, int)),
        (np.full((3, 3), np.nan), np.zeros(3, int)),
        (np.array([["a"] * 3] * 3), np.zeros(3, int)),
        (np.zeros((3, 3)), np.zeros(3)),
    ],
)
def test_rows_of_another_kind_are_d202(tmp_path: Path, x: np.ndarray, y: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(BarnraiseError) as caught:
        small_classes().data(tmp_path)
    assert caught.value.code == "D202"
    assert "a.npz" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p,q,r\n1,2,3\n", "its header has no 'label'; it has p, q, r"),
        ("p;q;r;label\n1;2;3;0\n", "columns are separated by commas"),
        ("", "it has no header"),
        ("p,q,p,label\n1,2,3,0\n", "its header has 'p' twice"),
        ("p,q,r,label\n1,2,3,0\n\n1,2,x,0\n", "line 4, column 'r': 'x' is not a number"),
        ("p,q,r,label\n1,2\n", "line 2 has 2 values, the header 4"),
        ("p,q,r,label\n1,2,3,zero\n", "line 2, column 'label': 'zero' is not a whole number"),
        ("p,q,r,label\n1,2,3,0.5\n", "line 2, column 'label': '0.5' is not a whole number"),
        ("p,q,r,label\n1,2,3,2\n", "line 2, column 'label': the class 2 is not in [0, 2)"),
        ("p,q,r,label\n1,nan,3,0\n", "line 2, column 'q': nan is not a finite number"),
        ("p,q,r,label\n1,1e39,3,0\n", "line 2, column 'q': 1e39 is not a finite number"),
        ('p,q,r,label\n1,2,"3,0\n', "line 2: unexpected end of data"),
        ("p,q,label\n1,2,0\n", "a row has 2 numbers, not 3"),
    ],
)
def test_a_csv_that_is_no_table_of_numbers_is_d202_and_says_where(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert said in unreadable(small_classes(), tmp_path)


def unreadable(task: Classification, directory: Path) -> str:
    with pytest.raises(BarnraiseError) as caught:
        task.data(directory)
    assert caught.value.code == "D202"
    return str(caught.value)


def rows_of(directory: Path) -> dict[tuple[float, ...], int]:
    split = small_classes().data(directory)
    parts: list[object] = [split.train, split.held_out]
    return {tuple(x.tolist()): int(y) for part in parts for x, y in part}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "\ufefflabel,p,q,r\r\n1,1,2,3\r\n0,4,5,6\r\n",
        "p, q, r, label\n1, 2, 3, 1\n4, 5, 6, 0\n",
        '"p", q ,r,label\n1,2, "3",1.0\n4,5,6,0.0\n',
    ],
)
def test_a_csv_as_spreadsheets_write_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, newline="")
    assert rows_of(tmp_path) == {(1.0, 2.0, 3.0): 1, (4.0, 5.0, 6.0): 0}


@given(st.permutations(["f1", "f2", "f3", "label"]), st.permutations(["f1", "f2", "f3", "label"]))
@settings(deadline=None, max_examples=20)
def test_the_order_of_columns_does_not_matter(one: list[str], other: list[str]) -> None:
    with TemporaryDirectory() as directory:
        for name, header, scale in (("a", one, 1), ("b", other, 10)):
            values = {"f1": scale, "f2": 2 * scale, "f3": 3 * scale, "label": scale % 2}
            row = ",".join(str(values[column]) for column in header)
            (Path(directory) / f"{name}.csv").write_text(f"{','.join(header)}\n{row}\n")
        assert rows_of(Path(directory)) == {(1.0, 2.0, 3.0): 1, (10.0, 20.0, 30.0): 0}
        assert small_classes().columns(Path(directory)) == ("f1", "f2", "f3")


def test_two_files_with_other_columns_are_d202(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("p,q,r,label\n1,2,3,0\n")
    (tmp_path / "b.csv").write_text("p,q,s,label\n1,2,3,0\n")
    told = unreadable(small_classes(), tmp_path)
    assert "b.csv" in told
    assert "a.csv: it lacks 'r' and has 's' besides" in told


def test_an_npz_without_y_says_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 3)), labels=np.zeros(3, int))
    assert "it has no y; it has x, labels" in unreadable(small_classes(), tmp_path)
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 3)), y=np.zeros((3, 1), int))
    assert "y not of shape (rows,)" in unreadable(small_classes(), tmp_path)
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "it is a single array" in unreadable(small_classes(), tmp_path)


def test_a_file_that_is_no_npz_is_d202_and_nothing_is_unpickled(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(BarnraiseError) as caught:
        small_classes().data(tmp_path)
    assert caught.value.code == "D202"
    np.savez(tmp_path / "a.npz", x=np.array([object()], dtype=object), y=np.zeros(1, int))
    with pytest.raises(BarnraiseError) as pickled:
        small_classes().data(tmp_path)
    assert pickled.value.code == "D202"


# --- how large -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "options"),
    [
        ("causal-lm", "task.width", {"width": 10**8}),
        ("causal-lm", "task.context", {"context": 10**400}),
        ("causal-lm", "task.layers", {"layers": 100_000}),
        ("classification", "task.features", {"features": 10**15, "classes": 2}),
        ("classification", "task.classes", {"features": 2, "classes": 10**15}),
        ("classification", "task.hidden", {"features": 2, "classes": 2, "hidden": [10**6, 10**6]}),
        ("classification", "task.hidden", {"features": 2, "classes": 2, "hidden": [1] * 1001}),
        ("classification", "task.hidden", {"features": 2, "classes": 2, "hidden": [-1]}),
    ],
)
def test_a_size_that_cannot_be_meant_is_refused_by_its_key(
    name: str, key: str, options: dict[str, object]
) -> None:
    """Before anything is allocated: none of these would end in this test's lifetime."""
    told = refused("C104", name, **options)
    assert key in told
    assert len(told) < 1500


@pytest.mark.parametrize(
    "task",
    [
        CausalLM(context=5, width=8, layers=3, heads=2),
        Classification(3, 4, [5, 6]),
        Classification(3, 2, []),
    ],
)
def test_a_tasks_parameters_are_its_models(task: CausalLM | Classification) -> None:
    assert task.parameters() == sum(p.numel() for p in task.model().parameters())


# --- tasks by name ------------------------------------------------------------------------------------


def test_a_built_in_task_takes_the_charters_keys() -> None:
    task = load_task(section("causal-lm", context=8, width=16, heads=2))
    assert isinstance(task, CausalLM)
    assert (task.context, task.width) == (8, 16)


def test_unknown_keys_and_wrong_values_name_the_key_and_the_keys_there_are() -> None:
    assert "bytes that a prediction may look back on" in refused("C104", "causal-lm", contxt=8)
    assert "task.context" in refused("C104", "causal-lm", context="8")
    assert "task.context" in refused("C104", "causal-lm", context=0)
    assert "task.features" in refused("C104", "classification", classes=2)


def test_a_task_that_is_not_there_is_c105(tmp_path: Path) -> None:
    assert "causal-lm" in refused("C105", "images")
    assert "No module named" in refused("C105", "nowhere:Task", tmp_path)
    (tmp_path / "words.py").write_text("class Words: pass\nvalue = 3\n")
    assert "Sentences" in refused("C105", "words:Sentences", tmp_path)
    assert "not a class" in refused("C105", "words:value", tmp_path)
    assert "it has no model, data, loss, metrics" in refused("C105", "words:Words", tmp_path)


def test_the_code_of_ones_own_task_is_what_lies_beside_the_charter(tmp_path: Path) -> None:
    for name in ("one", "two"):
        home = tmp_path / name
        home.mkdir()
        (home / "mine.py").write_text(
            f"class Mine:\n    said = {name!r}\n"
            "    def model(self): ...\n    def data(self, directory): ...\n"
            "    def loss(self, model, batch): ...\n    def metrics(self, model, batch): ...\n"
        )
        assert load_task(section("mine:Mine"), home).said == name  # type: ignore[attr-defined]
