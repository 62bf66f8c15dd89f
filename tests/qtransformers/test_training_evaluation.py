"""Tasks, metrics and the statistics of comparisons."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as peer

from qcluster.cli import main
from qcluster.errors import FormatError, InputError, MissingDependency, NotFound
from qcluster.qtransformers import evaluation, zoo
from qcluster.qtransformers.evaluation import metrics, significance
from qcluster.qtransformers.evaluation.finetune import classifier_from, finetune, predict
from qcluster.qtransformers.evaluation.probe import Head, embed, features
from qcluster.qtransformers.evaluation.report import EvaluationReport
from qcluster.qtransformers.evaluation.run import evaluate, folds
from qcluster.qtransformers.evaluation.tasks import TASKS, Example, from_hub, load_task
from qcluster.qtransformers.evaluation.wordpiece import WordPiece
from qcluster.qtransformers.hf import export_hf

labels = st.lists(st.integers(0, 2), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(labels, st.integers(0, 99))
def test_metrics_equal_scikit_learn(true: list[int], seed: int) -> None:
    predicted = np.random.default_rng(seed).integers(0, 3, len(true))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics.matthews(predicted, true) == pytest.approx(
            peer.matthews_corrcoef(true, predicted), abs=1e-12
        )
        assert metrics.accuracy(predicted, true) == peer.accuracy_score(true, predicted)
        assert metrics.macro_f1(predicted, true) == pytest.approx(
            peer.f1_score(true, predicted, average="macro", zero_division=0)
        )
        assert metrics.f1(predicted, true) == pytest.approx(
            peer.f1_score(true, predicted, labels=[1], average="macro", zero_division=0)
        )


def test_correlations() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert metrics.pearson_spearman(2 * x + 1, x) == pytest.approx(1.0)
    assert metrics.pearson_spearman(np.ones(4), x) == 0.0
    for metric in metrics.METRICS.values():
        with pytest.raises(InputError, match="same length"):
            metric([1, 0], [1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(won: int, lost: int) -> None:
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert significance.mcnemar(won, lost) == pytest.approx(expected)


def test_holm_keeps_order_and_corrects() -> None:
    assert significance.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {
        "a": pytest.approx(0.03), "c": pytest.approx(0.06), "b": pytest.approx(0.06),
    }  # fmt: skip
    assert significance.holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


def flipped(true: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    return np.where(draw.random(len(true)) < share, 1 - true, true)


def against(new: np.ndarray, old: np.ndarray, true: np.ndarray, **options: Any) -> Any:
    return significance.compare(
        new, old, true, name="t", metric_name="accuracy", metric=metrics.accuracy, **options
    )


def test_equal_systems_are_non_inferior_where_there_are_enough_items() -> None:
    draw = np.random.default_rng(0)
    true = draw.integers(0, 2, 3000)
    old = flipped(true, 0.2, draw)
    new = old.copy()
    new[:30] = 1 - new[:30]
    found = against(new, old, true)
    assert found.verdict == "non-inferior"
    assert found.power > 0.99
    assert found.difference_low <= found.accuracy_difference <= found.difference_high


def test_few_items_cannot_tell_even_if_all_agree() -> None:
    true = np.arange(400) % 2
    assert against(true, true, true).verdict == "cannot tell"


def test_a_clear_loss_is_worse() -> None:
    draw = np.random.default_rng(1)
    true = draw.integers(0, 2, 2000)
    found = against(flipped(true, 0.3, draw), flipped(true, 0.1, draw), true)
    assert found.verdict == "worse"
    assert found.p_value < 1e-6
    assert found.difference_high < 0


def test_too_many_disagreements_cannot_tell() -> None:
    draw = np.random.default_rng(2)
    true = draw.integers(0, 2, 1200)
    found = against(flipped(true, 0.4, draw), flipped(true, 0.4, draw), true, margin=0.005)
    assert found.power < 0.8
    assert found.verdict == "cannot tell"


def test_permuted_labels_give_few_false_differences() -> None:
    """Swapping the two systems' answers item by item is the null: 5 % of p-values below 5 %."""
    draw = np.random.default_rng(3)
    found = []
    for _ in range(600):
        discordant = draw.random(1500) < 0.05
        swapped = draw.random(1500) < 0.5
        won, lost = int((discordant & swapped).sum()), int((discordant & ~swapped).sum())
        found.append(significance.mcnemar(won, lost) < 0.05)
    assert np.mean(found) <= 0.05


def test_a_system_worse_by_the_margin_is_rarely_called_non_inferior() -> None:
    draw = np.random.default_rng(4)
    claims = 0
    for _ in range(300):
        true = np.ones(2500, dtype=np.int64)
        old = np.ones(2500, dtype=np.int64)
        # Right on 2 %, wrong on 3.5 % of the items where they differ: 1.5 points worse.
        kind = draw.choice(3, 2500, p=[0.945, 0.02, 0.035])
        new = np.where(kind == 2, 0, 1)
        old = np.where(kind == 1, 0, old)
        gain = (new == true).astype(np.int64) - (old == true)
        claims += significance._lower_bound(gain, None) > -0.015
    assert claims / 300 <= 0.075


def test_groups_are_one_observation() -> None:
    gain = np.repeat([1, -1, 0, 0], 5)
    groups = [str(i // 5) for i in range(20)]
    assert significance._lower_bound(gain, groups) < significance._lower_bound(gain, None)


def test_bad_comparisons_are_named() -> None:
    with pytest.raises(InputError, match="margin"):
        against(np.ones(3), np.ones(3), np.ones(3), margin=0.0)
    with pytest.raises(InputError, match="as many"):
        against(np.ones(3), np.ones(2), np.ones(3))
    with pytest.raises(InputError, match="as many"):
        against(np.ones(0), np.ones(0), np.ones(0))


HEADER = "index\tsentence1\tsentence2\tlabel\n"
FILES = {
    "cola": ("cola.tsv", 'gj04\t1\t\tA "quoted" one.\ngj04\t0\t*\tBad the.\n'),
    "sst2": ("sst2.txt", "1 a fine film\n0 dull\n"),
    "rte": ("rte.tsv", f"{HEADER}3\tA cat.\tAn animal.\tentailment\n4\tA.\tB.\tnot_entailment\n"),
    "wnli": ("wnli.tsv", f"{HEADER}0\tx y\ty\t1\n1\tx y\tx\t0\n"),
    "mrpc": ("mrpc.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t5\t6\ta b\tb a\n"),
    "boolq": ("b.jsonl", '{"question": "is it", "passage": "it is", "label": true}\n'),
    "cb": ("cb.jsonl", '{"premise": "p", "hypothesis": "h", "label": "neutral", "idx": "B-1"}\n'),
    "copa": ("copa.jsonl", json.dumps({"premise": "It fell.", "choice1": "c", "choice2": "d",
                                       "question": "cause", "label": 1, "idx": 1007}) + "\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_every_kind_are_read(name: str, tmp_path: Path) -> None:
    file, content = FILES[name]
    (tmp_path / file).write_text(content)
    examples = load_task(name, tmp_path / file)
    assert len(examples) == content.count("\n") - content.startswith(("index", "Quality"))
    assert 0 <= examples[0].label < TASKS[name].classes
    if name == "cola":
        assert examples[0].texts == (('A "quoted" one.',),)
    if name == "copa":
        assert examples[0] == Example((("It fell because", "c"), ("It fell because", "d")), 1, "7")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rte.tsv", "index\tsentence1\tsentence2\tlabel\n1\ta\tb\tmaybe\n", "row 2, field 'label'"),
        ("rte.tsv", "index\tsentence1\tsentence2\tlabel\n1\ta\n", "row 2: 2 columns"),
        ("rte.tsv", "index\tsentence1\tlabel\n1\ta\tentailment\n", "field 'sentence2'"),
        ("rte.jsonl", "{", "row 1: is not JSON"),
        ("rte.jsonl", "[1]", "row 1: is not a JSON object"),
        ("rte.jsonl", '{"sentence1": " ", "sentence2": "b", "label": 0}', "field 'sentence1'"),
        ("rte.jsonl", '{"sentence1": "a", "sentence2": "b", "label": 2}', "field 'label'"),
        ("rte.tsv", "", "no examples"),
    ],
)
def test_bad_lines_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=message):
        load_task("rte", tmp_path / name)


def test_unknown_tasks_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cola"):
        load_task("squad", tmp_path)
    with pytest.raises(FormatError, match=r"nothing\.tsv"):
        load_task("rte", tmp_path / "nothing.tsv")


def test_the_hub_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingDependency, match="datasets"):
        from_hub("rte")


def test_shared_tasks_are_read_whole(data_dir: Path) -> None:
    folder = data_dir / "attention"
    sizes = {
        ("cola", "cola_train.tsv"): 8551, ("cola", "cola_dev_in_domain.tsv"): 527,
        ("sst2", "sst2_train.txt"): 6920, ("sst2", "sst2_dev.txt"): 872,
        ("rte", "rte_train.tsv"): 2127, ("wnli", "wnli_train.tsv"): 518,
        ("copa", "copa_1_300.jsonl"): 600, ("cb", "cb_train.jsonl"): 333,
    }  # fmt: skip
    for (name, file), size in sizes.items():
        assert len(load_task(name, folder / file)) == size, name
    train, test = folds(load_task("copa", folder / "copa_1_300.jsonl"), 0.4, 0)
    assert len(test) == 240
    assert not {e.group for e in train} & {e.group for e in test}


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "un",
              "##known", ".", ",", "a", "dog", "fine", "dull", "film", "is", "cafe", "#", "!",
              "中", "b", "##b"]  # fmt: skip


def test_word_pieces_by_hand() -> None:
    pieces = WordPiece(VOCABULARY)
    assert pieces.encode("The cats sat.") == [5, 6, 7, 8, 11]
    assert pieces.encode("unknown Café xyz") == [9, 10, 19, 1]
    batch = pieces.batch([("the cat", "a dog"), ("sat",)], 16)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, 13, 14, 3], [2, 8, 3, 0, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0] * 7]
    assert batch["attention_mask"].sum(1).tolist() == [7, 3]
    assert pieces.batch([("the cat sat . the cat", "a")], 7)["input_ids"].shape == (1, 7)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.sampled_from("the cats unknow.,!#b中é\t\n\0AZ\u2013"), max_size=30))
def test_word_pieces_equal_transformers(text: str) -> None:
    assert WordPiece(VOCABULARY).encode(text) == reference(text)


def reference(text: str) -> list[int]:
    tokenizers = pytest.importorskip("tokenizers")
    if not hasattr(reference, "made"):
        made = tokenizers.BertWordPieceTokenizer(
            {token: i for i, token in enumerate(VOCABULARY)}, lowercase=True
        )
        reference.made = made
    ids: list[int] = reference.made.encode(text, add_special_tokens=False).ids
    return ids


def test_vocabularies_are_checked(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"vocab\.txt.*\[PAD\]"):
        WordPiece.read(tmp_path / "vocab.txt")
    with pytest.raises(FormatError, match=r"none\.txt"):
        WordPiece.read(tmp_path / "none.txt")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with a vocabulary, and two tasks that its embeddings can tell apart."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    model = zoo.bert("tiny", vocab_size=len(VOCABULARY), d_model=32, head="none", max_length=64)
    with torch.no_grad():
        model.token.weight.mul_(20)
    export_hf(model, folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    draw = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 50)):
        lines = []
        for _ in range(count):
            label = draw.integers(2)
            filler = " ".join(draw.choice(["the", "cat", "sat", "is", "a"], 4))
            lines.append(f"{label} {filler} {'fine' if label else 'dull'} film")
        (folder / f"sst2_{part}.txt").write_text("\n".join(lines) + "\n")
    rows = [
        {"premise": "The cat sat.", "choice1": "fine" if k else "dull",
         "choice2": "dull" if k else "fine", "question": "effect", "label": 1 - k,
         "idx": i + 1000 * k}
        for i in range(1, 21) for k in (0, 1)
    ]  # fmt: skip
    (folder / "copa.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def config_of(bert: Path, **changes: Any) -> dict[str, Any]:
    tasks = {
        "sst2": {"train": str(bert / "sst2_train.txt"), "test": str(bert / "sst2_test.txt")},
        "copa": {"train": str(bert / "copa.jsonl")},
    }
    return {"model": str(bert), "tasks": tasks, **changes}


def test_a_probe_learns_what_is_there(bert: Path) -> None:
    report = evaluate(config_of(bert))
    assert report.scores["sst2"]["accuracy"] > 0.9
    assert report.scores["copa"]["accuracy"] > 0.9
    assert report.scores["copa"]["items"] == 16
    assert not report.comparisons


def test_a_comparison_says_that_few_items_cannot_tell(bert: Path) -> None:
    new = {"backend": "varopt", "num_samples": 4, "control_variate": "none"}
    report = evaluate(config_of(bert, new=new))
    assert [c.name for c in report.comparisons] == ["sst2", "copa"]
    assert report.pooled.items == 66
    assert {c.verdict for c in (*report.comparisons, report.pooled)} <= {"cannot tell", "worse"}
    assert all(c.adjusted_p_value >= c.p_value for c in report.comparisons)
    assert EvaluationReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_classical_attention_compared_with_itself_changes_nothing(bert: Path) -> None:
    pooled = evaluate(config_of(bert, new={"backend": "classical"})).pooled
    assert (pooled.won, pooled.lost, pooled.p_value) == (0, 0, 1.0)


def test_fine_tuning_learns_and_refuses_choices(bert: Path) -> None:
    report = evaluate(
        {
            **config_of(bert), "tasks": {"sst2": config_of(bert)["tasks"]["sst2"]},
            "method": "finetune", "recipe": {"learning_rate": 3e-3, "epochs": 10, "batch_size": 4},
            "new": {"backend": "varopt", "num_samples": 64},
        }
    )  # fmt: skip
    assert report.scores["sst2"]["accuracy"] > 0.9
    assert report.pooled.old == report.pooled.new
    with pytest.raises(InputError, match="probe"):
        evaluate(config_of(bert, method="finetune"))


def test_classifiers_take_over_the_encoder(bert: Path) -> None:
    encoder = zoo.load(bert, head="none")
    model = classifier_from(encoder, 3)
    assert torch.equal(model.token.weight, encoder.token.weight)
    assert model.config.num_labels == 3
    again = classifier_from(model, 3, quantum_config={"backend": "varopt"})
    assert torch.equal(again.head.out.weight, model.head.out.weight)
    tokenizer = WordPiece.read(bert / "vocab.txt")
    example = Example((("the cat",),), 0, "1")
    assert predict(model, tokenizer, [example]).shape == (1,)
    with pytest.raises(InputError, match="probe"):
        finetune(encoder, tokenizer, [Example((("a",), ("b",)), 0, "1")], 2)


def test_embeddings_do_not_depend_on_their_neighbours(bert: Path) -> None:
    model, tokenizer = zoo.load(bert, head="none"), WordPiece.read(bert / "vocab.txt")
    texts = [("the cat sat is fine film .",), ("dog",), ("a cat", "a dog")]
    whole = embed(model, tokenizer, texts)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    for index, text in enumerate(texts):
        assert np.allclose(embed(model, tokenizer, [text])[0], whole[index], atol=1e-5)
    shape = features(model, tokenizer, [Example((("a", "b"),), 0, "1")]).shape
    assert shape == (1, 5 * model.config.d_model)


def test_choices_are_compared_without_preference() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 3)).astype(np.float32)
    head = Head(choices=True).fit(x, (x[:, 0] > 0).astype(np.int64))
    assert (head.predict(x) != head.predict(-x)).all()


def test_the_verb_prints_a_table_and_writes_a_report(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config_of(bert, new={"backend": "classical"})
    settings["tasks"] = {"copa": {"train": "copa.jsonl"}}
    path = bert / "evaluate.yaml"
    path.write_text(yaml.safe_dump({**settings, "model": "."}))
    assert main(["evaluate", str(path), "--out", str(tmp_path / "report.json")]) == 0
    out = capsys.readouterr().out
    assert "cannot tell" in out
    assert "pooled" in out
    assert json.loads((tmp_path / "report.json").read_text())["pooled"]["items"] == 16
    assert main(["evaluate", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["copa"]["items"] == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {}}, "tasks"),
        ({"tasks": {"squad": {"train": "x"}}}, "squad"),
        ({"tasks": {"rte": {"train": "x"}}}, "x"),
        ({"margin": 2.0}, "margin"),
        ({"model": "nowhere"}, "nowhere"),
        ({"new": {"backend": "magic"}}, "magic"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_bad_evaluations_give_one_line(
    bert: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**config_of(bert), "tasks": {"copa": {"train": "copa.jsonl"}}, **changes}
    path = bert / "bad.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["evaluate", str(path)]) in {1, 2}
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.strip().splitlines()[-1].startswith("qcluster: ")
    assert not captured.out


def test_exported_names_are_there() -> None:
    for name in evaluation.__all__:
        assert getattr(evaluation, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = evaluation.nothing
