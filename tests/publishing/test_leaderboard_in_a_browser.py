"""The leaderboard page in a real browser, from a file: it sorts and filters, and asks no network for anything."""

import json
import re
import shutil
import subprocess

import pytest
from recorded import CIFAR_ENTRY

from adaptive_smoothing_zoo.publishing.leaderboard import render
from adaptive_smoothing_zoo.publishing.model_info import leaderboard_entry

BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")), None)
MODELS = {  # clean and robust accuracy, extra data
    "Best": (0.80, 0.60, True),
    "Middle": (0.95, 0.50, False),
    "Worst": (0.095, 0.09, None),
}
WATCH = "<script>const failures = []; onerror = message => { failures.push(message) }</script>"
STEPS = """<script>
const found = {}, all = [...document.querySelectorAll("tbody tr")]
const names = () => [...document.querySelectorAll("tbody tr")].filter(row => row.offsetParent !== null)
  .map(row => row.querySelector("b").textContent)
const heading = name => [...document.querySelectorAll("th")].find(head => head.textContent.trim() === name)
const sorted = name => { heading(name).querySelector("button").click(); return [names(), heading(name).ariaSort] }
const control = (id, change) => {
  const input = document.getElementById(id)
  change(input)
  input.dispatchEvent(new Event("input"))
}
const type = text => { control("text", c => { c.value = text }); return names() }
const check = (id, on) => { control(id, c => { c.checked = on }); return names() }
const circles = () => [...document.querySelectorAll("svg circle")]
const drawn = () => circles().filter(circle => circle.getBoundingClientRect().width > 0).length
found.first = names()
found.drawn = drawn()
found.clean = [sorted("Clean"), sorted("Clean")]
found.model = sorted("Model")
found.rank = sorted("Rank")
found.typed = type("mid NO")
found.count = document.getElementById("count").textContent.trim()
found.drawnThen = drawn()
found.nothing = type("zz")
type("")
found.noExtra = check("no-extra", true)
check("no-extra", false)
found.plain = check("plain", true)
check("plain", false)
found.last = names()
found.network = performance.getEntriesByType("resource").length
found.failures = failures
const report = document.createElement("pre")
report.textContent = "FOUND" + JSON.stringify(found) + "END"
document.body.append(report)
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_the_page_sorts_and_filters(tmp_path):
    folder = tmp_path / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    for name, (clean, robust, extra) in MODELS.items():
        data = leaderboard_entry(CIFAR_ENTRY, clean, robust) | {"additional_data": extra}
        (folder / f"{name}.json").write_text(json.dumps(data))
    html = render(tmp_path)[0]
    path = tmp_path / "page.html"
    path.write_text(html.replace("<title>", f"{WATCH}<title>", 1).replace("</body>", f"{STEPS}</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--user-data-dir={tmp_path}/me"]
    shown = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(re.search(r"FOUND(\{.*\})END</pre>", shown.stdout)[1])
    everything = ["Best", "Middle", "Worst"]
    assert found == {
        "first": everything,
        "drawn": 3,
        "clean": [[["Worst", "Best", "Middle"], "ascending"], [["Middle", "Best", "Worst"], "descending"]],
        "model": [everything, "ascending"],
        "rank": [everything, "ascending"],
        "typed": ["Middle"],
        "count": "1 of 3 models",
        "drawnThen": 1,
        "nothing": [],
        "noExtra": ["Middle"],
        "plain": [],  # none of these has a record
        "last": everything,
        "network": 0,
        "failures": [],
    }
