"""POST /explain gives the maps of `explain`, changes no answer of /predict, and holds none up."""

import base64
import json
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from image_files import CHINA, encode, photograph
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from saved_models import save_ours, save_resnet
from served import make_service, running, wait_until
from serving_load import MAX_BODY, PNG

from modeling_vit_custom.api import load
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.result import png_bytes
from modeling_vit_custom.serving.app import build_app
from modeling_vit_custom.serving.batching import Turns
from modeling_vit_custom.serving.explaining import AT_ONCE, Explaining

PHOTO = encode(photograph(), "PNG")
ALONE = httpx.Limits(max_keepalive_connections=0)  # a connection for each request
CLIENT = httpx.Client(timeout=60, verify=False, trust_env=False, limits=ALONE)


@pytest.fixture(scope="module")
def explaining(model_dir):
    """Run a service that explains, of one image a batch, so that answers do not depend on who asks beside one."""
    service = make_service(model_dir, explain=True, max_batch_size=1, timeout_s=30)
    with running(service) as (url, _):
        yield service, url


def ask(url: str, body: bytes = PHOTO, query: str = "", path: str = "/explain", **how) -> httpx.Response:
    how = how or {"content": body, "headers": PNG}
    return CLIENT.post(f"{url}{path}{query}", **how)


def test_the_map_is_that_of_explain(explaining, model_dir, tmp_path):
    _, url = explaining
    (tmp_path / "a.png").write_bytes(PHOTO)
    model, processor = load(model_dir)
    text = base64.b64encode(PHOTO).decode()
    bodies = {"json": {"inputs": text}}, {"files": [("f", ("a.png", PHOTO))]}
    for query, wanted, ways in (
        ("", {}, ({},)),
        ("?target=3&contrast=rest", {"target": 3, "contrast": "rest"}, bodies[:1]),
        ("?method=rollout", {"method": "rollout"}, bodies[1:]),
    ):
        found = explain(model, str(tmp_path / "a.png"), processor=processor, **wanted)
        record = json.loads(json.dumps(found.record(0)))
        del record["image"]
        for how in ways:
            answer = ask(url, query=query, **how)
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"explanations": [record], "model": "m", "revision": None}
        view = replace(found, originals=None)  # it draws on what the model sees
        picture = ask(url, query=f"{query}{'&' if query else '?'}format=png")
        assert picture.headers["content-type"] == "image/png" and picture.content == png_bytes(view.image(0))


def test_answers_beside_explanations_are_those_alone(explaining):
    _, url = explaining
    bodies = [encode(photograph(60 + n, 44), "PNG") for n in range(6)]
    alone = [ask(url, body, path="/predict").content for body in bodies]
    explained = [ask(url, body, "?method=chefer").content for body in bodies[:2]]
    with ThreadPoolExecutor(AT_ONCE + 8) as pool:
        maps = [pool.submit(ask, url, bodies[n % 2], "?method=chefer") for n in range(AT_ONCE)]
        answers = [pool.submit(ask, url, bodies[n % 6], path="/predict") for n in range(24)]
        assert [one.result().content for one in answers] == alone * 4
        assert [one.result().content for one in maps] == explained * (AT_ONCE // 2)


@contextmanager
def at_each_forward(explaining: Explaining, act):
    """Call `act` with the number of the forward before each of an explanation, once it has paused."""
    count = 0

    def hook(*_):
        nonlocal count
        count += 1
        act(count)

    handle = explaining.explainer._twin.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_a_prediction_is_answered_between_two_forwards_of_an_explanation(explaining):
    service, url = explaining
    started, answered = threading.Event(), threading.Event()

    def act(number):
        if number == 1:
            started.set()
            wait_until(lambda: service.turns._batches == 1)
        if number == 2:
            assert answered.wait(10)

    with at_each_forward(service.explaining, act), ThreadPoolExecutor(1) as pool:
        explained = pool.submit(ask, url)
        assert started.wait(10)
        assert ask(url, path="/predict").status_code == 200
        assert not explained.done()
        answered.set()
        assert explained.result().status_code == 200


def test_one_computes_at_a_time_and_waiting_batches_go_first():
    turns, inside, order = Turns(), [], []

    def compute(name):
        inside.append(name)
        assert len(inside) == 1
        order.append(inside.pop())

    def batch(number):
        with turns.batch():
            compute(number)

    with turns.long_work():
        batches = [threading.Thread(target=batch, args=(n,)) for n in range(3)]
        [one.start() for one in batches]
        wait_until(lambda: turns._batches == 3)
        compute("before")
        turns.pause()
        compute("after")
    [one.join(10) for one in batches]
    assert order[0] == "before" and order[-1] == "after" and sorted(order[1:-1]) == [0, 1, 2]
    with pytest.raises(ZeroDivisionError), turns.long_work():
        raise ZeroDivisionError
    batch(3)


def test_what_nobody_waits_for_ends_and_one_too_many_comes_back_later(model_dir):
    service = make_service(model_dir, explain=True, timeout_s=1)
    forwards, gate = [], threading.Event()

    def act(number):
        forwards.append(number)
        assert gate.wait(20)

    with running(service) as (url, _), ThreadPoolExecutor(AT_ONCE) as pool:
        with at_each_forward(service.explaining, act):
            waiting = [pool.submit(ask, url) for _ in range(AT_ONCE)]
            wait_until(lambda: service.explaining.count == AT_ONCE)
            refused = ask(url)
            assert refused.status_code == 503 and "4 explanations" in refused.text and refused.headers["retry-after"]
            assert {one.result().status_code for one in waiting} == {503}
            gate.set()
            wait_until(lambda: not service.turns._busy)
        assert forwards == [1], "it ended before its second forward, and those behind it never began"
        assert ask(url).status_code == 200 and service.requests == service.explaining.count == 0


REFUSED = {
    "no such class": (422, {}, "?target=cat", "none of the model's 10 classes"),
    "no such id": (422, {}, "?target=10", "outputs 0 to 9"),
    "no class": (422, {}, "?target=", "none of the model's 10 classes"),
    "no such contrast": (422, {}, "?contrast=cat", "none of the model's 10 classes"),
    "contrast with itself": (422, {}, "?target=3&contrast=3", "name another class"),
    "contrast of no class": (422, {}, "?method=rollout&contrast=3", "depends on no class"),
    "no such method": (422, {}, "?method=magic", "give one of libra"),
    "features": (422, {}, "?method=similarity", "give one of libra"),
    "no such format": (422, {}, "?format=html", "give one of json, png"),
    "twice": (422, {}, "?target=1&target=2", "more than one each"),
    "something else": (422, {}, "?top_k=3", "more than one each"),
    "a long name": (422, {}, f"?target={'x' * 300}", "more than 200 characters"),
    "top_k": (422, {"json": {"inputs": base64.b64encode(PHOTO).decode(), "parameters": {"top_k": 3}}}, "", "no top_k"),
    "two files": (413, {"files": [("f", ("a.png", PHOTO)), ("f", ("b.png", PHOTO))]}, "", "more than 1 image."),
    "two texts": (413, {"json": {"images": [base64.b64encode(PHOTO).decode()] * 2}}, "", "more than 1 image."),
    "unreadable": (400, {"content": b"no image", "headers": PNG}, "", "not an image"),
    "too large": (413, {"content": bytes(MAX_BODY + 1), "headers": PNG}, "", "more than 2,000,000 bytes"),
    "another type": (415, {"content": PHOTO, "headers": {"content-type": "text/plain"}}, "", "Content-Type"),
}


def test_what_is_not_understood_is_refused_with_the_way_out(explaining):
    service, url = explaining
    document = CLIENT.get(f"{url}/openapi.json").json()
    for name, (status, how, query, words) in REFUSED.items():
        answer = ask(url, query=query, **how)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]) and words in answer.text, (name, answer)
        assert str(status) in document["paths"]["/explain"]["post"]["responses"]
        assert not [one for one in ("Traceback", ".py", "/tmp") if one in answer.text], name
    assert service.requests == service.explaining.count == 0


def test_the_document_and_the_page_tell_of_it_only_when_it_is_on(explaining, url, tmp_path, monkeypatch):
    service, on = explaining
    document = CLIENT.get(f"{on}/openapi.json").json()
    validate(document)
    assert "/explain" in {route.path for route in build_app(service).routes} and "/explain" in document["paths"]
    schema = document["components"]["schemas"]["Explanations"] | {"components": document["components"]}
    OAS31Validator(schema).validate(ask(on).json())
    (tmp_path / "photo.jpg").write_bytes(CHINA.read_bytes())
    monkeypatch.chdir(tmp_path)
    curl, python = document["paths"]["/explain"]["post"]["x-codeSamples"]
    if shutil.which("curl"):
        subprocess.run(["sh", "-c", curl["source"]], env={"SERVER": on, "no_proxy": "*"}, check=True)
        assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    exec(python["source"], names := {"SERVER": on})
    assert names["answer"].status_code == 200
    assert curl["label"] in CLIENT.get(f"{on}/docs").text and CLIENT.get(f"{on}/info").json()["explain"] is True
    assert 'seconds_count{stage="explain"}' in CLIENT.get(f"{on}/metrics").text
    off = ask(url)
    assert off.status_code == 404 and "Fix: start the server with --explain" in off.json()["error"]
    silent = CLIENT.get(f"{url}/openapi.json").json()
    assert "/explain" not in silent["paths"] and not {"Explanation", "Explanations"} & set(
        silent["components"]["schemas"]
    )
    assert "/explain" not in CLIENT.get(f"{url}/docs").text and CLIENT.get(f"{url}/info").json()["explain"] is False


def test_several_labels_have_an_entry_each(tmp_path):
    fields = {"num_labels": 2, "id2label": {0: "round", 1: "thin"}, "problem_type": "multi_label_classification"}
    service = make_service(save_ours(tmp_path / "m", num_channels=3, **fields), explain=True)
    with running(service) as (url, _):
        service.model.classifier.bias.data.fill_(50.0)
        assert {one["label"] for one in ask(url).json()["explanations"]} == {"round", "thin"}
        assert [one["label"] for one in ask(url, query="?target=thin").json()["explanations"]] == ["thin"]
        assert ask(url, query="?format=png").content.startswith(b"\x89PNG")


def test_models_without_gradients_or_our_encoder_are_refused_at_the_start(tmp_path):
    folder = save_resnet(tmp_path / "resnet")
    assert make_service(folder).explaining is None
    with pytest.raises(UsageError, match="has no encoder of this package"):
        make_service(folder, explain=True)
