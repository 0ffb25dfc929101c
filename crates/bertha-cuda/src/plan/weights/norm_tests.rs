//! What deferring a layer norm costs: the arithmetic of the kernels, with their roundings, against f64 and against what a
//! kernel for the norm and a product with the plain weights give.

use bertha_graph::SplitMix64;

use super::*;

const WIDTH: usize = 768;
const FEATURES: usize = 96;
const ROWS: usize = 48;
const CHUNK: usize = 64;
const EPSILON: f32 = 1e-12;

/// Rounds to a 16-bit type.
type Round = fn(f32) -> f32;

fn to_f16(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

fn to_bf16(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

fn normal(random: &mut SplitMix64) -> f32 {
    let sum: f64 = (0..12).map(|_| random.unit()).sum();
    (sum - 6.0) as f32
}

/// A layer behind a norm, and rows before it.
struct Problem {
    rows: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Problem {
    /// Rows that `shape` makes of normal values and their columns, a scale of each column by `gamma`.
    fn new(shape: impl Fn(usize, f32) -> f32, gamma: impl Fn(usize) -> f32) -> Self {
        let mut random = SplitMix64::new(7);
        let mut values = |count: usize, scale: f32| -> Vec<f32> {
            (0..count).map(|_| normal(&mut random) * scale).collect()
        };
        let noise = values(WIDTH, 0.1);
        Problem {
            rows: values(ROWS * WIDTH, 1.0).iter().enumerate().map(|(at, x)| shape(at % WIDTH, *x)).collect(),
            gamma: noise.iter().enumerate().map(|(column, noise)| gamma(column) * (1.0 + noise)).collect(),
            beta: values(WIDTH, 0.2),
            weight: values(FEATURES * WIDTH, (WIDTH as f32).powf(-0.5)),
            bias: values(FEATURES, 0.1),
        }
    }

    /// The normalised rows in f64.
    fn exact_norm(&self, rows: &[f32]) -> Vec<f64> {
        let mut all = Vec::new();
        for row in rows.chunks(WIDTH) {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / WIDTH as f64;
            let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / WIDTH as f64;
            let scale = 1.0 / (variance + f64::from(EPSILON)).sqrt();
            let parameters = self.gamma.iter().zip(&self.beta);
            all.extend(row.iter().zip(parameters).map(|(x, (gamma, beta))| {
                (f64::from(*x) - mean) * scale * f64::from(*gamma) + f64::from(*beta)
            }));
        }
        all
    }

    fn exact(&self) -> Vec<f64> {
        let rows = self.exact_norm(&self.rows);
        let products = rows.chunks(WIDTH).flat_map(|row| {
            self.weight.chunks(WIDTH).zip(&self.bias).map(move |(weight, bias)| {
                row.iter().zip(weight).map(|(x, w)| x * f64::from(*w)).sum::<f64>() + f64::from(*bias)
            })
        });
        products.collect()
    }

    /// The rows rounded, a norm whose result is rounded, a product with rounded weights in f32; also the norm's result.
    fn plain(&self, round: Round) -> (Vec<f32>, Vec<f32>) {
        let rows: Vec<f32> = self.rows.iter().map(|x| round(*x)).collect();
        let normed: Vec<f32> = self.exact_norm(&rows).iter().map(|x| round(*x as f32)).collect();
        let weight: Vec<f32> = self.weight.iter().map(|w| round(*w)).collect();
        (products(&normed, &weight, |_, feature, sum| sum + self.bias[feature]), normed)
    }

    /// As the kernels do it with a deferred norm; also the residual.
    fn deferred(&self, round: Round) -> (Vec<f32>, Vec<f32>) {
        let rows: Vec<f32> = self.rows.iter().map(|x| round(*x)).collect();
        let norms: Vec<(f32, f32)> = self.rows.chunks(WIDTH).map(merged).collect();
        let weight: Vec<f32> = centred(self.weight.clone(), &self.gamma).into_iter().map(round).collect();
        let shift = self.weight.chunks(WIDTH).zip(&self.bias);
        let shift: Vec<f32> = shift.map(|(w, bias)| (dot(w, &self.beta) + f64::from(*bias)) as f32).collect();
        let product = products(&rows, &weight, |row, feature, sum| sum.mul_add(norms[row].0, shift[feature]));
        let residual = rows.iter().enumerate().map(|(at, x)| {
            let (scale, shift) = norms[at / WIDTH];
            x.mul_add(scale, shift).mul_add(self.gamma[at % WIDTH], self.beta[at % WIDTH])
        });
        (product, residual.collect())
    }

    /// Relative errors of product and residual, plain and deferred.
    fn errors(&self, round: Round) -> [(f64, f64); 2] {
        let (exact, norm) = (self.exact(), self.exact_norm(&self.rows));
        [self.plain(round), self.deferred(round)]
            .map(|(product, residual)| (distance(&product, &exact), distance(&residual, &norm)))
    }
}

/// Scale and shift of a row by the statistics of its chunks, as in `row_stats.cuh`: of the values before rounding.
fn merged(row: &[f32]) -> (f32, f32) {
    let chunks = row.chunks(CHUNK).map(|chunk| {
        let (sum, squares) =
            chunk.iter().fold((0f32, 0f32), |(sum, squares), x| (sum + x, x.mul_add(*x, squares)));
        let mean = sum * (1.0 / CHUNK as f32);
        (mean, (-sum).mul_add(mean, squares).max(0.0))
    });
    let chunks: Vec<(f32, f32)> = chunks.collect();
    let first = chunks[0].0;
    let (mut sum, mut squares, mut within) = (0f32, 0f32, 0f32);
    for (mean, inside) in &chunks {
        let distance = mean - first;
        sum += distance;
        squares = distance.mul_add(distance, squares);
        within += inside;
    }
    let away = sum * (1.0 / chunks.len() as f32);
    let total = (CHUNK as f32).mul_add((-sum).mul_add(away, squares).max(0.0), within);
    let mean = first + away;
    let variance = (total * (1.0 / WIDTH as f32)).max(mean * mean * 2f32.powi(-24));
    let scale = 1.0 / (variance + EPSILON).sqrt();
    (scale, -mean * scale)
}

fn products(rows: &[f32], weight: &[f32], finish: impl Fn(usize, usize, f32) -> f32) -> Vec<f32> {
    let mut all = Vec::new();
    for (row, x) in rows.chunks(WIDTH).enumerate() {
        for (feature, w) in weight.chunks(WIDTH).enumerate() {
            all.push(finish(row, feature, x.iter().zip(w).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))));
        }
    }
    all
}

fn distance(found: &[f32], exact: &[f64]) -> f64 {
    let squares: f64 =
        found.iter().zip(exact).map(|(found, exact)| (f64::from(*found) - exact).powi(2)).sum();
    (squares / exact.iter().map(|exact| exact * exact).sum::<f64>()).sqrt()
}

const OUTLIERS: [usize; 3] = [5, 308, 381];

/// As trained models have them, where deferral loses nothing: outlying columns, damped by gamma or not, and any size.
#[test]
fn ordinary_rows_lose_nothing_by_deferral() {
    let outlying = |column: usize, x: f32| if OUTLIERS.contains(&column) { x + 40.0 } else { x };
    let damped = |column: usize| if OUTLIERS.contains(&column) { 0.02 } else { 1.0 };
    let cases: [(&str, Problem); 7] = [
        ("normal", Problem::new(|_, x| x, |_| 1.0)),
        ("outlying columns", Problem::new(outlying, |_| 1.0)),
        ("damped outlying columns", Problem::new(outlying, damped)),
        (
            "a column of spread 300",
            Problem::new(|column, x| if column == 5 { 300.0 * x } else { x }, |_| 1.0),
        ),
        ("a mean of the size of the spread", Problem::new(|_, x| x + 1.0, |_| 1.0)),
        ("huge values", Problem::new(|_, x| 8e3 * x, |_| 1.0)),
        ("small scales", Problem::new(|_, x| x, |_| 0.02)),
    ];
    for (name, problem) in cases {
        for (round, limit) in [(to_f16 as Round, 6e-4), (to_bf16 as Round, 5e-3)] {
            let [plain, deferred] = problem.errors(round);
            assert!(deferred.0 < limit && deferred.0 < 1.25 * plain.0, "{name}: {deferred:?} {plain:?}");
            assert!(deferred.1 < limit && deferred.1 < 1.5 * plain.1, "{name}: {deferred:?} {plain:?}");
        }
    }
}

/// A mean far above the spread costs accuracy when rows are rounded, whoever normalises them; deferral adds a half to it.
#[test]
fn a_large_mean_costs_a_half_more_than_it_does_anyway() {
    for mean in [10.0, 30.0, 100.0] {
        let problem = Problem::new(|_, x| x + mean, |_| 1.0);
        for round in [to_f16 as Round, to_bf16 as Round] {
            let [plain, deferred] = problem.errors(round);
            assert!(plain.0 > 1e-3, "{mean}: {plain:?}");
            assert!(
                deferred.0 < 1.75 * plain.0 && deferred.1 < 1.1 * plain.1,
                "{mean}: {deferred:?} {plain:?}"
            );
        }
    }
}

/// Statistics in one pass of f32 where all of a row's values are the same: what rounding leaves is not blown up.
#[test]
fn constant_rows_are_normalised_to_nothing() {
    for value in [0.0f32, 1e-3, 3.3, 6e4] {
        let (scale, shift) = merged(&[value; WIDTH]);
        assert!(scale.is_finite() && scale > 0.0 && shift.is_finite(), "{value}: {scale} {shift}");
        assert!((value.mul_add(scale, shift)).abs() < 1e-2, "{value}: {scale} {shift}");
    }
    assert_eq!(merged(&[0.0; WIDTH]).1, 0.0);
}
