"""The page in a real browser, as people use it: by keyboard and pointer, wide and narrow, and when things go wrong."""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from arithmetic_engine import ArithmeticEngine
from browsing import browser, chromium, playground
from fake_server import FakeServer
from pencil import BEST_FIRST, END
from seqserve_server.engine import Heads
from serving import PENCIL_TEXT, WORDS, serving

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page
else:  # annotations are read by the framework; without the package the tests are skipped
    Browser = Page = Any

chromium()  # skips the file where there is none
WAIT = 20_000  # milliseconds; nothing here takes so long
FOUND = "#server-mark.good"
ANSWERED = "#details:not([hidden])"


@contextlib.asynccontextmanager
async def opened(started: Browser, address: str, **settings: Any) -> AsyncIterator[Page]:
    """The page, found its server; fails at the end if a script failed, or the policy stopped one."""
    context = await started.new_context(**{"viewport": {"width": 1200, "height": 900}, **settings})
    context.set_default_timeout(WAIT)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    await page.goto(address)
    await page.wait_for_selector(FOUND)
    yield page
    # What the browser says of an answer with an error status is no complaint about the page.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []
    await context.close()


async def ask(page: Page, text: str) -> None:
    """By keyboard alone."""
    await page.fill("#source", text)
    await page.keyboard.press("Control+Enter")


async def says(page: Page, place: str, text: str | re.Pattern[str]) -> None:
    """Waits for it. A condition in JavaScript would be stopped by the page's policy, as it should."""
    from playwright.async_api import expect

    await expect(page.locator(place)).to_have_text(text, timeout=WAIT)


async def wide(page: Page) -> bool:
    """Whether the page itself has to be scrolled sideways."""
    return bool(await page.evaluate("document.documentElement.scrollWidth > innerWidth"))


async def test_an_answer_streams_in_and_can_be_looked_into_by_keyboard() -> None:
    engine = ArithmeticEngine()
    engine.choosable_heads = (2, 3)
    async with serving(engine) as served, browser() as started:
        target, metrics = (f"127.0.0.1:{port}" for port in (served.server.port, served.server.metrics_port))
        async with playground(target, metrics) as address, opened(started, address) as page:
            served.engine.hold()
            await ask(page, "c d")
            await served.until_stepping()
            served.engine.allow(3)
            await says(page, "#stream", "l z y")
            assert await page.is_enabled("#cancel")
            served.engine.allow()
            await page.wait_for_selector(ANSWERED)
            assert await page.inner_text("#stream") == PENCIL_TEXT
            assert await page.inner_text("#tokens") == PENCIL_TEXT
            await looked_into(page)
            await page.select_option("#layer", "2")
            await says(page, "#attention-note", re.compile("layer 2 of 2, mean of all heads"))
            await page.select_option("#head", "3")
            await says(page, "#attention-note", re.compile("layer 2 of 2, head 3"))
            assert [each.heads for (each,) in engine.passes][-2:] == [Heads(1, None), Heads(1, 2)]
            await cut_off(page)
            await alternatives(page)
            await page.click("#metrics summary")
            await says(page, "#metrics-figures", re.compile("since start"))
            await hypotheses(page)
            await refusals(page)


async def cut_off(page: Page) -> None:
    """An answer that fills the model cannot be scored: its own map is drawn then, and not that of the one before."""
    await ask(page, "x")  # repeats "<unk>" for ever
    await says(page, "#attention-note", re.compile("alignment, and not layer 2 of 2, head 3.*room for the end"))
    assert "Attention map of 64 target tokens" in (await page.locator("#map svg").get_attribute("aria-label") or "")
    await ask(page, "c d")
    await says(page, "#attention-note", re.compile(r"Shown: layer 2 of 2, head 3\.$"))
    await page.wait_for_selector("#map svg[aria-label*='of 15 target']")


async def looked_into(page: Page) -> None:
    """What tokens looked at, pointed at in both places and by the arrows."""
    await page.focus("#tokens button")
    await page.keyboard.press("ArrowRight")
    told = await page.inner_text("#token-info")
    assert told.startswith("“z”: 80 %")  # exp(-28 / 128)
    assert "looked at" in told
    assert await page.locator("#source-tokens .most").count() == 1
    assert await page.locator("#map .lit").text_content() == "z"
    assert "z: " in (await page.locator("#map svg").get_attribute("aria-label") or "")
    await page.locator("#map").focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    assert "→" in await page.inner_text("#map-info")
    assert (await page.inner_text("#token-info")).startswith("“z”")


async def alternatives(page: Page) -> None:
    """In place of the second token, and what comes of the choice of one."""
    await page.focus("#tokens button")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#alternatives-list button")
    bold = await page.locator("#alternatives-list b").all_inner_texts()
    assert bold == [WORDS[token] for _, token in BEST_FIRST[28] if token != END][: len(bold)]
    assert len(bold) >= 3
    assert "(as it is)" in await page.locator("#alternatives-list button").first.inner_text()
    await page.keyboard.press("Escape")
    assert await page.evaluate("document.activeElement.dataset.place") == "1"  # back where it was
    await page.keyboard.press("Enter")
    word = bold[-1]
    await page.locator("#alternatives-list button", has=page.locator("b", has_text=word)).click()
    await page.wait_for_selector(ANSWERED)
    assert f"“{word}”" in await page.inner_text("#given")
    assert await page.locator("#tokens .p-none").count() == 2  # the prefix was given
    assert (await page.inner_text("#stream")).startswith(f"l {word}")


async def hypotheses(page: Page) -> None:
    """Several, one of them chosen."""
    await page.click("#options summary")
    await page.fill("#option-beam_size", "3")
    await page.fill("#option-num_hypotheses", "3")
    await ask(page, "c d")
    await page.wait_for_selector("#ranked:not([hidden])")
    second = page.locator("#hypotheses button").nth(1)
    await second.click()
    assert await second.get_attribute("aria-pressed") == "true"
    assert await page.inner_text("#tokens") == await second.locator(".text").inner_text()


async def refusals(page: Page) -> None:
    """The server's limits are the page's, and the field is marked."""
    await page.fill("#option-beam_size", "99")
    await page.keyboard.press("Control+Enter")
    await page.wait_for_selector("#option-beam_size[aria-invalid=true]")
    assert "beam_size" in await page.inner_text("#problem")
    await page.click("#reset")
    await ask(page, "a b " * 25_000)
    await page.wait_for_selector("#source[aria-invalid=true]")
    assert "100000 bytes are over the limit of 65536" in await page.inner_text("#problem")
    assert not await wide(page)


# Of the attention map, those that its drawing cuts off.
LABELS_OUTSIDE = """() => {
  const map = document.querySelector("#map svg").getBoundingClientRect();
  return [...document.querySelectorAll("#map text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < map.left - 1 || box.top < map.top - 1 || box.right > map.right + 1;
  }).map((text) => text.textContent);
}"""
MARKUP = "<SCRIPT>alert(1)</SCRIPT> <IMG SRC=X ONERROR=alert(2)> &AMP; {{7*7}}"


async def test_text_stays_text_in_every_script_and_on_a_phone() -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
    with FakeServer() as server:
        async with (
            browser() as started, playground(server.target) as address, opened(started, address, **phone) as page
        ):
            await ask(page, MARKUP)
            await page.wait_for_selector(ANSWERED)
            assert await page.inner_text("#stream") == MARKUP.upper()
            assert await page.locator("#answer script, #answer img, #attention img").count() == 0
            assert await page.evaluate(LABELS_OUTSIDE) == []
            for text in ("שלום עולם", "🎉 👩‍👩‍👧 ÄÖ", "wörd" * 200):
                await ask(page, text)
                await says(page, "#stream", text.upper())
                await page.wait_for_selector(ANSWERED)
                shown = await page.inner_text("#tokens")
                assert shown.split() == text.upper().split()
                assert not await wide(page)
                right = await page.evaluate("document.querySelector('#stream').matches(':dir(rtl)')")
                assert right == text.startswith("ש")
            assert await page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
            await ask(page, "long story")
            await page.wait_for_selector("#problem:not([hidden])")
            assert "900 tokens are over the limit of 512" in await page.inner_text("#problem")


async def test_a_server_that_goes_and_comes_back_as_another_is_noticed_and_what_came_is_kept() -> None:
    first = FakeServer()
    port, stuck = int(first.target.rpartition(":")[2]), threading.Event()
    async with browser() as started, playground(first.target) as address:
        first.__enter__()
        async with opened(started, address) as page:
            first.servicer.between_chunks = lambda: stuck.wait(60)
            await ask(page, "two dogs play")
            await says(page, "#stream", "TWO")
            stopping = asyncio.create_task(asyncio.to_thread(first.__exit__))
            await page.wait_for_selector("#stream.cut")
            stuck.set()
            await stopping
            assert await page.inner_text("#stream") == "TWO"
            assert await page.inner_text("#progress") == "broken off; what had come is kept"
            assert "server" in await page.inner_text("#problem")
            await page.wait_for_selector("#notices .bad")
            with FakeServer(port=port) as second:
                second.servicer.version = "fedcba987654"
                await page.wait_for_selector(FOUND)
                assert "changed from version 0123456789ab to fedcba987654" in await page.inner_text("#notices")
                assert "is there" in await page.inner_text("#notices")
                await ask(page, "two dogs play")
                await page.wait_for_selector(ANSWERED)
                assert await page.inner_text("#stream") == "TWO DOGS PLAY"
                await outlived(page, second)
                await cancelled(page, second)


async def outlived(page: Page, server: FakeServer) -> None:
    """An answer of a version that is not served any more: what another one thinks of it is not asked."""
    asked = len(server.servicer.calls)
    server.servicer.version = "0000aaaa1111"
    await says(page, "#notices [data-key=models] span", re.compile("from version fedcba987654 to 0000aaaa1111"))
    await page.click("#tokens button >> nth=1")
    await says(page, "#alternatives-note", re.compile("version fedcba987654, which the server does not serve any more"))
    assert len(server.servicer.calls) == asked


async def cancelled(page: Page, server: FakeServer) -> None:
    """Escape ends a call on the server, too; so does a page that is closed."""
    free = threading.Event()
    for leave in ("escape", "close"):
        while server.servicer.ended.acquire(blocking=False):
            pass
        server.servicer.between_chunks = lambda: free.wait(60)
        await ask(page, "two dogs play")
        await says(page, "#stream", "TWO")
        if leave == "escape":
            await page.keyboard.press("Escape")
            await says(page, "#progress", re.compile("^cancelled"))
        else:
            await page.close()
        assert await asyncio.to_thread(server.servicer.ended.acquire, timeout=20)
    free.set()
