//! Tests unpacking against the description of each block type, and every level's product against the scalar one.

use quern_tensor_io::ElementType;

use super::unpack::Raw;
use super::{COLUMNS, DEPTH, Form, Pack, TASK_ROWS, Tile, multiply, scalar, unpack};
use crate::Matrix;
use crate::block::{Block, is_known};
use crate::simd::Level;
use crate::testing::{Random, random_row};

fn types() -> impl Iterator<Item = ElementType> {
    ElementType::ALL.iter().copied().filter(|&t| is_known(t))
}

#[test]
fn tiles_hold_what_the_blocks_mean() {
    let mut random = Random::new(21);
    for element_type in types().step_by(if cfg!(miri) { 8 } else { 1 }) {
        let form = Form::of(element_type).unwrap();
        let len = element_type.block_elements();
        let columns = DEPTH + if len == 32 { 96 } else { len };
        for rows in [16, 5] {
            let data: Vec<u8> =
                (0..rows).flat_map(|_| random_row(&mut random, element_type, columns, false)).collect();
            let matrix = Matrix::new(element_type, rows, columns, &data).unwrap();
            for depth in 0..2 {
                let mut expected = Tile::ZERO;
                unpack::tile(Level::Scalar, &matrix, 0, depth, &mut { Raw::ZERO }, &mut expected);
                for level in Level::available() {
                    let mut tile = Tile::ZERO;
                    unpack::tile(level, &matrix, 0, depth, &mut { Raw::ZERO }, &mut tile);
                    assert_eq!(tile.codes, expected.codes, "{element_type} {level:?}");
                    assert_eq!(tile.scale, expected.scale, "{element_type} {level:?}");
                    assert_eq!(tile.offset, expected.offset, "{element_type} {level:?}");
                }
                for row in 0..16 {
                    let from = matrix.row(row.min(rows - 1));
                    for i in 0..DEPTH.min(columns - depth * DEPTH) {
                        let at = (depth * DEPTH + i) / len;
                        let bytes = element_type.block_bytes();
                        let block = Block::read(element_type, &from[at * bytes..][..bytes]);
                        let (i_in, j) = (i % len, i % len / block.sub);
                        let q = block.scale[j] * (i32::from(block.codes[i_in]) - block.zero);
                        let value = block.d * q as f32 - block.dmin * block.min[j] as f32;
                        let code = i32::from(expected.codes[i / 4][row].to_le_bytes()[i % 4]);
                        assert!(code <= form.largest, "{element_type}: code {code}");
                        let mut ours = expected.scale[i / form.sub][row] * (code - form.zero) as f32;
                        if let Some(j) = i.checked_div(form.offset) {
                            ours += expected.offset[j][row];
                        }
                        let size = (block.d * q as f32).abs() + (block.dmin * block.min[j] as f32).abs();
                        assert!(
                            (ours - value).abs() <= size * 3e-7,
                            "{element_type} {row} {i}: {ours} {value}"
                        );
                    }
                }
            }
        }
    }
}

fn random_pack(random: &mut Random, extreme: bool) -> Pack {
    let mut pack = Pack::ZERO;
    for codes in pack.codes.as_flattened_mut() {
        *codes = std::array::from_fn(|_| match extreme {
            true => (random.sign() * 127.0) as i8,
            false => ((random.next() % 255) as i16 - 127) as i8,
        });
    }
    for j in 0..16 {
        for column in 0..COLUMNS {
            let codes = (4 * j..4 * j + 4).flat_map(|step| pack.codes[step][column]);
            pack.sums[j][column] = codes.map(i32::from).sum();
        }
    }
    pack.d.as_flattened_mut().iter_mut().for_each(|d| *d = random.float().abs() * 0.1);
    pack
}

#[test]
#[cfg_attr(miri, ignore = "compares levels, and Miri has the scalar one alone")]
fn products_agree_at_every_level() {
    let mut random = Random::new(5);
    for element_type in types() {
        let form = Form::of(element_type).unwrap();
        for extreme in [false, true] {
            let data: Vec<u8> =
                (0..32).flat_map(|_| random_row(&mut random, element_type, DEPTH, extreme)).collect();
            let matrix = Matrix::new(element_type, 32, DEPTH, &data).unwrap();
            let mut tiles = [Tile::ZERO; 2];
            for (half, tile) in tiles.iter_mut().enumerate() {
                unpack::tile(Level::Scalar, &matrix, 16 * half, 0, &mut { Raw::ZERO }, tile);
            }
            let pack = random_pack(&mut random, extreme);
            let before: Vec<f32> = (0..COLUMNS * TASK_ROWS).map(|_| random.float()).collect();
            let mut expected = before.clone();
            scalar::multiply(form, &tiles, &pack, &mut expected);
            // The size of the float terms, for the bound on rounding.
            let size = |row: usize, column: usize| -> f32 {
                let (tile, lane) = (&tiles[row / 16], row % 16);
                let d = |j: usize, sub: usize| pack.d[if form.per32 { j * sub / 32 } else { 0 }][column];
                let terms = (0..DEPTH / form.sub).map(|j| {
                    let integer = scalar::integer(form, tile, lane, &pack, column, j);
                    (integer as f32 * tile.scale[j][lane] * d(j, form.sub)).abs()
                });
                let offsets = (0..16).filter(|_| form.offset != 0).map(|j| {
                    (tile.offset[j * 16 / form.offset][lane] * pack.sums[j][column] as f32 * d(j, 16)).abs()
                });
                terms.chain(offsets).sum::<f32>() + 1.0
            };
            for level in Level::available() {
                for used in 1..=COLUMNS {
                    let mut sums = before.clone();
                    multiply(level, form, &tiles, &pack, used, &mut sums);
                    for column in 0..used {
                        for row in 0..TASK_ROWS {
                            let (y, e) = (sums[column * TASK_ROWS + row], expected[column * TASK_ROWS + row]);
                            let bound = size(row, column) * 4.0 * f32::EPSILON;
                            assert!((y - e).abs() <= bound, "{element_type} {level:?} {used}: {y} {e}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "compares levels, and Miri has the scalar one alone")]
fn integer_sums_are_exact_at_every_level() {
    // Powers of two as scales: floats round nothing as long as sums stay below 2^24.
    let mut random = Random::new(6);
    let forms = types().filter_map(Form::of);
    for form in forms {
        let mut tiles = [Tile::ZERO; 2];
        for tile in &mut tiles {
            let largest = form.largest as u64;
            let codes = tile.codes.as_flattened_mut().iter_mut();
            codes.for_each(|c| {
                *c = u32::from_le_bytes([(); 4].map(|()| (random.next() % (largest + 1)) as u8))
            });
            tile.scale.as_flattened_mut().fill(0.5);
            tile.offset.as_flattened_mut().fill(-0.25);
        }
        let mut pack = random_pack(&mut random, true);
        pack.d.as_flattened_mut().fill(2.0);
        let mut expected = vec![0f32; COLUMNS * TASK_ROWS];
        scalar::multiply(form, &tiles, &pack, &mut expected);
        for level in Level::available() {
            let mut sums = vec![0f32; COLUMNS * TASK_ROWS];
            multiply(level, form, &tiles, &pack, COLUMNS, &mut sums);
            assert_eq!(sums, expected, "{form:?} {level:?}");
        }
    }
}
