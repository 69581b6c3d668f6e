"""How long the page of ``causalvae explore`` takes to follow a slider, from the browser's event to the pictures on the screen.

Beside it the parts: the answer alone (one pass through the decoder and, for simulators, the true scene), and the answer as the
page gets it (with its pictures as PNG and the table). And the same answer behind a page on Gradio, where that is installed, with
nothing but a slider for each concept and the pictures that change. Turns alternate, each page in a browser of its own. The
networks are untrained, which takes them no less time.

Needs Chromium, its chromedriver and selenium.

python benchmarks/explore.py
"""

from __future__ import annotations

import argparse
import html
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from environment import describe, write_json

from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.explore import Explorer
from causalvae_pyro.explore.server import Server
from causalvae_pyro.explore.session import Session
from causalvae_pyro.recipes import Recipe

# Moves a slider, waits until the page says so and its pictures are decoded and painted, and gives the milliseconds.
MOVE = """
const [slider, watched, value, says, done] = arguments;
const input = document.querySelector(slider);
const start = performance.now();
new MutationObserver(async (_, observer) => {
  if (!document.querySelector(watched).textContent.includes(says)) return;
  observer.disconnect();
  await Promise.all([...document.images].filter((image) => image.src).map((image) => image.decode()));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
}).observe(document.querySelector(watched), { childList: true, subtree: true, characterData: true });
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, value);
input.dispatchEvent(new Event("input", { bubbles: true }));
"""
# No two moves to the same place, and no whole numbers, which JavaScript and Python write in different ways.
PLACES = [tenths / 10 for tenths in range(21, 160) if tenths % 10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=60, help="moves of the slider for each figure")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/explore.json"))
    args = parser.parse_args()
    result: dict[str, Any] = {}
    for decoder in ("sprites", "conv"):
        session = Session(make_explorer(decoder, args.size), "runs/pendulum")
        factual = session.explorer.test_image(0)
        with browser() as first, browser() as second, own_page(session, first) as own, gradio_page(session, second) as gradio:
            cases: dict[str, Callable[[float], float]] = {
                "answer": timed(lambda light, s=session, f=factual: s.explorer.answer(f, {"light": light})),
                "answer as the page gets it": timed(lambda light, s=session: s.answer({"image": 0, "do": {"light": light}})),
                "round trip through the page": own,
                **({"round trip through a page on Gradio": gradio} if gradio else {}),
            }
            result[decoder] = measure(cases, args.moves)
        uncertain = timed(lambda light, s=session: s.answer({"image": 0, "do": {"light": light}, "uncertainty": True}))
        result[decoder] |= measure({"answer with the standard deviation, as the page gets it": uncertain}, args.moves)
        for name, figures in result[decoder].items():
            print(f"{decoder:<8} {name:<55} {figures['median']:6.1f} ms, 95 % below {figures['percentile_95']:6.1f}", flush=True)
    options = {"moves": args.moves, "size": args.size, "load_average": os.getloadavg()[0]}
    write_json(args.out, {"milliseconds": result, "gradio": gradio_version(), "options": options, **describe()})


def make_explorer(decoder: str, size: int) -> Explorer:
    data = Pendulum("test", size=size)
    torch.manual_seed(0)
    run = Recipe(decoder=decoder).build(data.graph, data.images, data.labels)
    run.model.eval()
    run.guide.eval()
    return Explorer(run, data)


def measure(cases: dict[str, Callable[[float], float]], moves: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each case; the first moves warm up."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for move in range(-5, moves):
        for name in list(cases)[:: 1 if move % 2 else -1]:
            taken = cases[name](PLACES[(move + 5) % len(PLACES)])
            if move >= 0:
                found[name].append(taken)
    return {
        name: {"median": statistics.median(values), "percentile_95": statistics.quantiles(values, n=20)[-1]}
        for name, values in found.items()
    }


def timed(act: Callable[[float], Any]) -> Callable[[float], float]:
    def run(value: float) -> float:
        start = time.perf_counter()
        act(value)
        return 1000 * (time.perf_counter() - start)

    return run


@contextmanager
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1360,1000"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    try:
        yield driver
    finally:
        driver.quit()


def mover(driver: Any, slider: str, watched: str, says: str) -> Callable[[float], float]:
    return lambda value: driver.execute_async_script(MOVE, slider, watched, value, says.format(value))


@contextmanager
def own_page(session: Session, driver: Any) -> Iterator[Callable[[float], float]]:
    with Server(session, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver.get(server.address)
        wait_for(driver, "return document.querySelectorAll('#panels img').length > 0")
        yield mover(driver, "#slider-light", "#code", '"light": {}')
        server.shutdown()


@contextmanager
def gradio_page(session: Session, driver: Any) -> Iterator[Callable[[float], float] | None]:
    """What Gradio needs at least: sliders that follow, and one piece of HTML."""
    if gradio_version() is None:
        yield None
        return
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    names = [concept.name for concept in session.explorer.concepts]

    def follow(value: float) -> list[Any]:
        answer = session.answer({"image": 0, "do": {"light": value}})
        pictures = "".join(f"<img src='{html.escape(panel['image'])}'>" for panel in answer["panels"][2:])
        after = [row["after"] for name, row in zip(names, answer["concepts"], strict=True) if name != "light"]
        return [f"now {value};{pictures}", *after]

    with gradio.Blocks(analytics_enabled=False) as page:
        light = gradio.Slider(0, 20, elem_id="light", step=0.01)
        others = [gradio.Slider(-1, 30, label=name) for name in names if name != "light"]
        shown = gradio.HTML("-", elem_id="shown")
        light.input(follow, light, [shown, *others], show_progress="hidden", trigger_mode="always_last")
    _, address, _ = page.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
    driver.get(address)
    wait_for(driver, "return document.querySelector('#light input[type=range]') !== null")
    time.sleep(5)
    yield mover(driver, "#light input[type=range]", "#shown", "now {};")
    page.close()


def gradio_version() -> str | None:
    try:
        import gradio
    except ImportError:
        return None
    return gradio.__version__


def wait_for(driver: Any, condition: str) -> None:
    end = time.monotonic() + 60
    while not driver.execute_script(condition):
        if time.monotonic() > end:
            raise TimeoutError(f"the page did not come to: {condition}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
