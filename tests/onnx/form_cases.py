"""Small models in the forms of older operator sets and odd writers, with ONNX Runtime's answers."""

import numpy as np
import onnx
import onnx.reference
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_function, make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(11)


def x(*shape, dtype=np.float32):
    return (RNG.standard_normal(shape) * 3).astype(dtype)


def ints(*values, dtype=np.int64):
    return np.array(values, dtype)


def model(
    opset, nodes, inputs, outputs, constants=None, functions=(), ir=None, as_inputs=False, dims=None, imports=()
):
    """A model over arrays: `inputs` by name; `constants` are initializers; `dims` replaces declared shapes; `imports`
    are further operator sets."""
    dims = dims or {}
    types = helper.np_dtype_to_tensor_dtype

    def info(name, array):
        return make_tensor_value_info(name, types(array.dtype), dims.get(name, array.shape))

    constants = constants or {}
    values = [info(name, array) for name, array in inputs.items()]
    if as_inputs:
        values += [info(name, array) for name, array in constants.items()]
    graph = make_graph(
        nodes,
        "case",
        values,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    sets = [make_opsetid("", opset), *[make_opsetid(f.domain, 1) for f in functions], *imports]
    made = make_model(graph, opset_imports=sets, functions=functions)
    made.ir_version = ir or (8 if opset < 19 else 10)
    # Readers do not need the types of outputs, but checkers do.
    for output, array in zip(made.graph.output, evaluate(made, inputs)):
        output.CopyFrom(make_tensor_value_info(output.name, types(array.dtype), [None] * array.ndim))
    return made, inputs


def evaluate(made, inputs):
    """ONNX Runtime's answers; those of the reference for what it does not have."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            made.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, inputs)
    except Exception as error:  # noqa: BLE001, any refusal will do
        print(f"reference for {made.graph.node[0].op_type}: {str(error)[:150]}")
    return onnx.reference.ReferenceEvaluator(made).run(None, inputs)


def one(op, opset, arrays, constants=None, outputs=("y",), **attributes):
    """A model of one node; operands in order, with None for one that is left out."""
    names = [("" if array is None else f"i{k}") for k, array in enumerate(arrays)]
    fixed = {f"c{k}": array for k, array in enumerate(constants or [])}
    node = make_node(op, [*names, *fixed], list(outputs), **attributes)
    inputs = {name: array for name, array in zip(names, arrays) if name}
    return model(opset, [node], inputs, [output for output in outputs if output], fixed)


def old_forms():
    """Parameters that were attributes once."""
    yield "squeeze_11", one("Squeeze", 11, [x(1, 3, 1, 2)], axes=[0, -2])
    yield "squeeze_11_all", one("Squeeze", 11, [x(1, 3, 1, 2)])
    yield "unsqueeze_11", one("Unsqueeze", 11, [x(3, 2)], axes=[0, -1])
    yield "split_11", one("Split", 11, [x(5, 2)], outputs=("a", "b"), split=[2, 3], axis=0)
    yield "split_11_equal", one("Split", 11, [x(2, 6)], outputs=("a", "b", "c"), axis=1)
    yield "pad_2", one("Pad", 10, [x(2, 3)], mode="constant", pads=[0, 1, 1, 0], value=2.5)
    yield "pad_2_crop", one("Pad", 10, [x(4, 3)], pads=[-1, 0, -1, 1])
    yield "pad_2_reflect", one("Pad", 10, [x(4, 3)], mode="reflect", pads=[1, 1, 1, 2])
    yield "pad_13_reflect_value", one(
        "Pad", 13, [x(4, 3)], [ints(1, 1, 1, 2), np.float32(7)], mode="reflect"
    )
    yield "clip_6", one("Clip", 10, [x(3, 4)], min=-1.0, max=2.0)
    yield "clip_6_lower", one("Clip", 10, [x(3, 4)], min=-1.0)
    yield "clip_11_upper", one("Clip", 11, [x(3, 4), None], [np.float32(1)])
    yield "slice_1", one("Slice", 9, [x(4, 5)], starts=[1, -3], ends=[3, 1000], axes=[0, 1])
    yield "slice_1_all", one("Slice", 9, [x(4, 5)], starts=[1, 2], ends=[3, 4])
    yield "slice_10", one("Slice", 10, [x(4, 5)], [ints(3), ints(-1000), ints(0), ints(-2)])
    for op in ("ReduceSum", "ReduceMean", "ReduceProd"):
        yield f"{op}_11", one(op, 11, [x(2, 3, 4)], axes=[-1, 0], keepdims=0)
        yield f"{op}_11_all", one(op, 11, [x(2, 3, 4)])
        yield f"{op}_17", one(op, 17, [x(2, 3, 4)], **({} if op == "ReduceSum" else {"axes": [1]}))
    for op in ("ReduceL2", "ReduceSumSquare"):
        yield f"{op}_13", one(op, 13, [x(2, 3)], axes=[-1])
        yield f"{op}_18", one(op, 18, [x(2, 3)], [ints(0)], keepdims=0)
    for axis in (0, 1, 2, -1, -2):
        yield f"softmax_11_{axis}", one("Softmax", 11, [x(2, 3, 4)], axis=axis)
        yield f"softmax_13_{axis}", one("Softmax", 13, [x(2, 3, 4)], axis=axis)
    yield "softmax_11_default", one("Softmax", 11, [x(2, 3, 4)])
    yield "max_8", one("Max", 8, [x(2, 3), x(3), x(2, 1)])
    yield "min_13_one", one("Min", 13, [x(2, 3)])
    yield "sum_13", one("Sum", 13, [x(2, 3), x(3), x(1)])
    yield "gemm_9", one("Gemm", 9, [x(3, 2), x(4, 3), x(4)], alpha=0.5, beta=2.0, transA=1, transB=1)
    yield "gemm_11_no_c", one("Gemm", 11, [x(2, 3), x(3, 4)])
    yield "gather_nd_11", one("GatherND", 11, [x(2, 3, 4)], [ints(1, 2).reshape(1, 2)])
    yield "shape_13", one("Shape", 13, [x(2, 3, 4)])
    yield "dropout_7", one("Dropout", 10, [x(2, 3)], ratio=0.3)
    yield "dropout_13", one("Dropout", 13, [x(2, 3), None], [np.array(False)])
    yield "reshape_5", one("Reshape", 5, [x(2, 3, 4)], [ints(0, -1)])
    for axis in (0, 1, 2, 3, -1):
        yield f"flatten_{axis}", one("Flatten", 13, [x(2, 3, 4)], axis=axis)
    yield "quantize_10", one("QuantizeLinear", 10, [x(3, 4)], [np.float32(0.05), np.uint8(120)])
    yield "quantize_13_axis", one(
        "QuantizeLinear", 13, [x(3, 4)], [np.abs(x(3)) + 0.1, ints(1, 2, 3, dtype=np.int8)], axis=0
    )
    yield "quantize_13_vectors_of_one", one(
        "QuantizeLinear", 13, [x(3, 4)], [np.array([0.05], np.float32), np.uint8(120)]
    )
    yield "dequantize_10_i32", one("DequantizeLinear", 10, [ints(-9, 70000, dtype=np.int32)], [np.float32(0.1)])


def convolutions():
    """Convolutions of one to three dimensions, and batch normalisation in each of its versions."""
    for auto_pad in ("VALID", "SAME_UPPER", "SAME_LOWER"):
        yield f"conv_{auto_pad}", one(
            "Conv", 11, [x(2, 3, 11)], [x(4, 3, 4)], auto_pad=auto_pad, strides=[2]
        )
        yield f"conv_{auto_pad}_2d", one(
            "Conv", 22, [x(1, 2, 7, 6)], [x(3, 2, 2, 3), x(3)], auto_pad=auto_pad, strides=[1, 3]
        )
    yield "conv_depthwise", one("Conv", 17, [x(2, 6, 40)], [x(6, 1, 15), x(6)], group=6, pads=[7, 7])
    yield "conv_depthwise_multiplied", one(
        "Conv", 17, [x(1, 3, 9, 8)], [x(6, 1, 3, 2)], group=3, pads=[1, 0, 1, 1], strides=[2, 1]
    )
    yield "conv_groups", one("Conv", 11, [x(2, 6, 12)], [x(4, 3, 3), x(4)], group=2, dilations=[2], pads=[3, 1])
    yield "conv_3d", one("Conv", 11, [x(1, 2, 5, 4, 6)], [x(3, 2, 2, 3, 1)], strides=[1, 1, 2], kernel_shape=[2, 3, 1])
    yield "conv_dynamic", model(
        17,
        [make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])],
        {"x": x(2, 1, 9, 8)},
        ["y"],
        {"w": x(4, 1, 3, 3)},
        dims={"x": ["batch", 1, "frames", 8]},
    )
    yield "conv_run_time_weight", one("Conv", 17, [x(2, 3, 7), x(4, 3, 2)])
    statistics = [x(3), x(3), x(3), np.abs(x(3)) + 0.1]
    for opset in (7, 9, 14, 15, 17):
        yield f"batch_norm_{opset}", one("BatchNormalization", opset, [x(2, 3, 4, 2)], statistics, epsilon=1e-3)
    yield "batch_norm_matrix", one("BatchNormalization", 15, [x(2, 3)], statistics)


def types_and_shapes():
    """Element types, broadcasting, empty tensors and dynamic shapes."""
    for dtype in (np.float16, np.float64, np.int32, np.int64):
        for op in ("Add", "Sub", "Mul", "Div"):
            b = np.where(np.abs(b := x(3, 1, dtype=dtype)) < 1, 1, b).astype(dtype)
            yield f"{op}_{np.dtype(dtype)}", one(op, 14, [x(2, 1, 4, dtype=dtype), b])
        yield f"where_{np.dtype(dtype)}", one("Where", 16, [x(2, 1) > 0, x(3, dtype=dtype), x(2, 3, dtype=dtype)])
        yield f"expand_{np.dtype(dtype)}", one("Expand", 13, [x(3, 1, dtype=dtype)], [ints(2, 1, 4)])
    for dtype in (np.float16, np.float64):
        yield f"matmul_{np.dtype(dtype)}", one("MatMul", 13, [x(2, 3, 4, dtype=dtype), x(4, 5, dtype=dtype)])
        yield f"softmax_{np.dtype(dtype)}", one("Softmax", 13, [x(2, 5, dtype=dtype)])
        yield f"layer_norm_{np.dtype(dtype)}", one(
            "LayerNormalization", 17, [x(2, 6, dtype=dtype), x(6, dtype=dtype), x(6, dtype=dtype)], epsilon=1e-3
        )
        yield f"erf_{np.dtype(dtype)}", one("Erf", 13, [x(7, dtype=dtype)])
    yield "empty_add", one("Add", 14, [x(0, 3), x(3)])
    yield "empty_concat", one("Concat", 13, [x(0, 3), x(2, 3)], axis=0)
    yield "empty_matmul", one("MatMul", 13, [x(2, 0), x(0, 3)])
    yield "empty_reduce", one("ReduceSum", 13, [x(2, 0)], [ints(1)], keepdims=0)
    yield "empty_gather", one("Gather", 13, [x(4, 3), np.zeros((0,), np.int64)])
    yield "empty_reshape", one("Reshape", 14, [x(0, 6)], [ints(0, 2, 3)])
    yield "empty_slice", one("Slice", 13, [x(4, 3)], [ints(2), ints(2)])
    yield "negative_gather", one("Gather", 13, [x(3, 4)], [ints(-1, 0)], axis=-1)
    for name, length in (("short", 2), ("long", 5)):
        nodes = [
            make_node("Shape", ["x"], ["shape"]),
            make_node("Gather", ["shape", "one"], ["length"]),
            make_node("Range", ["zero", "length", "one"], ["range"]),
            make_node("Cast", ["range"], ["numbers"], to=F),
            make_node("Mul", ["x", "numbers"], ["product"]),
            make_node("Unsqueeze", ["length", "axis"], ["length_1"]),
            make_node("Concat", ["minus", "length_1"], ["target"], axis=0),
            make_node("Reshape", ["product", "target"], ["y"]),
        ]
        constants = {"one": ints(1).reshape(()), "zero": ints(0).reshape(()), "axis": ints(0), "minus": ints(-1)}
        dims = {"x": ["batch size", None]} if name == "short" else {"x": ["n", "s"]}
        yield f"dynamic_{name}", model(13, nodes, {"x": x(3, length)}, ["y"], constants, dims=dims)


def constants():
    """The ways to write a constant, and initializers that are inputs too."""
    forms = {
        "value_float": 1.5,
        "value_floats": [1.0, -2.0],
        "value_int": 3,
        "value_ints": [4, 5],
        "value": numpy_helper.from_array(x(2, 2)),
    }
    for form, value in forms.items():
        node = make_node("Constant", [], ["c"], **{form: value})
        yield f"constant_{form}", model(
            13, [node, make_node("Identity", ["c"], ["y"]), make_node("Neg", ["x"], ["z"])], {"x": x(2)}, ["y", "z"]
        )
    yield "initializer_as_input", model(
        13, [make_node("Add", ["x", "w"], ["y"])], {"x": x(2)}, ["y"], {"w": x(2)}, as_inputs=True
    )
    yield "output_is_input", model(13, [make_node("Neg", ["x"], ["y"])], {"x": x(2)}, ["y", "x"])
    yield "output_is_constant", model(13, [make_node("Neg", ["x"], ["y"])], {"x": x(2)}, ["y", "w"], {"w": x(3)})


def branches():
    """If, with what it takes from outside, nested, and decided by shapes."""

    def branch(name, nodes, output):
        return make_graph(nodes, name, [], [onnx.ValueInfoProto(name=output)])

    for condition in (True, False):
        then_branch = branch("t", [make_node("Add", ["x", "w"], ["sum"]), make_node("Mul", ["sum", "h"], ["a"])], "a")
        inner = make_node(
            "If",
            ["other"],
            ["b"],
            then_branch=branch("tt", [make_node("Neg", ["h"], ["n"])], "n"),
            else_branch=branch("ee", [make_node("Sub", ["h", "x"], ["m"])], "m"),
        )
        nodes = [
            make_node("Abs", ["x"], ["h"]),
            make_node("If", ["c"], ["y"], then_branch=then_branch, else_branch=branch("e", [inner], "b")),
        ]
        yield f"if_captures_{condition}", model(
            16,
            nodes,
            {"c": np.array(condition), "other": np.array(not condition), "x": x(2, 3)},
            ["y"],
            {"w": x(3)},
        )
    squeeze = branch("t", [make_node("Squeeze", ["x", "axis"], ["a"])], "a")
    keep = branch("e", [make_node("Identity", ["x"], ["b"])], "b")
    for size in (1, 2):
        nodes = [
            make_node("Shape", ["x"], ["shape"]),
            make_node("Gather", ["shape", "axis"], ["size"]),
            make_node("Equal", ["size", "one"], ["is_one"]),
            make_node("If", ["is_one"], ["y"], then_branch=squeeze, else_branch=keep),
        ]
        yield f"if_by_shape_{size}", model(13, nodes, {"x": x(size, 3)}, ["y"], {"axis": ints(0), "one": ints(1)})


def functions():
    """Functions of the file, with attributes, defaults, optional operands and functions in functions."""
    constant = make_node("Constant", [], ["bound"])
    constant.attribute.append(
        onnx.AttributeProto(name="value_float", ref_attr_name="low", type=onnx.AttributeProto.FLOAT)
    )
    bounded = make_function(
        "own",
        "Bounded",
        ["x", "scale"],
        ["y"],
        [constant, make_node("Max", ["x", "bound"], ["m"]), make_node("Mul", ["m", "scale"], ["y"])],
        [make_opsetid("", 17)],
        attributes=["low"],
    )
    call = make_node("Bounded", ["a", "b"], ["t"], domain="own")
    call.attribute.append(
        onnx.AttributeProto(name="low", ref_attr_name="floor", type=onnx.AttributeProto.FLOAT)
    )
    twice = make_function(
        "own",
        "Twice",
        ["a", "b"],
        ["z"],
        [call, make_node("Add", ["t", "t"], ["z"])],
        [make_opsetid("", 17), make_opsetid("own", 1)],
        attribute_protos=[helper.make_attribute("floor", 0.25)],
    )
    nodes = [
        make_node("Bounded", ["x", "w"], ["m"], domain="own", low=-0.5),
        make_node("Twice", ["m", "w"], ["n"], domain="own"),
        make_node("Twice", ["n", "w"], ["y"], domain="own", floor=1.0),
    ]
    yield "functions", model(17, nodes, {"x": x(2, 3)}, ["y"], {"w": x(3)}, [bounded, twice])


def all_cases():
    for group in (old_forms, convolutions, types_and_shapes, constants, branches, functions):
        yield from group()
