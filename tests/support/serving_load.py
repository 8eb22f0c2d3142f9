"""A bounded load test of the HTTP server on loopback, with good and bad requests mixed.

    python tests/support/serving_load.py [--model DIR] [--requests 2000] [--connections 16] [--seconds 120]
        [--only good]

prints the figures with batches of up to 16 and of 1. Without --model it serves `micro/8` with random weights.
"""

import argparse
import asyncio
import base64
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
from image_files import CHINA, FLOWER, encode, photograph, rotated
from PIL import Image

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification, ViTCustomImageProcessor
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL

ROOT = Path(__file__).parents[2]
PNG = {"content-type": "image/png"}
MAX_BODY = 2_000_000  # the limit of the servers in these tests


@dataclass(frozen=True)
class Case:
    """One kind of request and the status it must get; for 200, the answer to the image `body`."""

    body: bytes
    status: int
    headers: dict[str, str] = field(default_factory=lambda: dict(PNG))
    query: str = "top_k=3"
    path: str = "/predict"
    method: str = "POST"


def good_images() -> dict[str, bytes]:
    """Return the bytes of real photographs in every unusual kind of file that holds a sound image."""
    photo = photograph()
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    frames = [photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]  # the other frames of an animation
    clear = photo.copy()
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    return {
        "photograph": CHINA.read_bytes(),
        "other photograph": FLOWER.read_bytes(),
        "PNG": encode(photo, "PNG"),
        "grey": encode(photo.convert("L"), "PNG"),
        "palette": encode(photo.convert("P"), "PNG"),
        "transparent": encode(clear, "PNG"),
        "CMYK": encode(photo.convert("CMYK"), "JPEG"),
        "16 bits": encode(deep, "PNG"),
        "turned": rotated(photo, "JPEG", 6),
        "animated GIF": encode(photo.convert("P"), "GIF", save_all=True, append_images=[frames[0].convert("P")]),
        "animated WebP": encode(photo, "WEBP", save_all=True, append_images=frames, lossless=True),
        "progressive": encode(photo, "JPEG", progressive=True),
    }


def bomb() -> bytes:
    """Return a PNG of a few bytes whose header claims 60,000 x 60,000 pixels."""
    small = encode(Image.new("1", (8, 8)), "PNG")
    size = (60_000).to_bytes(4, "big")
    header = b"IHDR" + size + size + small[24:29]
    return small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]


def bad_requests() -> dict[str, Case]:
    """Return the requests that must be refused, by what is wrong with them."""
    jpeg = CHINA.read_bytes()
    png = encode(photograph(), "PNG")
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + png + b"\r\n--x--\r\n"
    return {
        "cut off": Case(jpeg[: len(jpeg) // 2], 400),
        "damaged": Case(png[:60] + bytes(40) + png[100:], 400),
        "text": Case(b"not an image at all", 400),
        "zero bytes": Case(b"", 400),
        "bomb": Case(bomb(), 400),
        "URL": Case(b"http://127.0.0.1:9/a.png", 400),
        "SVG": Case(b'<svg xmlns="http://www.w3.org/2000/svg"/>', 400),
        "PostScript": Case(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", 400),
        "too large": Case(bytes(MAX_BODY + 1), 413),
        "JSON": Case(b'{"image": "%s"}' % base64.b64encode(png), 400, {"content-type": "application/json"}),
        "form": Case(form[:-8], 400, {"content-type": "multipart/form-data; boundary=x"}),
        "mixed": Case(form, 415, {"content-type": "multipart/mixed; boundary=x"}),
        "text type": Case(png, 415, {"content-type": "text/plain"}),
        "no type": Case(png, 415, {}),
        "compressed": Case(png, 415, {**PNG, "content-encoding": "gzip"}),
        "top_k 0": Case(png, 422, query="top_k=0"),
        "top_k negative": Case(png, 422, query="top_k=-1"),
        "top_k a word": Case(png, 422, query="top_k=all"),
        "top_k empty": Case(png, 422, query="top_k="),
        "top_k huge": Case(png, 422, query="top_k=" + "9" * 5000),
        "top_k twice": Case(png, 422, query="top_k=1&top_k=2"),
        "unknown query": Case(png, 422, query="topk=3"),
        "address": Case(png, 404, path="/classify"),
        "method": Case(b"", 405, method="GET"),
    }


def expected_predictions(model_dir: Path, images: dict[str, bytes], top_k: int = 3) -> dict[str, list[dict]]:
    """Return the model's predictions for each image, computed one at a time without a server."""
    model, processor = load_classifier(str(model_dir))
    answers = {}
    for name, body in images.items():
        pixels = processor(processor.decode(body), return_tensors="pt", input_data_format="channels_first")[
            "pixel_values"
        ]
        with torch.inference_mode():
            logits = model(pixel_values=pixels.to(model.device)).logits.cpu()
        answers[name] = SINGLE_LABEL.entries(logits, model.config.id2label, top_k)[0]
    return answers


def same_predictions(given: list[dict], expected: list[dict], tolerance: float = 1e-5) -> bool:
    return len(given) == len(expected) and all(
        g["label"] == e["label"] and abs(g["score"] - e["score"]) <= tolerance
        for g, e in zip(given, expected, strict=True)
    )


@dataclass
class Report:
    """The results of a load: seconds of every answered request, statuses by case, wrong answers."""

    seconds: float = 0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    drips: Counter = field(default_factory=Counter)
    hang_ups: int = 0
    mean_batch: float = 0
    rss_mb: tuple[float, float] = (0, 0)  # after the first tenth of the requests, and at the end

    def lines(self) -> list[str]:
        p50, p99 = np.percentile(self.latencies, [50, 99]) * 1000
        count = len(self.latencies)
        return [
            f"{count:,} requests in {self.seconds:.1f} s, {count / self.seconds:.0f} a second",
            f"latency p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {max(self.latencies) * 1000:.0f} ms",
            f"by status: {', '.join(f'{status}: {n}' for status, n in sorted(self.statuses.items()))}",
            f"mean batch {self.mean_batch:.2f}; memory {self.rss_mb[0]:.0f} -> {self.rss_mb[1]:.0f} MB",
            f"slow clients refused: {dict(self.drips)}; hung up in the middle: {self.hang_ups}",
            f"not as expected: {len(self.wrong)} {self.wrong[:5]}",
        ]


async def run_load(
    url: str,
    pid: int,
    expected: dict[str, list[dict]],
    good: dict[str, bytes],
    bad: dict[str, Case],
    requests: int = 2000,
    connections: int = 16,
    seconds: float = 120,
    misbehave: bool = True,
) -> Report:
    """Send `requests` good and bad ones over `connections`, check every answer; stop after `seconds`."""
    report, shuffled = Report(), random.Random(0)
    names = [shuffled.choice([*good] * 2 + [*bad]) for _ in range(requests)]
    todo, process = iter(enumerate(names)), psutil.Process(pid)
    host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()
    before = (await _info(url))["images"], (await _info(url))["batches"]

    async def one_connection(client: httpx.AsyncClient) -> None:
        for index, name in todo:
            case = bad.get(name) or Case(good[name], 200)
            start = time.perf_counter()
            answer = await client.request(
                case.method, f"{case.path}?{case.query}", content=case.body, headers=case.headers
            )
            report.latencies.append(time.perf_counter() - start)
            report.statuses[answer.status_code] += 1
            if answer.status_code != case.status:
                report.wrong.append(f"{name}: {answer.status_code} instead of {case.status}: {answer.text[:200]}")
            elif case.status == 200 and not same_predictions(answer.json()["predictions"], expected[name]):
                report.wrong.append(f"{name}: {answer.json()['predictions']} instead of {expected[name]}")
            elif case.status != 200 and not answer.json()["error"]:
                report.wrong.append(f"{name}: an error without a message")
            if index == requests // 10:
                report.rss_mb = (process.memory_info().rss / 1e6, 0)
            if misbehave and index % 100 == 0:
                await hang_up(host, int(port), good["photograph"])
                report.hang_ups += 1

    async def drip_forever() -> None:
        while True:
            report.drips[await drip_body(host, int(port))] += 1

    start = time.perf_counter()
    dripping = asyncio.create_task(drip_forever()) if misbehave else None
    async with httpx.AsyncClient(base_url=url, timeout=60) as client, asyncio.timeout(seconds):
        await asyncio.gather(*[one_connection(client) for _ in range(connections)])
    report.seconds = time.perf_counter() - start
    if dripping:
        dripping.cancel()
    after = await _info(url)
    report.mean_batch = (after["images"] - before[0]) / max(1, after["batches"] - before[1])
    report.rss_mb = (report.rss_mb[0], process.memory_info().rss / 1e6)
    return report


async def _info(url: str) -> dict:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return (await client.get("/info")).json()


def head_of(length: int, more: str = "") -> bytes:
    """Return the head of a POST whose body is `length` bytes long; `more` headers each end in a line break."""
    lines = ("POST /predict HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {length}", more)
    return "\r\n".join(lines).encode() + b"\r\n"


async def hang_up(host: str, port: int, body: bytes) -> None:
    """Send half of a body, then close the connection."""
    _, writer = await asyncio.open_connection(host, port)
    writer.write(head_of(len(body)) + body[: len(body) // 2])
    await writer.drain()
    writer.close()


@contextmanager
def slow_bodies(url: str, count: int, length: int = 2):
    """Open `count` clients that send a head and one byte of their body, and then nothing."""
    clients = [socket.create_connection(("127.0.0.1", int(url.split(":")[-1])), timeout=20) for _ in range(count)]
    try:
        [client.sendall(head_of(length) + b"x") for client in clients]
        yield clients
    finally:
        [client.close() for client in clients]


async def drip_body(host: str, port: int, seconds: float = 0.1) -> int:
    """Send a body one byte every `seconds`, for at most 30 s; return the status."""
    reader, writer = await asyncio.open_connection(host, port)
    status = asyncio.create_task(reader.readline())
    try:
        writer.write(head_of(1000))
        for _ in range(int(30 / seconds)):
            if (await asyncio.wait([status], timeout=seconds))[0]:
                break
            writer.write(b"x")
        return int((await asyncio.wait_for(status, 1)).split()[1])
    finally:
        status.cancel()
        writer.close()


@contextmanager
def serving(model_dir: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run `scripts/serve.py` on a free port of this machine; yield (URL, process); stop it by SIGTERM."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), "--model", str(model_dir), "--port", "0", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            yield re.search(r"http://\S+:\d+", line)[0], process
        finally:
            process.terminate()
            process.wait(60)


SERVER_FLAGS = ("--max_body_mb", str(MAX_BODY / 1e6), "--timeout_s", "5")


def save_micro(folder: Path) -> Path:
    config = ViTCustomConfig.from_variant("micro/8", image_size=64, num_labels=10)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = ViTCustomForImageClassification(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(folder)
    ViTCustomImageProcessor.for_model(config).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--only", choices=["good"], help="sound images only, no misbehaving clients")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or save_micro(Path(folder))
        good = good_images()
        expected = expected_predictions(model, good)
        for size in (16, 1):
            with serving(model, *SERVER_FLAGS, "--max_batch_size", str(size)) as (url, process):
                bad = {} if args.only else bad_requests()
                load = (args.requests, args.connections, args.seconds, not args.only)
                report = asyncio.run(run_load(url, process.pid, expected, good, bad, *load))
            print(f"max_batch_size {size}", *report.lines(), sep="\n  ")


if __name__ == "__main__":
    main()
