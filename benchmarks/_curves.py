"""Curves as a small SVG: one panel for each data set, with light and dark inks."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 300, 220  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 28, 40
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #333 }
.title { font-weight: 600; font-size: 13px }
.grid { stroke: #8884; stroke-width: 1 }
polyline { fill: none; stroke: #2563c9; stroke-width: 2 }
circle { fill: #2563c9 }
.other { stroke: #b4531a }
polyline.other { stroke-dasharray: 5 4 }
circle.other { fill: #b4531a; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd }
  polyline { stroke: #7fb0ff } circle { fill: #7fb0ff }
  .other { stroke: #f0a070 } circle.other { fill: #f0a070 }
}
"""


class Curve(NamedTuple):
    """A named line through points (x, y)."""

    name: str
    points: list[tuple[float, float]]
    dashed: bool


def draw(panels: dict[str, list[Curve]], x_name: str, y_name: str) -> str:
    """An SVG with a panel for each name; y are shares, on an axis that ends at 1."""
    width, height = WIDTH * len(panels), HEIGHT + 24
    body = [panel(curves, name, number * WIDTH, x_name, y_name) for number, (name, curves) in enumerate(panels.items())]
    legend, x = [], LEFT
    for curve in next(iter(panels.values())):
        kind = ' class="other"' if curve.dashed else ""
        legend.append(f'<polyline{kind} points="{x},{HEIGHT + 10} {x + 24},{HEIGHT + 10}"/>')
        legend.append(f'<text x="{x + 30}" y="{HEIGHT + 14}">{escape(curve.name)}</text>')
        x += 60 + 6 * len(curve.name)
    size = f'width="{max(width, x)}" height="{height}" viewBox="0 0 {max(width, x)} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>'
    told = escape("; ".join(f"{name}: " + tell(curves) for name, curves in panels.items()))
    return "\n".join([head, f"<title>{told}</title>", f"<style>{STYLE}</style>", *body, *legend, "</svg>", ""])


def tell(curves: list[Curve]) -> str:
    """The values of the curves in words."""
    return ", ".join(f"{curve.name} " + " ".join(f"{x:g} {y:.3f}" for x, y in curve.points) for curve in curves)


def panel(curves: list[Curve], name: str, left: float, x_name: str, y_name: str) -> str:
    xs, ys = zip(*(point for curve in curves for point in curve.points), strict=True)
    step = 0.1 if min(ys) < 0.9 else 0.02
    low, most = min(int(min(ys) / step) * step, 1 - step), max(*xs, 1)

    def x_of(value: float) -> float:
        return left + LEFT + (WIDTH - LEFT - RIGHT) * value / most

    def y_of(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value) / (1 - low)

    parts = [f'<text class="title" x="{left + LEFT}" y="16">{escape(f"{name}: {y_name}")}</text>']
    for number in range(round((1 - low) / step) + 1):
        value = low + number * step
        ends = f'x1="{x_of(0):.0f}" x2="{x_of(most):.0f}" y1="{y_of(value):.1f}" y2="{y_of(value):.1f}"'
        parts.append(f'<line class="grid" {ends}/>')
        label = f'x="{x_of(0) - 6:.0f}" y="{y_of(value) + 4:.1f}"'
        parts.append(f'<text text-anchor="end" {label}>{value:.{1 if step == 0.1 else 2}f}</text>')
    for value in sorted(set(xs)):
        parts.append(f'<text text-anchor="middle" x="{x_of(value):.0f}" y="{HEIGHT - BOTTOM + 16}">{value:g}</text>')
    middle = f'x="{x_of(most / 2):.0f}" y="{HEIGHT - BOTTOM + 32}"'
    parts.append(f'<text text-anchor="middle" {middle}>{escape(x_name)}</text>')
    for curve in curves:
        kind = ' class="other"' if curve.dashed else ""
        places = [(x_of(x), y_of(y)) for x, y in curve.points]
        parts.append(f'<polyline{kind} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        parts += [f'<circle{kind} cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    return "\n".join(parts)
