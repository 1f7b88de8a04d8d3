//! Matrices of Hugging Face's files whose rows GGUF has in several tensors: gate and up projection, or queries, keys, values
//! and gates of a delta net.
//!
//! Rows of one type are taken as they are, blocks too; those of several types are decoded.

use std::collections::HashMap;
use std::ops::Range;

use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Result, decode};

use crate::Config;
use crate::architecture::{TensorRole as Role, TensorTemplate};
use crate::config::ExpectedTensor;
use crate::contents::Place;

use super::data::{Data, Part, read_part};
use super::order::RowOrder;
use super::values::{row_bytes, tensor_of, undecodable};
use super::{View, ViewTensor};

/// Where the tensors of a checkpoint are, by role and layer.
pub(super) type Places = HashMap<(Role, Option<usize>), Place>;

/// A matrix made of the rows of others.
#[derive(Debug)]
pub(super) struct Joined<'a> {
    parts: Vec<(Part<'a>, ElementType)>,
    /// The type of its rows.
    made: ElementType,
    columns: usize,
    /// Of each row the part and the row there.
    rows: Vec<(u32, u32)>,
}

impl<'a> Joined<'a> {
    /// The tensor `want` of Hugging Face, if GGUF has parts of it in its place.
    ///
    /// # Errors
    /// A part is of a type that cannot be decoded, and another of another type.
    pub fn tensor(
        (checkpoint, packing): (&'a Checkpoint, Option<&Packing>),
        config: &Config,
        want: &ExpectedTensor,
        places: &Places,
    ) -> Result<Option<(ViewTensor, Data<'a>)>> {
        if places.contains_key(&(want.role, want.layer)) {
            return Ok(None);
        }
        let &[height, columns] = want.shape.as_slice() else { return Ok(None) };
        let of_it = |t: &&TensorTemplate| t.whole() == Some(want.role);
        let (mut parts, mut names) = (Vec::new(), Vec::new());
        let (mut rows, mut packed) = (vec![None; height], false);
        for template in config.architecture.tensors.iter().filter(of_it) {
            let Some(&place) = places.get(&(template.role, want.layer)) else { continue };
            let (part, stored) = match place {
                Place::Plain(span) => {
                    let info = span.info(checkpoint);
                    names.push(info.name.clone());
                    (Part::Bytes(span.data(checkpoint)), info.element_type)
                }
                Place::Packed(layer) | Place::PackedRows { layer, .. } => {
                    let Some(held) = packing.and_then(|p| p.layers().get(layer)) else { continue };
                    names.push(held.name.clone());
                    packed = true;
                    (Part::Packed { layer, first: 0, form: None }, ElementType::F32)
                }
                // Of Hugging Face's files alone.
                Place::Woven(_) => continue,
            };
            let Some(order) = RowOrder::from_hugging_face(template, config) else { continue };
            let count = template.shape.first().map_or(0, |&dim| config.size(dim));
            for row in 0..count {
                if let Some(place) = rows.get_mut(order.source(row)) {
                    *place = Some((parts.len() as u32, row as u32));
                }
            }
            parts.push((part, stored));
        }
        // A part is missing, which the contents have reported.
        let Some(rows) = rows.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let first = parts.first().map_or(ElementType::F32, |(_, stored)| *stored);
        let made = if parts.iter().all(|(_, stored)| *stored == first) { first } else { ElementType::F32 };
        for ((_, stored), name) in parts.iter().zip(&names) {
            if *stored != made
                && !decode::can_decode(*stored)
                && let Some(info) = checkpoint.tensors().iter().find(|info| info.name == *name)
            {
                return Err(undecodable(checkpoint, info));
            }
        }
        let tensor = ViewTensor { packed, ..tensor_of(want, made, names) };
        Ok(Some((tensor, Data::Joined(Self { parts, made, columns, rows }))))
    }

    /// Some rows, in the type that is made.
    pub fn read(&self, view: &View<'_>, rows: Range<usize>, out: &mut [u8]) {
        let bytes = row_bytes(self.made, &[self.columns]).max(1);
        let (mut rest, mut at) = (out, rows.start);
        while at < rows.end {
            let (part, first) = self.rows[at];
            // Rows that follow each other there as well.
            let next = |&row: &usize| self.rows[row] == (part, first + (row - at) as u32);
            let count = (at..rows.end).take_while(next).count();
            let (own, others) = rest.split_at_mut(count * bytes);
            let source = first as usize..first as usize + count;
            let (part, stored) = &self.parts[part as usize];
            if *stored == self.made {
                read_part(view, part, None, bytes, source, own);
            } else {
                let stored_bytes = row_bytes(*stored, &[self.columns]);
                let mut held = vec![0; count * stored_bytes];
                read_part(view, part, None, stored_bytes, source, &mut held);
                let mut values = vec![0f32; count * self.columns];
                // Types without decoder were refused when the view was made.
                let _ = decode::to_f32(*stored, &held, &mut values);
                for (out, value) in own.as_chunks_mut().0.iter_mut().zip(values) {
                    *out = f32::to_le_bytes(value);
                }
            }
            rest = others;
            at += count;
        }
    }

    /// All bytes of the map that it is made of, once its last row is read.
    pub fn spans(&self, last: bool) -> Vec<&'a [u8]> {
        let parts = self.parts.iter().filter(|_| last);
        parts
            .filter_map(|(part, _)| match part {
                Part::Bytes(data) | Part::Woven { data, .. } => Some(*data),
                Part::Packed { .. } => None,
            })
            .collect()
    }
}
