"""One scikit-learn classifier of `benchmark few`, run in its own process."""

import argparse
import json
from collections.abc import Sequence

from ..benchmarks.few_peers import CLASSIFIERS, features
from ..image_processing_vit_custom import ViTCustomImageProcessor
from ..modeling_vit_custom import ViTCustomModel
from ..pretrained_vit_custom import resize_input


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line of JSON: the accuracy on the test folder, and the chosen hyperparameters."""
    parser = argparse.ArgumentParser(prog="few_peers")
    parser.add_argument("classifier", choices=CLASSIFIERS)
    parser.add_argument("--train", required=True, metavar="DIR", help="DIR/<class>/<image>")
    parser.add_argument("--test", required=True, metavar="DIR", help="the same")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a folder of ours")
    parser.add_argument("--size", type=int, default=112, metavar="PIXELS", help="default: %(default)s")
    args = parser.parse_args(argv)
    model = ViTCustomModel.from_pretrained(args.checkpoint).eval()
    processor = ViTCustomImageProcessor.from_pretrained(args.checkpoint)
    resize_input(model, processor, args.size)
    classifier, chosen = CLASSIFIERS[args.classifier](*features(args.train, model, processor))
    print(json.dumps({"accuracy": classifier.score(*features(args.test, model, processor)), **chosen}))


if __name__ == "__main__":
    main()
