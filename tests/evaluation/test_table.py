"""Tables of metrics: their order, and what they show for missing values."""

import io

from rich.console import Console

from hyperfocal.evaluation import CategoryMetrics, category_table, metrics_table


def printed(table) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    return out.getvalue().splitlines()


def row(name: str, images: int | None, ap: float, group: str | None = None, gt: int = 4):
    return CategoryMetrics(1, name, ap, ap, gt, images, group)


def test_metrics_keep_their_order_and_nan_is_a_dash():
    lines = printed(metrics_table({"AP": 0.12345, "APs": float("nan"), "APtail": 1.0}))
    words = [line.strip("│ ").split() for line in lines if "AP" in line]
    assert [(w[0], w[-1]) for w in words] == [("AP", "0.123"), ("APs", "-"), ("APtail", "1.000")]


def test_categories_go_from_frequent_to_rare():
    rows = [row("rare", 3, 0.1, "r"), row("often", 300, 0.9, "f"), row("never", 0, float("nan"))]
    lines = printed(category_table(rows))
    body = [line for line in lines if "0.100" in line or "0.900" in line or "never" in line]
    assert [line.split()[1] for line in body] == ["often", "rare", "never"]
    assert body[2].count(" - ") == 3  # no group, no AP, no AP50


def test_without_training_counts_there_are_no_such_columns():
    text = "\n".join(printed(category_table([row("few", None, 0.1, gt=2), row("many", None, 0.2)])))
    assert "train images" not in text
    assert "group" not in text
    assert text.index("many") < text.index("few")


def test_a_name_is_not_read_as_markup():
    assert any(
        "[bold]x[/]" in line for line in printed(category_table([row("[bold]x[/]", 3, 0.1)]))
    )
