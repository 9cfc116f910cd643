"""The HTML page in a real browser, Chromium without a window; skipped where there is none.

The page is laid out in a frame of the width of a phone; the page around it measures it and writes what it finds into
its own text, which Chromium prints.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from sample_reports import HOSTILE, calibration, chain, hostile, kept, nothing_to_gain, report

from onnxtune.render.html import to_html
from onnxtune.report import Report
from onnxtune.subgraph import Subgraph, SubgraphNode

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path: the page was not looked at in a browser"),
    pytest.mark.slow,
]

MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="f" src="page.html" style="border:0;width:WIDTHpx;height:900px"></iframe><pre id="out">not measured</pre>
<script>
window.onload = () => {
  const d = document.getElementById('f').contentDocument, root = d.documentElement, found = [];
  d.querySelectorAll('details').forEach(e => { e.open = true; });
  const inside = e => e.closest('.scroll, svg');
  d.querySelectorAll('body *').forEach(e => {
    const r = e.getBoundingClientRect();
    if (r.width && !inside(e) && r.right > WIDTH + 0.5) found.push(e.tagName + '.' + e.className);
  });
  const boxes = [...d.querySelectorAll('.tile, section, .hero')].map(e => e.getBoundingClientRect());
  let overlaps = 0;
  d.querySelectorAll('svg.graph').forEach(g => {
    const own = [...g.querySelectorAll('g')];
    own.forEach(e => {
      const box = e.querySelector('rect').getBBox();
      e.querySelectorAll('text').forEach(t => {
        const text = t.getBBox();
        if (text.x < box.x - 0.5 || text.x + text.width > box.x + box.width + 0.5) overlaps += 1;
      });
    });
  });
  const fonts = [...d.querySelectorAll('svg.chart text')].map(t => {
    const svg = t.ownerSVGElement;
    return parseFloat(getComputedStyle(t).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  });
  document.getElementById('out').textContent = JSON.stringify({
    width: root.scrollWidth, wide: found.slice(0, 5), overlaps: overlaps, scripts: d.scripts.length,
    smallest: Math.min(...fonts, 99), dark: getComputedStyle(d.body).backgroundColor, boxes: boxes.length,
    resources: document.getElementById('f').contentWindow.performance.getEntriesByType('resource').map(r => r.name),
  });
};
</script>"""


def chromium(folder: Path, *arguments: str) -> str:
    """What Chromium prints, and what it complains about in its console."""
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--enable-logging=stderr"]
    ran = subprocess.run([BROWSER, *flags, *arguments], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in ran.stderr, ran.stderr[-2000:]
    return ran.stdout


def measured(folder: Path, found: Report, width: int, *arguments: str) -> dict[str, object]:
    (folder / "page.html").write_text(to_html(found), encoding="utf-8")
    around = folder / "around.html"
    around.write_text(MEASURE.replace("WIDTH", str(width)), encoding="utf-8")
    dom = chromium(folder, *arguments, "--dump-dom", around.as_uri())
    text = re.search(r'<pre id="out">(.*?)</pre>', dom, re.DOTALL)
    assert text is not None, dom[-500:]
    result = json.loads(text[1].replace("&quot;", '"').replace("&amp;", "&"))
    assert isinstance(result, dict)
    return result


def wide() -> Report:
    """Many parallel branches with wide names: drawings wider than any phone."""
    nodes = [SubgraphNode(f"b{i}", "AMW" * 9, ("x",), (f"/long/{'漢w' * 30}/{i}",), ((8, 8, 3, 3),)) for i in range(12)]
    graph = Subgraph(tuple(nodes), {"x": (1, 8, 4, 4)})
    broad = replace(kept(node="m"), before=graph, after=chain("Conv", stem="W" * 90))
    return report(kept(node="n" * 300), broad, calibration=calibration())


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "found",
    [report(calibration=calibration()), nothing_to_gain(), hostile(), wide()],
    ids=["calibrated", "nothing", "hostile", "wide"],
)
def test_nothing_sticks_out_and_nothing_runs(tmp_path: Path, found: Report, width: int) -> None:
    seen = measured(tmp_path, found, width, f"--window-size={max(width, 500)},1000")
    assert seen["width"] == width, seen
    assert seen["wide"] == []
    assert seen["overlaps"] == 0, "text beyond its box"
    assert seen["scripts"] == 0
    assert seen["resources"] == []
    assert float(str(seen["smallest"])) >= 9.0, "text of a chart too small to read"


def test_dark_where_the_reader_wants_it(tmp_path: Path) -> None:
    light = measured(tmp_path, report(), 390)["dark"]
    dark = measured(tmp_path, report(), 390, "--blink-settings=preferredColorScheme=0")["dark"]
    assert light == "rgb(246, 247, 249)"
    assert dark == "rgb(18, 22, 28)"


def test_on_paper_everything_is_open(tmp_path: Path) -> None:
    page, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(to_html(report(calibration=calibration())), encoding="utf-8")
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", data)) >= 2


def test_hostile_names_run_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(to_html(hostile()), encoding="utf-8")
    dom = chromium(tmp_path, "--dump-dom", page.as_uri())
    assert "<script" not in dom
    assert "<img" not in dom
    assert HOSTILE.split("|")[0] not in dom
