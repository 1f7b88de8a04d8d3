//! The matrices that make keys and values of latent vectors, as a GPU takes them: those of all heads after each other, in
//! plain numbers, keys transposed.

use std::sync::Arc;

use quern_compute::parallel::share;
use quern_compute::{LatentMatrices, Linear as Op, Matrix, Uploader, Weight, bytes_of_matrix, get_row};
use quern_model::Latent;
use quern_tensor_io::ElementType;

use super::super::Linear;
use super::latent::Up;
use crate::Result;

/// Both matrices.
#[derive(Clone, Debug)]
pub(super) struct LatentCard {
    /// Of each head `rank` rows of `nope`, the heads' after each other.
    keys: Vec<Op>,
    /// Of each head `value` rows of `rank`, likewise.
    values: Vec<Op>,
}

/// Of a head's matrix: which head, in which order of its columns, and the rows that count.
struct Part<'a> {
    matrix: Matrix<'a>,
    order: Option<Arc<[u32]>>,
    first: usize,
    rows: usize,
}

impl LatentCard {
    /// Bytes that it takes on a GPU.
    pub(super) fn bytes(up: &Up, heads: usize, sizes: &Latent) -> usize {
        let (keys, values) = types(up);
        bytes_of_matrix(keys, heads * sizes.rank, sizes.nope_dim)
            + bytes_of_matrix(values, heads * sizes.value_dim, sizes.rank)
    }

    /// Makes both of matrices in RAM.
    pub(super) fn new(up: &Up, heads: usize, sizes: &Latent, uploader: &mut Uploader) -> Result<Self> {
        let &Latent { rank, nope_dim: nope, value_dim: value, .. } = sizes;
        let (of_keys, of_values) = types(up);
        let mut keys = vec![0u8; heads * rank * nope * of_keys.block_bytes()];
        let mut values = vec![0u8; heads * value * rank * of_values.block_bytes()];
        let parts = (0..heads).map(|head| parts(up, head, sizes)).collect::<Result<Vec<_>>>()?;
        let failed = std::sync::atomic::AtomicBool::new(false);
        let note = |made: Result<(), quern_compute::Error>| {
            if made.is_err() {
                failed.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let each = keys.chunks_exact_mut((rank * nope * of_keys.block_bytes()).max(1));
        let each = each.zip(values.chunks_exact_mut((value * rank * of_values.block_bytes()).max(1)));
        share(
            uploader.pool(),
            parts.iter().zip(each),
            |((own, transposed, of_values_part), (keys, values))| {
                note(own.write(of_keys, *transposed, keys));
                note(of_values_part.write(of_values, false, values));
            },
        );
        if failed.into_inner() {
            // No reader decodes it.
            let element_type = parts.first().map_or(of_keys, |(own, ..)| own.matrix.element_type());
            return Err(quern_compute::Error::Unsupported { element_type }.into());
        }
        let mut moved = |element_type, rows: usize, columns: usize, bytes: Vec<u8>| -> Result<Vec<Op>> {
            let (size, owner) = (bytes.len() / heads.max(1), Arc::new(bytes));
            let one = |head: usize| -> Result<Op> {
                let range = head * size..(head + 1) * size;
                let weight = Weight::host(element_type, rows, columns, owner.clone(), range)?;
                Ok(Op { weight, bias: None, permutation: None })
            };
            let all = (0..heads).map(one).collect::<Result<Vec<_>>>()?;
            Ok(uploader.stack(&all.iter().collect::<Vec<_>>())?)
        };
        Ok(Self { keys: moved(of_keys, rank, nope, keys)?, values: moved(of_values, value, rank, values)? })
    }

    /// A head's keys.
    pub(super) fn keys(&self, head: usize) -> Option<&Op> {
        self.keys.get(head)
    }

    /// As the executor takes them.
    pub(super) fn matrices(&self) -> LatentMatrices<'_> {
        LatentMatrices::Card { keys: &self.keys, values: &self.values }
    }
}

/// The types of keys and values on a GPU: f32 and bf16 as they are, otherwise f16.
fn types(up: &Up) -> (ElementType, ElementType) {
    let plain = |linear: Option<&Linear>| match linear.map(|linear| linear.op.weight.element_type()) {
        Some(plain @ (ElementType::F32 | ElementType::BF16)) => plain,
        _ => ElementType::F16,
    };
    match up {
        Up::Joined { both, .. } => (plain(Some(both)), plain(Some(both))),
        Up::Split { keys, values } => (plain(keys.first()), plain(values.first())),
    }
}

/// A head's keys, whether they must be transposed, and its values.
fn parts<'a>(up: &'a Up, head: usize, sizes: &Latent) -> Result<(Part<'a>, bool, Part<'a>)> {
    let part = |linear: &'a Linear, first, rows| -> Result<Part<'a>> {
        let matrix = linear.op.weight.matrix()?;
        let order = linear.op.permutation.as_ref().map(|order| order.host().cloned()).transpose()?;
        Ok(Part { matrix, order, first, rows })
    };
    let &Latent { rank, nope_dim: nope, value_dim: value, .. } = sizes;
    match up {
        Up::Joined { both, .. } => {
            let first = head * (nope + value);
            Ok((part(both, first, nope)?, true, part(both, first + nope, value)?))
        }
        Up::Split { keys, values } => {
            let missing = || crate::Error::from(quern_compute::Error::Device);
            let (keys, values) = keys.get(head).zip(values.get(head)).ok_or_else(missing)?;
            Ok((part(keys, 0, rank)?, false, part(values, 0, value)?))
        }
    }
}

impl Part<'_> {
    /// Writes its rows in the type `to`, or its columns one after the other.
    fn write(&self, to: ElementType, transposed: bool, out: &mut [u8]) -> Result<(), quern_compute::Error> {
        let (columns, size) = (self.matrix.columns(), to.block_bytes());
        let mut row = vec![0f32; columns];
        for i in 0..self.rows {
            get_row(&self.matrix, self.first + i, &mut row)?;
            for (column, &v) in row.iter().enumerate() {
                let column = self.order.as_ref().map_or(column, |order| order[column] as usize);
                let at = if transposed { column * self.rows + i } else { i * columns + column };
                put(to, v, &mut out[at * size..][..size]);
            }
        }
        Ok(())
    }
}

/// A number in the type `to`.
pub(super) fn put(to: ElementType, v: f32, out: &mut [u8]) {
    match to {
        ElementType::F32 => out.copy_from_slice(&v.to_le_bytes()),
        ElementType::BF16 => out.copy_from_slice(&half::bf16::from_f32(v).to_le_bytes()),
        _ => out.copy_from_slice(&half::f16::from_f32(v).to_le_bytes()),
    }
}
