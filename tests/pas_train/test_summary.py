from pathlib import Path

from pas_train.runs import Run
from pas_train.summary import accuracies, table

EVALUATION = {
    "digits": {
        "trained": {"knn": {"top1": 0.875}, "linear": {"top1": 0.9}}, "untrained": {"knn": {"top1": 0.5}},
        "pixels": {"knn": {"top1": 0.25}, "linear": {"top1": 0.3}},
    },
    "birds": {"trained": {"knn": {"top1": 1.0}}},
}  # fmt: skip
FIGURES = {
    "funnel": [{"stage": "collected", "real": 90, "synthetic": 10}, {"stage": "kept", "real": 60, "synthetic": 0}],
    "answer": {
        "duplicates": {"recall": 0.98765, "precision": 1.0, "pairs_true": 120},
        "auroc": {"ood": {"all": 0.97}, "text_gap": {"all": None}, "removal_order": {"all": 0.91}},
        "leaks": {"planted": 40, "found": 39},
    },
}


def new_run(folder: Path) -> Run:
    return Run(folder, {"model": {"class_path": "a.MoCoV3"}, "data": {}, "trainer": {}}, None)


def test_accuracies__a_line_per_set_and_protocol() -> None:
    lines = [line.split() for line in accuracies(EVALUATION).splitlines()]
    assert lines == [
        ["accuracy", "raw", "pixels", "untrained", "trained"],
        ["k-NN", "digits", "25.0", "%", "50.0", "%", "87.5", "%"],
        ["linear", "digits", "30.0", "%", "-", "90.0", "%"],
        ["k-NN", "birds", "-", "-", "100.0", "%"],
    ]
    assert len({len(line) for line in accuracies(EVALUATION).splitlines()}) == 1  # the columns are straight


def test_accuracies__of_masks_and_boxes() -> None:
    evaluation = {
        "foodseg103": {
            "untrained": {"segmentation": {"miou": 0.1, "macc": 0.2, "accuracy": 0.5}},
            "trained": {"segmentation": {"miou": 0.4, "macc": 0.5, "accuracy": 0.8, "seeds": [0.4, 0.4]}},
        },
        "oktoberfest": {"trained": {"detection": {"map": 0.3, "map50": 0.6, "map75": 0.25}}},
    }
    assert [line.split() for line in accuracies(evaluation).splitlines()[1:]] == [
        ["segmentation", "mIoU", "foodseg103", "10.0", "%", "40.0", "%"],
        ["segmentation", "mAcc", "foodseg103", "20.0", "%", "50.0", "%"],
        ["detection", "mAP", "oktoberfest", "-", "30.0", "%"],
        ["detection", "AP50", "oktoberfest", "-", "60.0", "%"],
        ["detection", "AP75", "oktoberfest", "-", "25.0", "%"],
    ]


def test_accuracies__no_column_for_what_was_not_judged() -> None:
    assert accuracies({"birds": EVALUATION["birds"]}).splitlines()[0].split() == ["accuracy", "trained"]
    assert accuracies({}) == ""


def test_accuracies__marks_what_was_not_screened() -> None:
    marked = accuracies(EVALUATION, {"digits": {"screened": True}, "birds": {"screened": False}}).splitlines()
    assert [line.endswith("%  not screened") for line in marked] == [False, False, False, True]


def test_accuracies__say_why_and_how_the_training_started() -> None:
    entry = {"screened": False, "why": "it started from timm, whose images cannot be screened"}
    figures = {"birds": {**EVALUATION["birds"], "start": {"knn": {"top1": 0.75}}}}
    lines = accuracies(figures, {"birds": entry, "digits": entry}).splitlines()
    assert lines[0].split() == ["accuracy", "start", "trained"] and lines[1].split()[2:4] == ["75.0", "%"]
    assert lines[2:] == [f"not screened: {entry['why']}"]


def test_accuracies__of_many_backbones_and_protocols_fit_the_console() -> None:
    names = [f"timm:vit_small_patch{n}_224.augreg_in21k_ft_in1k" for n in (8, 14, 16, 32)] + ["hf:facebook/dinov2-base"]
    own = ["trained", "start", "untrained", "pixels"]
    protocols = ["knn", "knn10", "knn200", "linear", "linear_images", "finetune", "fewshot1", "fewshot10"]
    figures: dict = {protocol: {"top1": 0.5, "top5": 1.0} for protocol in protocols} | {"logme": {"score": 1.23456}}
    evaluation = {"inat-2021-birds": dict.fromkeys([*own, *names], figures), "cub": {"trained": figures}}
    backbones = {name: {"title": name.partition(":")[2] or name} for name in [*own, *names]}
    lines = accuracies(evaluation, {"cub": {"screened": False}}, backbones).splitlines()
    assert max(map(len, lines)) <= 118
    text = "\n".join(lines)
    heads = [line for line in lines if line.startswith("accuracy")]
    assert len(heads) == 2 and heads[1].split()[-1] == "trained"  # columns that do not fit go below
    assert "dinov2-base" in text and "fine-tuned inat-2021-birds" in text and "10-shot cub" in text
    (logme,) = [line for line in lines if line.startswith("LogME cub") and "1.235" in line]
    assert logme.endswith("not screened")


def test_accuracies__raw_terms_without_a_figure_are_no_line() -> None:
    assert "NCTI" not in accuracies({"birds": {"trained": {"knn": {"top1": 1.0}, "ncti": {"ncc": 1.0}}}})


def test_table__tells_the_funnel_the_answer_and_the_places(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.write_results(EVALUATION)
    text = table(FIGURES, run, tmp_path / "report.html", "https://wandb.example/1")
    assert "images      collected 100 -> kept 60" in text
    assert "duplicates  recall 0.988, precision 1.000 of 120 pairs of copies" in text
    assert "off-domain  AUROC bank 0.970, order of removal 0.910" in text
    assert "leaks       39 of 40 planted copies of test images found" in text
    assert f"run         {run.folder}" in text and f"report      {tmp_path}/report.html" in text
    assert "W&B         https://wandb.example/1" in text and accuracies(EVALUATION) in text


def test_table__without_a_data_set_of_ours(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert table(None, run, None, None).strip() == f"run         {run.folder}"
    assert len(table({**FIGURES, "answer": None}, run, None, None).strip().splitlines()) == 2
