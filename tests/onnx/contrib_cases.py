"""Single nodes of ONNX Runtime's own ops (domain com.microsoft) in every form that is read, with its answers."""

import numpy as np
from onnx.helper import make_node, make_opsetid

import form_cases
from form_cases import ints, x

RNG = np.random.default_rng(12)
CONTRIB = make_opsetid("com.microsoft", 1)


def one(op, arrays, constants=(), outputs=("y",), version=17, domain="com.microsoft", dims=None, **attributes):
    """A model of one node: `arrays` are inputs, or None, `constants` maps positions to initializers."""
    constants = dict(constants)
    count = max([len(arrays), *(position + 1 for position in constants)])
    names, inputs, fixed = [], {}, {}
    for position in range(count):
        array = arrays[position] if position < len(arrays) else None
        name = f"i{position}"
        if position in constants:
            fixed[name] = constants[position]
        elif array is not None:
            inputs[name] = array
        else:
            name = ""
        names.append(name)
    while names and not names[-1]:
        names.pop()
    node = make_node(op, names, list(outputs), domain=domain, **attributes)
    wanted = [output for output in outputs if output]
    return form_cases.model(version, [node], inputs, wanted, fixed, imports=[CONTRIB], dims=dims)


def small(*shape, dtype=np.float32):
    return (RNG.standard_normal(shape) * 0.5).astype(dtype)


def u8(*shape, low=0, high=256):
    return RNG.integers(low, high, shape).astype(np.uint8)


def i8(*shape):
    return RNG.integers(-128, 128, shape).astype(np.int8)


def i32(values):
    return np.array(values, np.int32)


def elementwise():
    for dtype in (np.float32, np.float16):
        name = np.dtype(dtype).name
        if dtype == np.float32:  # ONNX Runtime has no other type on CPUs for these
            yield f"gelu_{name}", one("Gelu", [x(3, 5, dtype=dtype)])
            yield f"bias_gelu_{name}", one("BiasGelu", [x(2, 3, 8, dtype=dtype), x(8, dtype=dtype)])
            yield f"quick_gelu_{name}", one("QuickGelu", [x(3, 7, dtype=dtype)])
            yield f"quick_gelu_alpha_{name}", one("QuickGelu", [x(3, 7, dtype=dtype)], alpha=0.8)
        yield f"fast_gelu_{name}", one("FastGelu", [x(3, 5, dtype=dtype)])
        yield f"fast_gelu_bias_{name}", one("FastGelu", [x(2, 3, 8, dtype=dtype), x(8, dtype=dtype)])


def norms():
    vectors = [x(8), x(8), x(8)]
    for name, skip in [("full", (2, 3, 8)), ("one_batch", (1, 3, 8)), ("no_batch", (3, 8))]:
        yield f"skip_norm_{name}", one("SkipLayerNormalization", [x(2, 3, 8), x(*skip), *vectors], epsilon=1e-5)
    operands = [x(2, 3, 8), x(2, 3, 8)]
    yield "skip_norm_no_beta", one("SkipLayerNormalization", [*operands, x(8)])
    yield "skip_norm_no_bias", one("SkipLayerNormalization", [*operands, x(8), x(8)])
    yield "skip_norm_bias_alone", one("SkipLayerNormalization", [*operands, x(8), None, x(8)])
    yield "skip_norm_sum", one("SkipLayerNormalization", [*operands, *vectors], outputs=("y", "", "", "sum"))
    yield "skip_norm_matrix", one("SkipLayerNormalization", [x(5, 8), x(5, 8), *vectors])
    half = [x(2, 3, 8, dtype=np.float16) for _ in range(2)] + [x(8, dtype=np.float16) for _ in range(3)]
    yield "skip_norm_half", one("SkipLayerNormalization", half)
    yield "skip_rms", one("SkipSimplifiedLayerNormalization", [*operands, x(8)])
    yield "skip_rms_bias", one(
        "SkipSimplifiedLayerNormalization", [*operands, x(8), x(8)], outputs=("y", "", "", "sum"), epsilon=1e-3
    )
    yield "rms", one("SimplifiedLayerNormalization", [x(2, 3, 8), x(8)], domain="", axis=-1, epsilon=1e-3)
    yield "rms_from_axis_1", one("SimplifiedLayerNormalization", [x(2, 3, 8), x(3, 8)], domain="", axis=1)
    yield "layer_norm_in_old_sets", one("LayerNormalization", [x(2, 3, 8), x(8), x(8)], domain="", version=11, axis=-1)


def embeddings():
    batch, seq, hidden = 3, 6, 8
    ids = RNG.integers(0, 20, (batch, seq)).astype(np.int32)
    segments = RNG.integers(0, 2, (batch, seq)).astype(np.int32)
    mask = (np.arange(seq)[None] < np.array([6, 2, 4])[:, None]).astype(np.int32)
    tables = {2: x(20, hidden), 3: x(10, hidden), 4: x(2, hidden), 5: x(hidden), 6: x(hidden)}
    op, two, three = "EmbedLayerNormalization", ("y", "mask_index"), ("y", "mask_index", "sum")
    yield "embed", one(op, [ids, segments], tables, two, epsilon=1e-5)
    yield "embed_mask", one(op, [ids, segments, *[None] * 5, mask], tables, three)
    yield "embed_mask_two", one(op, [ids, segments, *[None] * 5, mask], tables, two, mask_index_type=1)
    yield "embed_no_mask", one(op, [ids, segments], tables, three)
    without = {position: table for position, table in tables.items() if position != 4}
    yield "embed_no_segments", one(op, [ids], without, two)
    positions = RNG.integers(0, 10, (batch, seq)).astype(np.int32)
    yield "embed_positions", one(op, [ids, segments, *[None] * 6, positions], tables, two)
    yield "embed_positions_once", one(op, [ids, segments, *[None] * 6, positions[:1]], tables, two)
    quantized = {2: u8(20, hidden), 3: u8(10, hidden), 4: u8(2, hidden), 5: u8(hidden), 6: u8(hidden), 7: mask}
    scales = {8 + index: np.float32(0.01 * (index + 1)) for index in range(5)}
    zeros = {13 + index: np.uint8(120 + index) for index in range(5)}
    yield "embed_quantized", one(
        "QEmbedLayerNormalization", [ids, segments], {**quantized, **scales, **zeros}, two
    )


def masks(batch, seq, keys):
    """Every form of mask that CPUs take, by name."""
    lengths = i32([keys, *RNG.integers(1, keys + 1, batch - 1)])
    starts = i32([RNG.integers(0, length) for length in lengths])
    raw = (np.arange(keys)[None] < lengths[:, None]).astype(np.int32)
    yield "none", None
    yield "lengths", lengths
    yield "ends_and_starts", np.concatenate([lengths, starts])
    yield "raw", raw
    yield "raw_with_holes", np.maximum(RNG.integers(0, 2, (batch, keys)), np.eye(batch, keys)).astype(np.int32)
    yield "raw_for_each_query", np.maximum(
        RNG.integers(0, 2, (batch, seq, keys)), np.eye(seq, keys, dtype=int)[None]
    ).astype(np.int32)


def attentions():
    batch, seq, hidden, heads = 3, 5, 12, 3
    for name, mask in masks(batch, seq, seq):
        operands = [small(batch, seq, hidden), None, None, mask]
        fixed = {1: small(hidden, 3 * hidden), 2: small(3 * hidden)}
        yield f"attention_{name}", one("Attention", operands, fixed, num_heads=heads)
        if name != "ends_and_starts":  # twice the batch is no dimension that a file can declare
            symbols = {"i0": ["batch", "seq", hidden]}
            if mask is not None:
                symbols["i3"] = ["batch", "seq", "seq"][: mask.ndim]
            yield f"attention_{name}_dynamic", one("Attention", operands, fixed, num_heads=heads, dims=symbols)
    raw = dict(masks(batch, seq, seq))["raw"]
    fixed = {1: small(hidden, 3 * hidden), 2: small(3 * hidden)}
    yield "attention_no_bias", one("Attention", [small(batch, seq, hidden)], {1: fixed[1]}, num_heads=heads)
    yield "attention_run_time_weight", one(
        "Attention", [small(batch, seq, hidden), fixed[1], fixed[2], raw], num_heads=heads
    )
    for causal_mask, form in [(None, "causal"), (raw, "causal_masked")]:
        yield f"attention_{form}", one(
            "Attention", [small(batch, seq, hidden), None, None, causal_mask], fixed, num_heads=heads, unidirectional=1
        )
    yield "attention_scale", one(
        "Attention", [small(batch, seq, hidden), None, None, raw], fixed, num_heads=heads, scale=0.3,
        mask_filter_value=-3.0,
    )  # fmt: skip
    for lead in [(batch, heads), (1, heads), (1, 1), (batch, 1)]:
        operands = [small(batch, seq, hidden), None, None, raw, None, x(*lead, seq, seq)]
        yield f"attention_bias_{lead[0]}_{lead[1]}", one("Attention", operands, fixed, num_heads=heads)
    sizes = {1: small(hidden, 2 * 6 + 9), 2: small(2 * 6 + 9)}
    yield "attention_sizes", one(
        "Attention", [small(batch, seq, hidden)], sizes, num_heads=heads, qkv_hidden_sizes=[6, 6, 9]
    )


def multi_head_attentions():
    batch, seq, keys, heads, width = 2, 4, 6, 3, 4
    hidden, op = heads * width, "MultiHeadAttention"
    for name, mask in masks(batch, seq, keys):
        if name != "ends_and_starts":  # a vector is of lengths here
            operands = [small(batch, seq, hidden), small(batch, keys, hidden), small(batch, keys, hidden), None, mask]
            yield f"mha_{name}", one(op, operands, {3: small(3 * hidden)}, num_heads=heads)
    raw = dict(masks(batch, seq, keys))["raw"]
    plain = [small(batch, seq, hidden), small(batch, keys, hidden), small(batch, keys, hidden)]
    yield "mha_no_bias", one(op, plain, num_heads=heads, scale=0.2)
    yield "mha_run_time_bias", one(op, [*plain, small(3 * hidden)], num_heads=heads)
    yield "mha_wide_values", one(
        op, [*plain[:2], small(batch, keys, 2 * hidden)], {3: small(4 * hidden)}, num_heads=heads
    )
    itself = [small(batch, seq, hidden) for _ in range(3)]
    yield "mha_causal", one(op, itself, num_heads=heads, unidirectional=1)
    for lead in [(batch, heads), (1, heads), (1, 1)]:
        operands = [*plain, None, raw, x(*lead, seq, keys)]
        yield f"mha_attention_bias_{lead[0]}_{lead[1]}", one(op, operands, num_heads=heads, mask_filter_value=-50.0)
    by_head = [small(batch, heads, keys, width) for _ in range(2)]
    yield "mha_keys_by_head", one(op, [plain[0], *by_head], num_heads=heads)
    yield "mha_keys_by_head_masked", one(op, [plain[0], *by_head, None, raw], num_heads=heads)


def products():
    for trans_a in (0, 1):
        for trans_b in (0, 1):
            a = x(2, 5, 3) if trans_a else x(2, 3, 5)
            b = x(2, 4, 5) if trans_b else x(2, 5, 4)
            yield f"fused_matmul_{trans_a}{trans_b}", one(
                "FusedMatMul", [a, b], transA=trans_a, transB=trans_b, alpha=0.25
            )
            a = x(5, 2, 3) if trans_a else x(3, 2, 5)
            yield f"fused_matmul_batch_a_{trans_a}{trans_b}", one(
                "FusedMatMul", [a, b], transA=trans_a, transB=trans_b, transBatchA=1
            )
    yield "fused_matmul_batch_b", one("FusedMatMul", [x(2, 3, 5), x(5, 2, 4)], transBatchB=1)
    yield "fused_matmul_wide", one("FusedMatMul", [x(3, 4, dtype=np.float64), x(4, 2, dtype=np.float64)])
    yield "fused_matmul_plain", one("FusedMatMul", [x(3, 4), x(2, 4)], transB=1)
    for activation in ("Relu", "Sigmoid", "Tanh", "LeakyRelu"):
        yield f"fused_gemm_{activation}", one(
            "FusedGemm", [x(3, 4), x(5, 4), x(5)], activation=activation, activation_alpha=0.2, alpha=0.5, transB=1
        )
    yield "fused_gemm_no_c", one("FusedGemm", [x(3, 4), x(4, 2)], activation="Relu")


def few_bits():
    for bits, depth, block in [(4, 64, 32), (4, 70, 16), (8, 64, 32), (2, 64, 32)]:
        rows, blocks = 5, -(-depth // block)
        weight, scales = u8(rows, blocks, block * bits // 8), np.abs(x(rows * blocks)) * 0.05 + 0.01
        sizes = {"K": depth, "N": rows, "bits": bits, "block_size": block}
        zeros = u8(rows * -(-blocks * bits // 8))
        name, a = f"nbits_{bits}_{depth}_{block}", small(2, 3, depth)
        yield name, one("MatMulNBits", [a], {1: weight, 2: scales}, **sizes)
        yield f"{name}_zeros", one("MatMulNBits", [a], {1: weight, 2: scales, 3: zeros}, **sizes)
    weight, scales = u8(4, 2, 16), np.abs(x(8)) * 0.05 + 0.01
    sizes = {"K": 64, "N": 4, "bits": 4, "block_size": 32}
    yield "nbits_bias", one("MatMulNBits", [small(3, 64)], {1: weight, 2: scales, 5: x(4)}, **sizes)
    yield "nbits_float_zeros", one("MatMulNBits", [small(3, 64)], {1: weight, 2: scales, 3: x(8) + 7}, **sizes)


def integer_products():
    a, scale = x(2, 3, 8), np.float32(0.02)
    columns, zero_columns = np.abs(x(5)) * 0.01 + 0.01, i8(5)
    for name, more in [
        ("plain", {}),
        ("zero", {3: np.int8(3)}),
        ("bias", {3: np.int8(-4), 4: x(5)}),
        ("columns", {2: columns, 3: zero_columns, 4: x(5)}),
    ]:
        yield f"dynamic_quantize_matmul_{name}", one(
            "DynamicQuantizeMatMul", [a], {1: i8(8, 5), 2: scale, **more}
        )
    yield "dynamic_quantize_matmul_u8", one("DynamicQuantizeMatMul", [a], {1: u8(8, 5), 2: scale, 3: np.uint8(127)})
    operands = {1: i8(8, 5), 2: np.float32(0.03), 3: columns}
    yield "matmul_integer_to_float", one("MatMulIntegerToFloat", [u8(3, 8)], operands)
    yield "matmul_integer_to_float_all", one(
        "MatMulIntegerToFloat", [u8(2, 3, 8)], {**operands, 4: np.uint8(9), 5: zero_columns, 6: x(5)}
    )
    for trans_b in (0, 1):
        b = i8(4, 6) if trans_b else i8(6, 4)
        parameters = {1: np.float32(0.02), 2: np.uint8(5), 3: b, 4: np.float32(0.05), 5: np.int8(2)}
        bias = {6: RNG.integers(-3000, 3000, 4).astype(np.int32)}
        yield f"qgemm_float_{trans_b}", one("QGemm", [u8(3, 6)], {**parameters, **bias}, transB=trans_b, alpha=0.5)
        result = {7: np.float32(0.3), 8: np.uint8(100)}
        yield f"qgemm_{trans_b}", one("QGemm", [u8(3, 6)], {**parameters, **bias, **result}, transB=trans_b)
    batch, seq, hidden, heads = 2, 4, 8, 2
    for name, mask in masks(batch, seq, seq):
        fixed = {1: i8(hidden, 3 * hidden), 2: small(3 * hidden), 3: np.float32(0.02), 4: np.float32(0.01)}
        operands = [u8(batch, seq, hidden), *[None] * 4, mask]
        yield f"qattention_{name}", one("QAttention", operands, fixed, num_heads=heads)
        points = {6: np.uint8(128), 7: np.int8(0)}
        yield f"qattention_{name}_zero", one("QAttention", operands, {**fixed, **points}, num_heads=heads)
    fixed[4] = (np.abs(small(3 * hidden)) * 0.01 + 0.005).astype(np.float32)
    points = {6: np.uint8(120), 7: i8(3 * hidden)}
    yield "qattention_columns", one("QAttention", operands, {**fixed, **points}, num_heads=heads)
    yield "qattention_causal", one(
        "QAttention", operands[:5], {**fixed, **points}, num_heads=heads, unidirectional=1
    )


def quantized_functions():
    for make, dtype in [(u8, np.uint8), (i8, np.int8)]:
        name = np.dtype(dtype).name
        a = {1: np.float32(0.03), 2: dtype(7)}
        b = {4: np.float32(0.05), 5: dtype(90)}
        c = {6: np.float32(0.08), 7: dtype(50)}
        for op in ("QLinearAdd", "QLinearMul"):
            yield f"{op}_{name}", one(op, [make(2, 3, 5), None, None, make(2, 3, 5)], {**a, **b, **c})
            yield f"{op}_{name}_broadcast", one(op, [make(2, 3, 5), None, None, make(5)], {**a, **b, **c})
        yield f"QLinearSigmoid_{name}", one(
            "QLinearSigmoid", [make(3, 5)], {**a, 3: np.float32(1 / 256), 4: dtype(0 if dtype == np.uint8 else -128)}
        )
        # ONNX Runtime's own table of exponentials allows no other result than this one.
        result = {3: np.float32(1 / 256), 4: dtype(0 if dtype == np.uint8 else -128)}
        yield f"QLinearSoftmax_{name}", one("QLinearSoftmax", [make(3, 5)], {**a, **result}, axis=-1, opset=13)
        parts = {0: np.float32(0.1), 1: dtype(3), 3: np.float32(0.05), 4: dtype(10), 6: np.float32(0.2), 7: dtype(-3 % 100)}
        yield f"QLinearConcat_{name}", one(
            "QLinearConcat", [None, None, make(2, 3), None, None, make(2, 4)], parts, axis=1
        )
        chosen = {2: a[1], 3: a[2], 5: b[4], 6: b[5], 7: c[6], 8: c[7]}
        condition = RNG.integers(0, 2, (3, 1)).astype(bool)
        yield f"QLinearWhere_{name}", one("QLinearWhere", [condition, make(3, 4), None, None, make(1, 4)], chosen)
    for op in ("QuantizeLinear", "DequantizeLinear"):
        operand = x(3, 4) if op == "QuantizeLinear" else u8(3, 4)
        yield f"contrib_{op}", one(op, [operand], {1: np.float32(0.05), 2: np.uint8(120)})


def all_cases():
    """Name, model and inputs, and by how many steps integers may differ: two ways to round."""
    exact = (elementwise, norms, embeddings, attentions, multi_head_attentions, products, few_bits)
    for group in exact:
        for name, case in group():
            yield name, case, 0
    for group in (integer_products, quantized_functions):
        for name, case in group():
            yield name, case, 1
