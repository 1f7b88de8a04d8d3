"""Opens a page of `quern inspect --report` in headless Chromium and checks what a reader sees.

    python3 tools/check_report.py report.html [--screenshots DIR] [--axe axe.min.js]

At 400 and 1600 pixels, in light and dark: the page does not scroll sideways, requests nothing, reports no error, and every
chart has a role and a name; the switch changes the theme; Tab reaches the skip link first. With --axe (the file
`axe.min.js` of the npm package axe-core), axe-core checks accessibility too. Exit code 1 if anything is wrong.

Needs: Chromium (Debian: apt-get install chromium) and pip install websockets.
"""

import argparse
import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import websockets

BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]

WIDE_ELEMENTS = """[...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre') && !e.closest('.unseen, .skip'))
    .slice(0, 5).map(e => e.tagName + '.' + e.className)"""
NAMELESS = """[...document.querySelectorAll('svg')]
    .filter(s => s.getAttribute('role') !== 'img' || !(s.getAttribute('aria-label') || '').trim()).length"""
HEADINGS = """(() => { let last = 0; return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')]
    .filter(h => { const level = +h.tagName[1], skips = level > last + 1; last = level; return skips; })
    .map(h => h.textContent); })()"""


class Page:
    """One tab, spoken to in the DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.numbers, self.events = socket, itertools.count(1), []

    async def call(self, method, **params):
        number = next(self.numbers)
        await self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(await self.socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    async def value(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    async def loaded(self, url):
        self.events.clear()
        await self.call("Page.navigate", url=url)
        while await self.value("document.readyState") != "complete":
            await asyncio.sleep(0.05)


async def check(page, args, problems):
    url = Path(args.page).resolve().as_uri()
    for domain in ["Page", "Runtime", "Network", "Log"]:
        await page.call(f"{domain}.enable")
    for width, scheme in itertools.product([400, 1600], ["light", "dark"]):
        where = f"{width} px, {scheme}"
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await page.call("Emulation.setDeviceMetricsOverride", **size)
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await page.loaded(url)
        for event in page.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Network.requestWillBeSent" and params["request"]["url"] != url:
                problems.append(f"{where}: requests {params['request']['url']}")
            if method == "Log.entryAdded" or method == "Runtime.exceptionThrown":
                problems.append(f"{where}: {json.dumps(params)[:300]}")
        for state in ["as it opens", "all parts open"]:
            if state != "as it opens":
                await page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
            scroll = await page.value("document.documentElement.scrollWidth")
            if scroll > width:
                wide = await page.value(WIDE_ELEMENTS)
                problems.append(f"{where}, {state}: the page is {scroll} px wide: {wide}")
            if args.axe:
                await axe(page, args.axe, f"{where}, {state}", problems)
            if args.screenshots:
                await screenshot(page, args, f"{width}-{scheme}-{state.split()[0]}", width)
        if await page.value(NAMELESS):
            problems.append(f"{where}: a chart has no role or no name")
        if skipped := await page.value(HEADINGS):
            problems.append(f"{where}: headings skip a level: {skipped}")
        if await page.value("document.scripts.length"):
            problems.append(f"{where}: there is a script")
        await switch(page, scheme, where, problems)
        await page.loaded(url)
        await page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        if await page.value("document.activeElement.className") != "skip":
            problems.append(f"{where}: Tab does not reach the skip link first")


async def switch(page, scheme, where, problems):
    """The theme that the system does not ask for, by the switch."""
    ground = "getComputedStyle(document.body).backgroundColor"
    other = {"light": "dark", "dark": "light"}[scheme]
    before = await page.value(ground)
    await page.value(f"document.getElementById('theme-{other}').click()")
    if before == await page.value(ground):
        problems.append(f"{where}: the switch does not change the theme")


async def axe(page, path, where, problems):
    # DevTools evaluates despite the page's policy.
    await page.value(Path(path).read_text())
    found = await page.value("axe.run({resultTypes: ['violations']}).then(r => r.violations)")
    for violation in found:
        nodes = [node["html"][:120] for node in violation["nodes"][:3]]
        problems.append(f"{where}: axe: {violation['id']}: {violation['help']}: {nodes}")


async def screenshot(page, args, name, width):
    height = await page.value("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16000), "scale": 1}
    shot = await page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    folder = Path(args.screenshots)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{Path(args.page).stem}-{name}.png").write_bytes(base64.b64decode(shot["data"]))


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("page")
    parser.add_argument("--screenshots")
    parser.add_argument("--axe")
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium: apt-get install chromium")
    problems = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            line = next(line for line in process.stderr if "DevTools listening on" in line)
            port = line.split("://")[1].split("/")[0]
            with urllib.request.urlopen(f"http://{port}/json") as answer:
                tab = next(t for t in json.load(answer) if t["type"] == "page")
            async with websockets.connect(tab["webSocketDebuggerUrl"], max_size=1 << 28) as socket:
                await check(Page(socket), args, problems)
        finally:
            process.terminate()
            process.wait()
    for problem in problems:
        print(problem)
    print(f"{args.page}: {len(problems)} problems" if problems else f"{args.page}: nothing found")
    sys.exit(1 if problems else 0)


asyncio.run(main())
