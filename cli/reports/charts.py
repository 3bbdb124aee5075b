"""The plots of a report: their numbers, and pictures of them."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final
from xml.etree import ElementTree

from asyncpg import Record

from cli.reports.control import UNKNOWN_CURRENCY
from handlers.reports import Report
from worker.logs import escape_unprintable

DAYS_MAX: Final = 62
MONTHS_MAX: Final = 60
"""A longer time is drawn by months, and one with more of these by years."""

SYSTEMS_MAX: Final = 10
CURRENCIES_MAX: Final = 3
"""Of more systems or currencies those with the most claims are drawn."""

SERIES: Final = ("exported", "reversed", "skipped", "attempted")
COLORS: Final = ("#1b6e53", "#b3541e", "#5b6b7b", "#a02c4a")
FONT: Final = "system-ui, sans-serif"
LABEL_CHARS_MAX: Final = 30
WIDTH: Final = 720
HEIGHT: Final = 300
LABELS_SHOWN_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class Chart:
    """What a plot shows: a number for each label and each series."""

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]


async def charts_of(report: Report, double_exports: Counter[str], time_zone: str) -> list[Chart]:
    """The plots of a report; none where there are no claims. `double_exports` counts them by state."""
    span = await report.span()
    if span is None:
        return []
    step = _step(*span)
    claims, amounts = await report.by_time(step, time_zone)
    charts = []
    if claims:
        counts = ((str(row["day"]), row["outcome"], row["claims"]) for row in claims)
        charts.append(_stacked(f"Claims by the {step} in which their run began", counts))
    charts += _amounts(amounts, step)
    if systems := await report.by_system():
        charts.append(_by_system(systems))
    if double_exports:
        states = ("open", "resolved")
        charts.append(Chart("Double exports", states, {"claims": [double_exports[state] for state in states]}))
    return charts


def _step(first: date, last: date) -> str:
    days = (last - first).days + 1
    if days <= DAYS_MAX:
        return "day"
    return "month" if days <= MONTHS_MAX * 31 else "year"


def _stacked(title: str, counts: Iterable[tuple[str, str, int]]) -> Chart:
    by_label: dict[str, Counter[str]] = {}
    for label, outcome, count in counts:
        by_label.setdefault(label, Counter())[outcome] += count
    series = {name: [numbers[name] for numbers in by_label.values()] for name in SERIES}
    return Chart(title, list(by_label), {name: numbers for name, numbers in series.items() if any(numbers)})


def _amounts(rows: Sequence[Record], step: str) -> list[Chart]:
    claims: Counter[str] = Counter()
    days = sorted({row["day"] for row in rows})
    sums: dict[str, dict[date, float]] = {}
    for row in rows:
        currency = row["currency"] or UNKNOWN_CURRENCY
        claims[currency] += row["claims"]
        sums.setdefault(currency, {})[row["day"]] = float(row["amount"])
    return [
        Chart(
            f"Amounts that went out, {currency}, by the {step} in which their run began",
            [str(day) for day in days],
            {currency: [sums[currency].get(day, 0) for day in days]},
        )
        for currency, _ in claims.most_common(CURRENCIES_MAX)
    ]


def _by_system(rows: Sequence[Record]) -> Chart:
    sizes: Counter[str | None] = Counter()
    for row in rows:
        sizes[row["target_system"]] += row["claims"]
    largest = [system for system, _ in sizes.most_common(SYSTEMS_MAX)]

    def label(system: str | None) -> str:
        if system not in largest:
            return "all others"
        return "not named" if system is None else escape_unprintable(system)

    counts = [(label(row["target_system"]), row["outcome"], row["claims"]) for row in rows]
    return _stacked("Outcomes by system", counts)


def svg(chart: Chart, number: int) -> str:
    """A picture of a plot, to stand in a page. The same numbers give the same bytes."""
    import pygal
    from pygal.style import Style

    # For its plug-ins pygal adds an importer, of a form that Python has given up and warns of.
    sys.meta_path[:] = [importer for importer in sys.meta_path if not isinstance(importer, pygal.PluginImportFixer)]
    picture = pygal.StackedBar(
        style=Style(
            colors=COLORS, background="transparent", plot_background="transparent", font_family=FONT,
            foreground="#1c2430", foreground_strong="#1c2430", foreground_subtle="#46515f", opacity="1",
        ),
        js=[], width=WIDTH, height=HEIGHT, legend_at_bottom=True, show_legend=len(chart.series) > 1,
        x_label_rotation=30 if len(chart.labels) > 4 else 0, truncate_label=LABEL_CHARS_MAX,
        x_labels_major_count=LABELS_SHOWN_MAX, show_minor_x_labels=len(chart.labels) <= LABELS_SHOWN_MAX,
        disable_xml_declaration=True, print_values=False, value_formatter=lambda value: f"{value:,.0f}",
    )  # fmt: skip
    picture.uuid = f"chart-{number}"
    picture.x_labels = chart.labels
    for name, numbers in chart.series.items():
        picture.add(name, numbers)
    root = picture.render_tree()
    # pygal writes the day into a comment, and its settings into a script.
    for parent in list(root.iter()):
        if parent is not root:
            parent.attrib.pop("id", None)  # each picture has the same ones
        for child in list(parent):
            if child.tag is ElementTree.Comment or str(child.tag).endswith("script"):
                parent.remove(child)
    root.set("role", "img")
    root.set("aria-label", chart.title)
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    return ElementTree.tostring(root, encoding="unicode")
