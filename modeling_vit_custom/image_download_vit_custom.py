"""Download of an image file from a web address: only http and https, with limits on size, time and destination.

Unless `ImageLimits.private_addresses` is set, an address that leads to this machine, its local network or a cloud's
metadata service is refused before a request is sent to it, also in redirects. Proxies of the environment are not used,
since the destination behind a proxy cannot be checked.
"""

import http.client
import ipaddress
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from .image_limits_vit_custom import ImageDecodingError, ImageLimits

MAX_REDIRECTS = 5

_URL = re.compile(r"^([a-z][a-z0-9+.\-]+://|data:)", re.IGNORECASE)
_TEXT = re.compile(r"^(text/|application/(json|xml|pdf))", re.IGNORECASE)


def is_url(source: Any) -> bool:
    """Return whether a source is a string that starts like a web or data address."""
    return isinstance(source, str) and _URL.match(source) is not None


def without_secrets(url: str) -> str:
    """Return a URL for messages, without the parts that may hold a password or a signature."""
    if url.lower().startswith("data:"):
        return "data:…"
    address, *query = re.split(r"[?#]", url, maxsplit=1)
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{'?…' if query else ''}"


def download_image(url: str, limits: ImageLimits) -> bytes:
    """Download what an address serves, at most `limits.download_bytes` within `limits.download_seconds`.

    Raises ImageDecodingError otherwise, naming the HTTP status, the limit or the reason.
    """
    deadline = _Deadline(limits.download_seconds)
    try:
        with _opener(deadline, limits).open(_request(url), timeout=limits.download_seconds) as response:
            return _read(response, limits, deadline)
    except ImageDecodingError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        said = error.msg.strip().replace("\n", " ")
        raise ImageDecodingError(f"the server answered {error.code} {said}. Fix: check the address.") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if deadline.passed():
            raise _too_slow(limits) from error
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise ImageDecodingError(f"cannot be downloaded ({reason}). Fix: check the address.") from error
    finally:
        deadline.cancel()


def _request(url: str) -> urllib.request.Request:
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise ImageDecodingError("only http and https addresses are downloaded. Fix: save it to a file first.")
    return urllib.request.Request(url, headers={"User-Agent": "vit-custom", "Accept": "image/*"})


def _read(response: Any, limits: ImageLimits, deadline: "_Deadline") -> bytes:
    kind = response.headers.get("Content-Type", "")
    if _TEXT.match(kind):
        raise ImageDecodingError(f"the server sent {kind.split(';')[0]}, not an image. Fix: check the address.")
    announced = response.headers.get("Content-Length", "")
    expected = int(announced) if announced.isdecimal() else None
    content = bytearray()
    if expected is None or expected <= limits.download_bytes:
        while len(content) <= limits.download_bytes and (part := response.read1(2**16)):
            content += part
    if deadline.passed():
        raise _too_slow(limits)
    if max(len(content), expected or 0) > limits.download_bytes:
        raise ImageDecodingError(
            f"larger than {limits.download_bytes:,} bytes. Fix: download it to a file, or raise "
            "ImageLimits(download_bytes=…)."
        )
    if expected is not None and len(content) < expected:
        raise ImageDecodingError(f"cut off: {len(content):,} of {expected:,} bytes came. Fix: try again.")
    return bytes(content)


def _too_slow(limits: ImageLimits) -> ImageDecodingError:
    return ImageDecodingError(
        f"not there after {limits.download_seconds:g} s. Fix: try again, or raise ImageLimits(download_seconds=…)."
    )


class _Deadline:
    """Cuts the connection when the time is over, since a time-out of urllib limits each read but not their sum."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds
        self.connection: socket.socket | None = None
        self.timer = threading.Timer(seconds, self.cut)
        self.timer.daemon = True
        self.timer.start()

    def passed(self) -> bool:
        return time.monotonic() >= self.end

    def watch(self, connection: socket.socket) -> None:
        self.forget()
        self.connection = connection.dup()  # still this connection when TLS has taken the socket over
        if self.passed():
            self.cut()

    def cut(self) -> None:
        if self.connection is not None:
            with suppress(OSError):  # closed already
                self.connection.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def cancel(self) -> None:
        self.timer.cancel()
        self.forget()


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        schemes = urlsplit(req.full_url).scheme.lower(), urlsplit(newurl).scheme.lower()
        if schemes not in (("http", "http"), ("http", "https"), ("https", "https")):
            fp.close()
            raise ImageDecodingError(
                f"the server redirects from {schemes[0]} to {schemes[1]}, which is not followed. Fix: check it."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(deadline: _Deadline, limits: ImageLimits) -> urllib.request.OpenerDirector:
    """An opener for http and https only, without what urllib also supports: files, ftp, data, proxies, cookies."""

    class Checked(http.client.HTTPConnection):
        def connect(self):
            if not limits.private_addresses:
                for *_, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
                    _refuse_private(str(address[0]))
            super().connect()
            deadline.watch(self.sock)
            if not limits.private_addresses:  # a second look-up of the name may give another address
                _refuse_private(self.sock.getpeername()[0])

    class CheckedSecure(http.client.HTTPSConnection, Checked):
        pass

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req):
            return self.do_open(Checked, req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req):
            return self.do_open(CheckedSecure, req)

    opener = urllib.request.OpenerDirector()
    for handler in (
        Http(),
        Https(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _refuse_private(address: str) -> None:
    number = ipaddress.ip_address(address.partition("%")[0])
    number = getattr(number, "ipv4_mapped", None) or number
    if not number.is_global or number.is_multicast:
        raise ImageDecodingError(
            f"leads to {address}, an address that is not public. Fix: ImageLimits(private_addresses=True), if "
            "anyone who gave the address may reach your own network through it."
        )
