"""doctor.html: one self-contained file with findings, images, charts and advice."""

from __future__ import annotations

import math
from pathlib import Path

from hyperfocal.experiment import Experiment
from hyperfocal.inspection.advice import Advice
from hyperfocal.inspection.anchors import level_strides
from hyperfocal.inspection.charts import box_chart, category_chart
from hyperfocal.inspection.examine import Examination
from hyperfocal.inspection.findings import Finding
from hyperfocal.inspection.pictures import case_pictures
from hyperfocal.inspection.report import describe, summary
from hyperfocal.models import RetinaNet
from hyperfocal.names import MAX_COMMAND, for_html, one_name
from hyperfocal.runs.writing import write_text_whole
from hyperfocal.types import HyperfocalError

PICTURED_CASES, LISTED_CASES = 4, 20
"""Number of cases of a finding with images, and with a line of text."""

# No external resource is loaded and no script runs, whatever names the data contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
section { border-left: 5px solid #8c8c8c; padding: .2rem 0 .2rem .9rem; margin: 1rem 0 }
section.error { border-color: #c00000 } section.warning { border-color: #e69f00 }
section.note { border-color: #56b4e9 }
.severity { font-weight: 700; text-transform: uppercase; font-size: .75rem }
figure { display: inline-block; margin: .4rem .6rem .4rem 0; vertical-align: top; max-width: 21rem }
figcaption, li, td.reason { font-size: .82rem; color: #555; overflow-wrap: anywhere }
img { max-width: 100%; display: block; margin-bottom: .2rem }
svg { width: 100%; height: auto } svg text { font-size: 11px; fill: #555 }
table { border-collapse: collapse }
td, th { border-top: 1px solid #ddd; padding: .4rem .7rem .4rem 0; text-align: left;
  vertical-align: top }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere }
code { overflow-wrap: anywhere }
"""


def write_page(found: Examination, advice: Advice | None, out: Path) -> None:
    """Write the HTML report.

    Raises:
        HyperfocalError: it can't be written.
    """
    text = page(found, advice)
    try:
        # Lone surrogates, which file names and JSON may contain, have no UTF-8 form.
        write_text_whole(out, text, errors="replace")
    except OSError as error:
        raise HyperfocalError(f"{out}: can't be written ({error.strerror})") from None


def page(found: Examination, advice: Advice | None) -> str:
    """The report as HTML."""
    splits = (("train", found.train), ("val", found.val))
    lines = [f"{name}: {describe(split)}" for name, split in splits if split is not None]
    source = found.experiment.data.train.annotations
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>doctor: {for_html(source)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>hyperfocal doctor</h1><p>{'<br>'.join(map(for_html, [source, *lines]))}</p>",
        f"<p><b>{for_html(summary(found))}</b></p><h2>Findings</h2>",
        *(_finding(finding) for finding in found.findings),
    ]
    if not found.findings:
        parts.append("<p>None.</p>")
    if advice is not None:
        parts += _advice(advice)
        parts += _charts(found, advice)
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _finding(finding: Finding) -> str:
    figures = []
    for case in finding.cases[:PICTURED_CASES]:
        pictures = case_pictures(case)
        if pictures:
            images = "".join(f'<img src="{uri}" alt="">' for uri in pictures)
            figures.append(f"<figure>{images}<figcaption>{for_html(case)}</figcaption></figure>")
    listed = "".join(f"<li>{for_html(case)}</li>" for case in finding.cases[:LISTED_CASES])
    more = finding.count - min(len(finding.cases), LISTED_CASES)
    if listed and more > 0:
        listed += f"<li>... {more} more</li>"
    cases = f"<details><summary>cases</summary><ul>{listed}</ul></details>" if listed else ""
    where = f" {for_html(finding.split)}" if finding.split else ""
    return (
        f'<section class="{finding.severity}"><span class="severity">{finding.severity}{where}'
        f"</span><div>{for_html(finding.text)}</div>{''.join(figures)}{cases}</section>"
    )


def _advice(advice: Advice) -> list[str]:
    rows = [
        f"<tr><td>{for_html(p.topic)}</td>"
        f"<td><code>{for_html(' '.join(p.flags)) or 'keep'}</code></td>"
        f'<td class="reason">{for_html(p.reason)}.<br><i>{for_html(p.source)}</i></td></tr>'
        for p in advice.proposals
    ]
    return [
        f"<h2>Advice for {for_html(advice.recipe)}</h2>",
        "<table><tr><th>setting</th><th>flags</th><th>reason</th></tr>",
        *rows,
        f"</table><p>Command:</p><pre>{for_html(advice.command, MAX_COMMAND)}</pre>",
    ]


def _charts(found: Examination, advice: Advice) -> list[str]:
    assert found.train is not None
    measured = advice.measured
    names = [one_name(category.name) for category in found.train.categories]
    groups = found.experiment.evaluation.groups
    shapes = _shapes(advice.experiment)
    rings = "; rings: the recommended anchors" if shapes else ""
    return [
        "<h2>Training images per category</h2>",
        category_chart(names, measured.counts.images, measured.groups, groups.names),
        "<h2>Boxes after the resize</h2>",
        f"<p>Horizontal: square root of the area in pixels. Vertical: height to width{rings}.</p>",
        box_chart(measured.table, shapes),
    ]


def _shapes(experiment: Experiment) -> list[tuple[float, float]]:
    """Square root of the area, and height / width, of every anchor."""
    if not isinstance(experiment.model, RetinaNet.Config):
        return []
    anchors = experiment.model.anchors.build(level_strides(experiment))
    sides = [side for base in anchors.bases for side in (base[:, 2:] - base[:, :2]).tolist()]
    return [(math.sqrt(width * height), height / width) for width, height in sides]
