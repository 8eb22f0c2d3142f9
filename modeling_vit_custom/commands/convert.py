"""`vit-custom convert`: convert a checkpoint of another library to a folder of ours, or back."""

import argparse
import sys
from collections.abc import Sequence

from ..api.converting import convert
from ..common.errors import UsageError
from ..common.json_files import json_safe, readable_json
from ..conversion.engine import ConversionError
from ..conversion.export import LIBRARIES
from ..conversion.survey import survey, timm_names
from ..interpolation_vit_custom import POSITION_RULES
from ..weight_files_vit_custom import WeightFileError
from .options import add_named, parse_anywhere


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom convert",
        description="Read a Vision Transformer of another library into this model, every tensor accounted for.",
        epilog="""examples:
  %(prog)s --model ViT-B_16.npz --output outputs/b16 --image_size 224
  %(prog)s --model models/dinov2-small --output outputs/dinov2 --check
  %(prog)s --model timm:vit_small_patch16_224 --output outputs/s16 --check
  %(prog)s --model timm:hf-hub:me/vit@COMMIT --output outputs/vit
  %(prog)s --model dinov2_vits14_pretrain.pth --output outputs/dinov2
  %(prog)s --list timm    # which of timm's Vision Transformers convert, and why not
  %(prog)s --model outputs/photos --output photos-vit --to hf      # ours, as one of transformers' own models
  %(prog)s --model outputs/photos --output photos-timm --to timm   # timm.create_model("local-dir:…", pretrained=True)

MODEL: a .npz, .safetensors or .pth file (nothing in it is run), a folder saved by transformers or timm, timm:NAME or
torchvision:NAME; of the Hub timm:hf-hub:REPO@COMMIT. What a source does not say is taken from its family's documented
default, and said. --check prints one JSON report to stdout, which OUTPUT/conversion.json holds too. --to goes the other
way: MODEL is a folder of ours, OUTPUT a new folder of the library or, ending in .safetensors, its tensors alone. Both
models are run before anything is written; what the library cannot express is named.
Exit codes: 0 converted, 1 the check found a difference, 2 it could not be converted, 130 stopped by Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_named(parser, "model", "source", "file, folder, timm:NAME or torchvision:NAME", "MODEL")
    add_named(parser, "output", "output", "a new or empty folder", "OUTPUT")
    parser.add_argument("--revision", metavar="COMMIT", help="of timm:hf-hub:REPO, as in timm:hf-hub:REPO@COMMIT")
    parser.add_argument(
        "--list", choices=["timm"], help="try every name of a library, by shapes alone, and print N of M"
    )
    parser.add_argument("--family", help="what the tensors are, where their names leave it open")
    parser.add_argument("--to", choices=list(LIBRARIES), help="write MODEL, a folder of ours, for another library")
    parser.add_argument("--check", action="store_true", help="run both from pixels and from tensors; print a report")
    parser.add_argument("--image_size", type=int, nargs="+", metavar="PIXELS", help="one number, or height and width")
    parser.add_argument("--num_attention_heads", type=int)
    parser.add_argument("--hidden_act", help="gelu, gelu_pytorch_tanh, quick_gelu, …")
    parser.add_argument("--layer_norm_eps", type=float)
    parser.add_argument("--position_interpolation", choices=POSITION_RULES)
    return parser


def print_survey() -> int:
    """Print a line for each of timm's Vision Transformers, then how many convert; return 0."""
    names, converting = timm_names(), 0
    for name, reason in survey(names):
        converting += reason is None
        print(f"{name}: {reason or 'converts'}", flush=True)
    print(f"{converting} of {len(names)} convert")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 1 the check found a difference, 2 not converted, 130 stopped."""
    args = parse_anywhere(build_parser(), argv)
    if args.pop("list"):
        return print_survey()
    said = sys.stderr if args["check"] else sys.stdout  # a check leaves stdout to its report
    try:
        report = convert(**args)
    except (ConversionError, UsageError, WeightFileError, ImportError, OSError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['family']}: {report['parameters']:,} parameters, {report['classes']} classes, "
        f"written to {args['output']}",
        file=said,
    )
    print(*report["notes"], sep="\n", file=said)
    if not args["check"]:
        return 0
    passed = report["check"]["passed"]
    print("check passed" if passed else "CHECK FAILED: source and conversion differ", file=sys.stderr)
    print(readable_json(json_safe(report)))
    return 0 if passed else 1
