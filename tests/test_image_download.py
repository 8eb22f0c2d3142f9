"""Images from web addresses, against a real server on this machine that misbehaves in every way."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from image_files import encode, photograph, pixels
from saved_models import save_ours
from transformers import pipeline

from modeling_vit_custom import ImageDecodingError, ImageLimits, ViTCustomImageProcessor, decode_image
from modeling_vit_custom.image_download_vit_custom import MAX_REDIRECTS, _refuse_private, without_secrets

PHOTO = photograph()
PNG = encode(PHOTO, "PNG")
HERE = ImageLimits(private_addresses=True, download_seconds=0.6, download_bytes=100_000)
STOP = threading.Event()  # ends a handler that sends slowly


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, _, argument = self.path.strip("/").partition("?")[0].partition("/")
        self.server.asked.append(self.path)
        getattr(self, f"answer_{name}")(argument)

    def send(self, status=200, content=b"", length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def answer_image(self, _):
        self.send(content=PNG, Content_Type="image/png")

    def answer_nameless(self, _):
        self.send(content=PNG)

    def answer_page(self, _):
        self.send(content=b"<html>hello</html>", Content_Type="text/html; charset=utf-8")

    def answer_noise(self, _):
        self.send(content=bytes(range(256)) * 9, Content_Type="image/png")

    def answer_status(self, code):
        self.send(int(code), content=b"sorry", Content_Type="text/plain")

    def answer_announced(self, _):
        self.send(content=PNG, length=10**9)

    def answer_endless(self, _):
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(10_000):  # 640 MB in all
                self.wfile.write(bytes(2**16))
        except OSError:
            pass

    def answer_cut(self, _):
        self.send(content=PNG[:-20], length=len(PNG))

    def answer_drip(self, _):
        self.send_response(200)
        self.send_header("Content-Length", str(len(PNG)))
        self.end_headers()
        self.drip(PNG)

    def answer_drip_header(self, _):
        self.drip(b"HTTP/1.0 200 OK\r\nX-Padding: " + bytes(b"a" * 1000))

    def drip(self, content):
        try:
            for byte in content:
                self.wfile.write(bytes([byte]))
                if STOP.wait(0.05):
                    return
        except OSError:
            pass

    def answer_silence(self, _):
        STOP.wait(5)

    def answer_loop(self, _):
        self.send(302, Location="/loop")

    def answer_hops(self, count):
        self.send(302, Location=f"/hops/{int(count) - 1}" if int(count) > 1 else "/image")

    def answer_to(self, where):
        self.send(302, Location={"file": "file:///etc/hostname", "ftp": "ftp://127.0.0.1/x", "data": "data:,x"}[where])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    STOP.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def address(server):
    server.asked.clear()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("path", ["image", "nameless", f"hops/{MAX_REDIRECTS}", "image?width=60"])
def test_an_image_is_downloaded_when_asked(address, path):
    for url in (f"{address}/{path}", f"HTTP{address[4:]}/{path}"):
        assert np.array_equal(decode_image(url, allow_urls=True, limits=HERE), pixels(PHOTO))


def test_nothing_is_asked_of_a_server_unless_allowed(server, address):
    with pytest.raises(ImageDecodingError, match=r"only local files are read.*allow_urls=True"):
        decode_image(f"{address}/image", limits=HERE)
    with pytest.raises(ImageDecodingError, match=r"leads to 127\.0\.0\.1, an address that is not public"):
        decode_image(f"{address}/image", allow_urls=True)
    assert server.asked == []


REFUSED = {
    "status/404": "the server answered 404 Not Found",
    "status/403": "the server answered 403",
    "status/500": "the server answered 500",
    "page": "the server sent text/html, not an image",
    "noise": "not an image that Pillow reads",
    "announced": r"larger than 100,000 bytes.*download_bytes=…",
    "endless": "larger than 100,000 bytes",
    "cut": r"cut off: [\d,]+ of [\d,]+ bytes came",
    "loop": "the server answered 302 .*infinite loop",
    f"hops/{MAX_REDIRECTS + 1}": "infinite loop",
    "to/file": "the server answered 302 .*not allowed",
    "to/ftp": "redirects from http to ftp, which is not followed",
    "to/data": "the server answered 302 .*not allowed",
    "drip": r"not there after 0\.6 s.*download_seconds=…",
    "drip_header": r"not there after 0\.6 s",
    "silence": r"not there after 0\.6 s",
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_no_image_within_the_limits_is_refused_by_name(address, path):
    begun = time.monotonic()
    with pytest.raises(ImageDecodingError, match=rf"^{address}/{path}: .*{REFUSED[path]}") as error:
        decode_image(f"{address}/{path}", allow_urls=True, limits=HERE)
    assert time.monotonic() - begun < 2 and "Fix: " in str(error.value)


def test_no_server_and_impossible_addresses():
    for url in (
        "http://127.0.0.1:9/x",
        "http://[::1/x",
        "http://127.0.0.1:99999/",
        "http://a b/",
        "http://",
        "http://é\n/",
    ):
        with pytest.raises(ImageDecodingError, match=r"cannot be downloaded"):
            decode_image(url, allow_urls=True, limits=HERE)
    for url in ("ftp://127.0.0.1/x", "file:///etc/hostname", "data:image/png;base64,AA", "s3://bucket/key"):
        with pytest.raises(ImageDecodingError, match=r"only http and https addresses are downloaded"):
            decode_image(url, allow_urls=True, limits=HERE)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"])
def test_this_machine_is_refused_however_it_is_spelled(server, address, host):
    with pytest.raises(ImageDecodingError, match="an address that is not public"):
        decode_image(f"http://{host}:{server.server_port}/image", allow_urls=True)
    assert server.asked == []


def test_which_addresses_are_public():
    private = [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
    ]
    for address in [*private, "::ffff:10.0.0.1", "224.0.0.1"]:
        with pytest.raises(ImageDecodingError, match="an address that is not public"):
            _refuse_private(address)
    for address in ("1.1.1.1", "2606:4700::1111"):
        _refuse_private(address)


def test_passwords_and_signatures_stay_out_of_messages(address):
    url = f"{address.replace('//', '//user:secret@')}/status/404?signature=secret#secret"
    with pytest.raises(ImageDecodingError) as error:
        decode_image(url, allow_urls=True, limits=HERE)
    assert "secret" not in str(error.value) and "/status/404?…" in str(error.value)
    assert without_secrets("data:image/png;base64,secret") == "data:…"


def test_processor_and_pipeline(address, tmp_path):
    processor = ViTCustomImageProcessor(size=32)
    processor.limits = HERE
    url = f"{address}/image"
    expected = processor(PHOTO, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(url, return_tensors="pt", allow_urls=True)["pixel_values"], expected)
    assert torch.equal(processor.fetch_images([url], allow_urls=True)[0], decode_image(PHOTO))
    for call in (processor, processor.decode, processor.fetch_images):
        with pytest.raises(ImageDecodingError, match="only local files are read"):
            call(url)
    classify = pipeline("image-classification", model=str(save_ours(tmp_path, num_channels=3)))
    classify.image_processor.limits = HERE
    assert classify(url, allow_urls=True) == classify(PHOTO)
    results = classify([url, f"{address}/status/404"], allow_urls=True, on_error="report")
    assert results[0] == classify(PHOTO) and "answered 404" in results[1]["error"]
    begun = time.monotonic()
    with pytest.raises(ImageDecodingError, match=r"not there after 0\.2 s"):
        classify(f"{address}/drip", allow_urls=True, timeout=0.2)
    assert time.monotonic() - begun < 1
