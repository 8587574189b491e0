"""The report in a real browser: it renders, at two widths, and the console stays empty."""

import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Appended to a copy: says how wide the page is, and whether any drawing is squeezed to nothing.
PROBE = """<script>
const svgs = [...document.querySelectorAll("svg[role]")].map(s => s.getBoundingClientRect());
console.log("probe " + JSON.stringify({
  inner: innerWidth, page: document.documentElement.scrollWidth, svgs: svgs.length,
  small: svgs.filter(box => box.width < 150 || box.height < 100).length,
  outside: svgs.filter(box => box.right > innerWidth + 1).length,
  fetched: performance.getEntriesByType("resource").filter(
    entry => !entry.name.startsWith("data:")).length,
}));
</script>"""
WIDTHS = (1280, 420)
POLICY = "default-src 'none';"


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser to render the report: none of {', '.join(BROWSERS)} is installed")
    return found


def _render(browser, page, width, folder):
    """The screenshot, and the lines that the page wrote to the console."""
    picture = folder / f"{page.stem}-{width}.png"
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
            f"--window-size={width},2400", f"--screenshot={picture}", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return picture, re.findall(r'CONSOLE:\d+\S* "(.*)", source', done.stderr)


@pytest.mark.slow
def test_renders_without_console_errors(browser, page, tmp_path):
    content = page.read_text(encoding="utf-8")
    assert POLICY in content
    probed = tmp_path / "probed.html"
    content = content.replace(POLICY, f"{POLICY} script-src 'unsafe-inline';", 1)
    probed.write_text(content.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    # Windows are at least 500 pixels wide, frames are not. One start of the browser shows both.
    frames = tmp_path / "frames.html"
    frames.write_text(
        '<!DOCTYPE html><body style="margin: 0; display: flex">'
        + "".join(
            f'<iframe src="{probed.name}" width="{width}" height="2400" style="border: 0"></iframe>'
            for width in WIDTHS
        )
    )
    picture, console = _render(browser, frames, sum(WIDTHS), tmp_path)
    assert len(console) == 2, console
    found = [json.loads(line.removeprefix("probe ")) for line in console]
    assert {one["inner"] for one in found} == set(WIDTHS)
    for one in found:
        assert one["page"] <= one["inner"]
        assert one["svgs"] > 20
        assert (one["small"], one["outside"], one["fetched"]) == (0, 0, 0)
    with Image.open(picture) as image:
        assert image.size == (sum(WIDTHS), 2400)
        for left, right in ((0, WIDTHS[0]), (WIDTHS[0], sum(WIDTHS))):
            # A page that shows nothing has few colours.
            shown = image.convert("RGB").crop((left, 0, right, 2400))
            assert len(shown.getcolors(maxcolors=1 << 24)) > 300


@pytest.mark.slow
def test_the_console_would_tell(browser, tmp_path):
    """What the test above relies on: scripts that fail, and policies that are violated."""
    bad = tmp_path / "bad.html"
    bad.write_text('<!DOCTYPE html><script>null.x</script><img src="gone.png">')
    _, console = _render(browser, bad, 420, tmp_path)
    assert any("Cannot read properties of null" in line for line in console)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    bad.write_text(f'<!DOCTYPE html>{policy}<img src="gone.png">')
    _, console = _render(browser, bad, 420, tmp_path)
    assert any("Content Security Policy" in line for line in console)
