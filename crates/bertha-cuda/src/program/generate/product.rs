//! Products of two computed tensors, with the leading dimensions broadcast: tiles of 32 by 32 through shared memory,
//! sums in f32 whatever the operands are.

use bertha_graph::{Dim, Node, Shape, TensorId};

use super::code::{Code, fill, kernel, stored};
use super::{Draft, Generated, Source};
use crate::program::Storage;
use crate::program::lower::{Lowered, Lowering};

/// Rows and columns of a tile.
const TILE: i64 = 32;

pub(super) fn generate(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
    let (a, b) = (Source::of(lowering, node, 0)?, Source::of(lowering, node, 1)?);
    if !a.storage.is_float() || !b.storage.is_float() {
        return Err("matmul of whole numbers".into());
    }
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let ([a_outer @ .., m, k], [b_outer @ .., _, n], [outer @ .., _, _]) =
        (a.dims.as_slice(), b.dims.as_slice(), dims.as_slice())
    else {
        return Err("matmul of a vector".into());
    };
    let mut code = Code::new(false);
    // The number of a product among all, and where its operands begin: in units of whole matrices.
    let coordinates = code.coordinates(outer)?.join("\n        ");
    let (a_at, b_at) = (code.broadcast(a_outer, outer)?, code.broadcast(b_outer, outer)?);
    let [m_size, k_size, n_size] = [code.size(m)?, code.size(k)?, code.size(n)?];
    let count = Shape(outer.to_vec()).elements();
    let tiles = |dim: &Dim| dim.as_const().map_or(0, |dim| (dim + TILE - 1) / TILE);
    let work = &count * &Dim::from(tiles(m) * tiles(n));
    let items = code.size(&work)?;
    // Scores are followed by a mask and a softmax, for which the range of f16 would not do.
    let storage = Storage::F32;
    let body = fill(
        BODY,
        &[
            ("coordinates", &coordinates),
            ("a_at", &a_at),
            ("b_at", &b_at),
            ("m_size", &m_size),
            ("k_size", &k_size),
            ("n_size", &n_size),
            ("items", &items),
            ("stored", &stored(storage, "sums[part]")),
        ],
    )?;
    let kernel = kernel(&code, "bertha_matmul", &[a.storage, b.storage], storage, &body);
    Draft { sources: vec![a, b], storage, kernel, code, work, per_block: 1 }.finish(lowering, node, y)
}

const BODY: &str = "    __shared__ float a_tile[32][33], b_tile[32][33];
    const int column = threadIdx.x % 32, first = threadIdx.x / 32;
    const long long m_size = $m_size, k_size = $k_size, n_size = $n_size;
    const long long m_tiles = (m_size + 31) / 32, n_tiles = (n_size + 31) / 32;
    for (long long item = blockIdx.x; item < $items; item += gridDim.x) {
        const long long i = item / (m_tiles * n_tiles), tile = item % (m_tiles * n_tiles);
        const long long row0 = tile / n_tiles * 32, column0 = tile % n_tiles * 32;
        $coordinates
        const long long a_start = ($a_at) * m_size * k_size, b_start = ($b_at) * k_size * n_size;
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (long long k0 = 0; k0 < k_size; k0 += 32) {
            for (int part = 0; part < 4; ++part) {
                const int row = first + 8 * part;
                const bool has_a = row0 + row < m_size && k0 + column < k_size;
                a_tile[row][column] = has_a ? x0[a_start + (row0 + row) * k_size + k0 + column] : 0.0f;
                const bool has_b = k0 + row < k_size && column0 + column < n_size;
                b_tile[row][column] = has_b ? x1[b_start + (k0 + row) * n_size + column0 + column] : 0.0f;
            }
            __syncthreads();
            for (int k = 0; k < 32; ++k)
                for (int part = 0; part < 4; ++part) sums[part] += a_tile[first + 8 * part][k] * b_tile[k][column];
            __syncthreads();
        }
        for (int part = 0; part < 4; ++part) {
            const long long row = row0 + first + 8 * part;
            if (row < m_size && column0 + column < n_size)
                y[(i * m_size + row) * n_size + column0 + column] = $stored;
        }
    }
";
