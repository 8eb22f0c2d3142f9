"""Forms and JSON: the answers that the images alone get, within the same limits, and a clear 4xx for anything else."""

import base64
import json
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import CHINA, encode, huge_png, photograph
from PIL import Image
from served import exchange, make_service, running, wait_until
from serving_load import MAX_BODY, good_images, same_predictions, save_micro, serving

FORM = {"content-type": "multipart/form-data; boundary=x"}
JSON = {"content-type": "application/json"}
CLIENT = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
IMAGE = encode(photograph(), "PNG")


def text(body: bytes) -> str:
    return base64.b64encode(body).decode()


def part(content: bytes = IMAGE, head: str = 'Content-Disposition: form-data; name="file"; filename="a.png"') -> bytes:
    return b"--x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--x--\r\n"


def post(url: str, body: bytes, headers: dict[str, str], query: str = "?top_k=3") -> httpx.Response:
    return CLIENT.post(f"{url}/predict{query}", content=body, headers=headers)


# ---------- right answers


def test_the_files_of_a_form_are_answered_in_their_order_under_their_names(url, expected):
    sent = [("file", (name, body)) for name, body in good_images().items()]
    answer = CLIENT.post(f"{url}/predict?top_k=3", files=sent).json()
    assert [one["name"] for one in answer["results"]] == list(expected)
    assert all(same_predictions(one["predictions"], expected[one["name"]]) for one in answer["results"])
    assert answer | {"results": []} == {"results": [], "model": "m", "revision": None}


@pytest.mark.parametrize("field", ["images", "inputs"])
def test_base64_in_json_is_answered_like_the_files(url, expected, field):
    body = {field: [text(image) for image in good_images().values()], "parameters": {"top_k": 3}}
    results = CLIENT.post(f"{url}/predict", json=body).json()["results"]
    assert [one["name"] for one in results] == [f"{field}[{n}]" for n in range(len(expected))]
    pairs = zip(results, expected.values(), strict=True)
    assert all(same_predictions(one["predictions"], right) for one, right in pairs)


def test_one_text_is_answered_like_one_image(url, expected):
    wrapped = base64.encodebytes(IMAGE).decode()
    for sent in (text(IMAGE), f"data:image/png;base64,{text(IMAGE)}", wrapped):
        for body in ({"inputs": sent}, {"images": sent, "parameters": {}}):
            answer = CLIENT.post(f"{url}/predict?top_k=3", json=body).json()
            assert same_predictions(answer["predictions"], expected["PNG"]) and "results" not in answer


def test_an_image_that_cannot_be_read_fails_alone_and_all_of_them_together(url, expected):
    files = [("f", ("a.png", IMAGE)), ("f", ("b.png", b"no image")), ("f", ("c\n.png", IMAGE))]
    answer = CLIENT.post(f"{url}/predict?top_k=3", files=files)
    good, bad, other = answer.json()["results"]
    assert answer.status_code == 200 and other["name"] == "c%0A.png"  # as the client escapes it
    assert all(same_predictions(one["predictions"], expected["PNG"]) for one in (good, other))
    assert bad["name"] == "b.png" and bad["error"].startswith("b.png: not an image") and "predictions" not in bad
    one = CLIENT.post(f"{url}/predict", json={"inputs": text(b"no image")})
    assert one.status_code == 400 and one.json()["error"].startswith("inputs: not an image")
    both = CLIENT.post(f"{url}/predict", json={"images": [text(b"no image"), text(huge_png(30_000))]})
    assert both.status_code == 400 and both.json()["error"].startswith("none of the 2 images can be read; the first: ")


@pytest.mark.parametrize("charset", ["undefined", "utf-16", "zlib", "idna", "no such"])
def test_a_form_chooses_no_codec_and_names_of_any_bytes_are_shown(url, charset):
    named = b'--x\r\nContent-Disposition: form-data; name="\xff"; filename="\xfe\x1b[2J.png"\r\n\r\n' + IMAGE + b"\r\n"
    headers = {"content-type": f'multipart/form-data; charset={charset}; boundary="x"'}
    (one,) = post(url, form(named), headers).json()["results"]
    assert one["name"] == "þ\\x1b[2J.png" and one["predictions"]


# ---------- refusals

LINES = "".join(f"X-{n}: y\r\n" for n in range(20))
DISPOSITION = 'Content-Disposition: form-data; name="file"'
KSERVE = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["aGk="]}]}
BAD_FORMS = {
    "no boundary": (form(part()), 400, "no boundary=", "multipart/form-data"),
    "boundary of 300": (form(part()), 400, "no boundary=", f"multipart/form-data; boundary={'x' * 300}"),
    "boundary of other characters": (form(part()), 400, "no boundary=", 'multipart/form-data; boundary=a$b'),
    "another boundary": (form(part()), 400, "does not follow its boundary", "multipart/form-data; boundary=y"),
    "empty": (b"", 400, "cut off"),
    "only an end": (form(), 400, "holds no file"),
    "cut off in a file": (form(part())[:-30], 400, "cut off"),
    "cut off after a file": (part() + part(), 400, "cut off"),
    "huge head": (form(part(head=DISPOSITION + '; filename="' + "a" * 10**5 + '"')), 400, "too long"),
    "many lines of head": (form(part(head=LINES + DISPOSITION)), 400, "more than 8 lines"),
    "no name": (form(part(head="Content-Disposition: form-data")), 400, "a part has no name"),
    "no head": (form(b"--x\r\n\r\n" + IMAGE + b"\r\n"), 400, "a part has no name"),
    "field": (form(part(), part(b"3", DISPOSITION.replace("file", "top_k"))), 400, "a field that is no file"),
    "field of 1 MB": (form(part(bytes(10**6), DISPOSITION)), 400, "a field that is no file"),
    "many parts": (form(*[part(b"")] * 33), 413, "more than 32 images"),
    "very many parts": (form(*[part(b"")] * 20_000), 413, "more than 32 images"),
    "very many fields": (form(*[part(b"", DISPOSITION)] * 20_000), 400, "a field that is no file"),
    "nested": (
        form(part(form(part()), DISPOSITION + "\r\nContent-Type: multipart/mixed; boundary=x")), 400, "no file"
    ),
    "nested file": (
        form(part(b"--y\r\n\r\n--y--", f'{DISPOSITION}; filename="a"\r\nContent-Type: multipart/mixed; boundary=y')),
        400, "a: not an image",
    ),
    "base64 in a form": (form(part(text(IMAGE).encode())), 400, "a.png: not an image"),
    "too large": (form(part(bytes(MAX_BODY))), 413, "bytes"),
}  # fmt: skip
BAD_JSON = {
    "no JSON": (b"{images: []}", 400, "not JSON"),
    "empty": (b"", 400, "not JSON"),
    "UTF-16": (json.dumps({"inputs": "aGk="}).encode("utf-16"), 400, "not JSON"),
    "a list": (b'["aGk="]', 400, "another shape"),
    "a number": (b"1" * 5000, 400, "not JSON"),
    "nothing": (b"{}", 400, "another shape"),
    "both": ({"images": "aGk=", "inputs": "aGk="}, 400, "another shape"),
    "more": ({"images": "aGk=", "top_k": 3}, 400, "another shape"),
    "no images": ({"images": []}, 400, "images is an empty list"),
    "no text": ({"images": ["aGk=", 3]}, 400, "images[1] is no text"),
    "null": ({"inputs": None}, 400, "inputs is no text"),
    "KServe": (KSERVE, 400, "inputs[0] is no text"),
    "nested": ({"images": [["aGk="]]}, 400, "images[0] is no text"),
    "deep": (b'{"images":' * 200, 413, "more values than 32 images need"),
    "brackets": (b"[" * 10**6, 413, "more values than 32 images need"),
    "objects": (b'{"images":[' + b"{}," * 10**5 + b"{}]}", 413, "more values than 32 images need"),
    "many": ({"images": ["aGk="] * 33}, 413, "more than 32 images"),
    "base64 of other characters": ({"inputs": "no base64!"}, 400, "inputs is not base64"),
    "base64 cut off": ({"images": [text(IMAGE), text(IMAGE)[:-3]]}, 400, "images[1] is not base64"),
    "base64 and more": ({"inputs": text(IMAGE[:100]) + "AAAA"}, 400, "inputs is not base64"),
    "base64 with ÿ": ({"inputs": text(IMAGE) + "ÿ"}, 400, "inputs is not base64"),
    "no bytes": ({"inputs": ""}, 400, "inputs"),
    "data: URL of text": ({"inputs": "data:image/svg+xml,<svg/>"}, 400, "inputs"),
    "address": ({"inputs": "http://127.0.0.1:9/a.png"}, 400, "is an address, which is not fetched"),
    "parameters no object": ({"inputs": text(IMAGE), "parameters": 3}, 422, "only top_k is known"),
    "parameters more": ({"inputs": text(IMAGE), "parameters": {"function_to_apply": "none"}}, 422, "only top_k"),
    "top_k 0": ({"inputs": text(IMAGE), "parameters": {"top_k": 0}}, 422, "no whole number"),
    "top_k true": ({"inputs": text(IMAGE), "parameters": {"top_k": True}}, 422, "no whole number"),
    "top_k huge": (b'{"inputs": "aGk=", "parameters": {"top_k": 1e999}}', 422, "no whole number"),
    "too large": ({"inputs": "a" * MAX_BODY}, 413, "bytes"),
}


def said(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    (message,) = answer.json().values()
    assert list(answer.json()) == ["error"] and words in message and 20 < len(message) < 500
    assert not [word for word in ("Traceback", "Maximum number", "Starlette", "Exception") if word in message]


@pytest.mark.parametrize("name", BAD_FORMS)
def test_bad_forms_are_refused_with_a_reason(url, name):
    body, status, words, *kind = BAD_FORMS[name]
    said(post(url, body, {"content-type": kind[0]} if kind else FORM), status, words)


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_refused_with_a_reason(url, name):
    body, status, words = BAD_JSON[name]
    said(post(url, body if isinstance(body, bytes) else json.dumps(body).encode(), JSON, ""), status, words)


def test_top_k_is_given_once(url):
    body = {"inputs": text(IMAGE), "parameters": {"top_k": 2}}
    assert len(CLIENT.post(f"{url}/predict", json=body).json()["predictions"]) == 2
    said(CLIENT.post(f"{url}/predict?top_k=3", json=body), 422, "Fix: give it once")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bodies_are_answered_or_refused_never_a_fault(url, data):
    small = encode(photograph(8, 8), "PNG")
    bodies = (form(part(small), part(small)), FORM), (json.dumps({"images": [text(small)] * 2}).encode(), JSON)
    sound, headers = data.draw(st.sampled_from(bodies))
    body = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'\r\n-x"{[:,;\0\xff9'))
    answer = post(url, bytes(body[: data.draw(st.integers(1, len(body)))]), headers)
    assert answer.status_code in (200, 400, 413, 422), answer.text


# ---------- limits


def test_nothing_is_written_to_the_disk(url, monkeypatch):
    def refused(*arguments, **named):
        raise AssertionError("a file on the disk")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refused)
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refused)
    large = encode(Image.new("RGB", (800, 700)), "BMP")  # Starlette's own form writes files from 1 MB on
    assert 2**20 < len(large) < MAX_BODY - 1000
    assert post(url, form(part(large)), FORM).status_code == 200
    assert post(url, form(part(large + bytes(10**5))), FORM).status_code == 200


def head_of(headers: dict[str, str], length: int) -> bytes:
    kind = headers["content-type"]
    lines = (
        "POST /predict HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
    )
    return "\r\n".join((*lines, "", "")).encode()


@pytest.mark.parametrize(
    ("headers", "body"),
    [(FORM, form(part())), (JSON, json.dumps({"inputs": text(IMAGE)}).encode())],
    ids=["form", "JSON"],
)
def test_a_length_that_lies_and_a_body_that_never_ends_are_refused(model_dir, monkeypatch, headers, body):
    monkeypatch.setattr("modeling_vit_custom.serving.guards.HeadDeadline.seconds", 0.5)
    monkeypatch.setattr("modeling_vit_custom.serving.guards.DRAIN_SECONDS", 0.3)
    service = make_service(model_dir, timeout_s=0.6)
    with running(service) as (url, _):
        shorter = exchange(url, head_of(headers, len(body) - 20) + body)
        assert shorter.startswith(b"HTTP/1.1 400") and b'"error"' in shorter
        assert exchange(url, head_of(headers, len(body) + 20) + body).startswith(b"HTTP/1.1 408")
        start = time.monotonic()
        assert exchange(url, head_of(headers, 10**6), body[:40]).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - start < 5
        wait_until(lambda: service.requests == len(service.arrivals) == 0)
        assert post(url, body, headers).status_code == 200


def test_each_image_takes_the_place_of_a_request(model_dir):
    service = make_service(model_dir, max_requests=4)
    with running(service) as (url, _):
        said(post(url, form(*[part()] * 5), FORM), 413, "more than 4 images")
        assert len(post(url, form(*[part()] * 4), FORM).json()["results"]) == 4
        service.requests += 2  # at work elsewhere
        refused = post(url, form(*[part()] * 3), FORM)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert post(url, form(part(), part()), FORM).status_code == 200 and service.requests == 2


def test_images_of_a_request_share_batches_its_time_and_the_fault_of_the_model(model_dir):
    service = make_service(model_dir, timeout_s=0.8, batch_timeout_ms=300)
    run, body = service.batcher.run, form(*[part()] * 4)
    with running(service) as (url, _):
        assert post(url, body, FORM).status_code == 200 and service.batcher.batches == 1
        service.batcher.run = lambda images: time.sleep(1.5) or run(images)
        assert post(url, body, FORM).status_code == 503 and service.requests == 0
        service.batcher.run = lambda images: 1 / 0
        wait_until(lambda: post(url, body, FORM).status_code == 500)
        service.batcher.run = run
        assert post(url, body, FORM).status_code == 200


@pytest.mark.slow
def test_hostile_bodies_of_the_largest_size_cost_little_memory_and_time(tmp_path):
    """The command with its default limits: 20 MB each, of what makes parsers build most."""
    size = 19_900_000
    bodies = {
        "line breaks": (form(part(b"\r" * size)), FORM),
        "half boundaries": (form(part(b"\r\n--" * (size // 4))), FORM),
        "parts": (form(*[part(b"", DISPOSITION + '; filename="a"')] * (size // 80)), FORM),
        "preamble": (b"\r\n" * (size // 2), FORM),
        "hyphens": (b"-" * size, FORM),
        "objects": (b'{"images":[' + b"{}," * (size // 3) + b"{}]}", JSON),
        "brackets": (b"[" * size, JSON),
        "digits": (b"9" * size, JSON),
        "base64": (json.dumps({"inputs": "A" * size}).encode(), JSON),
        "spaces": (json.dumps({"inputs": "AB \n" * (size // 5)}).encode(), JSON),
        "escapes": (b'{"inputs": "' + rb"\u0041" * (size // 6) + b'"}', JSON),
    }
    with serving(save_micro(tmp_path / "m")) as (url, process):
        assert post(url, CHINA.read_bytes(), {"content-type": "image/jpeg"}).status_code == 200
        before, seconds = psutil.Process(process.pid).memory_info().rss, {}
        for name, (body, headers) in bodies.items():
            start = time.monotonic()
            answer = post(url, body, headers)
            seconds[name] = round(time.monotonic() - start, 2)
            assert answer.status_code in (400, 413), (name, answer.text)
        peak = int(Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
        print(seconds, f"{(peak - before) / 1e6:.0f} MB")
        assert peak - before < 300e6 and max(seconds.values()) < 15, (seconds, peak - before)
