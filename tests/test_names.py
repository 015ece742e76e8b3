"""Names from data: control characters and markup in them have no effect, and long ones are cut."""

from __future__ import annotations

import csv
import io
import shlex
import subprocess
from html.parser import HTMLParser

import pytest
from rich.console import Console

from hyperfocal.evaluation import CategoryMetrics, category_table, metrics_table
from hyperfocal.names import (
    MAX_IN_IMAGE,
    MAX_NAME,
    command,
    for_csv,
    for_figure,
    for_html,
    for_image,
    for_terminal,
    one_name,
    say,
    shortened,
)

ATTACKS = {
    "escape": "cat\x1b[2J\x1b]0;owned\x07",
    "bell": "a\x07b\x08c",
    "c1": "a\x9b31mb",
    "line": "one\r\ntwo\nthree",
    "direction": "exe.\N{RIGHT-TO-LEFT OVERRIDE}gpj",
    "surrogate": "half \ud83d of a character",
    "markup": "[red]cat[/red] [link=http://x]y[/link] [/]",
    "formula": "=HYPERLINK(1)",
    "html": "<script>alert(1)</script>\" onload='x",
    "math": "cash $x^2$ and _under",
    "long": "x" * 100_000,
    "empty": "",
}


@pytest.fixture(params=list(ATTACKS))
def attack(request: pytest.FixtureRequest) -> str:
    return ATTACKS[request.param]


def is_safe(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_whatever_the_name_a_terminal_gets_printable_lines(attack: str) -> None:
    assert is_safe(for_terminal(attack))
    assert max(map(len, for_terminal(attack).split("\n"))) <= 2000
    name = one_name(attack)
    assert is_safe(name)
    assert "\n" not in name
    assert len(name) <= MAX_NAME
    assert len(for_image(attack)) <= MAX_IN_IMAGE


@pytest.mark.parametrize(
    "name", ["cat", "猫", "قطة", "γάτα", "кошка", "👨\u200d👩\u200d👧", "می\u200cخواهم", "a-b_c"]
)
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert one_name(name) == for_image(name) == for_csv(name) == for_html(name) == name
    assert for_terminal(name) == name


def test_a_long_name_keeps_its_ends() -> None:
    assert shortened("abcdefghij", 7) == "ab...ij"
    assert shortened("abcdefghij", 10) == "abcdefghij"
    for most in range(3, 12):
        assert len(shortened("abcdefghijkl", most)) == most


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r=", "＝"])
def test_no_cell_of_a_csv_is_a_formula(start: str) -> None:
    text = io.StringIO()
    csv.writer(text).writerow([for_csv(f'{start}cmd|"/c calc"!A1'), for_csv("a,b")])
    (row,) = csv.reader(io.StringIO(text.getvalue()))
    assert row[0].startswith("'")
    assert row[0].endswith('cmd|"/c calc"!A1')
    assert row[1] == "a,b"


def test_html_shows_the_name_as_text(attack: str) -> None:
    seen: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.append(tag)

    Parser().feed(f'<p title="{for_html(attack)}">{for_html(attack)}</p>')
    assert seen == ["p"]


def test_rich_takes_nothing_for_markup(attack: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True)
    say(console, attack)
    assert out.getvalue().rstrip("\n") == for_terminal(attack).rstrip("\n")


def test_tables_show_names_as_they_are(attack: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=300)
    row = CategoryMetrics(id=1, name=attack, AP=0.5, AP50=0.5, gt=3, train_images=4, group=attack)
    console.print(category_table([row]))
    console.print(metrics_table({f"AP{attack}": 0.5}))
    printed = out.getvalue()
    assert is_safe(printed)
    assert one_name(attack).strip() in printed
    assert len(printed) < 10_000


@pytest.mark.parametrize(
    "word", ["plain", "two words", "it's", 'a "b"', "$HOME", "`id`", "a;b", "", "tab\there",
             "esc\x1b[0m", "it's\x1b", "back\\slash\x1b", "新\x07"],
)  # fmt: skip
def test_a_printed_command_gives_its_words_back_to_a_shell(word: str) -> None:
    line = command("printf", "%s", word)
    assert is_safe(line)
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode() == word
    if word.isprintable():
        assert shlex.split(line) == ["printf", "%s", word]


def test_matplotlib_takes_nothing_for_mathematics() -> None:
    from matplotlib.figure import Figure

    name = "$a_b$ costs $5"
    figure = Figure()
    text = figure.text(0, 0, for_figure(name))
    assert text._preprocess_math(text.get_text()) == (name, False)
    axes = figure.subplots()
    axes.plot([1, 2], label=for_figure("_hidden"))
    assert len(axes.get_legend_handles_labels()[1]) == 1
