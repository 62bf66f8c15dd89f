"""The page's files: vendored ones are what they claim, and nothing needs what the CSP forbids."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from deployments.page import CSP
from deployments.page import UI as ROOT

VENDOR = ROOT / "vendor"
OWN = sorted(path for path in ROOT.iterdir() if path.suffix in (".js", ".css", ".html", ".svg"))
SCRIPTS = [path for path in OWN if path.suffix == ".js"]
HTML = {path.name: path.read_text(encoding="utf-8") for path in OWN if path.suffix == ".html"}


class Elements(HTMLParser):
    """All start tags of a page with their attributes, and text inside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.inline += data.strip()


PAGES = {name: Elements(text) for name, text in HTML.items()}
PAGE = PAGES["index.html"]
IDS = {attributes["id"] for _, attributes in PAGE.tags if "id" in attributes}


TERMS = {"MIT": "Permission is hereby granted, free of charge", "Apache-2.0": "Apache License"}


def test_vendored_files_have_the_recorded_hash_and_a_licence():
    rows = json.loads((VENDOR / "HASHES.json").read_text())
    for row in rows:
        assert hashlib.sha256((VENDOR / row["file"]).read_bytes()).hexdigest() == row["sha256"]
        assert row["source"].startswith(f"npm:{row['name']}@{row['version']}/")
        text = (VENDOR / f"{row['name']}.LICENSE").read_text()
        assert TERMS[row["license"]] in text
    assert {row["file"] for row in rows} == {p.name for p in VENDOR.iterdir()} - {"HASHES.json"}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_pages_have_nothing_inline(page):
    assert page.inline == ""
    for tag, attributes in page.tags:
        assert tag not in ("style", "base", "object", "embed", "iframe"), tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        if tag == "script":
            assert attributes["src"]
            assert attributes.get("type") == "module" or "defer" in attributes


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_reference_is_served(page):
    references = [
        a.get("src") or a.get("href") for _, a in page.tags if a.get("src") or a.get("href")
    ]
    assert len(references) >= 5
    for reference in references:
        if reference.startswith("#"):
            assert reference[1:] in IDS
        elif reference not in ("/", "/docs", "/openapi.json"):  # routes
            assert (ROOT / reference.removeprefix("/ui/")).is_file(), reference


def test_labels_and_descriptions_point_at_elements():
    for _, attributes in PAGE.tags:
        for name in ("for", "aria-labelledby", "aria-describedby"):
            for target in (attributes.get(name) or "").split():
                assert target in IDS, f"{name}={target}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_imports_exist(path):
    for name in re.findall(r'from "([^"]+)"', path.read_text()):
        assert name.startswith("./"), name
        assert (path.parent / name).is_file(), name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_write_no_markup_and_run_no_text(path):
    text = path.read_text()
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
    ):
        assert word not in text, word
    assert not re.search(r'setAttribute\("(style|on)', text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_elements_asked_for_exist(path):
    for name in re.findall(r'byId\("([^"]+)"\)|Chart\("([^"]+)"', path.read_text()):
        assert "".join(name) in IDS | {"why-body"}, name


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(path):
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//cdn|@import|url\(", text)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("name", ["uPlot.min.css", "swagger-ui.css"])
def test_vendored_styles_load_nothing(name):
    assert not re.search(r"""@import|url\(["']?(?!["']?data:)""", (VENDOR / name).read_text())


def test_csp_allows_only_this_server():
    rules = dict(rule.strip().split(" ", 1) for rule in CSP.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in CSP


def colors(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


STYLE = (ROOT / "style.css").read_text()
THEMES = {
    "light": colors(STYLE[: STYLE.index("@media")]),
    "dark": colors(STYLE[STYLE.index("@media") : STYLE.index("prefers-contrast")]),
}


@pytest.mark.parametrize("name", THEMES)
def test_text_has_the_contrast_of_wcag_aa(name):
    theme = THEMES[name]
    for text in ("ink", "muted", "accent", "bad", "warn", "good"):
        assert contrast(theme[text], theme["panel"]) >= 4.5, text
    for text in ("ink", "muted", "bad", "warn"):
        assert contrast(theme[text], theme["select"]) >= 4.5, f"{text} on a chosen row"
    assert contrast(theme["muted"], theme["ground"]) >= 4.5
    assert contrast(theme["bad"], theme["bad-ground"]) >= 4.5
    assert contrast(theme["warn"], theme["warn-ground"]) >= 4.5


@pytest.mark.parametrize("name", THEMES)
def test_marks_stand_out_from_the_panel(name):
    theme = THEMES[name]
    for mark in ("gpu", "power", "load-2", "load-3", "load-4", "bad"):
        assert contrast(theme[mark], theme["panel"]) >= 3, mark


def test_both_themes_name_the_same_colours():
    assert THEMES["light"].keys() == THEMES["dark"].keys()
