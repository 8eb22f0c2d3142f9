"""The HTTP server gives right answers in any batch, a clear 4xx for bad requests, and nothing stops it."""

import asyncio
import json
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import CHINA, FLOWER, encode, huge_png, photograph
from saved_models import save_ours, save_resnet
from served import exchange, make_service, running, wait_until
from serving_load import (
    MAX_BODY,
    PNG,
    SERVER_FLAGS,
    Case,
    bad_requests,
    drip_body,
    expected_predictions,
    good_images,
    hang_up,
    head_of,
    run_load,
    same_predictions,
    save_micro,
    serving,
    slow_bodies,
)

from modeling_vit_custom.commands.serve import main
from modeling_vit_custom.common.image_pixels import pixels_allowed
from modeling_vit_custom.serving.app import Service
from modeling_vit_custom.serving.server import public_name


def post(url: str, body: bytes, query: str = "", **headers) -> httpx.Response:
    return httpx.post(f"{url}/predict{query}", content=body, headers={**PNG, **headers}, timeout=30)


async def send_all(url: str, bodies: list[bytes]) -> list[httpx.Response]:
    """Send all bodies at once."""
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as client:
        sent = [client.post(f"{url}/predict", content=body, headers=PNG) for body in bodies]
        return await asyncio.gather(*sent)


# ---------- right answers


@pytest.mark.parametrize("name", good_images())
def test_every_kind_of_image_is_answered_as_the_model_alone_answers(url, expected, name):
    answer = post(url, good_images()[name], "?top_k=3")
    assert answer.status_code == 200, answer.text
    assert same_predictions(answer.json()["predictions"], expected[name])
    assert answer.json() | {"predictions": []} == {"predictions": [], "model": "m", "revision": None}


def test_the_answers_differ_by_image_so_that_a_mixed_up_batch_would_show(expected):
    scores = [tuple(round(e["score"], 3) for e in entries) for entries in expected.values()]
    assert len(set(scores)) > len(scores) / 2


def test_requests_at_once_share_batches_and_a_bad_one_fails_alone(url, service, expected):
    good, bad = good_images(), [case.body for case in bad_requests().values() if case.status == 400]
    before = service.batcher.batches
    names = [*good, *good]
    answers = asyncio.run(send_all(url, [body for name in names for body in (good[name], bad[len(name) % len(bad)])]))
    for name, answer, refused in zip(names, answers[::2], answers[1::2], strict=True):
        assert same_predictions(answer.json()["predictions"][:3], expected[name]), name
        assert refused.status_code == 400
    assert service.batcher.batches - before < len(names)


def numbers(service: Service, *batches: list[torch.Tensor]) -> torch.Tensor:
    """Return the outputs [B, K] of all images of some batches."""
    return torch.stack([output for batch in batches for output, _ in service.run(batch)])


def test_logits_do_not_depend_on_the_batch(service):
    images = [service.prepare(body) for body in good_images().values()]
    alone = numbers(service, *([image] for image in images))
    assert torch.allclose(numbers(service, images), alone, atol=1e-5)
    assert torch.allclose(numbers(service, images[::-1]), alone.flip(0), atol=1e-5)


def test_images_of_several_sizes_in_one_batch_keep_their_order(tmp_path):
    service = make_service(save_resnet(tmp_path / "resnet"))
    photos = [photograph(60, 44), photograph(44, 60), photograph(60, 60), photograph(60, 44).rotate(180)]
    images = [service.prepare(encode(photo, "PNG")) for photo in photos]
    assert len({image.shape for image in images}) == 3
    alone = numbers(service, *([image] for image in images))
    assert torch.allclose(numbers(service, images), alone, atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(1, 9), (3, 9), (4, 9), (9, 3), (3, 3), (1, 1)])
def test_an_image_as_narrow_as_it_has_channels_is_read_as_predict_reads_it(service, model_dir, width, height):
    for mode in ("L", "RGB", "RGBA"):
        body = encode(photograph(width, height).convert(mode), "PNG")
        entries = service.rank(service.run([service.prepare(body)])[0], 3)["predictions"]
        assert same_predictions(entries, expected_predictions(model_dir, {mode: body})[mode])


@pytest.mark.parametrize(("query", "count"), [("", 5), ("?top_k=1", 1), ("?top_k=10", 10), ("?top_k=999", 10)])
def test_top_k(url, query, count):
    entries = post(url, CHINA.read_bytes(), query).json()["predictions"]
    assert len(entries) == count
    assert [e["score"] for e in entries] == sorted((e["score"] for e in entries), reverse=True)


def test_several_labels_and_targets_are_ranked_as_predict_does(tmp_path):
    fields = {"num_channels": 3, "num_labels": 2, "id2label": {0: "age", 1: "size"}}
    image = CHINA.read_bytes()
    for problem_type in ("multi_label_classification", "regression"):
        service = make_service(save_ours(tmp_path / problem_type, problem_type=problem_type, **fields))
        ((logits, _),) = service.run([service.prepare(image)])
        with running(service) as (url, _):
            entries = post(url, image).json()["predictions"]
        if problem_type == "regression":
            assert [e["label"] for e in entries] == ["age", "size"]
            assert [e["value"] for e in entries] == pytest.approx(logits.tolist(), abs=1e-5)
        else:
            scores = {e["label"]: e["score"] for e in entries}
            assert [scores["age"], scores["size"]] == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)


def test_health_and_info(url, service, model_dir):
    assert httpx.get(f"{url}/health").json() == {"status": "ready"}
    info = httpx.get(f"{url}/info").json()
    assert info["classes"] == [str(i) for i in range(10)]
    assert info["limits"]["max_body_mb"] == MAX_BODY / 1e6
    assert info["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert info["model"] == "m" and str(model_dir.parent) not in json.dumps(info)


# ---------- refusals


@pytest.mark.parametrize(("name", "case"), bad_requests().items(), ids=bad_requests())
def test_bad_requests_are_refused_with_a_reason(url, model_dir, name, case: Case):
    answer = httpx.request(
        case.method, f"{url}{case.path}?{case.query}", content=case.body, headers=case.headers, timeout=30
    )
    assert answer.status_code == case.status, answer.text
    (message,) = answer.json().values()
    assert list(answer.json()) == ["error"] and 20 < len(message) < 500
    for secret in ("Traceback", "BytesIO", "0x", ".py", str(model_dir), str(Path(__file__).parent)):
        assert secret not in message


def test_an_address_in_a_body_is_never_visited(url):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/a.png"
        for body in (address.encode(), f'{{"url": "{address}"}}'.encode()):
            assert post(url, body).status_code == 400
        with pytest.raises(TimeoutError):
            trap.accept()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_answered_or_refused_never_a_fault(url, data):
    body = bytearray(encode(photograph(), data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    answer = post(url, bytes(body[: data.draw(st.integers(1, len(body)))]))
    assert answer.status_code in (200, 400), answer.text


def test_the_limit_of_pixels_is_that_of_the_flag(model_dir):
    service = make_service(model_dir, max_pixels=60 * 44)
    service.prepare(encode(photograph(60, 44), "PNG"))
    with pytest.raises(ValueError, match="2,640 pixels"):
        service.prepare(encode(photograph(60, 45), "PNG"))


@pytest.mark.parametrize("side", [12_000, 30_000], ids=["refused here", "refused by Pillow"])
def test_too_large_an_image_is_refused_in_words_for_no_programmer(model_dir, side):
    service = make_service(model_dir)
    with pixels_allowed(service.limits.max_pixels), running(service) as (url, _):
        answer = post(url, huge_png(side))
    said = answer.json()["error"]
    assert answer.status_code == 400 and "refused before decoding" in said and "Fix: shrink it" in said
    assert "ImageLimits" not in said and "PIL" not in said


# ---------- bodies that are too large, too slow, or never end


def test_a_declared_size_is_refused_before_any_of_it_is_sent(url, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.serving.guards.DRAIN_SECONDS", 0.3)
    start = time.monotonic()
    answer = exchange(url, head_of(10**12))
    assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()
    assert b'"error"' in answer and time.monotonic() - start < 2
    assert exchange(url, head_of(10**12, "Expect: 100-continue\r\n")).startswith(b"HTTP/1.1 413")


def test_a_body_of_unknown_size_is_cut_where_it_is_too_large(url):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 50 * MAX_BODY:
            sent += 2**16
            yield bytes(2**16)

    answer = httpx.post(f"{url}/predict", content=endless(), headers=PNG, timeout=30)
    assert answer.status_code == 413


def test_slow_bodies_end_in_408_and_leave_no_place_taken(model_dir):
    service = make_service(model_dir, timeout_s=0.6)
    with running(service) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        start = time.monotonic()
        assert asyncio.run(drip_body(host, int(port))) == 408
        assert time.monotonic() - start < 5
        for _ in range(3):
            asyncio.run(hang_up(host, int(port), CHINA.read_bytes()))
        wait_until(lambda: service.requests == 0)
        assert post(url, CHINA.read_bytes()).status_code == 200


def test_bodies_under_way_hold_no_places_and_the_slowest_of_too_many_comes_back_later(model_dir):
    service, jpeg = make_service(model_dir, max_requests=4, timeout_s=20), CHINA.read_bytes()
    with running(service) as (url, _), slow_bodies(url, 3), slow_bodies(url, 1, len(jpeg) - 1) as (half,):
        half.sendall(jpeg[1:-1000])
        wait_until(lambda: len(service.arrivals) == 4 and any(one.size > 9 for one in service.arrivals._under_way))
        assert post(url, jpeg).status_code == 200 and service.requests == 0
        with slow_bodies(url, 20) as newer:
            assert newer[0].recv(4096).startswith(b"HTTP/1.1 503")
            assert len(service.arrivals) <= 4 and post(url, jpeg).status_code == 200
            half.sendall(jpeg[-1000:])
            assert half.recv(4096).startswith(b"HTTP/1.1 400")  # it was never given up; its first byte was wrong
    assert len(service.arrivals) == 0


def test_slow_heads_end_the_connection(url, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.serving.guards.HeadDeadline.seconds", 0.5)
    assert exchange(url) == b""  # nothing sent at all
    assert exchange(url, b"POST /predict HTTP/1.1\r\nHost: x\r\n") == b""
    first = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    assert exchange(url, first, b"GET /hea").count(b"HTTP/1.1") == 1  # the second request never becomes complete


@pytest.mark.parametrize("request_line", ["POST /predict", "GET /health", "POST /nowhere"])
@pytest.mark.parametrize("length", [0, 4])
def test_a_request_of_two_lengths_is_refused_and_nothing_behind_it_is_read(url, request_line, length):
    head = head_of(length, "transfer-encoding: chunked\r\n").replace(b"POST /predict", request_line.encode())
    answer = exchange(url, head + b"0\r\n\r\nGET /info HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400") and b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1 and b"both Content-Length and Transfer-Encoding" in answer


# ---------- overload, faults and stopping


class Gate:
    """Holds back the batches of a service until it is opened."""

    def __init__(self, service: Service):
        self.open, self.reached, self.run = threading.Event(), threading.Event(), service.batcher.run
        service.batcher.run = self

    def __call__(self, images):
        self.reached.set()
        assert self.open.wait(30)
        return self.run(images)


def test_beyond_max_requests_503_says_when_to_come_back_and_the_others_are_answered(model_dir, expected):
    service = make_service(model_dir, max_requests=3, timeout_s=20)
    gate = Gate(service)
    with running(service) as (url, _):
        answers: list[httpx.Response] = []
        body = good_images()["PNG"]
        clients = [threading.Thread(target=lambda: answers.append(post(url, body, "?top_k=3"))) for _ in range(3)]
        [client.start() for client in clients]
        wait_until(lambda: service.requests == 3)
        refused = post(url, body)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1 and refused.json()["error"]
        assert httpx.get(f"{url}/health").status_code == 200  # a busy server is healthy
        gate.open.set()
        [client.join(30) for client in clients]
        assert [a.status_code for a in answers] == [200] * 3
        assert all(same_predictions(a.json()["predictions"], expected["PNG"]) for a in answers)
        assert post(url, body).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up_and_not_computed_later(model_dir):
    service = make_service(model_dir, max_batch_size=1, timeout_s=0.5)
    gate = Gate(service)
    with running(service) as (url, _):
        answers = asyncio.run(send_all(url, [CHINA.read_bytes()] * 4))
        assert [a.status_code for a in answers] == [503] * 4
        gate.open.set()
        wait_until(lambda: post(url, FLOWER.read_bytes()).status_code == 200)
        assert service.batcher.items < 4 + 1  # requests that still waited were dropped


def test_a_fault_of_the_model_is_a_500_without_details_and_does_not_last(model_dir, capsys):
    service = make_service(model_dir)
    run = service.batcher.run
    with running(service) as (url, _):
        service.batcher.run = lambda images: 1 / 0
        answer = post(url, CHINA.read_bytes())
        assert answer.status_code == 500 and "ZeroDivision" not in answer.text and answer.json()["error"]
        log: list[str] = []
        wait_until(lambda: log.append(capsys.readouterr().err) or "ZeroDivisionError" in "".join(log))
        service.batcher.run = run
        assert post(url, CHINA.read_bytes()).status_code == 200


def test_infinite_logits_are_an_error_not_a_score(model_dir):
    service = make_service(model_dir)
    with running(service) as (url, _), torch.no_grad():
        service.model.classifier.weight.fill_(3e38)
        answer = post(url, CHINA.read_bytes())
    assert answer.status_code == 500 and "NaN or infinite" in answer.json()["error"]
    with pytest.raises(ValueError, match="NaN or infinite"):
        service.check()


def test_health_is_503_once_no_batches_are_run(model_dir):
    service = make_service(model_dir)
    with running(service) as (url, _):
        assert httpx.get(f"{url}/health").status_code == 200
        service.worker.get_loop().call_soon_threadsafe(service.worker.cancel)
        wait_until(service.worker.done)
        assert httpx.get(f"{url}/health").status_code == 503


def test_stopping_answers_what_is_at_work(model_dir, expected):
    service = make_service(model_dir, timeout_s=20)
    gate = Gate(service)
    answers: list[httpx.Response] = []
    with running(service) as (url, server):
        client = threading.Thread(target=lambda: answers.append(post(url, good_images()["PNG"], "?top_k=3")))
        client.start()
        assert gate.reached.wait(10)
        server.should_exit = True
        wait_until(lambda: not server.servers[0].is_serving())
        gate.open.set()
        client.join(30)
    assert same_predictions(answers[0].json()["predictions"], expected["PNG"])


# ---------- the command


def test_answers_name_the_commit_of_a_hub_model_and_no_path_of_a_folder(model_dir, tmp_path, monkeypatch):
    assert public_name(str(model_dir / ".." / "m"), None) == ("m", None)
    commit = "0123456789" * 4
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--team--photos"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(model_dir, cached / "snapshots" / commit)
    for revision in (None, "main", commit):
        assert public_name("team/photos", revision) == ("team/photos", commit)


@pytest.fixture
def sigterm_restored():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_what_cannot_be_served_is_said_before_the_port_opens(model_dir, tmp_path, capsys, sigterm_restored):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in [
            (["--model", str(tmp_path / "absent")], "is not a folder"),
            (["--model", str(model_dir), "--max_requests", "0"], "max_requests=0: give a number above 0"),
            (["--model", str(model_dir), "--timeout_s", "nan"], "timeout_s=nan"),
            (["--model", str(model_dir), "--port", port], "Fix: give another --host or --port"),
        ]:
            assert main(arguments) == 2
            assert words in capsys.readouterr().err


@pytest.mark.slow
def test_load_of_good_and_bad_requests(tmp_path):
    """The load is 2,000 requests over 16 connections to the command itself; then SIGTERM ends it."""
    model_dir, good = save_micro(tmp_path / "micro"), good_images()
    expected = expected_predictions(model_dir, good)
    with serving(model_dir, *SERVER_FLAGS) as (url, process):
        report = asyncio.run(run_load(url, process.pid, expected, good, bad_requests()))
        print(*report.lines(), sep="\n")
        assert process.poll() is None
    assert process.returncode == 0  # after SIGTERM
    assert len(report.latencies) == 2000 and not report.wrong
    assert report.mean_batch > 1.5
    assert set(report.drips) <= {408} and report.hang_ups == 20
    assert report.rss_mb[1] - report.rss_mb[0] < 150
