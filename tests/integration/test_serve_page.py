"""The page at / in a real browser: images, a scene, mistakes, the keyboard, a phone, and no other host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disttrain.data.datasets.synthetic import draw_arrays

from .serving import Server, chips, picture, serving

pytestmark = pytest.mark.long

KEY = "page key"
_LIMIT_MS = 60_000


@pytest.fixture(scope="module")
def server(model_dir: Path) -> Iterator[Server]:
    with serving(model_dir) as made:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two chips, a scene, and what is no image."""
    images = draw_arrays(24, 5).images.reshape(4, 6, 3, 20, 20)
    scene = np.ascontiguousarray(images.transpose(2, 0, 3, 1, 4).reshape(3, 80, 120))
    contents = {"a.png": chips(2)[0], "b.png": chips(2)[1], "scene.png": picture(scene), "notes.txt": b"no image"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return {name: str(tmp_path / name) for name in contents}


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page, opened; what goes wrong in it fails the test, and so does a request to another host."""
    context = browser.new_context(viewport={"width": 360, "height": 740})
    opened = context.new_page()
    opened.set_default_timeout(_LIMIT_MS)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    hosts = (server.url, "blob:", "data:")
    opened.on("request", lambda one: None if one.url.startswith(hosts) else wrong.append(one.url))
    opened.goto(server.url)
    opened.locator("#examples button").first.wait_for()
    yield opened
    context.close()
    assert wrong == []


def answered(page: Any, text: str) -> None:
    page.locator("#status", has_text=text).wait_for()


def test_images_are_classified_and_a_bad_one_is_named(page: Any, files: dict[str, str], server: Server) -> None:
    page.set_input_files("#files", [files["a.png"], files["b.png"], files["notes.txt"]])
    answered(page, "2 of 3 answered.")
    assert page.get_by_role("alert").inner_text().startswith("notes.txt: not an image")
    cards = page.locator("#answers > li")
    assert cards.count() == 3
    with open(files["b.png"], "rb") as file:
        given = server.client.post("/v1/predict", files={"images": file}).json()["predictions"][0]
    shown = cards.nth(1).inner_text()
    assert f"{given['label']}, {100 * given['probability']:.1f} %" in shown
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_scene_shows_its_boxes_and_the_slider_leaves_some_out(page: Any, files: dict[str, str]) -> None:
    page.set_input_files("#files", [files["scene.png"]])
    answered(page, "1 of 1 answered.")
    card = page.locator("li.scene")
    slider = card.get_by_label("Least score")
    counts: list[int] = []
    drawn = []
    for value in ("0.2", "0.99"):
        slider.fill(value)
        counts.append(int(card.locator(".label").inner_text().split()[0]))
        assert card.get_by_role("img").get_attribute("aria-label") == f"scene.png with {counts[-1]} boxes"
        drawn.append(card.locator("canvas").evaluate("canvas => canvas.toDataURL()"))
    assert counts[0] > counts[1]
    slider.fill("0.2")
    card.get_by_text("The boxes as a table").click()
    assert card.locator("tr").count() == counts[0] + 1
    assert drawn[0] != drawn[1]


def test_everything_can_be_reached_and_used_by_the_keyboard(page: Any) -> None:
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached[:3] == ["files", "mode", "class"]
    assert "A" in reached
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    answered(page, "1 of 1 answered.")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter(one =>"
        " !one.labels?.length && !one.textContent.trim() && !one.querySelector('img[alt]')).length"
    )
    assert unnamed == 0


def test_a_server_with_a_key_asks_for_it(browser: Any, model_dir: Path) -> None:
    with serving(model_dir, env={"DISTTRAIN_API_KEY": KEY}) as server:
        page = browser.new_page()
        page.set_default_timeout(_LIMIT_MS)
        page.goto(server.url)
        for key, words in (("wrong", "asks for an API key"), (KEY, "planesnet_cnn, version")):
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Use it").click()
            page.get_by_text(words).wait_for()
        page.locator("#examples button").last.click()
        page.locator("li.scene").wait_for()
        page.close()


def test_the_docs_page_lists_the_routes(browser: Any, server: Server) -> None:
    page = browser.new_page()
    page.goto(f"{server.url}/docs")
    page.get_by_role("heading", name="POST /v1/detect").wait_for(timeout=_LIMIT_MS)
    page.close()
