//! Matrices that GGUF has multiplied with the numbers of the configuration (Falcon-H1), row by row.
//!
//! Products are rounded to the type of the source: those of f16 one after the other, as the converter of llama.cpp
//! computes them, all others at the end. Blocks and packed layers are decoded.

use std::ops::Range;

use half::{bf16, f16};
use quern_tensor_io::{ElementType, decode};

use crate::Config;
use crate::architecture::{Layout, TensorRole};

use super::View;
use super::data::{Part, read_part};
use super::values::row_bytes;

/// A matrix and what its rows are multiplied with.
#[derive(Debug)]
pub(super) struct Multiplied<'a> {
    pub part: Part<'a>,
    /// How the source stores it; `f32` for packed layers.
    pub stored: ElementType,
    columns: usize,
    /// Of rows that follow each other: the first row behind them, and their factors.
    factors: Vec<(usize, [f32; 2])>,
}

impl<'a> Multiplied<'a> {
    pub fn new(
        (part, stored): (Part<'a>, ElementType),
        config: &Config,
        role: TensorRole,
        [rows, columns]: [usize; 2],
    ) -> Self {
        let mut factors: Vec<(usize, [f32; 2])> = Vec::new();
        for row in 0..rows {
            let own = config.row_factors(role, row);
            match factors.last_mut() {
                Some((end, same)) if *same == own => *end = row + 1,
                _ => factors.push((row + 1, own)),
            }
        }
        Self { part, stored, columns, factors }
    }

    /// The type of its rows.
    pub fn made(&self) -> ElementType {
        made_of(self.stored)
    }

    /// What a row is multiplied with.
    pub fn factor(&self, row: usize) -> f32 {
        let [first, second] = self.of(row);
        first * second
    }

    fn of(&self, row: usize) -> [f32; 2] {
        self.factors.iter().find(|(end, _)| row < *end).map_or([1.0; 2], |(_, own)| *own)
    }

    pub fn read(&self, view: &View<'_>, rows: Range<usize>, out: &mut [u8]) {
        let bytes = row_bytes(self.stored, &[self.columns]);
        let mut held = vec![0; rows.len() * bytes];
        read_part(view, &self.part, None, bytes, rows.clone(), &mut held);
        let mut values = vec![0f32; rows.len() * self.columns];
        // Types without decoder were refused when the view was made.
        let _ = decode::to_f32(self.stored, &held, &mut values);
        let made = self.made();
        let bytes = row_bytes(made, &[self.columns]).max(1);
        let all = values.chunks_exact_mut(self.columns.max(1)).zip(out.chunks_exact_mut(bytes));
        for (row, (values, out)) in rows.zip(all) {
            multiply(self.of(row), made, values);
            match made {
                ElementType::F16 => write(values, out, |v| f16::from_f32(v).to_le_bytes()),
                ElementType::BF16 => write(values, out, |v| bf16::from_f32(v).to_le_bytes()),
                _ => write(values, out, f32::to_le_bytes),
            }
        }
    }
}

/// The type of what is multiplied from this one.
fn made_of(stored: ElementType) -> ElementType {
    match stored {
        plain @ (ElementType::F16 | ElementType::BF16) => plain,
        _ => ElementType::F32,
    }
}

/// Multiplies the values of a row, and rounds them to the type.
fn multiply([first, second]: [f32; 2], made: ElementType, values: &mut [f32]) {
    for value in values {
        *value = match made {
            ElementType::F16 => {
                let once = f16::from_f32(*value * first).to_f32();
                f16::from_f32(once * second).to_f32()
            }
            ElementType::BF16 => bf16::from_f32(*value * first * second).to_f32(),
            _ => *value * first * second,
        };
    }
}

fn write<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (value, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = bytes(*value);
    }
}

impl View<'_> {
    /// Multiplies decoded rows of a tensor, from row `first` on, as GGUF has them; those of most are left as they are.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn multiply_rows(&self, tensor: usize, first: usize, values: &mut [f32]) {
        let tensor = &self.tensors()[tensor];
        let (Some(config), Some(role)) = (self.config(), tensor.role) else { return };
        if tensor.layout != Layout::Multiplied || config.multipliers.is_none() {
            return;
        }
        let made = made_of(tensor.element_type);
        for (row, values) in (first..).zip(values.chunks_exact_mut(tensor.columns().max(1))) {
            multiply(config.row_factors(role, row), made, values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_rounded_as_llama_cpps_converter_rounds_them() {
        let values = |made, value: f32| {
            let mut row = [value];
            multiply([1.3, 0.7], made, &mut row);
            row[0]
        };
        let value = bf16::from_f32(0.337).to_f32();
        assert_eq!(values(ElementType::F32, value), value * 1.3 * 0.7);
        assert_eq!(values(ElementType::BF16, value), bf16::from_f32(value * 1.3 * 0.7).to_f32());
        // Of f16 the first product is rounded as well.
        let value = f16::from_f32(0.337).to_f32();
        let once = f16::from_f32(value * 1.3).to_f32();
        assert_eq!(values(ElementType::F16, value), f16::from_f32(once * 0.7).to_f32());
        assert_eq!(made_of(ElementType::Q4K), ElementType::F32);
    }
}
