"""Predictions of a saved folder, for the quick start. Run as a file in a fresh process, never imported.

Arguments: the model's folder, the task (`Listing.for_process`), then image files. Prints one line of JSON with the
model's "outputs" [images, numbers] and the result of the "pipeline" for each image.
"""

import json
import sys

import torch
import transformers
from transformers import AutoImageProcessor, pipeline
from transformers.utils.logging import disable_progress_bar


def main(folder: str, listing: str, *files: str) -> None:
    disable_progress_bar()
    task = json.loads(listing)
    model = getattr(transformers, task["auto"]).from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        outputs = model(processor(list(files), return_tensors="pt")["pixel_values"])[task["output"]]
    run = pipeline(task["name"], model=folder, trust_remote_code=True)
    print(json.dumps({"outputs": outputs.tolist(), "pipeline": run(list(files), **task["every"])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
