"""/openapi.json and /docs: valid, complete, true of the answers, and nothing loaded from elsewhere."""

import os
import re
import shutil
import subprocess
from html import unescape

import httpx
import pytest
from html_pages import HOSTILE, Tags
from image_files import CHINA, FLOWER
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from serving_load import bad_requests

from modeling_vit_custom.serving.app import build_app
from modeling_vit_custom.serving.limits import Limits
from modeling_vit_custom.serving.openapi import docs_page, openapi


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        yield client


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


def test_the_document_is_valid_and_has_every_route(document, service):
    validate(document)
    assert document["openapi"] == "3.1.0"
    routes = {(route.path, method) for route in build_app(service).routes for method in route.methods - {"HEAD"}}
    assert {(path, method.upper()) for path, methods in document["paths"].items() for method in methods} == routes


def fits(document: dict, answer: httpx.Response, path: str, method: str = "get") -> None:
    """Asserts that the document names the answer's status and kind, and that its JSON has the shape it says."""
    content = document["paths"][path][method]["responses"][str(answer.status_code)]["content"]
    (kind,) = content
    assert answer.headers["content-type"].partition(";")[0] == kind
    if kind == "application/json":
        schema = content[kind]["schema"] | {"components": document["components"]}
        OAS31Validator(schema).validate(answer.json())


def test_answers_and_errors_are_those_of_the_document(client, document, service):
    photo, files = CHINA.read_bytes(), [("f", ("a.jpg", CHINA.read_bytes())), ("f", ("b.png", b"no image"))]
    answers = [
        client.post("/predict", content=photo, headers={"content-type": "image/jpeg"}),
        client.post("/predict", files=files),
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    seen = set()
    for case in bad_requests().values():
        if case.status not in (404, 405):  # of no route
            answers.append(client.post(f"/predict?{case.query}", content=case.body, headers=case.headers))
    service.requests = service.limits.max_requests
    answers.append(client.post("/predict", content=photo, headers={"content-type": "image/jpeg"}))
    service.requests = 0
    for answer in answers:
        fits(document, answer, "/predict", "post")
        seen.add(str(answer.status_code))
    assert seen == set(document["paths"]["/predict"]["post"]["responses"]) - {"408", "500"}
    for path in document["paths"].keys() - {"/predict"}:
        assert client.get(path).status_code == 200
        fits(document, client.get(path), path)


def test_bodies_that_the_document_allows_are_the_ones_that_are_read(document):
    schema = document["components"]["schemas"]["Images"] | {"components": document["components"]}
    for body in ({"images": ["aGk="]}, {"inputs": "aGk=", "parameters": {"top_k": 3}}, {"images": "aGk="}):
        assert OAS31Validator(schema).is_valid(body)
    for body in ({}, {"images": []}, {"images": "a", "inputs": "a"}, {"inputs": [3]}, {"inputs": "a", "top_k": 3}):
        assert not OAS31Validator(schema).is_valid(body)


def test_the_examples_on_the_page_run(client, document, url, tmp_path, monkeypatch):
    page = client.get("/docs").text
    shown = [unescape(one).strip() for one in re.findall(r'<pre class="sample">(.*?)</pre>', page, re.DOTALL)]
    samples = document["paths"]["/predict"]["post"]["x-codeSamples"]
    assert shown == [sample["source"] for sample in samples] and len(shown) == 5
    for name, photo in (("photo.jpg", CHINA), ("a.jpg", CHINA), ("b.png", FLOWER)):
        shutil.copy(photo, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"SERVER": url, "no_proxy": "*"}
    for sample in samples:
        if "(curl)" in sample["label"]:
            assert shutil.which("curl")
            done = subprocess.run(["sh", "-c", sample["source"]], env=environment, capture_output=True)
            assert b'"predictions"' in done.stdout and b'"error"' not in done.stdout, (sample, done)
        else:
            names = {"SERVER": url}
            exec(sample["source"], names)
            assert [len(one["predictions"]) for one in names["answer"].json()["results"]] == [3, 3]


def test_a_name_is_text_on_the_page_and_the_page_points_nowhere_else(client):
    identity = {"model": HOSTILE, "revision": HOSTILE}
    for page in (client.get("/docs").text, docs_page(openapi(identity, Limits()), identity, Limits())):
        tags = Tags(page)
        assert not {"script", "img", "iframe", "form"} & set(tags.tags) and not tags.handlers
        assert all(address.startswith(("#", "/", "data:,")) for address in tags.addresses)
    answer = client.get("/docs", headers={"host": "elsewhere.example"})
    assert "elsewhere" not in answer.text


@pytest.mark.slow
def test_in_a_browser(client, url, document, chromium, tmp_path):
    requests, said = [], []
    for width, scheme in ((1200, "light"), (390, "dark")):
        tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.goto(f"{url}/docs")
        assert tab.evaluate("document.documentElement.scrollWidth") == width, "nothing hangs over the side"
        assert [tab.locator(f'[id="{path}"]').is_visible() for path in document["paths"]] == [True] * 6
        tab.screenshot(path=tmp_path / f"{width}.png", full_page=True)
        tab.close()
    assert {address for address in requests if not address.startswith("data:")} == {f"{url}/docs"} and said == []
