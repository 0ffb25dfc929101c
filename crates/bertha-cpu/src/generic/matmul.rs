//! Matrix products of all dtypes.

use bertha_graph::DType;

use super::error::{Fault, Outcome, fault};
use super::nest::{Nest, Small};
use super::number::{Arith, Number, with_number};
use super::operands::{Operands, matrix};
use super::scratch::Scratch;
use super::tensor::TensorMut;

/// Rows, depth and columns of the block that is worked on at a time: the packed part of `b` fits the second cache,
/// one row of it and of the sums the first.
const ROWS: usize = 32;
const DEPTH: usize = 64;
const COLUMNS: usize = 256;

/// Where the elements of a matrix lie.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Position of the first element.
    pub start: usize,
    /// Elements from one row to the next.
    pub row: usize,
    /// Elements from one column to the next.
    pub column: usize,
}

/// Sizes of a product: `[m, k]` times `[k, n]`.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// Multiplies two matrices; `store` gets runs of finished sums with their row and first column.
pub(super) fn multiply<T: Number>(
    (a, at_a): (&[T], Layout),
    (b, at_b): (&[T], Layout),
    Sizes { m, k, n }: Sizes,
    scratch: &mut Scratch,
    mut store: impl FnMut(usize, usize, &[T::Wide]),
) {
    let (sums, panel) = scratch.two::<T::Wide, T::Wide>(ROWS * COLUMNS, DEPTH * COLUMNS);
    for column in (0..n).step_by(COLUMNS) {
        let columns = COLUMNS.min(n - column);
        for row in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - row);
            let sums = &mut sums[..rows * columns];
            sums.fill(T::Wide::ZERO);
            for inner in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - inner);
                let start = at_b.start + inner * at_b.row + column * at_b.column;
                pack(b, Layout { start, ..at_b }, panel, columns, depth);
                for (r, sums) in sums.chunks_exact_mut(columns).enumerate() {
                    let first = at_a.start + (row + r) * at_a.row + inner * at_a.column;
                    for (d, panel) in panel[..depth * columns].chunks_exact(columns).enumerate() {
                        let factor = a[first + d * at_a.column].widen();
                        for (sum, b) in sums.iter_mut().zip(panel) {
                            *sum = sum.plus(factor.times(*b));
                        }
                    }
                }
            }
            for (r, sums) in sums.chunks_exact(columns).enumerate() {
                store(row + r, column, sums);
            }
        }
    }
}

/// Widens `depth` rows of `columns` elements, row by row.
fn pack<T: Number>(b: &[T], at: Layout, panel: &mut [T::Wide], columns: usize, depth: usize) {
    for (d, panel) in panel.chunks_exact_mut(columns).take(depth).enumerate() {
        let first = at.start + d * at.row;
        if at.column == 1 {
            T::widen_all(&b[first..first + columns], panel);
        } else {
            panel.iter_mut().enumerate().for_each(|(c, wide)| *wide = b[first + c * at.column].widen());
        }
    }
}

/// How the operands of a product over the last two dimensions pair up.
pub(super) struct Pairs {
    pub sizes: Sizes,
    /// Over the matrices of the result, with the positions of those of the operands.
    pub nest: Nest<2>,
    /// Matrices of the result.
    pub count: usize,
}

/// Pairs the matrices of `a` and `b` by NumPy's rule for `matmul`, and checks the planned shape of the result.
pub(super) fn pair(a: &[usize], b: &[usize], y: &[usize]) -> Outcome<Pairs> {
    let (lead_a, m, k) = match a {
        [] => return fault!("a scalar has no matrix product"),
        [k] => (&[][..], 1, *k),
        [lead @ .., m, k] => (lead, *m, *k),
    };
    let (lead_b, inner, n) = match b {
        [] => return fault!("a scalar has no matrix product"),
        [inner] => (&[][..], *inner, 1),
        [lead @ .., inner, n] => (lead, *inner, *n),
    };
    let own_dims = usize::from(a.len() > 1) + usize::from(b.len() > 1);
    let lead = y.len().checked_sub(own_dims).map(|lead| &y[..lead]);
    let expected = (a.len() > 1).then_some(m).into_iter().chain((b.len() > 1).then_some(n));
    let Some(lead) = lead.filter(|lead| k == inner && y[lead.len()..].iter().copied().eq(expected)) else {
        return fault!("shapes {a:?} and {b:?} do not multiply to the planned {y:?}");
    };
    let mut nest = Nest::at([0, 0]);
    let steps = Nest::broadcast(lead, [lead_a, lead_b])?;
    nest.extend_scaled(&steps, [(m * k) as isize, (k * n) as isize])?;
    let mut sizes = Sizes { m, k, n };
    let mut count: usize = lead.iter().product();
    // One matrix for all on the right: the rows of all on the left are those of one tall matrix.
    if lead_b.iter().all(|dim| *dim == 1) && lead_a == lead {
        sizes.m *= count;
        count = count.min(1);
        nest = Nest::at([0, 0]);
    }
    if count == 0 {
        sizes.m = 0;
    }
    Ok(Pairs { sizes, nest, count })
}

/// Matrix product over the last two dimensions.
pub(super) fn matmul(operands: Operands, y: &mut TensorMut, scratch: &mut Scratch) -> Outcome {
    let a = operands.required(0, "a")?;
    let b = operands.typed(1, "b", a.dtype)?;
    y.expect_dtype(a.dtype)?;
    let Pairs { sizes, nest, count } = pair(a.shape, b.shape, y.shape)?;
    if count == 0 {
        return Ok(());
    }
    with_number!(a.dtype, T => {
        let (a, b) = (a.slice::<T>(), b.slice::<T>());
        let mut matrices = y.slice::<T>().chunks_exact_mut((sizes.m * sizes.n).max(1));
        nest.for_each(|[start_a, start_b]| {
            let Some(y) = matrices.next() else { return };
            let at_a = Layout { start: start_a, row: sizes.k, column: 1 };
            let at_b = Layout { start: start_b, row: sizes.n, column: 1 };
            multiply((a, at_a), (b, at_b), sizes, scratch, |row, column, sums| {
                let first = row * sizes.n + column;
                T::narrow_all(sums, &mut y[first..first + sums.len()]);
            });
        });
        Ok::<(), Fault>(())
    })
}

/// What [`gemm`] is asked for beside its operands.
#[derive(Clone, Copy)]
pub(super) struct GemmAttrs {
    pub alpha: f32,
    pub beta: f32,
    pub trans_a: bool,
    pub trans_b: bool,
}

/// `alpha * a' * b' + beta * c`, where a `beta` of 0 leaves `c` out. Integers are multiplied exactly; factors other
/// than 1 scale them as real numbers, truncated.
pub(super) fn gemm(
    attrs: GemmAttrs,
    operands: Operands,
    y: &mut TensorMut,
    scratch: &mut Scratch,
) -> Outcome {
    let a = operands.required(0, "a")?;
    let b = operands.typed(1, "b", a.dtype)?;
    let c = operands.optional_typed(2, "c", a.dtype)?;
    y.expect_dtype(a.dtype)?;
    let oriented = |(rows, columns): (usize, usize), flip: bool| {
        let plain = Layout { start: 0, row: columns, column: 1 };
        let turned = Layout { start: 0, row: 1, column: columns };
        if flip { (columns, rows, turned) } else { (rows, columns, plain) }
    };
    let (m, k, at_a) = oriented(matrix(a, "a")?, attrs.trans_a);
    let (inner, n, at_b) = oriented(matrix(b, "b")?, attrs.trans_b);
    if k != inner {
        return fault!("`a` has {k} columns, `b` {inner} rows");
    }
    y.expect_shape(&[m, n])?;
    // Steps in `c` from row to row and from column to column.
    let c_shape = c.map_or(&[][..], |c| c.shape);
    let lead = Small::of(
        std::iter::repeat_n(1, 2usize.saturating_sub(c_shape.len())).chain(c_shape.iter().copied()),
    )?;
    Nest::broadcast(&[m, n], [c_shape])?;
    let c_row = if lead[0] == 1 { 0 } else { lead[1] };
    let c_column = usize::from(lead[1] != 1);
    with_number!(a.dtype, T => {
        let c = c.filter(|_| attrs.beta != 0.0).map(|c| c.slice::<T>());
        let y = y.slice::<T>();
        multiply((a.slice::<T>(), at_a), (b.slice(), at_b), Sizes { m, k, n }, scratch, |row, column, sums| {
            let first = row * n + column;
            for (i, (y, sum)) in y[first..first + sums.len()].iter_mut().zip(sums).enumerate() {
                let c = c.map(|c| c[row * c_row + (column + i) * c_column]);
                *y = T::narrow(scaled::<T>(*sum, c, attrs));
            }
        });
        Ok::<(), Fault>(())
    })
}

fn scaled<T: Number>(sum: T::Wide, c: Option<T>, attrs: GemmAttrs) -> T::Wide {
    let (plain, addend) = (attrs.alpha == 1.0, c.map(T::widen));
    match addend {
        None if plain => sum,
        Some(c) if plain && attrs.beta == 1.0 => sum.plus(c),
        _ => {
            let c = addend.map_or(0.0, |c| f64::from(attrs.beta) * c.to_f64());
            T::Wide::from_f64(f64::from(attrs.alpha) * sum.to_f64() + c)
        }
    }
}

/// The dtype that a product of 8-bit integers needs.
pub(super) fn expect_bytes(dtype: DType) -> Outcome {
    match dtype {
        DType::I8 | DType::U8 => Ok(()),
        other => Err(Fault::Unsupported(other.to_string())),
    }
}
