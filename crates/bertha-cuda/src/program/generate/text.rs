//! The source of a generated kernel.

use std::fmt::Write as _;

use bertha_graph::{Dim, Factor};

use super::THREADS;
use crate::kernels::KernelSpec;
use crate::program::Storage;

/// A dimension as an expression over the batch's counts.
///
/// # Errors
/// When it depends on something else than `tokens` and `batch`.
pub(super) fn expression(dim: &Dim) -> Result<String, String> {
    let mut terms = Vec::new();
    for (factors, coefficient) in dim.terms() {
        let mut term = format!("{coefficient}ll");
        for factor in factors {
            match factor {
                Factor::Symbol(name) => term.push_str(match &**name {
                    "tokens" => " * tokens",
                    "batch" => " * sequences",
                    other => return Err(format!("a dimension of {other}")),
                }),
                // Never negative, so that division rounds down as it should.
                Factor::Quotient(quotient) => {
                    term.push_str(&format!(
                        " * ({} / {}ll)",
                        expression(quotient.dividend())?,
                        quotient.divisor()
                    ));
                }
            }
        }
        terms.push(term);
    }
    Ok(if terms.is_empty() { "0ll".into() } else { format!("({})", terms.join(" + ")) })
}

/// Strides of a row-major tensor as expressions.
pub(super) fn strides(dims: &[Dim]) -> Result<Vec<String>, String> {
    let mut strides = Vec::with_capacity(dims.len());
    for axis in 0..dims.len() {
        let inner = dims[axis + 1..].iter().fold(Dim::from(1usize), |product, dim| &product * dim);
        strides.push(expression(&inner)?);
    }
    Ok(strides)
}

/// A kernel that computes every element of its result by itself: `value` is an expression of the element's index `i`
/// and of what `declarations` define, over the operands `x0`, `x1`, ..., which give f32 (or int) values.
pub(super) fn map_kernel(
    entry: &str,
    operands: &[Storage],
    result: Storage,
    elements: &Dim,
    declarations: &[String],
    value: &str,
) -> KernelSpec {
    let body = declarations.iter().fold(String::new(), |mut body, line| {
        let _ = writeln!(body, "        {line}");
        body
    });
    let text = format!(
        "{head}    for (long long i = blockIdx.x * {THREADS}ll + threadIdx.x; i < {elements}; i += gridDim.x * {THREADS}ll) {{\n\
         {body}        y[i] = from_f32<{result}>({value});\n    }}\n}}\n",
        head = head(entry, operands, result),
        elements = expression(elements).unwrap_or_else(|_| "0ll".into()),
        result = result.c_name(),
    );
    spec(entry, text)
}

/// A kernel that gives a warp to each row of `width` elements: `body` sees the row's index `row`, the thread's `lane`,
/// and the operand `x0` (indexed from the row's start by `row * width + column`), and writes `y`.
pub(super) fn row_kernel(
    entry: &str,
    operand: Storage,
    result: Storage,
    rows: &Dim,
    width: usize,
    body: &str,
) -> KernelSpec {
    let warps = THREADS / 32;
    let text = format!(
        "{head}    const int width = {width};\n    const int lane = threadIdx.x % 32;\n\
         \x20   for (long long row = blockIdx.x * {warps}ll + threadIdx.x / 32; row < {rows}; row += gridDim.x * {warps}ll) {{\n\
         {body}    }}\n}}\n",
        head = head(entry, &[operand], result),
        rows = expression(rows).unwrap_or_else(|_| "0ll".into()),
    );
    spec(entry, text)
}

/// Everything up to the loop: includes, readers that convert, the signature, the counts.
fn head(entry: &str, operands: &[Storage], result: Storage) -> String {
    let mut text = String::from(
        "#include \"types.cuh\"\n#include \"batch.cuh\"\n#include \"ptx.cuh\"\n#include \"activation.cuh\"\n\n\
         template <typename T> struct Reader {\n    const T *p;\n\
         \x20   DEVICE float operator[](long long i) const { return to_f32(p[i]); }\n};\n\
         template <> struct Reader<int> {\n    const int *p;\n\
         \x20   DEVICE int operator[](long long i) const { return p[i]; }\n};\n\
         DEVICE float sum_of_warp(float x) {\n    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);\n    return x;\n}\n\
         DEVICE float max_of_warp(float x) {\n    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));\n    return x;\n}\n\n",
    );
    let _ =
        write!(text, "extern \"C\" __global__ void __launch_bounds__({THREADS}) {entry}(const Batch *batch");
    for (index, operand) in operands.iter().enumerate() {
        let _ = write!(text, ", const {} *p{index}", operand.c_name());
    }
    let _ = writeln!(text, ", {} *y) {{", result.c_name());
    for (index, operand) in operands.iter().enumerate() {
        let _ = writeln!(text, "    const Reader<{}> x{index}{{p{index}}};", operand.c_name());
    }
    text.push_str("    wait_for_predecessor();\n    const long long tokens = batch->tokens, sequences = batch->sequences;\n");
    text
}

fn spec(entry: &str, text: String) -> KernelSpec {
    KernelSpec { generated: Some(text.into()), ..KernelSpec::file(entry) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_become_expressions() {
        let dim: Dim = "12*batch*tokens + 3".parse().unwrap();
        let text = expression(&dim).unwrap();
        assert!(
            text.contains("12ll * sequences * tokens") || text.contains("12ll * tokens * sequences"),
            "{text}"
        );
        assert!(expression(&"seq".parse().unwrap()).is_err());
        assert_eq!(expression(&Dim::from(0usize)).unwrap(), "0ll");
    }

    #[test]
    fn strides_are_those_of_row_major_tensors() {
        let dims: Vec<Dim> = ["tokens", "3", "64"].iter().map(|dim| dim.parse().unwrap()).collect();
        assert_eq!(strides(&dims).unwrap(), ["(192ll)", "(64ll)", "(1ll)"]);
    }
}
