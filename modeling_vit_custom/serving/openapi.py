"""What the server takes and answers, as OpenAPI 3.1 (/openapi.json) and as a page for people (/docs).

The page shows the same document, and loads nothing else. Its examples address $SERVER and SERVER, which a reader sets
once: the address in a request's Host header is the client's own word and is not repeated.
"""

from dataclasses import asdict
from typing import Any

from .._version import __version__
from ..reporting.page import render
from .explaining import EXPLAINING, FORMATS, JSON
from .limits import Limits

SERVER = "http://127.0.0.1:8000"  # in examples
_ERRORS = {
    400: "No image can be read, or the form or JSON cannot.",
    404: "No such address.",
    405: "Another method.",
    408: "The body came too slowly.",
    413: "The body is too large, or holds too many images.",
    415: "The body is neither an image, nor a form, nor JSON, or is compressed.",
    422: "The address is not understood, or asks for what does not exist.",
    500: "The model or the server failed.",
    503: "Overloaded, or no answer in time. Try again after Retry-After seconds.",
}
_OBJECT, _TEXT, _NUMBER, _COUNT = {"type": "object"}, {"type": "string"}, {"type": "number"}, {"type": "integer"}
_MAYBE = {"type": ["number", "null"]}
_IDENTITY = {"model": _TEXT, "revision": {"type": ["string", "null"], "description": "the commit of a Hub model"}}
_BASE64 = {"type": "string", "description": "an image file in base64, also as a data: URL"}
_BASE64_OR_LIST = {"oneOf": [_BASE64, {"type": "array", "minItems": 1, "items": _BASE64}]}
_PARAMETERS = _OBJECT | {
    "properties": {"top_k": {"type": "integer", "minimum": 1}}, "additionalProperties": False,
}  # fmt: skip


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    return _OBJECT | {"properties": properties, "required": [name for name in properties if name not in optional]}


def _to(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_PREDICTIONS = {"type": "array", "items": _to("Prediction")}
_VERDICT = {  # of a model that answers "unknown"
    "unknown": {"type": "boolean", "description": "whether the image is typical of no class"},
    "typicality": {"type": "number", "minimum": 0, "maximum": 1},
}
_SCHEMAS = {
    "Error": _object({"error": _TEXT | {"description": "what is wrong and how to go on"}}),
    "Prediction": _object(
        {
            "label": _TEXT,
            "score": _NUMBER | {"description": "probability, of a classifier"},
            "value": _NUMBER | {"description": "of a regression"},
        },
        "score", "value",
    ),
    "OneImage": _object({"predictions": _PREDICTIONS, **_VERDICT, **_IDENTITY}, *_VERDICT),
    "SeveralImages": _object({"results": {"type": "array", "items": _to("Result")}, **_IDENTITY}),
    "Result": _object(
        {"name": _TEXT, "predictions": _PREDICTIONS, **_VERDICT, "error": _TEXT}, "predictions", "error", *_VERDICT
    )
    | {
        "oneOf": [{"required": ["predictions"]}, {"required": ["error"]}]
    },
    "Explanations": _object(
        {"explanations": {"type": "array", "minItems": 1, "items": _to("Explanation")}, **_IDENTITY}
    ),
    "Explanation": _object(
        {
            "label": _TEXT,
            "target": _COUNT | {"description": "id of the class"},
            "contrast": {"type": ["string", "null"]},
            "probability": _MAYBE | {"description": "null of a regression"},
            "logit": _NUMBER | {"description": "what is explained"},
            "method": _TEXT,
            "class_specific": {"type": "boolean"},
            "caveat": {"type": ["string", "null"], "description": "what the method cannot say"},
            "completeness": _MAYBE | {"description": "how far the evidence is from adding up to the logit"},
            "constant": _MAYBE | {"description": "the part of the logit that comes from no pixel"},
            "faithfulness": _OBJECT | {
                "description": "srg beside srg_random, sentence, and more",
                "properties": {"srg": _NUMBER, "srg_random": _NUMBER, "sentence": _TEXT},
            },
            "little": {"type": ["string", "null"], "description": "why the map explains little"},
            "top_cells": {
                "type": "array",
                "items": _object(
                    {
                        "cell": {"type": "array", "prefixItems": [_COUNT, _COUNT], "description": "row, column"},
                        "confirmed": {"type": "boolean", "description": "whether replacing it alone lowers the logit"},
                    }
                ),
            },
            "grid": {
                "type": "array",
                "description": "evidence of each patch, row by row; below 0 against",
                "items": {"type": "array", "items": _NUMBER},
            },
            "notes": {"type": "array", "items": _TEXT},
        }
    ),
    "Images": {
        "oneOf": [
            _object({field: _BASE64_OR_LIST, "parameters": _PARAMETERS}, "parameters") | {"additionalProperties": False}
            for field in ("images", "inputs")
        ]
    },
    "Health": _object({"status": {"enum": ["ready", "stopped"]}, "error": _TEXT}, "error"),
    "Info": _object(
        {
            **_IDENTITY,
            "problem_type": _TEXT,
            "classes": {"type": "array", "items": _TEXT},
            "limits": _OBJECT | {"additionalProperties": _NUMBER},
            "versions": _OBJECT | {"additionalProperties": _TEXT},
            "explain": {"type": "boolean", "description": "whether POST /explain is answered"},
            "images": _COUNT,
            "batches": _COUNT,
        }
    ),
}  # fmt: skip
_CODE = [
    (
        "one image (curl)",
        'curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "$SERVER/predict?top_k=3"',
    ),
    ("a form of several images (curl)", 'curl -F file=@a.jpg -F file=@b.png "$SERVER/predict?top_k=3"'),
    (
        "base64 in JSON (curl)",
        'echo "{\\"inputs\\": \\"$(base64 < photo.jpg)\\"}" |\n'
        '  curl -H "Content-Type: application/json" -d @- "$SERVER/predict"',
    ),
    (
        "several images (Python)",
        "from pathlib import Path\n\nimport requests\n\n"
        'files = [("file", (name, Path(name).read_bytes())) for name in ("a.jpg", "b.png")]\n'
        'answer = requests.post(f"{SERVER}/predict", params={"top_k": 3}, files=files)\n'
        "answer.raise_for_status()\n"
        'for image in answer.json()["results"]:\n'
        '    print(image["name"], image.get("predictions") or image["error"])',
    ),
    (
        "base64 in JSON (Python)",
        "import base64\nfrom pathlib import Path\n\nimport requests\n\n"
        'images = [base64.b64encode(Path(name).read_bytes()).decode() for name in ("a.jpg", "b.png")]\n'
        'answer = requests.post(f"{SERVER}/predict", json={"images": images, "parameters": {"top_k": 3}})\n'
        "answer.raise_for_status()\n"
        'print(answer.json()["results"])',
    ),
]


_EXPLAIN_CODE = [
    (
        "the picture (curl)",
        'curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "$SERVER/explain?format=png" -o why.png',
    ),
    (
        "the numbers (Python)",
        "from pathlib import Path\n\nimport requests\n\n"
        'photo, kind = Path("photo.jpg").read_bytes(), {"Content-Type": "image/jpeg"}\n'
        'answer = requests.post(f"{SERVER}/explain", data=photo, headers=kind)\n'
        "answer.raise_for_status()\n"
        'for found in answer.json()["explanations"]:\n'
        '    print(found["label"], found["faithfulness"]["sentence"])',
    ),
]
_FILE = {"type": "string", "contentMediaType": "application/octet-stream"}


def openapi(identity: dict[str, Any], limits: Limits, explain: bool = False) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a server for the model of `identity`, {"model": name, "revision": commit}.

    explain: whether it answers /explain.
    """
    most = min(limits.max_images, limits.max_requests)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Images classified by {identity['model']}",
            "version": __version__,
            "description": "Images in, labels out. Every error is JSON that says what is wrong and how to go on.",
        },
        "paths": {
            "/predict": {"post": _predict(most)},
            **({"/explain": {"post": _explain()}} if explain else {}),
            "/health": {
                "get": _get("health", "Whether images are being answered", _json(_to("Health"), "Ready."))
                | {"responses": _answers(_json(_to("Health"), "Ready.")) | {"503": _json(_to("Health"), "Stopped.")}}
            },
            "/info": {"get": _get("info", "Model, classes, limits, versions, counts", _json(_to("Info"), "Facts."))},
            "/openapi.json": {"get": _get("openapi", "This description", _json(_OBJECT, "OpenAPI 3.1."))},
            "/metrics": {"get": _get("metrics", "Counts and times, for Prometheus", _text("text/plain", "Text."))},
            "/docs": {"get": _get("docs", "This description as a page", _text("text/html", "A page."))},
        },
        "components": {"schemas": {name: one for name, one in _SCHEMAS.items() if explain or "Explan" not in name}},
    }


def _predict(most: int) -> dict[str, Any]:
    answer = _json({"oneOf": [_to("OneImage"), _to("SeveralImages")]}, "")
    answer["description"] = (
        "OneImage for an image and for one text in JSON; SeveralImages for a form and for a list, where an image that "
        "cannot be read has an error in place of predictions."
    )
    return {
        "operationId": "predict",
        "summary": "Classify images",
        "description": f"Send one image as it is, or up to {most} as a form of files or as base64 in JSON.",
        "parameters": [
            {
                "name": "top_k",
                "in": "query",
                "description": "how many labels, best first; for JSON, in its parameters instead",
                "schema": {"type": "integer", "minimum": 1, "default": 5},
            }
        ],
        "requestBody": _body(most),
        "responses": _answers(answer, 400, 408, 413, 415, 422, 500, 503),
        "x-codeSamples": [{"label": label, "source": source} for label, source in _CODE],
    }


def _explain() -> dict[str, Any]:
    answer = _json(
        _to("Explanations"), "Explanations of the answer, one or one for each label or number; or a picture."
    )
    answer["content"]["image/png"] = {"schema": _FILE}
    return {
        "operationId": "explain",
        "summary": "Show where in an image the evidence for its label lies",
        "description": "Send one image, as for /predict. A map shows where evidence lies, not what it is or why; it is "
        "worth as much as its own measurement says. It takes about forty forwards of the model.",
        "parameters": [
            _asked("target", "the class to explain, by name or id; without, the model's answer"),
            _asked("contrast", "a second class, or rest: why the first rather than this one"),
            _asked("method", "how the map is made", enum=EXPLAINING, default=EXPLAINING[0]),
            _asked("format", "numbers, or a picture", enum=FORMATS, default=JSON),
        ],
        "requestBody": _body(1),
        "responses": _answers(answer, 400, 408, 413, 415, 422, 500, 503),
        "x-codeSamples": [{"label": label, "source": source} for label, source in _EXPLAIN_CODE],
    }


def _asked(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": _TEXT | schema}


def _body(most: int) -> dict[str, Any]:
    files = {"description": "files, under any field name", "type": "array", "items": _FILE, "maxItems": most}
    form = _OBJECT | {"properties": {"file": files}, "additionalProperties": files}
    return {
        "required": True,
        "content": {
            "image/*": {"schema": _FILE | {"description": "the bytes of one image file"}},
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": _to("Images")},
        },
    }


def _get(name: str, summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": _answers(answer)}


def _answers(answer: dict[str, Any], *errors: int) -> dict[str, Any]:
    return {"200": answer} | {str(status): _json(_to("Error"), _ERRORS[status]) for status in errors}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _text(kind: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": _TEXT}}}


def docs_page(document: dict[str, Any], identity: dict[str, Any], limits: Limits) -> str:
    """Render the page that shows `document`, and the limits."""
    content = {
        "document": document,
        "identity": identity,
        "server": SERVER,
        "limits": [(name, value, Limits.described(name)) for name, value in asdict(limits).items()],
        "errors": {str(status): said for status, said in _ERRORS.items()},
    }
    return render("serving/docs.html.j2", content)
