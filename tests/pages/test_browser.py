"""The report in a browser: no error, every node opens, and nothing is wider than a telephone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from backprop_ops.cli import main
from backprop_ops.lecture.network import Nodes

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    file: Path = tmp_path_factory.mktemp("page") / "report.html"
    main(["report", "--out", str(file), "--break", "dhpreact"])
    return file.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_every_node_opens(browser: Browser, address: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    for name in Nodes._fields:
        page.locator(f'svg.graph a[href="#node-{name}"]').focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#node-{name}[open] img")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.screenshot(full_page=True)
    assert not said
    page.close()
