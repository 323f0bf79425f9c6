"""Pages in headless Chromium."""

import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium (apt-get install chromium)"
)

# Measured in the page: is all of it as wide as the window, are the pictures there?
_PROBE = """<script>
const pictures = [...document.querySelectorAll('svg image')];
const loaded = pictures.map(p => { const i = new Image(); i.src = p.href.baseVal;
  return i.decode().then(() => 1); });
Promise.all(loaded).then(counts => parent.postMessage([
  innerWidth, document.documentElement.scrollWidth, counts.length,
  getComputedStyle(document.body).backgroundColor,
  [...document.querySelectorAll('figure > svg')].filter(
    s => s.getBoundingClientRect().height >= 20).length].join('|'), '*'));
</script>"""
# A window cannot be as narrow as a phone, a frame can.
_FRAME = """<title>nothing</title><body style="margin:0"><script>
onmessage = event => { document.title = event.data; };
</script><iframe src="page.html" width="WIDTH" height="800" style="border:0"></iframe>"""
_BACKGROUNDS = {"dark": "rgb(20, 21, 25)", "light": "rgb(255, 255, 255)"}
# On a busy machine the browser may print the page before the frame has measured itself.
_TRIES = 3


def open_in_chromium(path, folder, *arguments):
    """Returns what Chromium makes of a page, and what it writes to its console."""
    result = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder}/profile",
            "--window-size=1400,900",
            "--enable-logging=stderr",
            "--virtual-time-budget=30000",
            "--dump-dom",
            *arguments,
            f"file://{path}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def check_page(html, folder, width, scheme):
    """Checks that a page needs nothing else and fits a window.

    Args:
      html: the page.
      folder: an empty one to work in.
      width: of the window, in pixels.
      scheme: `light` or `dark`.
    """
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert "url(" not in html and "@import" not in html
    (folder / "page.html").write_text(html.replace("</body>", f"{_PROBE}</body>"))
    frame = folder / "frame.html"
    frame.write_text(_FRAME.replace("WIDTH", str(width)))
    dark = ("--force-dark-mode",) if scheme == "dark" else ()
    for _ in range(_TRIES):
        dom, console = open_in_chromium(frame, folder, *dark)
        assert not console
        measured = re.search("<title>(.*?)</title>", dom).group(1).split("|")
        if len(measured) > 1:
            break
    # A scroll bar takes a little of the width; nothing needs more than is left.
    inner_width, needed_width, num_pictures, background, num_drawings = measured
    assert int(inner_width) == width
    assert int(needed_width) <= width
    assert int(num_pictures) == html.count("<image ") > 0
    assert background == _BACKGROUNDS[scheme]
    # None is flat.
    assert int(num_drawings) == html.count('role="img"') > 0
