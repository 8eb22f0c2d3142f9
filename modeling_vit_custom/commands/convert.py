"""`vit-custom convert`: a checkpoint of another library into a folder of ours, or back."""

import argparse
import sys
from collections.abc import Sequence

from ..common.json_files import json_safe, readable_json
from ..configuration_vit_custom import ViTCustomConfig
from ..conversion.convert import convert
from ..conversion.engine import ConversionError
from ..conversion.export import LIBRARIES, export
from ..conversion.survey import survey, timm_names
from ..interpolation_vit_custom import RESIZE_RULES
from ..weight_files_vit_custom import WeightFileError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert",
        description="Read a Vision Transformer of another library into this model, every tensor accounted for.",
        epilog="""examples:
  %(prog)s ViT-B_16.npz outputs/b16 --image_size 224
  %(prog)s models/dinov2-small outputs/dinov2 --check
  %(prog)s timm:vit_small_patch16_224 outputs/s16 --check
  %(prog)s dinov2_vits14_pretrain.pth outputs/dinov2
  %(prog)s --list timm                                    # which of timm's Vision Transformers convert, and why not
  %(prog)s outputs/photos outputs/photos-vit --to hf      # ours, as one of transformers' own models
  %(prog)s outputs/photos outputs/photos-timm --to timm   # timm.create_model("local-dir:…", pretrained=True)

SOURCE: a .npz, .safetensors or .pth file (nothing in it is run), a folder saved by transformers or timm, timm:NAME or
torchvision:NAME. What a source does not say is taken from its family's documented default, and said.
--check prints one JSON report to stdout, which OUT/conversion.json holds too.
--to goes the other way: SOURCE is a folder of ours, OUT a new folder of the library or, ending in .safetensors, its
tensors alone. Both models are run before anything is written; what the library cannot express is named.
Exit codes: 0 converted, 1 the check found a difference, 2 it could not be converted.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="file, folder, timm:NAME or torchvision:NAME")
    parser.add_argument("output", metavar="OUT", nargs="?", help="a new or empty folder")
    parser.add_argument(
        "--list", choices=["timm"], help="try every name of a library, by shapes alone, and print N of M"
    )
    parser.add_argument("--family", help="what the tensors are, where their names leave it open")
    parser.add_argument("--to", choices=list(LIBRARIES), help="write SOURCE, a folder of ours, for another library")
    parser.add_argument("--check", action="store_true", help="run both from pixels and from tensors; print a report")
    parser.add_argument("--image_size", type=int, nargs="+", metavar="PIXELS", help="one number, or height and width")
    parser.add_argument("--num_attention_heads", type=int)
    parser.add_argument("--hidden_act", help="gelu, gelu_pytorch_tanh, quick_gelu, …")
    parser.add_argument("--layer_norm_eps", type=float)
    parser.add_argument("--position_interpolation", choices=list(RESIZE_RULES))
    return parser


def print_survey() -> int:
    """A line for each of timm's Vision Transformers, then how many convert; returns 0."""
    names, converting = timm_names(), 0
    for name, reason in survey(names):
        converting += reason is None
        print(f"{name}: {reason or 'converts'}", flush=True)
    print(f"{converting} of {len(names)} convert")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = build_parser()
    args = vars(parser.parse_args(argv))
    if args.pop("list"):
        return print_survey()
    if args["output"] is None:
        parser.error("SOURCE and OUT are needed")
    source, output, family, check, to = (args.pop(name) for name in ("source", "output", "family", "check", "to"))
    flags = {
        name: value
        for name, value in args.items()
        if value is not None and name in ViTCustomConfig.__dataclass_fields__
    }
    if "image_size" in flags:
        flags["image_size"] = flags["image_size"][0] if len(flags["image_size"]) == 1 else tuple(flags["image_size"])
    said = sys.stderr if check else sys.stdout  # a check leaves stdout to its report
    try:
        if to and flags:
            raise ConversionError(f"--to writes what a folder of ours says: leave out {', '.join(flags)}.")
        report = export(source, output, to, family) if to else convert(source, output, flags, family, check)
    except (ConversionError, WeightFileError, ImportError, OSError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['family']}: {report['parameters']:,} parameters, {report['classes']} classes, written to {output}",
        file=said,
    )
    print(*report["notes"], sep="\n", file=said)
    if not check:
        return 0
    passed = report["check"]["passed"]
    print("check passed" if passed else "CHECK FAILED: source and conversion differ", file=sys.stderr)
    print(readable_json(json_safe(report)))
    return 0 if passed else 1
