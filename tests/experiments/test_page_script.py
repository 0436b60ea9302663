"""The script of a page in a browser: hovering tells values, and a click picks out a member."""

import json
import re
import shutil
import subprocess

import pytest

import projection_run as runs
from experiments.analysis import history, wording
from experiments.pages import figures, run_page
from html_check import check

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")

ACT = """
const at = (mark, kind) => {
  const path = mark.matches("path") ? mark : mark.querySelector("path, use");
  path.scrollIntoView({block: "center"});
  const middle = path.getPointAtLength
    ? path.getPointAtLength(path.getTotalLength() / 2).matrixTransform(path.getScreenCTM())
    : {x: path.getBoundingClientRect().x + 2, y: path.getBoundingClientRect().y + 2};
  path.dispatchEvent(new PointerEvent(kind, {
    bubbles: true, clientX: middle.x, clientY: middle.y}));
  return document.querySelector(".says").textContent;
};
const picked = () => Array.from(document.querySelectorAll("figure")).map((figure) => [
  ...new Set([...figure.querySelectorAll(".picked")].map((mark) => mark.dataset.member))]);
const opacity = (mark) => Number(getComputedStyle(mark).opacity);
const all = Array.from(document.querySelectorAll("figure"));
const of = (figure, member) => all[figure].querySelectorAll(`[data-member="${member}"]`);
const select = document.querySelector(".pick select");
const found = {options: [...select.options].map((option) => option.value)};
found.slice = at(of(1, 2)[3], "pointermove");
found.sliceSays = of(1, 2)[3].dataset.says;
found.best = at(of(2, "")[0], "pointermove");
at(of(1, 2)[3], "click");
found.afterClick = [select.value, picked(), opacity(of(0, 2)[0]), opacity(of(0, 1)[0])];
at(of(1, 2)[3], "click");
found.afterSecondClick = [select.value, picked()];
select.value = "1";
select.dispatchEvent(new Event("change"));
found.afterKeys = [select.value, picked()];
document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
found.afterEscape = [select.value, picked()];
const result = document.createElement("pre");
result.id = "found";
result.textContent = JSON.stringify(found);
document.body.append(result);
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    population = runs.Population(tmp_path_factory.mktemp("runs") / "one", runs.configuration())
    population.train(1000)
    return history.History.read(population.store, "a run")


@pytest.fixture(scope="module")
def page(seen, tmp_path_factory):
    return run_page.page(seen, tmp_path_factory.mktemp("empty"), figures.figures(seen))


def test_every_slice_says_what_it_is(seen, page):
    elements, _ = check(page)
    said = [(a["data-member"], a["data-says"]) for _, a in elements if "data-says" in a]
    for report in seen.reports:
        rate = seen.config.space.used(report.hyperparameters)["learning_rate"]
        score = seen.tree.scores[report.member, report.version]
        words = "no score" if score is None else f"score {wording.score(score)}"
        text = f"to {wording.steps(report.agent_steps)}: {wording.value(rate)}, {words}"
        assert (str(report.member), text) in said
    copies = [version for version in seen.versions if version.kind == "exploit"]
    drawn = [(member, text) for member, text in said if text.startswith("copies member ")]
    assert sorted((int(m), int(text.split()[2])) for m, text in drawn) == sorted(
        (version.member, version.parent[0]) for version in copies
    )
    assert copies


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_tells_values_and_picks_out_members(page, tmp_path):
    # The policy allows the page's own script alone.
    acting = re.sub("<meta http-equiv[^>]*>", "", page).replace(
        "</body>", f"<script>{{{ACT}}}</script></body>"
    )
    (tmp_path / "page.html").write_text(acting, encoding="utf-8")
    done = subprocess.run(
        [
            *[BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"],
            *[f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"],
            f"file://{tmp_path / 'page.html'}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    text = re.search('<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert text, done.stderr
    found = json.loads(text[1].replace("&amp;", "&").replace("&gt;", ">"))
    assert found["options"] == ["", "0", "1", "2", "3"]
    assert found["slice"] == f"member 2, {found['sliceSays']}"
    assert re.fullmatch(r"best lineage, about [\d.]+k: training score -?[\d.]+", found["best"])
    value, chosen, own, other = found["afterClick"]
    assert (value, own, other) == ("2", 1, 0.1)
    assert chosen == [["2"], ["2"], [], ["2"]]  # the winner's schedule is of several members
    assert found["afterSecondClick"] == ["", [[], [], [], []]]
    assert found["afterKeys"] == ["1", [["1"], ["1"], [], ["1"]]]
    assert found["afterEscape"] == ["", [[], [], [], []]]
