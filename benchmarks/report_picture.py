"""The picture of the report in the README: on a desk and in light, on a phone and in the dark.

    python benchmarks/report_picture.py runs/evaluate/both/report.html docs/report.png

Needs a Chromium, and Playwright of the dev extra.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HEIGHT = 1180
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
VIEWS = ((1280, "light", "verdict"), (360, "dark", "waterfall"))


def main(page: Path, picture: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    shots = []
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=list(QUIET))
        for width, scheme, section in VIEWS:
            view = opened.new_page(
                viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, reduced_motion="reduce"
            )
            view.goto(page.resolve().as_uri())
            if section != "verdict":
                view.evaluate(f"document.getElementById({section!r}).scrollIntoView()")
            view.wait_for_timeout(300)
            shots.append(Image.open(io.BytesIO(view.screenshot())))
        opened.close()
    whole = Image.new("RGB", (sum(shot.width for shot in shots) + 24, HEIGHT), "#d8dcda")
    whole.paste(shots[0], (0, 0))
    whole.paste(shots[1], (shots[0].width + 24, 0))
    whole.quantize(128).save(picture, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
