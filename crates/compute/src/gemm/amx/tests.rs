//! Tests the layouts and the scaling on every machine with a unit in plain Rust, and the matrix unit where there is one.

use std::cell::RefCell;

use quern_tensor_io::ElementType;

use super::floats::{FloatRows, floats_on};
use super::rows::{Block, Rows};
use super::unit::Hardware;
use super::{BLOCK_ROWS, Kind, Sums, Unit, blocks_on, takes, takes_floats};
use crate::activations::Group;
use crate::block::is_known;
use crate::gemm::{self, Form, Packed};
use crate::matmul::Shared;
use crate::simd::Level;
use crate::testing::{Random, fewer, random_row};
use crate::{Matrix, Pool};

/// The specification of a unit.
struct Plain {
    planes: RefCell<Sums>,
    minima: RefCell<[[[f32; 16]; BLOCK_ROWS]; 2]>,
}

impl Plain {
    fn new() -> Self {
        Self { planes: RefCell::new(Sums::ZERO), minima: RefCell::new([[[0.0; 16]; BLOCK_ROWS]; 2]) }
    }
}

/// A number of bf16.
unsafe fn number(p: *const u8) -> f64 {
    // SAFETY: guaranteed by the caller.
    f64::from(f32::from_bits(u32::from(unsafe { p.cast::<u16>().read() }) << 16))
}

/// Rows of 64 bytes of activations times words of weights, all signed.
unsafe fn tile(a: *const i8, b: *const u8, steps: usize) -> [[i32; 16]; BLOCK_ROWS] {
    let mut sums = [[0; 16]; BLOCK_ROWS];
    for step in 0..steps {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                for k in 0..64 {
                    // SAFETY: guaranteed by the caller.
                    let (x, w) = unsafe {
                        (
                            *a.add(step * 1024 + 64 * row + k),
                            *b.add(step * 1024 + k / 4 * 64 + 4 * column + k % 4),
                        )
                    };
                    *sum += i32::from(x) * i32::from(w as i8);
                }
            }
        }
    }
    sums
}

impl Unit for Plain {
    unsafe fn start(&self, a: [*const i8; 2], b: [*const u8; 2], steps: usize) {
        // SAFETY: guaranteed by the caller.
        let tiles = std::array::from_fn(|i| unsafe { tile(a[i / 2], b[i % 2], steps) });
        *self.planes.borrow_mut() = Sums(tiles);
    }

    unsafe fn finish(&self, sums: &mut Sums) {
        *sums = self.planes.borrow().clone();
    }

    unsafe fn start_planes(&self, a: *const i8, planes: [[*const u8; 2]; 2]) {
        // SAFETY: guaranteed by the caller.
        let tiles = std::array::from_fn(|i| unsafe { tile(a, planes[i / 2][i % 2], 4) });
        *self.planes.borrow_mut() = Sums(tiles);
    }

    unsafe fn start_minima(&self, parts: *const u8, minima: [*const u8; 2]) {
        let product = |minima: *const u8, row: usize, column: usize| -> f64 {
            let terms = (0..32).map(|k| {
                let (x, minimum) = (64 * row + 2 * k, k / 2 * 64 + 4 * column + k % 2 * 2);
                // SAFETY: guaranteed by the caller.
                unsafe { number(parts.wrapping_add(x)) * number(minima.wrapping_add(minimum)) }
            });
            terms.sum()
        };
        *self.minima.borrow_mut() = minima.map(|minima| {
            std::array::from_fn(|row| std::array::from_fn(|column| product(minima, row, column) as f32))
        });
    }

    unsafe fn finish_minima(&self, minima: &mut [[[f32; 16]; BLOCK_ROWS]; 2]) {
        *minima = *self.minima.borrow();
    }

    unsafe fn add_product_of_floats(
        &self,
        a: [*const u8; 2],
        b: [*const u8; 2],
        (steps, parts): (usize, usize),
        sums: [*mut f32; 2],
    ) {
        for (block, row, column) in (0..1024).map(|i| (i / 512, i % 512 / 32, i % 32)) {
            let mut total = 0f64;
            for (i, j) in (0..parts).flat_map(|j| (0..3 - j).map(move |i| (i, j))) {
                for k in 0..32 * steps {
                    let (step, k) = (1024 * (k / 32), k % 32);
                    let x = a[block].wrapping_add(8192 * i + step + 64 * row + 2 * k);
                    let word = 8192 * j + step + k / 2 * 64 + 4 * (column % 16) + k % 2 * 2;
                    // SAFETY: guaranteed by the caller.
                    total += unsafe { number(x) * number(b[column / 16].wrapping_add(word)) };
                }
            }
            // SAFETY: guaranteed by the caller.
            unsafe { *sums[block].add(32 * row + column) += total as f32 };
        }
    }
}

fn types() -> impl Iterator<Item = (ElementType, Form, Kind)> {
    let all = ElementType::ALL.iter().copied().filter(|&t| is_known(t));
    all.filter_map(|t| Form::of(t).and_then(|form| Some((t, form, Kind::of(form)?))))
}

/// The product of the vector path, and for each output the sum of the sizes of its terms.
fn expected(w: &Matrix, x: &[f32], n: usize) -> (Vec<f32>, Vec<f32>) {
    let (pool, group) = (Pool::with_level(1, Level::Scalar), Group::of(w.element_type()));
    let mut packed = Packed::default();
    packed.fill(Level::Scalar, &pool, group, x, w.columns(), n);
    let mut y = vec![0f32; n * w.rows()];
    let shared = Shared::new(&mut y);
    for first in (0..w.rows()).step_by(gemm::TASK_ROWS) {
        // SAFETY: nobody else uses y.
        unsafe { gemm::blocks(Level::Scalar, w, first, 1, &packed, n, &shared) };
    }
    let mut sizes = vec![0f32; n * w.rows()];
    let bytes = w.element_type().block_bytes();
    for row in 0..w.rows() {
        let blocks = w.row(row).chunks_exact(bytes).map(|b| crate::block::Block::read(w.element_type(), b));
        let weights: Vec<f32> = blocks
            .flat_map(|b| {
                let len = w.element_type().block_elements();
                (0..len)
                    .map(|i| {
                        let q = b.scale[i / b.sub] * (i32::from(b.codes[i]) - b.zero);
                        (b.d * q as f32).abs() + (b.dmin * b.min[i / b.sub] as f32).abs()
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        for i in 0..n {
            let x = &x[i * w.columns()..][..w.columns()];
            sizes[i * w.rows() + row] = weights.iter().zip(x).map(|(w, x)| w * x.abs()).sum();
        }
    }
    (y, sizes)
}

fn compare(name: &str, y: &[f32], expected: &[f32], sizes: &[f32]) {
    for (at, ((y, e), size)) in y.iter().zip(expected).zip(sizes).enumerate() {
        assert!((y - e).abs() <= size * 1e-6, "{name} {at}: {y} {e} {size}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn products_are_those_of_the_vector_path() {
    let mut random = Random::new(11);
    let (mut units, mut kinds) = (0, Vec::new());
    for (element_type, form, kind) in types() {
        kinds.push(kind);
        let columns = 512;
        for (rows, extreme) in [(70, false), (32, true)] {
            let data: Vec<u8> =
                (0..rows).flat_map(|_| random_row(&mut random, element_type, columns, extreme)).collect();
            let w = Matrix::new(element_type, rows, columns, &data).unwrap();
            for n in [9, 16, 32, 37] {
                let x: Vec<f32> = (0..n * columns)
                    .map(|_| if extreme { random.sign() * 3.0 } else { random.float() })
                    .collect();
                let (e, sizes) = expected(&w, &x, n);
                for level in Level::available() {
                    let pool = Pool::with_level(2, level);
                    let mut packed = Rows::default();
                    packed.fill(level, &pool, &x, columns, n);
                    let mut results = Vec::new();
                    let mut run = |unit: &dyn Fn(usize, &Shared)| {
                        let mut y = vec![f32::NAN; n * rows];
                        let shared = Shared::new(&mut y);
                        (0..rows).step_by(2 * gemm::TASK_ROWS).for_each(|first| unit(first, &shared));
                        compare(&format!("{element_type} {level:?} {n}"), &y, &e, &sizes);
                        results.push(y);
                    };
                    let form = (form, kind);
                    // SAFETY: nobody else uses y.
                    run(&|first, y| unsafe {
                        let plain = Plain::new();
                        blocks_on(&plain, level, form, &w, (first, 2), &packed, n, y);
                    });
                    if let Some(unit) = Hardware::new() {
                        units += 1;
                        // SAFETY: nobody else uses y.
                        run(&|first, y| unsafe {
                            blocks_on(&unit, level, form, &w, (first, 2), &packed, n, y);
                        });
                        assert_eq!(results[0], results[1], "{element_type}: the unit gives other bits");
                    }
                }
            }
        }
    }
    assert_eq!(kinds.len(), 15, "{kinds:?}");
    assert_eq!(units > 0, Level::best() == Level::Amx);
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn products_of_floats_are_those_of_f32() {
    use ElementType as T;
    let mut random = Random::new(12);
    for element_type in [T::F32, T::F16, T::BF16, T::F8E4M3] {
        let (rows, columns) = (41, 300);
        let data: Vec<u8> =
            (0..rows).flat_map(|_| random_row(&mut random, element_type, columns, false)).collect();
        let w = Matrix::new(element_type, rows, columns, &data).unwrap();
        for n in [16, 45] {
            let x: Vec<f32> = (0..n * columns).map(|_| random.float()).collect();
            let mut exact = vec![(0f64, 0f64); n * rows];
            for row in 0..rows {
                let mut weights = vec![0f32; columns];
                crate::get_row(&w, row, &mut weights).unwrap();
                for i in 0..n {
                    let terms = weights.iter().zip(&x[i * columns..][..columns]);
                    let terms = terms.map(|(w, x)| f64::from(*w) * f64::from(*x));
                    exact[i * rows + row] =
                        terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                }
            }
            let (pool, mut packed) = (Pool::with_level(2, Level::best()), FloatRows::default());
            packed.fill(Level::best(), &pool, &x, columns, n);
            let check = |name: &str, run: &dyn Fn(usize, &Shared)| {
                let mut y = vec![f32::NAN; n * rows];
                let shared = Shared::new(&mut y);
                (0..rows).step_by(2 * gemm::TASK_ROWS).for_each(|first| run(first, &shared));
                for (at, (y, (sum, size))) in y.iter().zip(&exact).enumerate() {
                    let off = (f64::from(*y) - sum).abs();
                    assert!(off <= size * 3e-7, "{element_type} {name} {n} {at}: {y} {sum}");
                }
            };
            // SAFETY: nobody else uses y.
            check("plain", &|first, y| unsafe {
                floats_on(&Plain::new(), Level::best(), &w, (first, 2), &packed, n, y);
            });
            if let Some(unit) = Hardware::new() {
                // SAFETY: nobody else uses y.
                check("unit", &|first, y| unsafe {
                    floats_on(&unit, Level::best(), &w, (first, 2), &packed, n, y);
                });
            }
        }
    }
}

#[test]
fn sums_are_taken_apart_exactly() {
    let columns = 256;
    for value in [-1.0f32, 1.0, 0.37, 0.0] {
        let x: Vec<f32> = (0..16 * columns)
            .map(|i| if i % 19 == 0 { 1.0 } else { value * (i % 5) as f32 * 0.25 })
            .collect();
        for level in fewer(&Level::available().collect::<Vec<_>>(), 1).iter().copied() {
            let (pool, mut rows) = (Pool::with_level(1, level), Rows::default());
            rows.fill(level, &pool, &x, columns, 16);
            let block: &Block = &rows.blocks(0)[0];
            for row in 0..16 {
                for j in 0..16 {
                    let codes = &block.codes[j / 4][row][16 * (j % 4)..][..16];
                    let sum: i32 = codes.iter().map(|&c| i32::from(c)).sum();
                    let parts = block.parts[row][j].map(|part| f32::from_bits(u32::from(part) << 16));
                    assert_eq!(parts[0] + parts[1], sum as f32);
                    assert!(parts[0] % 16.0 == 0.0 && (0.0..16.0).contains(&parts[1]));
                }
            }
        }
    }
}

#[test]
fn which_products_the_unit_takes() {
    assert!(takes(Level::Amx, ElementType::Q4K, 512) && takes(Level::Amx, ElementType::Q2K, 16));
    assert!(!takes(Level::Amx, ElementType::Q4_0, 512) && !takes(Level::Amx, ElementType::Q8_0, 512));
    assert!(!takes(Level::Amx, ElementType::Q4K, 3) && !takes(Level::Avx512Vnni, ElementType::Q4K, 512));
    assert!(!takes(Level::Amx, ElementType::F16, 512) && !takes(Level::Amx, ElementType::NVFP4, 512));
    assert!(
        takes_floats(Level::Amx, 512) && !takes_floats(Level::Amx, 3) && !takes_floats(Level::Avx512, 512)
    );
}
