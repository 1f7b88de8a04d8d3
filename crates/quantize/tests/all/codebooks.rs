//! Error feedback for the types with codebooks.

use quern_compute::Pool;
use quern_compute::simd::Level;
use quern_quantize::encode::encode_rows_at;
use quern_quantize::gptq::blocks::{has_feedback, solve_blocks};
use quern_quantize::gptq::{Hessian, Prepared};
use quern_tensor_io::{ElementType, decode};

const TYPES: [ElementType; 5] =
    [ElementType::IQ2XXS, ElementType::IQ2XS, ElementType::IQ2S, ElementType::IQ3XXS, ElementType::IQ3S];
const DAMP: f64 = 0.02;

/// Numbers that look normal, the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        let sum: f32 = (0..6)
            .map(|_| {
                self.0 =
                    self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
            })
            .sum();
        sum * std::f32::consts::SQRT_2
    }
}

/// A layer, and inputs whose columns depend on each other.
struct Case {
    columns: usize,
    rows: usize,
    tokens: usize,
    weights: Vec<f32>,
    inputs: Vec<f32>,
}

impl Case {
    fn new(rows: usize, columns: usize, dead: Option<usize>) -> Self {
        let mut numbers = Numbers(7);
        let weights = (0..rows * columns).map(|_| 0.05 * numbers.next()).collect();
        let tokens = 3 * columns;
        let mut inputs = vec![0f32; tokens * columns];
        for row in inputs.chunks_exact_mut(columns) {
            let common = numbers.next();
            let mut last = 0.0;
            for (j, x) in row.iter_mut().enumerate() {
                last = 0.7 * last + numbers.next();
                *x = (last + 0.3 * common) * (0.3 + (j * 37 % 101) as f32 / 50.0);
            }
            if let Some(dead) = dead {
                row[dead] = 0.0;
            }
        }
        Self { columns, rows, tokens, weights, inputs }
    }

    fn hessian(&self, pool: &Pool) -> Hessian {
        let mut hessian = Hessian::new(self.columns);
        hessian.add(pool, &self.inputs);
        hessian
    }

    /// Half the mean square error of the outputs in f64, with the damping on living columns.
    fn loss(&self, element_type: ElementType, bytes: &[u8], damp: f64) -> f64 {
        let n = self.columns;
        let mut values = vec![0f32; self.weights.len()];
        assert!(decode::to_f32(element_type, bytes, &mut values));
        let diagonal: Vec<f64> =
            (0..n).map(|j| self.inputs.chunks_exact(n).map(|x| f64::from(x[j]).powi(2)).sum()).collect();
        let living = diagonal.iter().filter(|d| **d > 0.0).count();
        let mean = diagonal.iter().sum::<f64>() / living as f64;
        let mut loss = 0.0;
        for (w, q) in self.weights.chunks_exact(n).zip(values.chunks_exact(n)) {
            let error: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
            for x in self.inputs.chunks_exact(n) {
                loss += error.iter().zip(x).map(|(e, x)| e * f64::from(*x)).sum::<f64>().powi(2);
            }
            let own = error.iter().zip(&diagonal).filter(|(_, d)| **d > 0.0).map(|(e, _)| e * e);
            loss += damp * mean * own.sum::<f64>();
        }
        0.5 * loss / self.tokens as f64
    }

    fn solved(&self, pool: &Pool, element_type: ElementType) -> (Vec<u8>, f64) {
        let prepared = Prepared::for_blocks(pool, self.hessian(pool), element_type, DAMP).unwrap();
        assert_eq!(prepared.damp(), DAMP);
        let solution = solve_blocks(pool, &self.weights, self.rows, &prepared, element_type, None).unwrap();
        (solution.bytes, solution.loss)
    }

    fn encoded(&self, pool: &Pool, element_type: ElementType) -> Vec<u8> {
        let importance = self.hessian(pool).diagonal().unwrap();
        let mut bytes = vec![0u8; self.rows * element_type.row_bytes(self.columns).unwrap()];
        let weights = Some(importance.as_slice());
        encode_rows_at(Level::best(), element_type, self.columns, &self.weights, weights, &mut bytes)
            .unwrap();
        bytes
    }
}

#[test]
fn the_bytes_are_what_was_solved_and_better_than_the_encoder_s() {
    let pool = Pool::new(2);
    for dead in [None, Some(300)] {
        let case = Case::new(21, 512, dead);
        for element_type in TYPES {
            assert!(has_feedback(element_type));
            let (bytes, loss) = case.solved(&pool, element_type);
            let found = case.loss(element_type, &bytes, DAMP);
            assert!((found - loss).abs() < 1e-3 * loss, "{element_type}, {dead:?}: {found} is not {loss}");
            let plain = case.loss(element_type, &case.encoded(&pool, element_type), DAMP);
            assert!(loss < 0.75 * plain, "{element_type}, {dead:?}: {loss}, encoder {plain}");
            println!("{element_type} {dead:?}: {loss:.5}, encoder {plain:.5}, {:.3}", loss / plain);
        }
    }
}

#[test]
fn threads_do_not_change_the_bytes() {
    let case = Case::new(150, 256, None);
    for element_type in TYPES {
        let alone = case.solved(&Pool::new(1), element_type);
        assert_eq!(alone, case.solved(&Pool::new(3), element_type), "{element_type}");
    }
}

#[test]
fn a_target_of_the_layer_s_own_shift_is_made_up_for() {
    // M = V H asks for the layer W + V.
    let pool = Pool::new(2);
    let case = Case::new(16, 256, None);
    let n = case.columns;
    let mut numbers = Numbers(99);
    let shift: Vec<f32> = (0..case.weights.len()).map(|_| 0.02 * numbers.next()).collect();
    let mut h = vec![0f64; n * n];
    for x in case.inputs.chunks_exact(n) {
        for (row, a) in h.chunks_exact_mut(n).zip(x) {
            row.iter_mut().zip(x).for_each(|(h, b)| *h += f64::from(*a) * f64::from(*b));
        }
    }
    let mut target = vec![0f32; shift.len()];
    for (to, v) in target.chunks_exact_mut(n).zip(shift.chunks_exact(n)) {
        for (j, to) in to.iter_mut().enumerate() {
            *to = v.iter().enumerate().map(|(i, v)| f64::from(*v) * h[i * n + j]).sum::<f64>() as f32;
        }
    }
    let wanted = Case {
        weights: case.weights.iter().zip(&shift).map(|(w, v)| w + v).collect(),
        inputs: case.inputs.clone(),
        ..Case::new(16, 256, None)
    };
    for element_type in TYPES {
        let prepared = Prepared::for_blocks(&pool, case.hessian(&pool), element_type, DAMP).unwrap();
        let solved = |target| {
            solve_blocks(&pool, &case.weights, case.rows, &prepared, element_type, target).unwrap().bytes
        };
        let with = wanted.loss(element_type, &solved(Some(&target)), 0.0);
        let without = wanted.loss(element_type, &solved(None), 0.0);
        assert!(with < 0.6 * without, "{element_type}: {with}, without target {without}");
    }
}

#[test]
fn rows_of_zeros_and_of_parts_of_blocks() {
    let pool = Pool::new(1);
    let mut case = Case::new(16, 256, None);
    case.weights[..256].fill(0.0);
    for element_type in TYPES {
        let (bytes, _) = case.solved(&pool, element_type);
        let mut values = vec![1f32; case.weights.len()];
        assert!(decode::to_f32(element_type, &bytes, &mut values));
        assert!(values[..256].iter().all(|v| *v == 0.0), "{element_type}");
        let hessian = Hessian::new(128);
        let error = Prepared::for_blocks(&pool, hessian, element_type, DAMP).unwrap_err();
        assert!(error.to_string().contains("whole blocks"), "{error}");
    }
}
