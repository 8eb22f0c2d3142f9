"""Writers of other runtimes' files, from a traced graph of operators."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .exported import parts

# format: number formats that it can be written in
DTYPES = {
    "onnx": ("float32", "float16", "int8", "int8_calibrated", "int8_weights", "int4_weights"),
    "torch_export": ("float32", "float16", "bfloat16"),
    "openvino": ("float32", "float16"),
}
# Number format of the traced graph, else float32: the int formats start from that, OpenVINO stores only its weights in
# float16.
GRAPH = {
    ("onnx", "float16"): torch.float16,
    ("torch_export", "float16"): torch.float16,
    ("torch_export", "bfloat16"): torch.bfloat16,
}
WEIGHT_BITS = {"int8_weights": 8, "int4_weights": 4}
Program = torch.export.ExportedProgram
Batches = Callable[[], Iterator[np.ndarray]]


def write(
    program: Program, path: Path, format_name: str, dtype: str, output: str, inputs: Batches | None = None
) -> None:
    """Write `program` as a file of a format.   output: its output's name.   inputs: batches to calibrate int8."""
    WRITERS[format_name](program, path, dtype, output)
    if dtype == "int8":
        _quantize(path)
    elif dtype in WEIGHT_BITS:
        _round_weights(path, WEIGHT_BITS[dtype])
    elif dtype == "int8_calibrated":
        if inputs is None:
            raise ValueError("--dtype int8_calibrated needs --data_dir: images whose activations set the scales.")
        _calibrate(path, inputs())


def write_onnx(program: Program, path: Path, dtype: str, output: str) -> None:
    torch.onnx.export(
        program, (), str(path), input_names=["pixel_values"], output_names=[output], dynamo=True,
        external_data=False, verbose=False,
    )  # fmt: skip


def write_torch_export(program: Program, path: Path, dtype: str, output: str) -> None:
    torch.export.save(program, path)


def write_openvino(program: Program, path: Path, dtype: str, output: str) -> None:
    """Write by way of ONNX: OpenVINO's reader of torch graphs does not support computed sizes."""
    import openvino

    between = path.with_name("between.onnx")
    write_onnx(program, between, dtype, output)
    openvino.save_model(openvino.convert_model(between), path, compress_to_fp16=dtype == "float16")
    for part in parts(between):
        part.unlink()


def _quantize(path: Path) -> None:
    """Dynamic quantisation by onnxruntime: int8 weights of matrix products, whose inputs are quantised at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = _prepared(path)
    quantize_dynamic(prepared, path, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=_PRODUCTS)
    prepared.unlink()


def _calibrate(path: Path, batches: Iterator[np.ndarray]) -> None:
    """Static quantisation by onnxruntime: the same, with scales of the inputs computed once from these batches."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            batch = next(batches, None)
            return None if batch is None else {"pixel_values": batch}

    prepared = _prepared(path)
    quantize_static(
        prepared, path, Reader(), per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=_PRODUCTS,
    )  # fmt: skip
    prepared.unlink()


def _round_weights(path: Path, bits: int) -> None:
    """Quantisation of the weights of matrix products alone, with one scale for every 32 weights.

    The file gets smaller; the products stay in float32.
    """
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)  # without a handler, the import would set up logging for everything
    from onnxruntime.quantization import matmul_nbits_quantizer as quantization

    logging.getLogger().removeHandler(silent)
    quantization.logger.setLevel(logging.WARNING)
    quantizer = quantization.MatMulNBitsQuantizer(str(path), bits=bits, block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


_PRODUCTS = ["MatMul", "Gemm"]


def _prepared(path: Path) -> Path:
    """A copy beside `path` with inferred shapes and folded constants, which onnxruntime's quantisation needs."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name(f"prepared-{path.name}")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    return prepared


WRITERS: dict[str, Callable[[Program, Path, str, str], None]] = {
    "onnx": write_onnx,
    "torch_export": write_torch_export,
    "openvino": write_openvino,
}
