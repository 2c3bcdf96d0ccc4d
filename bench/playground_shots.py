"""Pictures of the playground in front of a bundle, as docs/playground.md shows them.

    python bench/playground_shots.py BUNDLE DIRECTORY

Needs chromium on the path.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

SENTENCE = "A little girl in a blue shirt is climbing a tree in the park."
WIDE, PHONE = {"width": 1180, "height": 900}, {"width": 360, "height": 740}


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[dict[str, str]]:
    """A command of ours until the block ends; yields what its ready line says."""
    command = [sys.executable, "-m", "seqserve_cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            if words[:1] != ["ready"]:
                raise SystemExit(f"seqserve {arguments[0]} did not start")
            yield dict(word.split("=", 1) for word in words[1:])
        finally:
            process.terminate()


def answered(page: Page, beams: bool) -> None:
    """Ask, by keyboard, and wait for the answer."""
    page.wait_for_selector("#server-mark.good")
    page.fill("#source", SENTENCE)
    if beams:
        page.click("#options summary")
        page.fill("#option-beam_size", "4")
        page.fill("#option-num_hypotheses", "3")
        page.click("#options summary")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#details:not([hidden])")


def alternatives(page: Page, place: int) -> None:
    """Open them for a token; the pointer stays on it."""
    page.click(f"#tokens button >> nth={place}")
    page.wait_for_selector("#alternatives-list button")


def shots(browser: Browser, address: str, directory: Path) -> None:
    """All pictures."""
    def opened(name: str, scheme: str, size: dict[str, int], scale: float = 1) -> tuple[Page, Path]:
        context = browser.new_context(color_scheme=scheme, viewport=size, device_scale_factor=scale)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(address)
        return page, directory / f"playground-{name}.png"

    page, file = opened("light", "light", WIDE)
    answered(page, beams=True)
    alternatives(page, 3)
    page.screenshot(path=file, full_page=True)
    page, file = opened("dark", "dark", WIDE)
    page.wait_for_selector("#server-mark.good")
    page.click("#metrics summary")
    answered(page, beams=False)
    alternatives(page, 3)
    page.click("#alternatives-list button >> nth=1")
    page.wait_for_selector("#given:not([hidden])")
    page.wait_for_selector("#details:not([hidden])")
    page.wait_for_timeout(4500)  # another scrape, after something was done
    if page.is_visible("#heads"):  # not of bundles from before there was a choice
        page.select_option("#layer", "2")
        page.select_option("#head", "3")
    page.hover("#tokens button >> nth=5")
    page.wait_for_timeout(1000)
    page.screenshot(path=file, full_page=True)
    page, file = opened("phone", "light", PHONE, 1.5)
    answered(page, beams=False)
    page.hover("#tokens button >> nth=3")
    page.screenshot(path=file, full_page=True)


def main(bundle: Path, directory: Path) -> None:
    """Start all, take the pictures, stop all."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("chromium is not on the path: apt-get install chromium")
    directory.mkdir(parents=True, exist_ok=True)
    with (
        started("serve", str(bundle), "--port", "0", "--metrics-port", "0") as server,
        started("playground", "--target", server["grpc"], "--metrics-target", server["metrics"], "--port", "0") as page,
        sync_playwright() as driver,
    ):
        # Its sandbox needs a user that is not root.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        try:
            shots(browser, page["playground"], directory)
        finally:
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
