"""Doctor's page is one file; names and paths in the data appear in it only as text."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hyperfocal import cli
from hyperfocal.inspection import advise, examine, print_report, write_page
from hyperfocal.inspection.charts import box_chart, category_chart
from hyperfocal.recipes import load_recipe
from hyperfocal.types import HyperfocalError

HOSTILE = "<script>alert('x')</script>\"'&\x1b[31m\u202e\ud800"


class Reader(HTMLParser):
    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def written(two, tmp_path, decode="none"):
    found = two.examine("retinanet_mobilenet", decode)
    advice = advise(found, load_recipe("retinanet_mobilenet"), "retinanet_mobilenet")
    out = tmp_path / "doctor.html"
    write_page(found, advice, out)
    return found, advice, read(out)


def test_everything_is_on_the_page(two, tmp_path):
    two.annotate("train", image_id=4, bbox=[5, 5, -4, 10])
    found, advice, reader = written(two, tmp_path)
    text = " ".join(reader.words)
    for finding in found.findings:
        assert finding.text in text
    for proposal in advice.proposals:
        assert proposal.reason in text
    assert advice.command in text
    assert reader.tags.count("svg") == 2
    pictures = [value for tag, name, value in reader.attributes if (tag, name) == ("img", "src")]
    assert pictures
    head, _, data = pictures[0].partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (200, 160)
        # The box is drawn around x 1..5, y 5..15, with a margin.
        red, green, blue = np.asarray(image.convert("RGB"))[8, 7].astype(int)
        assert red > green + 50 > blue


def test_nothing_is_loaded_and_no_name_escapes(two, tmp_path):
    for split in ("train", "val"):
        two.data[split]["categories"][0]["name"] = HOSTILE
        two.data[split]["categories"].append({"id": 3, "name": HOSTILE + "2"})
    two.data["train"]["images"][0]["file_name"] = HOSTILE.replace("/", "") + ".png"
    two.annotate("train", image_id=4, id=HOSTILE, bbox=[5, 5, -4, 10])
    found, advice, reader = written(two, tmp_path)
    assert found.has_errors
    assert advice is not None
    assert "script" not in reader.tags
    assert not {"link", "iframe", "object", "base", "form", "a"} & set(reader.tags)
    for _, name, value in reader.attributes:
        assert not name.startswith("on")
        assert name != "href"
        if name == "src":
            assert value.startswith("data:image/jpeg;base64,")
    text = " ".join(reader.words)
    assert "<script>alert" in text
    assert not {"\x1b", "\u202e"} & set(text)
    policies = [v for tag, name, v in reader.attributes if (tag, name) == ("meta", "content")]
    assert any("default-src 'none'" in policy for policy in policies)
    shown = io.StringIO()
    print_report(found, advice, Console(file=shown, width=100))
    assert not {"\x1b", "\u202e"} & set(shown.getvalue())


def test_square_brackets_are_no_markup(two):
    for split in ("train", "val"):
        two.data[split]["categories"].append({"id": 3, "name": "[red]bee[/nonsense]"})
    found = two.examine()
    shown = io.StringIO()
    print_report(found, None, Console(file=shown, width=200))
    assert "[red]bee[/nonsense]" in shown.getvalue()


def test_a_page_that_cannot_be_written(two, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HyperfocalError, match="can't be written"):
        write_page(two.examine(), None, tmp_path / "file" / "doctor.html")


def test_charts_of_nothing_and_of_a_thousand_categories(two):
    found = examine(two.experiment("retinanet_mobilenet"))
    assert found.fit is not None
    assert box_chart(found.fit.table, []).count("<circle") == 0
    assert "<svg" in category_chart([], [], [], ["r", "c", "f"])
    names = [f"name {k}" for k in range(1203)]
    chart = category_chart(names, [0] * 3 + [9] * 1200, ["r"] * 1203, ["r", "c", "f"])
    assert chart.count("<title>") == 1203


# --------------------------------------------------------------------------- the command


def test_the_command(two, tmp_path, monkeypatch, capsys):
    two.write()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", str(two.root), "--json", "d.json", "--recipe", "demo"]) == 0
    printed = capsys.readouterr().out
    assert "0 errors, 1 warning, 0 notes; every image" not in printed
    assert "0 errors, 1 warning, 0 notes" in printed
    data = json.loads((tmp_path / "d.json").read_text())
    assert data["findings"][0]["kind"] == "few_training_images"
    assert data["advice"]["command"] in printed
    assert f"--data.train.annotations {two.root}/train.json" in printed
    assert (tmp_path / "doctor.html").exists()


def test_errors_give_status_1(two, tmp_path, capsys):
    two.data["train"]["annotations"][0]["category_id"] = 9
    two.write()
    words = [
        *("--data.train.annotations", str(two.root / "train.json")),
        *("--data.train.images", str(two.root / "train")),
        *("--html", str(tmp_path / "d.html"), "--decode", "none"),
    ]
    assert cli.main(["doctor", *words]) == 1
    assert "category ids that aren't in the list of categories (9)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs a DATA folder or --data.train.annotations"),
        (["absent"], "absent: no such file or folder"),
        (["."], "no train and val annotations found"),
        ([".", "--data.train.annotations", "x"], "leave out --data.train.annotations, or DATA"),
        (["--recipe", "dmo", "."], "did you mean 'demo'?"),
        (["--data.train.annotations", "x", "--data.check", "none"], "--decode needs them"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_names_of_any_kind_neither_act_nor_fill_the_screen(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Category names from `tests.test_names`, one of 100,000 characters, through the command."""
    names = ["x" * 100_000, "\x1b[2J[red]y", "<script>z", "=1+1", "猫", "half \ud83d"]
    flags = []
    for split in ("train", "val"):
        data = json.loads((synthetic / f"{split}.json").read_text())
        for category, name in zip(data["categories"], names, strict=False):
            category["name"] = name
        if split == "val":
            data["annotations"] = data["annotations"][::3]
        (tmp_path / f"{split}.json").write_text(json.dumps(data))
        flags += [f"--data.{split}.annotations", str(tmp_path / f"{split}.json")]
        flags += [f"--data.{split}.images", str(synthetic / split)]
    page = tmp_path / "page.html"
    cli.main(["doctor", *flags, "--html", str(page), "--json", str(tmp_path / "out.json")])
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed
    assert len(printed) < 20_000
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "x" * 100 not in text
    assert (tmp_path / "out.json").stat().st_size < 200_000
