"""Times a server with 1, 4, 16 and 64 clients against diffusers behind one lock: same weights, orders, threads and machine.

    python benchmarks/serve.py
    python benchmarks/serve.py --overhead 30    only what is not drawing: one client, an idle engine
    python benchmarks/serve.py --quick    to see that it runs

Clients order small pictures of mixed steps, guidance and sizes, one after the other, and are done when they hold the PNG. Those
of the server come over HTTP and look at the first preview; those of diffusers call it in its own process, with no server between.
`generate` is the product's own road without a server. All draw under the only conventions that diffusers knows, so that their
pictures are the same, though no good: how far they differ is printed. CPU time and memory are those of the server and its worker,
or of the process with the pipeline.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image, ImageChops
from soak import ENDED, Server, resident, until

PROMPT = "newest, best quality, 1girl, solo, cat ears, pink hair, long hair, smile, indoors"
NEGATIVE = "worst quality, oldest"
SIZES = ((128, 128), (256, 128), (256, 256))  # px; multiples of 128, as diffusers needs them
STEPS, DECODER_STEPS = (8, 16, 24), (4, 10)
HEADS = ("side", "clients", "orders", "pictures/s", "p50 s", "p95 s", "first preview s", "CPU s each", "MiB at most")

Order = dict[str, Any]
Plan = list[tuple[int, list[Order]]]  # so many clients, and what they order together


@dataclass(frozen=True)
class Seen:
    """What a client saw of its order, in seconds from when it was made."""

    done: float
    preview: float | None = None  # the first one was there
    before: float = 0.0  # of `done`: from the order until a worker had it
    after: float = 0.0  # of `done`: from the stored picture until the client had it


@dataclass(frozen=True)
class Times:
    """What all clients saw, and what it took in all of those who drew."""

    clients: int
    seen: list[Seen]
    wall: float  # s
    cpu: float  # s
    memory: float  # MiB at most

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return len(self.seen) / self.wall

    def row(self, side: str) -> str:
        """A row of the table."""
        done = [seen.done for seen in self.seen]
        late = statistics.quantiles(done, n=20, method="inclusive")[-1]
        previews = [seen.preview for seen in self.seen if seen.preview is not None]
        preview = f"{statistics.median(previews):.2f}" if previews else "none"
        return (f"| {side} | {self.clients} | {len(done)} | {self.rate:.2f} | {statistics.median(done):.2f} | {late:.2f} "
                f"| {preview} | {self.cpu / len(done):.2f} | {self.memory:.0f} |")  # fmt: skip


def orders(count: int, quick: bool = False) -> list[Order]:
    """The same mix each time."""
    chance = random.Random(0)
    steps, decoder_steps = ((2, 4), (1, 2)) if quick else (STEPS, DECODER_STEPS)
    return [
        {"prompt": PROMPT, "negative": NEGATIVE, "seed": number, "steps": chance.choice(steps),
         "decoder_steps": chance.choice(decoder_steps), "guidance": chance.choice((4.0, 7.0)),
         "decoder_guidance": chance.choice((1.0, 2.0)), **dict(zip(("width", "height"), chance.choice(SIZES), strict=True))}
        for number in range(count)
    ]  # fmt: skip


def crowd(clients: int, todo: list[Order], draw: Callable[[Order], Seen], processes: list[int]) -> Times:
    """All orders by so many clients at a time."""
    with watched(processes) as sizes, ThreadPoolExecutor(clients) as pool:
        began, spent = time.perf_counter(), cpu_seconds(processes)
        seen = list(pool.map(draw, todo))
        wall, spent = time.perf_counter() - began, cpu_seconds(processes) - spent
    return Times(clients, seen, wall, spent, max(sizes))


def cpu_seconds(processes: list[int]) -> float:
    """That processes have taken so far, proc_pid_stat(5)."""
    fields = [Path(f"/proc/{id}/stat").read_text().rpartition(")")[2].split() for id in processes]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


@contextmanager
def watched(processes: list[int]) -> Iterator[list[float]]:
    """MiB that processes take together, again and again."""
    sizes, over = list[float](), threading.Event()

    def look() -> None:
        while not sizes or not over.wait(0.1):
            sizes.append(sum(map(resident, processes)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield sizes
    finally:
        over.set()
        watcher.join()


def served(folder: Path, plan: Plan, threads: int) -> tuple[list[Times], bytes]:
    """Each number of clients on one server, and the PNG of the first order."""
    server = Server(folder / "data", save_model(folder), [f"worker.threads={threads}"])
    try:
        with httpx2.Client(base_url=server.url, timeout=600, limits=httpx2.Limits(max_connections=200)) as http:
            until(lambda: _ready(http), "a server that is ready", pause=0.2)
            first = [ordered(http, order)[1] for order in sizes_of(plan)][0]
            processes = [server.process.pid, server.worker() or 0]
            return [crowd(clients, todo, lambda order: ordered(http, order)[0], processes) for clients, todo in plan], first
    finally:
        server.stop()


def save_model(folder: Path) -> str:
    """The embedded weights under the conventions that diffusers knows."""
    from generate import open_size

    from sotediffusion.weights.store import save_cascade

    save_cascade(open_size("miniature"), folder / "model")
    return str(folder / "model")


def sizes_of(plan: Plan) -> list[Order]:
    """Orders to warm up with: the first of each size."""
    firsts = {(order["width"], order["height"]): order for order in reversed(plan[-1][1])}
    return sorted(firsts.values(), key=lambda order: int(order["seed"]))


def _ready(http: httpx2.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx2.HTTPError:
        return False


def ordered(http: httpx2.Client, order: Order) -> tuple[Seen, bytes]:
    """One picture by the own API: ordered, watched, fetched."""
    began, ordered_at, preview = time.perf_counter(), time.time(), None
    reply = http.post("/api/v1/jobs", json=order)
    reply.raise_for_status()
    with http.stream("GET", f"/api/v1/jobs/{reply.json()['id']}/events") as events:
        for line in events.iter_lines():
            if not line.startswith("data: "):
                continue
            job = json.loads(line.removeprefix("data: "))
            if preview is None and job["progress"] and job["progress"]["preview"] and job["state"] not in ENDED:
                http.get(job["progress"]["preview"]).raise_for_status()
                preview = time.perf_counter() - began
            if job["state"] in ENDED:
                break
    assert job["state"] == "succeeded", job["error"]
    picture = http.get(job["pictures"][0]["url"])
    picture.raise_for_status()
    done = time.perf_counter() - began
    return Seen(done, preview, job["started"] - ordered_at, ordered_at + done - job["finished"]), picture.content


def tell_overhead(seen: list[Seen]) -> None:
    """Print what a lone client waits for that is not drawing. The server's times are by the same clock, on the same machine."""
    for what, times in {
        "from the order to the engine": [one.before for one in seen],
        "from the stored picture to the client": [one.after for one in seen],
        "both": [one.before + one.after for one in seen],
    }.items():
        late = statistics.quantiles(times, n=20, method="inclusive")[-1]
        print(f"{what}, one client, idle engine: {statistics.median(times) * 1000:.1f} ms (median), {late * 1000:.1f} ms (p95)")


def locked(side: str, plan: Plan, threads: int) -> tuple[list[Times], bytes]:
    """Each number of clients at one pipeline behind a lock, in this process, and the PNG of the first order."""
    import torch

    torch.set_num_threads(threads)
    call, lock = {"diffusers": diffusers, "generate": own}[side](), threading.Lock()

    def draw(order: Order) -> Seen:
        began = time.perf_counter()
        with lock:
            png(call(order))
            return Seen(time.perf_counter() - began)

    first = [png(call(order)) for order in sizes_of(plan)][0]
    return [crowd(clients, todo, draw, [os.getpid()]) for clients, todo in plan], first


def png(image: Image.Image) -> bytes:
    """What a client is sent."""
    file = BytesIO()
    image.save(file, "png")
    return file.getvalue()


def diffusers() -> Callable[[Order], Image.Image]:
    """Its pipeline around the same weights."""
    os.environ |= {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}
    import reference_pipelines
    import torch
    from generate import open_size

    pipe: Any = reference_pipelines.combined(reference_pipelines.components(open_size("miniature")))

    def call(order: Order) -> Image.Image:
        image: Image.Image = pipe(
            prompt=order["prompt"], negative_prompt=order["negative"], width=order["width"], height=order["height"],
            prior_num_inference_steps=order["steps"], prior_guidance_scale=order["guidance"],
            num_inference_steps=order["decoder_steps"], decoder_guidance_scale=order["decoder_guidance"],
            output_type="pil", generator=torch.Generator().manual_seed(order["seed"]),
        ).images[0]  # fmt: skip
        return image

    return call


def own() -> Callable[[Order], Image.Image]:
    """What `sote generate` does once it has started."""
    from generate import open_size

    from sotediffusion.generate import generate
    from sotediffusion.types import Request

    cascade = open_size("miniature")
    return lambda order: generate(cascade, Request(**order))[0].image


def alone(side: str, plan: Plan, threads: int) -> tuple[list[Times], bytes]:
    """`locked` in a process of its own, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(locked, side, plan, threads).result()


def difference(one: bytes, other: bytes) -> int:
    """The largest of a pixel's, of 255."""
    pictures: list[Any] = [Image.open(BytesIO(content)).convert("RGB") for content in (one, other)]
    extrema: Any = ImageChops.difference(*pictures).getextrema()
    return max(most for _, most in extrema)


def compare(plan: Plan, threads: int) -> None:
    """Print the table and what follows from it."""
    print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    found: dict[str, list[Times]] = {}
    firsts: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as place:
        sides = {
            "served": lambda: served(Path(place), plan, threads),
            "diffusers": lambda: alone("diffusers", plan, threads),
            "generate": lambda: alone("generate", plan[:1], threads),
        }
        for side, measure in sides.items():
            found[side], firsts[side] = measure()
            for times in found[side]:
                print(times.row(side), flush=True)
    for ours, theirs in zip(found["served"], found["diffusers"], strict=True):
        print(f"served / diffusers, pictures/s with {ours.clients} clients: {ours.rate / theirs.rate:.2f}")
    print(f"served / generate, time of one client: {found['generate'][0].rate / found['served'][0].rate:.3f}")
    tell_overhead(found["served"][0].seen)
    apart = {side: difference(firsts["served"], firsts[side]) for side in ("diffusers", "generate")}
    print(f"largest difference of a pixel, of 255: {apart}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64], help="the first is also measured on `generate`")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, on every side")
    parser.add_argument("--overhead", type=int, metavar="ORDERS", help="measure only what is not drawing, with so many orders")
    parser.add_argument("--quick", action="store_true", help="few orders of few steps, of 1 and 4 clients")
    args = parser.parse_args()
    if args.overhead:
        with tempfile.TemporaryDirectory() as place:
            tell_overhead(served(Path(place), [(1, orders(args.overhead, quick=True))], args.threads)[0][0].seen)
        return
    if args.quick:
        plan = [(clients, orders(8, quick=True)) for clients in (1, 4)]
    else:
        plan = [(clients, orders(min(max(16, 3 * clients), 64))) for clients in args.clients]
    compare(plan, args.threads)


if __name__ == "__main__":
    main()
