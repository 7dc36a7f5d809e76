"""Draw the way of a call through the steps of a preset, as an SVG for light and dark pages."""

from collections.abc import Callable, Iterator
from html import escape

from worker.core.retry import format_delay
from worker.crm.preset import Preset, Step

WIDTH = 520
_LEFT, _RIGHT = 66, 454
_TOP = 74
_ROW = 74
_LONGEST_PATH = 52
"""In characters of the font for paths, between the two lines."""

_STYLE = """\
    .page { fill: #ffffff; }
    .record { fill: #eef1f8; stroke: #b9c2d8; }
    .box { fill: #ffffff; stroke: #4a5a86; stroke-width: 1.4; }
    .ours { fill: #dfe6f8; }
    .line { stroke: #4a5a86; stroke-width: 1.6; fill: none; }
    .life { stroke: #b9c2d8; stroke-width: 1.6; }
    .maybe { stroke-dasharray: 6 4; }
    .head { fill: #4a5a86; }
    text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
    text { fill: #1c2333; font-size: 14px; text-anchor: middle; }
    .name { font-weight: 600; }
    .small { font-size: 12px; }
    .path { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px; fill: #3c4a70; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #1b1f2b; }
      .record { fill: #252b3b; stroke: #46506b; }
      .box { fill: #1b1f2b; stroke: #9fb0e0; }
      .ours { fill: #33406a; }
      .line { stroke: #9fb0e0; }
      .life { stroke: #46506b; }
      .head { fill: #9fb0e0; }
      text { fill: #eef1f8; }
      .path { fill: #b9c6ec; }
    }
"""


_ARROW = (
    '  <defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
    ' orient="auto"><path class="head" d="M0 0 10 5 0 10z"/></marker></defs>'
)


def draw(preset: Preset, sentence: Callable[[Step], str], short: Callable[[str], str]) -> str:
    """Draw each step of a call as an arrow from crm-sync to the CRM, dashed if it is not always made."""
    rows = list(_rows(preset, sentence, short))
    height = _TOP + len(rows) * _ROW + 40
    described = "; ".join(f"{title} ({path})" for title, path, _, _, _ in rows)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
            f' height="{height}" role="img" aria-labelledby="t d">'
        ),
        f'  <title id="t">The way of a call into {escape(preset.title)}</title>',
        f'  <desc id="d">{escape(described)}.</desc>',
        f"  <style>\n{_STYLE}  </style>",
        _ARROW,
        f'  <rect class="page" width="{WIDTH}" height="{height}" rx="10"/>',
        *_life(_LEFT, "crm-sync", height, ours=True),
        *_life(_RIGHT, preset.title, height, ours=False),
    ]
    for number, row in enumerate(rows):
        parts += _drawn(_TOP + number * _ROW, *row)
    parts.append(
        f'  <text class="small" x="{WIDTH / 2:g}" y="{height - 14}">dashed: only if it is needed</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _rows(
    preset: Preset, sentence: Callable[[Step], str], short: Callable[[str], str]
) -> Iterator[tuple[str, str, str, bool, bool]]:
    """Yield each row: title, path, note, whether it is not always made, and whether it is `record`."""
    if preset.login is not None:
        step = preset.login.steps[-1] if len(preset.login.steps) == 1 else preset.login.steps[0]
        yield "log in, once for all calls", _clipped(step, short), "kept in memory only", True, False
    for step in preset.on_call:
        maybe = step.when is not None or step.cache is not None
        yield sentence(step), _clipped(step, short), _note(step), maybe, step.step == "record"


def _clipped(step: Step, short: Callable[[str], str]) -> str:
    path = f"{step.method} {short(str(step.path))}"
    if len(path) <= _LONGEST_PATH:
        return path
    half = _LONGEST_PATH // 2
    return f"{path[:half]}…{path[half + 1 - _LONGEST_PATH :]}"


def _note(step: Step) -> str:
    parts = []
    if step.step == "record":
        parts.append("the delivery")
    if step.cache is not None:
        parts.append(f"kept for {format_delay(step.cache.found)}")
    if step.batch is not None:
        parts.append(f"up to {step.batch.max} calls in one request")
    if step.soft:
        parts.append("may fail")
    return " · ".join(parts)


def _life(x: int, name: str, height: int, *, ours: bool) -> Iterator[str]:
    width = 116
    yield f'  <path class="life" d="M{x} 50V{height - 34}"/>'
    kind = "box ours" if ours else "box"
    yield f'  <rect class="{kind}" x="{x - width // 2}" y="12" width="{width}" height="38" rx="6"/>'
    yield f'  <text class="name" x="{x}" y="36">{escape(name)}</text>'


def _drawn(y: int, title: str, path: str, note: str, maybe: bool, record: bool) -> Iterator[str]:  # noqa: FBT001
    middle = WIDTH // 2
    if record:
        yield f'  <rect class="record" x="10" y="{y - 8}" width="{WIDTH - 20}" height="{_ROW - 4}" rx="8"/>'
    yield f'  <text class="name" x="{middle}" y="{y + 12}">{escape(title)}</text>'
    yield (
        f'  <path class="line{" maybe" if maybe else ""}" d="M{_LEFT} {y + 21}H{_RIGHT - 1}"'
        ' marker-end="url(#arrow)"/>'
    )
    yield f'  <text class="path" x="{middle}" y="{y + 38}">{escape(path)}</text>'
    if note:
        yield f'  <text class="small" x="{middle}" y="{y + 54}">{escape(note)}</text>'
