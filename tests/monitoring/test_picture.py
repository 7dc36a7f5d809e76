"""The picture in the documents is drawn from the dashboard's own panels."""

from pathlib import Path

import pytest

from tests.monitoring.dashboard import panels
from tests.monitoring.draw import LARGEST, PANELS, PICTURE, look, paint
from tests.monitoring.scene import Scene

pytestmark = pytest.mark.verify

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_picture_is_there_and_small_enough_for_a_page() -> None:
    assert PICTURE.read_bytes().startswith(PNG)
    assert PICTURE.stat().st_size < LARGEST


def test_what_it_shows_is_on_the_dashboard() -> None:
    assert set(PANELS) <= {panel.title for panel in panels()}


@pytest.mark.system
@pytest.mark.asyncio(loop_scope="session")
async def test_it_is_drawn_from_what_prometheus_answers(scene: Scene, tmp_path: Path) -> None:
    run = await look(
        scene.prometheus, scene.started, scene.ended, (scene.started + 5, scene.started + 10), "5s"
    )
    assert set(run.lines) == set(PANELS)
    legends = {legend for lines in run.lines.values() for legend, _ in lines}
    assert {"p50", "p95", "call.ended", "work", "dialer", "dialer_outage", "within 5 min"} <= legends
    file = tmp_path / "drawn.png"
    paint(run, "what happened", file)
    assert file.read_bytes().startswith(PNG)
    assert 30_000 < file.stat().st_size < LARGEST, "more than empty axes"
