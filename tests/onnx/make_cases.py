"""Writes what the ONNX tests compare with: ONNX Runtime's outputs and the conformance cases of the onnx package.

    pip install onnx onnxruntime numpy
    python tests/onnx/make_cases.py OUT [--models FOLDER]

OUT/models.json lists, for every .onnx file of FOLDER, inputs of several shapes with ragged masks and the outputs of
ONNX Runtime (.npz). OUT/conformance.json lists the operator cases that use only the supported ops (model and tensors
in ONNX's own format), with the reason for those that use types which are not supported. OUT/optimized.json lists the same for some of
them after ONNX Runtime's optimiser and quantiser. OUT/forms.json lists small
models in older forms of the ops, OUT/contrib.json nodes of ONNX Runtime's own ops.
"""

import argparse
import json
import pathlib
import warnings

import numpy as np
import onnx
import onnx.reference
import onnxruntime
from onnx import numpy_helper

import contrib_cases
import form_cases
import optimized_models

OPS = set(
    "Abs Add And Attention BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv Cos CumSum "
    "DequantizeLinear Div "
    "DynamicQuantizeLinear Equal Erf Expand Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity "
    "If IsNaN LayerNormalization Less LessOrEqual Log MatMul MatMulInteger Max Min Mul Neg Not Pad Pow QLinearMatMul "
    "QuantizeLinear Range Reciprocal ReduceMean ReduceProd ReduceSum Relu Reshape RotaryEmbedding Shape Sigmoid Sign "
    "Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where".split()
)

# Batch size and length of each row; the longest row is the length of the batch.
BATCHES = [[1], [7], [5, 3], [16, 16, 16], [2, 31, 17, 1], [12, 1, 12, 5, 9, 11, 3]]


def model_inputs(model, lengths, pad_id, rng):
    """Token ids with `pad_id` after each row's length, the mask that says so, and two segments."""
    batch, longest = len(lengths), max(lengths)
    mask = (np.arange(longest)[None, :] < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, rng.integers(5, 99, (batch, longest)), pad_id)
    segments = (np.arange(longest)[None, :] >= np.array(lengths)[:, None] // 2).astype(np.int64)
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments * mask}
    names = [value.name for value in model.graph.input]
    return {name: known[name] for name in names}


def run(session, model, inputs):
    """The outputs by name, and who computed them.

    ONNX Runtime refuses rotary caches of batch 1 for larger batches, which the ops' definition allows and the PyTorch
    exporter writes; the reference implementation of the onnx package runs them.
    """
    names = [value.name for value in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, inputs))), "onnxruntime"
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
        reference = onnx.reference.ReferenceEvaluator(model)
        return dict(zip(names, reference.run(names, inputs))), "onnx.reference"


def write_model_cases(folder, out):
    cases = []
    rng = np.random.default_rng(1)
    (out / "models").mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(path, load_external_data=False)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # refusals are reported below
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        pad_id = 1 if "roberta" in path.name else 0
        for number, lengths in enumerate(BATCHES):
            inputs = model_inputs(model, lengths, pad_id, rng)
            outputs, witness = run(session, model, inputs)
            files = {}
            for kind, arrays in [("inputs", inputs), ("outputs", outputs)]:
                files[kind] = f"models/{path.stem}.{number}.{kind}.npz"
                np.savez(out / files[kind], **arrays)
            name = f"{path.stem} {lengths}"
            if witness != "onnxruntime":
                print(f"{name}: refused by ONNX Runtime, outputs are those of {witness}")
            cases.append({"name": name, "model": str(path.resolve()), "witness": witness, **files})
    (out / "models.json").write_text(json.dumps(cases, indent=1))
    return len(cases)


def write_optimized_cases(folder, out):
    """Exports as ONNX Runtime's optimiser and quantiser rewrite them, with its answers."""
    (out / "optimized").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    cases = []
    for stem in optimized_models.SOURCES:
        path = folder / f"{stem}.onnx"
        if not path.is_file():
            continue
        model = onnx.load(path, load_external_data=False)
        pad_id = 1 if "roberta" in stem else 0
        batches = [model_inputs(model, lengths, pad_id, rng) for lengths in BATCHES[1:5]]
        for file, tolerance in optimized_models.variants(path, out / "optimized", batches):
            options = onnxruntime.SessionOptions()
            # Else products with dequantised weights quantise their other operand too, which no model asks for.
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            names = [value.name for value in session.get_outputs()]
            for number, inputs in enumerate(batches[1:]):
                wanted = {value.name: inputs[value.name] for value in session.get_inputs()}
                files = {}
                for kind, arrays in [("inputs", wanted), ("outputs", dict(zip(names, session.run(names, wanted))))]:
                    files[kind] = f"optimized/{file.stem}.{number}.{kind}.npz"
                    np.savez(out / files[kind], **arrays)
                model_file = f"optimized/{file.name}"
                cases.append({"name": f"{file.stem} {number}", "model": model_file, "tolerance": tolerance[0], "rms": tolerance[1], **files})
    (out / "optimized.json").write_text(json.dumps(cases, indent=1))
    return len(cases)


def ops_of(graph):
    for node in graph.node:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from ops_of(attribute.g)


def unsupported_type(model):
    """The first type among inputs and outputs that is neither a tensor nor of a supported element type."""
    unsupported = ("STRING", "FLOAT8", "FLOAT4", "FLOAT6", "INT4", "UINT4", "INT2", "UINT2", "COMPLEX")
    for value in [*model.graph.input, *model.graph.output]:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            return f"`{value.name}` is a {kind.removesuffix('_type')}"
        name = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if name.startswith(unsupported):
            return f"`{value.name}` has elements of type {name}"
    return None


def unsupported(model):
    """Why a case cannot be read: a type, or a form of an op that belongs to training."""
    for node in model.graph.node:
        if any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute):
            return f"`{node.op_type}` computes statistics as in training"
    return unsupported_type(model)


def write_tensors(out, base, model, inputs, outputs):
    """Writes the tensors of one run under their names in the model, and gives the names of the files."""
    files = {}
    for kind, arrays, values in [("inputs", inputs, model.graph.input), ("outputs", outputs, model.graph.output)]:
        files[kind] = []
        for value, array in zip(values, arrays):
            if not isinstance(array, onnx.TensorProto):
                array = numpy_helper.from_array(np.asarray(array))
            array.name = value.name
            file = f"{base}.{kind}.{len(files[kind])}.pb"
            (out / file).write_bytes(array.SerializeToString())
            files[kind].append(file)
    return files


def write_form_cases(out):
    """The models of `form_cases.py` with the answers of ONNX Runtime."""
    (out / "forms").mkdir(parents=True, exist_ok=True)
    cases = []
    for name, (model, inputs) in form_cases.all_cases():
        onnx.checker.check_model(model)
        onnx.save(model, out / f"forms/{name}.onnx")
        outputs = form_cases.evaluate(model, inputs)
        files = write_tensors(out, f"forms/{name}", model, inputs.values(), outputs)
        half = any(array.dtype == np.float16 for array in outputs)
        entry = {"name": name, "model": f"forms/{name}.onnx", "skip": None, "sets": [files]}
        # Sums of large terms are no more exact where they happen to be small.
        largest = max((np.abs(array[np.isfinite(array)]).max(initial=1.0) for array in outputs if array.dtype.kind == "f"), default=1.0)
        cases.append({**entry, "rtol": 1e-3 if half else 1e-5, "atol": float(largest) * (1e-3 if half else 1e-6)})
    (out / "forms.json").write_text(json.dumps(cases, indent=1))
    return len(cases)


def write_contrib_cases(out):
    """Nodes of ONNX Runtime's own ops with its answers."""
    (out / "contrib").mkdir(parents=True, exist_ok=True)
    cases = []
    for name, (model, inputs), steps in contrib_cases.all_cases():
        onnx.save(model, out / f"contrib/{name}.onnx")
        outputs = form_cases.evaluate(model, inputs)
        files = write_tensors(out, f"contrib/{name}", model, inputs.values(), outputs)
        floats = [array for array in outputs if array.dtype.kind == "f"]
        largest = max((np.abs(array).max(initial=1.0) for array in floats), default=1.0)
        tolerance = 2e-3 if any(array.dtype == np.float16 for array in floats) else 1e-5
        entry = {"name": name, "model": f"contrib/{name}.onnx", "skip": None, "sets": [files]}
        cases.append({**entry, "rtol": tolerance, "atol": float(largest) * tolerance / 5, "steps": steps})
    (out / "contrib.json").write_text(json.dumps(cases, indent=1))
    return len(cases)


def write_conformance_cases(out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        collected = collect_testcases(None)
    cases = []
    for case in collected:
        model = case.model
        if not all(domain == "" and op in OPS for domain, op in ops_of(model.graph)) or model.functions:
            continue
        entry = {"name": case.name, "rtol": case.rtol, "atol": case.atol, "skip": unsupported(model)}
        folder = out / "conformance" / case.name
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / "model.onnx")
        entry["model"] = f"conformance/{case.name}/model.onnx"
        sets = [] if entry["skip"] else case.data_sets
        entry["sets"] = [
            write_tensors(out, f"conformance/{case.name}/{number}", model, inputs, outputs)
            for number, (inputs, outputs) in enumerate(sets)
        ]
        cases.append(entry)
    (out / "conformance.json").write_text(json.dumps(cases, indent=1))
    return len(cases)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder to write to")
    parser.add_argument("--models", type=pathlib.Path, help="folder with .onnx files to run through ONNX Runtime")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"onnx {onnx.__version__}: {write_conformance_cases(arguments.out)} conformance cases")
    print(f"onnxruntime {onnxruntime.__version__}: {write_form_cases(arguments.out)} models of old forms")
    print(f"onnxruntime {onnxruntime.__version__}: {write_contrib_cases(arguments.out)} nodes of its own ops")
    if arguments.models:
        count = write_model_cases(arguments.models, arguments.out)
        print(f"onnxruntime {onnxruntime.__version__}: {count} cases of models in {arguments.models}")
        count = write_optimized_cases(arguments.models, arguments.out)
        print(f"onnxruntime {onnxruntime.__version__}: {count} cases of models that it has rewritten")


if __name__ == "__main__":
    main()
