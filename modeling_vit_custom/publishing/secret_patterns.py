"""Patterns of text that must not be published: tokens, keys, passwords, people, private paths and hosts.

They complement the detectors of the library detect-secrets. Its detectors of random-looking text are off, since
fingerprints and commit ids are random and public; so is its detector of public IP addresses. A text is searched as it
is and with its escapes resolved (JSON, HTML, URLs). Secrets in other encodings, such as base64, or broken over lines
are not found.
"""

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

_NO_SECRETS = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector")
# Filter by which a comment in a file silences detect-secrets; it is off, as no file may vouch for itself.
_SELF_VOUCHING = "detect_secrets.filters.allowlist.is_line_allowlisted"

MAIL = "e-mail address"
_START = r"(?<![A-Za-z0-9])"
_ROOT = r"(?:(?<=file://)|(?<=file://localhost)|(?<![\w.:/~$}-]))"  # of a path, not a part behind a host or folder
_PERSON = r"(?!(?:user(?:name)?|you|your[_-]?\w*|me|name|xxx?)(?![\w.-]))[A-Za-z0-9_][\w.-]*"
_NAMED = r"(?:TOKEN|SECRET|PASSW(?:OR)?D|API[_-]?KEY|(?:ACCESS|PRIVATE|SECRET)[_-]?KEY)"
_VALUE = r"[^\s\"',;()<>\[\]{}$]"  # one character of a secret's value
_NO_VALUE = r"(?!your|xxx|\.\.\.|…)"
_DOMAINS = "com|org|net|edu|gov|mil|int|info|biz|name|io|ai|dev|app|cloud|tech|[a-z]{2}"

_PATTERNS = {
    "Hugging Face token": re.compile(rf"{_START}(?:hf|api_org)_[A-Za-z0-9]{{20,}}"),
    "GitHub token": re.compile(rf"{_START}github_pat_\w{{22,}}"),
    "API key": re.compile(
        rf"{_START}(?:sk-(?=[\w-]{{0,80}}\d)(?=[\w-]{{0,80}}[A-Z])[\w-]{{20,}}|AIza[\w-]{{35}}|GOCSPX-[\w-]{{20,}}|ya29\.[\w-]{{20,}}"
        r"|r8_[A-Za-z0-9]{30,})"
    ),
    "Kaggle key": re.compile(r"\"key\"\s*:\s*\"[0-9a-f]{32}\""),
    "private key": re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"),
    # NAME=value as in .env files and shells; variables, placeholders and calls do not match
    "assignment of a secret": re.compile(
        rf"\b[A-Z0-9_]*{_NAMED}=[\"']?{_NO_VALUE}[^\s\"'()<>\[\]{{}}$]{{8,}}"
        # the same in YAML, JSON and connection strings; words do not match: a letter and two digits are needed
        rf"|(?i:{_NAMED}[\"']?\s*[:=]\s*[\"']?){_NO_VALUE}"
        rf"(?={_VALUE}{{0,80}}[a-zA-Z])(?=(?:(?!\d){_VALUE}){{0,80}}\d(?:(?!\d){_VALUE}){{0,80}}\d){_VALUE}{{8,}}(?![\w(\[])"
    ),
    "password of a machine": re.compile(r"\blogin\s+\S+\s+password\s+\S|^\s*password\s+(?=\S*\d)\S{8,}\s*$"),  # .netrc
    "authorization": re.compile(
        r"(?i:authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+)[\w.~+/-]{8,}"
        r"|(?i:\bbearer\s+)(?=\S*\d)[\w.~+/-]{20,}"
    ),
    "address with a token": re.compile(
        r"://[\w-]{16,}@|[?&](?:X-Amz-Signature|X-Goog-Signature)=\w{32,}|[?&]sig=[\w%+/-]{30,}"
    ),
    "path with a user name": re.compile(
        rf"{_ROOT}(?:/[\w.+-]+){{0,4}}/(?:home|[Uu]sers)/{_PERSON}"
        rf"|(?<![A-Za-z])[A-Za-z]:[\\/]+(?:Users|Documents and Settings)[\\/]+{_PERSON}"
        r"|(?<![\w~/.])~[a-z_][a-z0-9_-]+/[\w.]"
    ),
    "path of one machine": re.compile(
        rf"{_ROOT}/(?:root|mnt|media|Volumes|scratch|nfs|gpfs|lustre|export)/[\w.-]"
        r"|(?<![^\s\"'=(\[,])\\\\[A-Za-z0-9][\w.-]+\\[\w$.-]{2,}(?:\\|[\s\"']|$)"
        r"|\bfile://(?!localhost/)[A-Za-z0-9][\w.-]*/"
    ),
    MAIL: re.compile(
        rf"(?<![\w.+%/-])(?!(?:git|no-?reply)@)[\w.+%-]+@(?!(?:[\w-]+\.)*example\.)(?!users\.noreply\.)"
        rf"(?:[A-Za-z0-9-]+\.)*(?=[\d-]*[A-Za-z])[A-Za-z0-9-]+\.(?:{_DOMAINS}|{_DOMAINS.upper()})(?![\w(\[]|\.\w)"
    ),
    "address in a private network": re.compile(
        r"://(?:[^/\s@]*@)?(?:(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}"
        r"|[\w.-]+\.(?:internal|intranet|corp|lan|local))(?=[:/\s\"']|$)"
    ),
}


@contextmanager
def detectors() -> Iterator[None]:
    """Switch detect-secrets on for a while; its settings are global to the process.

    Raises ValueError if it is not installed.
    """
    try:
        from detect_secrets.settings import default_settings, transient_settings
    except ModuleNotFoundError as error:
        raise ValueError("not run: detect-secrets is missing, pip install 'vit-custom[publish]'") from error

    with default_settings() as settings:
        plugins = [{"name": name} for name in settings.plugins if name not in _NO_SECRETS]
    with transient_settings({"plugins_used": plugins}) as settings:
        settings.disable_filters(_SELF_VOUCHING)
        yield


def kinds_in(text: str) -> list[str]:
    """Return the kinds of secrets in a text, found by the active detectors and the patterns here."""
    from detect_secrets.core.scan import scan_line

    kinds: dict[str, None] = {}
    forms = (form for line in without_nul(text).splitlines() for form in _forms(line))
    for line in dict.fromkeys(line for form in forms for line in form.splitlines()):
        kinds |= dict.fromkeys(name for name, pattern in _PATTERNS.items() if pattern.search(line))
        kinds |= dict.fromkeys(secret.type for secret in scan_line(line))
    return list(kinds)


def without_nul(text: str) -> str:
    """Remove the zeros of UTF-16 and UTF-32 that were read as bytes (over 40% of the text).

    Otherwise each zero becomes a space, since a zero ends a text.
    """
    return text.replace("\0", "" if text.count("\0") > 0.4 * len(text) else " ")


_ESCAPES = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([nrtbf])|([\\/\"']))")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}


def _forms(line: str) -> list[str]:
    """The line as it is, then with escapes resolved: JSON, JSON within JSON, HTML, URL."""
    forms = [line]
    for resolve in (_unescaped, _unescaped, html.unescape, unquote):
        if (resolved := resolve(forms[-1])) != forms[-1]:
            forms.append(resolved)
    return forms


def _unescaped(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if code := match[1] or match[2]:
            return chr(int(code, 16)).encode(errors="replace").decode()  # a lone surrogate is not text
        return _CONTROLS.get(match[3] or "", match[4] or "")

    return _ESCAPES.sub(plain, text) if "\\" in text else text
