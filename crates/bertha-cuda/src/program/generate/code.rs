//! The source of a generated kernel.
//!
//! A ragged graph's kernels read the batch's counts on the card and have all other sizes as literals. Those of a dense
//! graph get every size as an argument, also those that are the same for all shapes: so the text, and with it the machine
//! code in a plan, is the same for every shape of the inputs, and a dimension of 1 that broadcasts is a stride of 0.

use std::fmt::Write as _;

use bertha_graph::{Dim, Factor};

use super::THREADS;
use crate::kernels::KernelSpec;
use crate::program::Storage;

/// The sizes of a kernel under construction.
pub(in crate::program) struct Code {
    /// The arguments so far; `None` for ragged graphs.
    numbers: Option<Vec<i64>>,
    /// Whether it tells of indices outside of their operand.
    has_fault: bool,
}

impl Code {
    pub(super) fn new(is_ragged: bool) -> Self {
        Code { numbers: if is_ragged { None } else { Some(Vec::new()) }, has_fault: false }
    }

    /// A size as an expression.
    ///
    /// # Errors
    /// When it depends on something else than the batch's counts.
    pub(super) fn size(&mut self, dim: &Dim) -> Result<String, String> {
        match (&self.numbers, dim.as_const()) {
            (None, _) => expression(dim),
            (Some(_), Some(value)) => Ok(self.number(value)),
            (Some(_), None) => Err(format!("a dimension of {dim}, which depends on the data")),
        }
    }

    /// A number that may differ from shape to shape, as an expression.
    pub(super) fn number(&mut self, value: i64) -> String {
        match &mut self.numbers {
            None => literal(value),
            Some(numbers) => {
                numbers.push(value);
                format!("a{}", numbers.len() - 1)
            }
        }
    }

    /// Strides of a row-major tensor as expressions.
    pub(super) fn strides(&mut self, dims: &[Dim]) -> Result<Vec<String>, String> {
        (0..dims.len()).map(|axis| self.size(&product(&dims[axis + 1..]))).collect()
    }

    /// Declares `d0`, `d1`, ...: the coordinates of element `i` of a tensor of these dimensions.
    pub(super) fn coordinates(&mut self, dims: &[Dim]) -> Result<Vec<String>, String> {
        let strides = self.strides(dims)?;
        let mut lines = Vec::with_capacity(dims.len());
        for (axis, (dim, stride)) in dims.iter().zip(&strides).enumerate() {
            lines.push(match axis {
                0 => format!("const long long d0 = i / {stride};"),
                axis => format!("const long long d{axis} = i / {stride} % {};", self.size(dim)?),
            });
        }
        Ok(lines)
    }

    /// The index of the element at `at` in a tensor of these dimensions.
    pub(super) fn address(&mut self, dims: &[Dim], at: &[String]) -> Result<String, String> {
        let strides = self.strides(dims)?;
        let terms = at.iter().zip(&strides).map(|(at, stride)| format!("{at} * {stride}"));
        Ok(sum(terms))
    }

    /// The index of the element of a tensor `from` that stands at `d0`, `d1`, ... of a result `to` it broadcasts to.
    pub(super) fn broadcast(&mut self, from: &[Dim], to: &[Dim]) -> Result<String, String> {
        let coordinates: Vec<String> = (0..to.len()).map(|axis| format!("d{axis}")).collect();
        self.broadcast_at(from, to, &coordinates)
    }

    /// As [`Self::broadcast`], with other names for the coordinates.
    pub(super) fn broadcast_at(
        &mut self,
        from: &[Dim],
        to: &[Dim],
        coordinates: &[impl AsRef<str>],
    ) -> Result<String, String> {
        let padding = to.len().checked_sub(from.len()).ok_or("an operand of higher rank than the result")?;
        let mut terms = Vec::with_capacity(from.len());
        for (axis, dim) in from.iter().enumerate() {
            let is_one = dim.as_const() == Some(1);
            if !is_one && *dim != to[axis + padding] {
                return Err(format!("dimension {dim} broadcast to {}", to[axis + padding]));
            }
            let stride = product(&from[axis + 1..]);
            let stride = self.size(if is_one { &ZERO } else { &stride })?;
            terms.push(format!("{} * {stride}", coordinates[axis + padding].as_ref()));
        }
        Ok(sum(terms.into_iter()))
    }

    /// A statement that tells of an index outside of its operand at the node of this number, when `condition` holds.
    pub(super) fn fault(&mut self, condition: &str, node: i64) -> String {
        self.has_fault = true;
        let node = self.number(node);
        format!("if ({condition}) atomicMax(fault, (int){node});")
    }

    /// The arguments, and whether the pointer for faults is among the parameters.
    pub(super) fn finish(self) -> (Vec<i64>, bool) {
        (self.numbers.unwrap_or_default(), self.has_fault)
    }
}

static ZERO: std::sync::LazyLock<Dim> = std::sync::LazyLock::new(|| Dim::from(0));

fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1usize), |product, dim| &product * dim)
}

fn sum(terms: impl Iterator<Item = String>) -> String {
    terms.reduce(|sum, term| format!("{sum} + {term}")).unwrap_or_else(|| "0".into())
}

/// A number as C has it: the least one is no literal there.
fn literal(value: i64) -> String {
    format!("{}ll", value.max(-i64::MAX))
}

/// A dimension as an expression over the batch's counts.
///
/// # Errors
/// When it depends on something else than `tokens` and `batch`.
fn expression(dim: &Dim) -> Result<String, String> {
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

/// A kernel that computes every element of its result by itself: `value` is an expression of the element's index `i`
/// and of what `declarations` define, over the operands `x0`, `x1`, ..., which give f32 (or whole) values.
pub(super) fn map_kernel(
    code: &mut Code,
    entry: &str,
    operands: &[Storage],
    result: Storage,
    elements: &Dim,
    (declarations, value): (&[String], &str),
) -> Result<KernelSpec, String> {
    let body = declarations.iter().fold(String::new(), |mut body, line| {
        let _ = writeln!(body, "        {line}");
        body
    });
    let elements = code.size(elements)?;
    let body = format!(
        "    for (long long i = blockIdx.x * {THREADS}ll + threadIdx.x; i < {elements}; i += gridDim.x * {THREADS}ll) {{\n\
         {body}        y[i] = {};\n    }}\n",
        stored(result, value)
    );
    Ok(kernel(code, entry, operands, result, &body))
}

/// A kernel that gives a warp to each row of `width` elements: `body` sees the row's index `row`, the thread's `lane`,
/// the operand `x0` (indexed by `row * width + column`), and the type `Result` of the elements of `y`, which it writes.
pub(super) fn row_kernel(
    code: &mut Code,
    entry: &str,
    operand: Storage,
    result: Storage,
    [rows, width]: [&Dim; 2],
    body: &str,
) -> Result<KernelSpec, String> {
    let warps = THREADS / 32;
    let (rows, width) = (code.size(rows)?, code.size(width)?);
    let body = format!(
        "    using Result = {};\n    const int width = (int){width};\n    const int lane = threadIdx.x % 32;\n\
         \x20   for (long long row = blockIdx.x * {warps}ll + threadIdx.x / 32; row < {rows}; row += gridDim.x * {warps}ll) {{\n\
         {body}    }}\n",
        result.c_name()
    );
    Ok(kernel(code, entry, &[operand], result, &body))
}

/// A text with `value` in the place of each hole `$name`.
///
/// # Errors
/// When a hole has no value, or a value no hole.
pub(super) fn fill(text: &str, values: &[(&str, &str)]) -> Result<String, String> {
    let mut pieces = text.split('$');
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    let mut unused: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    for piece in pieces {
        let end = piece.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(piece.len());
        let (name, rest) = piece.split_at(end);
        let value = values.iter().find(|(known, _)| *known == name);
        let (_, value) = value.ok_or_else(|| format!("a kernel whose ${name} is not given"))?;
        unused.retain(|other| *other != name);
        filled.push_str(value);
        filled.push_str(rest);
    }
    match unused.as_slice() {
        [] => Ok(filled),
        unused => Err(format!("a kernel without ${}", unused.join(", $"))),
    }
}

/// `value` in the type of a result.
pub(super) fn stored(result: Storage, value: &str) -> String {
    match result.is_float() {
        true => format!("from_f32<{}>({value})", result.c_name()),
        false => format!("({})({value})", result.c_name()),
    }
}

/// A kernel with this body behind the declarations of its operands, whose sizes `code` has collected.
pub(super) fn kernel(
    code: &Code,
    entry: &str,
    operands: &[Storage],
    result: Storage,
    body: &str,
) -> KernelSpec {
    let text = format!("{HEAD}{}{body}}}\n", signature(code, entry, operands, result));
    KernelSpec { generated: Some(text.into()), ..KernelSpec::file(entry) }
}

/// Includes, and readers that convert.
const HEAD: &str = r#"#include "types.cuh"
#include "batch.cuh"
#include "ptx.cuh"
#include "activation.cuh"

template <typename T> struct Reader {
    const T *p;
    DEVICE float operator[](long long i) const { return to_f32(p[i]); }
};
template <> struct Reader<int> {
    const int *p;
    DEVICE int operator[](long long i) const { return p[i]; }
};
template <> struct Reader<long long> {
    const long long *p;
    DEVICE long long operator[](long long i) const { return p[i]; }
};
template <> struct Reader<bool> {
    const bool *p;
    DEVICE bool operator[](long long i) const { return p[i]; }
};
DEVICE float sum_of_warp(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
DEVICE float max_of_warp(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

"#;

fn signature(code: &Code, entry: &str, operands: &[Storage], result: Storage) -> String {
    let mut parameters = Vec::new();
    if code.numbers.is_none() {
        parameters.push("const Batch *batch".to_owned());
    }
    let pointer = |(index, operand): (usize, &Storage)| format!("const {} *p{index}", operand.c_name());
    parameters.extend(operands.iter().enumerate().map(pointer));
    parameters.push(format!("{} *y", result.c_name()));
    if code.has_fault {
        parameters.push("int *fault".to_owned());
    }
    let numbers = code.numbers.as_ref().map_or(0, Vec::len);
    parameters.extend((0..numbers).map(|index| format!("long long a{index}")));
    let mut text = format!(
        "extern \"C\" __global__ void __launch_bounds__({THREADS}) {entry}({}) {{\n",
        parameters.join(", ")
    );
    for (index, operand) in operands.iter().enumerate() {
        let _ = writeln!(text, "    const Reader<{}> x{index}{{p{index}}};", operand.c_name());
    }
    text.push_str("    wait_for_predecessor();\n");
    if code.numbers.is_none() {
        text.push_str("    const long long tokens = batch->tokens, sequences = batch->sequences;\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(texts: &[&str]) -> Vec<Dim> {
        texts.iter().map(|dim| dim.parse().unwrap()).collect()
    }

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
    fn every_hole_is_filled_once_and_nothing_is_left_over() {
        let values = [("a", "1"), ("a_b", "$a")];
        assert_eq!(fill("$a + $a_b;$a", &values).unwrap(), "1 + $a;1");
        assert_eq!(fill("none", &[]).unwrap(), "none");
        assert!(fill("$a + $b", &[("a", "1")]).unwrap_err().contains("$b is not given"));
        assert!(fill("$a", &values).unwrap_err().contains("without $a_b"));
    }

    #[test]
    fn strides_are_those_of_row_major_tensors() {
        let mut code = Code::new(true);
        assert_eq!(code.strides(&dims(&["tokens", "3", "64"])).unwrap(), ["(192ll)", "(64ll)", "(1ll)"]);
    }

    #[test]
    fn a_dense_kernel_has_the_same_text_for_every_shape() {
        let text = |from: &[&str], to: &[&str]| {
            let mut code = Code::new(false);
            let (from, to) = (dims(from), dims(to));
            let mut lines = code.coordinates(&to).unwrap();
            lines.push(code.broadcast(&from, &to).unwrap());
            (lines, code.finish().0)
        };
        let (a, numbers) = text(&["1", "5"], &["7", "3", "5"]);
        let (b, _) = text(&["3", "1"], &["7", "3", "5"]);
        assert_eq!(a, b);
        // Strides 15, 5 and 1 with the inner sizes between; the row that broadcasts has stride 0.
        assert_eq!(numbers, [15, 5, 1, 3, 5, 0, 1]);
        assert!(Code::new(false).size(&"seq".parse().unwrap()).is_err());
    }
}
