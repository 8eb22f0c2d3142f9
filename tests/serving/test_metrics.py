"""/metrics: read by Prometheus' own parser, and equal to what was really asked."""

import asyncio

import httpx
from image_files import CHINA
from prometheus_client.parser import text_string_to_metric_families
from served import make_service, running, wait_until
from serving_load import PNG, good_images, hang_up

from modeling_vit_custom import __version__
from modeling_vit_custom.serving.app import build_app

ALONE = httpx.Limits(max_keepalive_connections=0)  # a connection for each request


def read(client: httpx.Client) -> dict[str | tuple[str, ...], float]:
    """Each sample: its name, or (name, labels in the order of their names), and its value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = [*text_string_to_metric_families(answer.text)]
    assert all(family.documentation for family in families if not family.name.endswith("_created"))
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *(v for _, v in sorted(s.labels.items()))) if s.labels else s.name: s.value for s in samples}


def test_counts_are_those_of_the_requests(model_dir):
    service = make_service(model_dir, batch_timeout_ms=200)
    with running(service) as (url, _), httpx.Client(base_url=url, timeout=30, limits=ALONE) as client:
        before = read(client)
        assert before["vit_custom_model_info", "m", "", "single_label_classification", __version__] == 1
        assert before["vit_custom_images_total", "answered"] == before["vit_custom_batch_images_count"] == 0
        images = [*good_images().values()][2:8]
        files = [("f", (f"{n}.png", body)) for n, body in enumerate([*images, b"no image"])]
        assert client.post("/predict", files=files).status_code == 200
        assert client.post("/predict", content=CHINA.read_bytes(), headers=PNG).status_code == 200
        for body, status in ((b"no image", 400), (bytes(3_000_000), 413)):
            assert httpx.post(f"{url}/predict", content=body, headers=PNG, timeout=30).status_code == status
        for path in ("/a", "/b", "/predict/", "/health", "/health", "/docs"):
            client.get(path)
        found = read(client)
        requests = {key[1:]: n for key, n in found.items() if key[0] == "vit_custom_requests_total"}
        assert requests == {
            ("/predict", "200"): 2, ("/predict", "400"): 1, ("/predict", "413"): 1, ("other", "404"): 3,
            ("/health", "200"): 2, ("/docs", "200"): 1, ("/metrics", "200"): 1,
        }  # fmt: skip
        info = client.get("/info").json()
        assert found["vit_custom_images_total", "answered"] == 7 == info["images"]
        assert found["vit_custom_images_total", "refused"] == 2
        assert found["vit_custom_batch_images_sum"] == 7 and found["vit_custom_batch_images_count"] == info["batches"]
        counts = {stage: found["vit_custom_seconds_count", stage] for stage in ("decode", "queue", "model")}
        assert counts == {"decode": 9, "queue": 7, "model": info["batches"]}
        assert all(0 < found["vit_custom_seconds_sum", stage] < 30 for stage in counts)
        assert found["vit_custom_seconds_sum", "queue"] >= 0.1  # waited for others
        assert found["vit_custom_requests_in_flight"] == 1  # this one


def test_faults_and_clients_that_hang_up_are_counted_and_nothing_is_left_in_flight(model_dir, capsys):
    service = make_service(model_dir)
    with running(service) as (url, _), httpx.Client(base_url=url, timeout=30, limits=ALONE) as client:
        service.batcher.run = lambda images: 1 / 0
        assert client.post("/predict", content=CHINA.read_bytes(), headers=PNG).status_code == 500
        asyncio.run(hang_up("127.0.0.1", int(url.split(":")[-1]), CHINA.read_bytes()))
        wait_until(lambda: read(client).get(("vit_custom_requests_total", "/predict", "499")) == 1)
        found = read(client)
        assert found["vit_custom_requests_total", "/predict", "500"] == 1
        assert found["vit_custom_batch_images_sum"] == 1 and found["vit_custom_images_total", "answered"] == 0
        assert found["vit_custom_requests_in_flight"] == 1
    capsys.readouterr()


def test_two_applications_share_no_counts(model_dir):
    one, other = make_service(model_dir), make_service(model_dir)
    one.metrics.images.labels("answered").inc(3)
    assert build_app(one) and build_app(other)
    assert b'images_total{result="answered"} 3.0' in one.metrics.text()
    assert b'images_total{result="answered"} 0.0' in other.metrics.text()
