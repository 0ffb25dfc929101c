"""Rewrites models as ONNX Runtime's graph optimiser and quantiser do: what people have on disk beside plain exports."""

import contextlib
import io
import logging

import onnx
import onnxruntime
from onnxruntime import quantization
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

# What the rewritten models are made from: families and ways of attention, not every operator set.
SOURCES = ["bert_eager_legacy11", "bert_sdpa_legacy17", "bert_qa_eager_legacy14", "bert_sdpa_dynamo18"]
SOURCES += ["distilbert_sdpa_legacy17", "roberta_eager_legacy14", "electra_eager_legacy17", "modernbert_sdpa_legacy17"]

# The largest difference from ONNX Runtime relative to the largest value, and the root of the mean square of all
# differences relative to that of the values. Sums in another order come to 1e-5. In 16 bits each result is rounded to 11
# bits, and ONNX Runtime rounds between the parts of what it has not fused. Quantised activations that meet the border
# between two of 255 steps may take either, and the next layer sees that step; the last one shows in full, as a fortieth of
# the largest value where a tensor lies far from zero on one side. But few values meet a border.
ROUNDING, HALF, STEPS = (1e-5, 1e-5), (5e-3, 5e-3), (4e-2, 1e-2)


class Calibration(quantization.CalibrationDataReader):
    """A few batches as the quantiser asks for them."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def get_next(self):
        return next(self.batches, None)


@contextlib.contextmanager
def quietly():
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)


def optimized(path, out, half=False, raw_mask=False):
    """Attention gets the lengths of the sequences from a call with defaults, the mask itself from the command line."""
    options = FusionOptions("bert")
    if raw_mask:
        options.use_raw_attention_mask(True)
    model = optimizer.optimize_model(str(path), model_type="bert", opt_level=0, optimization_options=options)
    if half:
        model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(str(out))


def dynamic(path, out):
    # Shapes and types of the optimiser's ops cannot be inferred by the onnx package.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantization.quantize_dynamic(str(path), str(out), extra_options=options)


def static(path, out, quant_format, batches):
    quantization.quantize_static(
        str(path), str(out), Calibration(batches), quant_format=quant_format, per_channel=True,
        weight_type=quantization.QuantType.QInt8, activation_type=quantization.QuantType.QUInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip


def session_saved(path, out):
    """What an inference session makes of a model before it runs, short of what only this machine can run."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def variants(path, out, batches):
    """Writes the variants of one export, and gives the file of each with how far an answer may be off."""

    def write(way, make, source, tolerance, *more):
        """Nothing where ONNX Runtime fails, or cannot load what it has written."""
        target = out / f"{path.stem}.{way}.onnx"
        try:
            with quietly():
                make(source, target, *more)
                onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001, whatever its tools raise
            print(f"{target.stem}: ONNX Runtime fails: {str(error)[:120]}")
            return []
        return [(target, tolerance)]

    plain, integer = out / f"{path.stem}.optimized.onnx", out / f"{path.stem}.dynamic.onnx"
    ways = [
        ("optimized", optimized, path, ROUNDING),
        ("optimized_raw", optimized, path, ROUNDING, False, True),
        ("optimized_fp16", optimized, path, HALF, True),
        ("session", session_saved, path, ROUNDING),
        ("dynamic", dynamic, path, STEPS),
        ("dynamic_session", session_saved, integer, STEPS),
        ("optimized_dynamic", dynamic, plain, STEPS),
        ("optimized_qdq", static, plain, STEPS, quantization.QuantFormat.QDQ, batches),
    ]
    for way, quant_format in [("qdq", quantization.QuantFormat.QDQ), ("qoperator", quantization.QuantFormat.QOperator)]:
        ways += [(way, static, path, STEPS, quant_format, batches)]
        ways += [(f"{way}_session", session_saved, out / f"{path.stem}.{way}.onnx", STEPS)]
    for way in ways:
        yield from write(*way)
