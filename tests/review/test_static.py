"""The static files of the review page: what the strict policy asks of them, and that the page names each of them."""

import re
from importlib.resources import files

import pytest

from spiceclust.review.routes import static_files

FOLDER = files("spiceclust.review").joinpath("static")
OWN = sorted(file.name for file in FOLDER.iterdir())
SHARED = {"base.css", "base.js", "colours.js", "heat.js", "map.js", "paint.js", "stage.js"}


def test_the_page_asks_for_each_of_its_files_once_and_for_none_that_is_not_served() -> None:
    page = FOLDER.joinpath("page.html").read_text("utf-8")
    asked = re.findall(r'(?:src|href)="static/([^"]+)"', page)
    assert len(asked) == len(set(asked))
    assert set(asked) == {name for name in OWN if name != "page.html"} | SHARED
    assert set(asked) <= set(static_files())


def test_the_page_holds_no_script_style_or_handler() -> None:
    page = FOLDER.joinpath("page.html").read_text("utf-8")
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL).count("") == page.count("<script")
    assert not re.search(r"<style|\sstyle=|\son\w+=|https?:", page)


@pytest.mark.parametrize("name", [name for name in OWN if name.endswith(".js")])
def test_scripts_set_text_alone_and_stay_small(name: str) -> None:
    text = FOLDER.joinpath(name).read_text("utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    assert not re.search(r"https?:|\bimport\b.*from|localStorage|document\.cookie", text)
    assert len(text.splitlines()) < 250
