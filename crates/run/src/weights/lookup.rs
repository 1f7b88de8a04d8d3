//! Looks tensors up by role in a [`View`] of the checkpoint as it is stored.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use quern_compute::{Norm, NormKind, Permutation, Pool, Vector};
use quern_model::architecture::{self, Layout};
use quern_model::contents::{Place, Woven};
use quern_model::{Config, TensorRole, View, ViewTensor};
use quern_tensor_io::scheme::PackedLayer;
use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, decode};

use super::{Linear, Mapped, Weight};
use crate::Result;
use crate::load::{LoadIn, PlainMatrix, encoded, in_file, repacked, unpacked};

type Key = (TensorRole, Option<usize>, Option<usize>);

pub(super) struct Lookup<'v, 'a> {
    view: &'v View<'a>,
    open: &'v Arc<Checkpoint>,
    config: &'v Config,
    by_role: HashMap<Key, usize>,
    load_in: Option<&'v dyn LoadIn>,
    pool: &'v Pool,
    /// Bytes found so far.
    bytes: Cell<u64>,
}

/// A tensor's rows as the checkpoint holds them.
enum Stored<'v> {
    Plain(Mapped, ElementType),
    /// Rows of a packed layer.
    Packed(&'v PackedLayer, Range<usize>),
    /// With other values between them.
    Woven(Woven, ElementType),
}

impl<'v, 'a> Lookup<'v, 'a> {
    /// `open` is the checkpoint that `view` is of.
    pub fn new(
        view: &'v View<'a>,
        open: &'v Arc<Checkpoint>,
        config: &'v Config,
        load_in: Option<&'v dyn LoadIn>,
        pool: &'v Pool,
    ) -> Self {
        let roles = view.tensors().iter().enumerate();
        let by_role = roles.filter_map(|(i, t)| Some(((t.role?, t.layer, t.part), i))).collect();
        Self { view, open, config, by_role, load_in, pool, bytes: Cell::new(0) }
    }

    fn checkpoint(&self) -> &'a Checkpoint {
        self.view.checkpoint()
    }

    /// The threads that prepare what is loaded.
    pub fn pool(&self) -> &'v Pool {
        self.pool
    }

    /// Whether networks have gates.
    pub fn gated(&self) -> bool {
        self.config.architecture.gated
    }

    /// Bytes of all matrices found.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether the model has such a tensor (or its first part).
    pub fn has(&self, role: TensorRole, layer: Option<usize>) -> bool {
        [None, Some(0)].into_iter().any(|part| self.by_role.contains_key(&(role, layer, part)))
    }

    /// Whether this checkpoint has queries, keys and values of each key head together.
    pub fn by_group(&self, role: TensorRole, layer: Option<usize>) -> bool {
        self.find(role, layer, None).is_some_and(|t| t.layout == Layout::QkvByHead)
    }

    fn find(&self, role: TensorRole, layer: Option<usize>, part: Option<usize>) -> Option<&'v ViewTensor> {
        self.by_role.get(&(role, layer, part)).map(|&index| &self.view.tensors()[index])
    }

    /// As [`Self::find`]; an error if there is none. The view has refused checkpoints without a tensor that the
    /// configuration demands, so this is about one that the forward pass wants all the same.
    fn need(&self, role: TensorRole, layer: Option<usize>, part: Option<usize>) -> Result<&'v ViewTensor> {
        self.find(role, layer, part).ok_or_else(|| {
            let named = self.view.config().and_then(|c| c.tensor_name(c.convention, role, layer));
            let name = named.unwrap_or_else(|| format!("{role:?}"));
            let what = "the forward pass of this model needs this tensor and the file does not have it";
            Error::malformed(self.checkpoint().path(), what).with_tensor(name).into()
        })
    }

    fn stored(&self, tensor: &ViewTensor) -> Result<Stored<'v>> {
        match tensor.place {
            Some(Place::Plain(span)) => {
                let place = Mapped { tensor: span.tensor, start: span.start, end: span.start + span.bytes };
                Ok(Stored::Plain(place, tensor.element_type))
            }
            Some(Place::Woven(woven)) => Ok(Stored::Woven(woven, tensor.element_type)),
            Some(place @ (Place::Packed(number) | Place::PackedRows { layer: number, .. })) => {
                match self.view.packing().and_then(|p| p.layers().get(number)) {
                    Some(layer) => {
                        let rows = match place {
                            Place::PackedRows { first, rows, .. } => first..first + rows,
                            Place::Packed(_) | Place::Plain(_) | Place::Woven(_) => 0..layer.rows,
                        };
                        Ok(Stored::Packed(layer, rows))
                    }
                    None => {
                        Err(self.error(tensor, ErrorKind::Malformed("its packed layer is not there".into())))
                    }
                }
            }
            None => Err(self.error(tensor, ErrorKind::Malformed("its rows are not in the file".into()))),
        }
    }

    fn data(&self, place: Mapped) -> &'a [u8] {
        let checkpoint = self.checkpoint();
        &checkpoint.data(&checkpoint.tensors()[place.tensor])[place.start..place.end]
    }

    pub fn matrix(
        &self,
        role: TensorRole,
        layer: Option<usize>,
        part: Option<usize>,
    ) -> Result<(Weight, Option<Arc<[u32]>>)> {
        let tensor = self.need(role, layer, part)?;
        match self.stored(tensor)? {
            Stored::Plain(place, _) => {
                let (rows, columns) = (tensor.rows(), tensor.columns());
                Ok((self.plain(tensor, place, rows, columns)?, None))
            }
            Stored::Woven(woven, element_type) => Ok((self.woven(tensor, woven, element_type)?, None)),
            Stored::Packed(packed, rows) => {
                let bytes = packed.bytes as u64 * rows.len() as u64 / (packed.rows as u64).max(1);
                self.bytes.set(self.bytes.get() + bytes);
                if let Some((load_in, to)) = self.target(tensor) {
                    let weight = repacked(self.checkpoint(), packed, rows, load_in, to, self.pool)?;
                    return Ok((weight, None));
                }
                match in_file(self.open, packed, rows.clone())? {
                    Some(weight) => Ok((weight, None)),
                    None => unpacked(self.checkpoint(), packed, rows, self.pool),
                }
            }
        }
    }

    fn target(&self, tensor: &ViewTensor) -> Option<(&'v dyn LoadIn, ElementType)> {
        self.load_in.and_then(|l| Some((l, l.target(&tensor.name)?)))
    }

    /// The values of a matrix or vector, one after the other.
    fn gathered(&self, tensor: &ViewTensor, woven: &Woven, element_type: ElementType) -> Vec<u8> {
        let (rows, columns, size) = (tensor.rows(), tensor.columns(), element_type.block_bytes());
        let mut made = vec![0; rows * columns * size];
        woven.gather(woven.span.data(self.checkpoint()), 0..rows, (columns, size), &mut made);
        made
    }

    /// A matrix that is copied from where it is stored with other values between its own.
    fn woven(&self, tensor: &ViewTensor, woven: Woven, element_type: ElementType) -> Result<Weight> {
        let (rows, columns) = (tensor.rows(), tensor.columns());
        let data = self.gathered(tensor, &woven, element_type);
        self.bytes.set(self.bytes.get() + data.len() as u64);
        let weight = match self.target(tensor) {
            Some((load_in, target)) => {
                let matrix = PlainMatrix { name: &tensor.name, element_type, rows, columns, data: &data };
                encoded(&matrix, load_in, target, self.pool).map_err(|kind| self.error(tensor, kind))?
            }
            None => Weight::owned(element_type, rows, columns, data)?,
        };
        self.checkpoint().release(woven.span.data(self.checkpoint()).as_ptr_range());
        Ok(weight)
    }

    /// A matrix that is stored as `rows` times `columns` plain values or blocks.
    fn plain(&self, tensor: &ViewTensor, place: Mapped, rows: usize, columns: usize) -> Result<Weight> {
        let element_type = tensor.element_type;
        self.bytes.set(self.bytes.get() + (place.end - place.start) as u64);
        let is_transposed = tensor.layout == Layout::Transposed;
        let data = self.data(place);
        let transposed = is_transposed.then(|| transposed_bytes(element_type, rows, columns, data));
        let (rows, columns) = if is_transposed { (columns, rows) } else { (rows, columns) };
        if let Some((load_in, target)) = self.target(tensor) {
            let data = transposed.as_deref().unwrap_or(data);
            let matrix = PlainMatrix { name: &tensor.name, element_type, rows, columns, data };
            let weight =
                encoded(&matrix, load_in, target, self.pool).map_err(|kind| self.error(tensor, kind))?;
            self.checkpoint().release(self.data(place).as_ptr_range());
            return Ok(weight);
        }
        if !quern_compute::supports(element_type) {
            let what = format!(
                "its element type {element_type} cannot be run; convert the model to f16, q8_0 or a K-quant"
            );
            return Err(self.error(tensor, ErrorKind::Unsupported(what)));
        }
        match transposed {
            Some(made) => {
                self.checkpoint().release(data.as_ptr_range());
                Ok(Weight::owned(element_type, rows, columns, made)?)
            }
            None => Ok(Weight::mapped(self.open, place, element_type, rows, columns)?),
        }
    }

    pub fn linear(&self, role: TensorRole, bias: Option<TensorRole>, layer: Option<usize>) -> Result<Linear> {
        let (weight, permutation) = self.matrix(role, layer, None)?;
        let name = self.need(role, layer, None)?.name.clone();
        let bias = bias.map_or(Ok(None), |bias| self.optional(bias, layer))?;
        Ok(made(name, (role, layer, None), weight, bias, permutation))
    }

    /// A layer with one output, whose weight may be stored as a vector.
    pub fn row(&self, role: TensorRole, layer: usize) -> Result<Linear> {
        let name = self.need(role, Some(layer), None)?.name.clone();
        let values = self.vector(role, Some(layer))?;
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let weight = Weight::owned(ElementType::F32, 1, values.len(), bytes)?;
        Ok(made(name, (role, Some(layer), None), weight, None, None))
    }

    /// One expert's vector, if there is one: a tensor of its own, or a row of that of all.
    fn expert_vector(&self, role: TensorRole, at: Option<usize>, expert: usize) -> Result<Option<Vector>> {
        if let Some(tensor) = self.find(role, at, Some(expert)) {
            return self.values(tensor).map(|values| Some(values.into()));
        }
        let Some(stack) = self.find(role, at, None) else { return Ok(None) };
        let width = stack.columns();
        let values = self.values(stack)?;
        let own = values.get(expert * width..(expert + 1) * width).unwrap_or_default();
        Ok(Some(own.to_vec().into()))
    }

    /// One expert's matrix, a tensor of its own or its part of a stack, and its bias, if it has one.
    pub fn expert(
        &self,
        role: TensorRole,
        bias: Option<TensorRole>,
        at: Option<usize>,
        expert: usize,
    ) -> Result<Linear> {
        let bias = bias.map_or(Ok(None), |bias| self.expert_vector(bias, at, expert))?;
        let linear = |name: &str, weight, permutation| {
            made(name.to_owned(), (role, at, Some(expert)), weight, bias, permutation)
        };
        if let Some(tensor) = self.find(role, at, Some(expert)) {
            let (weight, permutation) = self.matrix(role, at, Some(expert))?;
            return Ok(linear(&tensor.name, weight, permutation));
        }
        let stack = self.need(role, at, None)?;
        let count = stack.shape.first().copied().unwrap_or(1).max(1);
        let place = match self.stored(stack)? {
            Stored::Plain(place, _) => place,
            Stored::Woven(..) => {
                let what = "the values of a stack of experts are not one after the other";
                return Err(self.error(stack, ErrorKind::Malformed(what.into())));
            }
            Stored::Packed(packed, rows) => {
                let height = rows.len() / count;
                let rows = rows.start + expert * height..rows.start + (expert + 1) * height;
                self.bytes.set(self.bytes.get() + (packed.bytes / count) as u64);
                if let Some((load_in, to)) = self.target(stack) {
                    let weight = repacked(self.checkpoint(), packed, rows, load_in, to, self.pool)?;
                    return Ok(linear(&stack.name, weight, None));
                }
                if let Some(weight) = in_file(self.open, packed, rows.clone())? {
                    return Ok(linear(&stack.name, weight, None));
                }
                let (weight, permutation) = unpacked(self.checkpoint(), packed, rows, self.pool)?;
                return Ok(linear(&stack.name, weight, permutation));
            }
        };
        let bytes = (place.end - place.start) / count;
        let start = place.start + expert * bytes;
        let own = Mapped { start, end: start + bytes, ..place };
        let weight = self.plain(stack, own, stack.rows() / count, stack.columns())?;
        Ok(linear(&stack.name, weight, None))
    }

    /// Some rows of a matrix, as a layer.
    pub fn rows_of(&self, role: TensorRole, rows: std::ops::Range<usize>) -> Result<Linear> {
        let tensor = self.need(role, None, None)?;
        let Stored::Plain(place, _) = self.stored(tensor)? else {
            let what = "it is packed, it must be plain numbers or blocks";
            return Err(self.error(tensor, ErrorKind::Malformed(what.into())));
        };
        let bytes = (place.end - place.start) / tensor.rows().max(1);
        let own =
            Mapped { start: place.start + rows.start * bytes, end: place.start + rows.end * bytes, ..place };
        let weight = self.plain(tensor, own, rows.len(), tensor.columns())?;
        Ok(made(tensor.name.clone(), (role, None, None), weight, None, None))
    }

    /// A norm of vectors of this length whose weights are one.
    pub fn plain_norm(&self, length: usize) -> Norm {
        let weight = vec![1.0; length].into();
        Norm { kind: self.norm_kind(), epsilon: self.config.norm_epsilon, weight, bias: None }
    }

    fn norm_kind(&self) -> NormKind {
        match self.config.architecture.norm {
            architecture::Norm::Layer => NormKind::Layer,
            architecture::Norm::Rms => NormKind::Rms,
        }
    }

    /// As the function [`plain_norms`](super::plain_norms).
    pub fn plain_norms(&self) -> bool {
        super::plain_norms(self.config)
    }

    /// A head that is the embedding.
    pub fn tied(&self, weight: Weight) -> Result<Linear> {
        let role = TensorRole::TokenEmbedding;
        let name = self.need(role, None, None)?.name.clone();
        Ok(made(name, (role, None, None), weight, None, None))
    }

    /// A norm and, where the file has one, its bias.
    pub fn norm(&self, role: TensorRole, bias: Option<TensorRole>, layer: Option<usize>) -> Result<Norm> {
        let weight = self.vector(role, layer)?.into();
        let bias = bias.map_or(Ok(None), |bias| self.optional(bias, layer))?;
        Ok(Norm { kind: self.norm_kind(), epsilon: self.config.norm_epsilon, weight, bias })
    }

    /// The same, if the model has one.
    pub fn norm_if(
        &self,
        there: bool,
        role: TensorRole,
        bias: Option<TensorRole>,
        layer: Option<usize>,
    ) -> Result<Option<Norm>> {
        match there {
            true => self.norm(role, bias, layer).map(Some),
            false => Ok(None),
        }
    }

    /// The same, of the residual stream. The stream is kept divided by what multiplies every addition to it, so that
    /// nothing has to be multiplied; its norms then differ in their epsilon alone.
    pub fn stream_norm(
        &self,
        there: bool,
        role: TensorRole,
        bias: Option<TensorRole>,
        layer: Option<usize>,
    ) -> Result<Option<Norm>> {
        let norm = match self.plain_norms() {
            // The second norm of a parallel block is none of them.
            true if role == TensorRole::AttentionNorm2 => None,
            true => Some(self.plain_norm(self.config.hidden_size)),
            false => self.norm_if(there, role, bias, layer)?,
        };
        let square = self.config.residual_multiplier * self.config.residual_multiplier;
        Ok(norm.map(|norm| Norm { epsilon: norm.epsilon / square, ..norm }))
    }

    /// Multiplies what a norm returns: of the norm in front of the head, the logits.
    pub fn scale(&self, norm: &mut Norm, scale: f32) -> Result<()> {
        if scale == 1.0 {
            return Ok(());
        }
        let scaled = |vector: &Vector| -> Result<Vector> {
            Ok(vector.host()?.iter().map(|v| v * scale).collect::<Vec<f32>>().into())
        };
        norm.weight = scaled(&norm.weight)?;
        norm.bias = norm.bias.as_ref().map(scaled).transpose()?;
        Ok(())
    }

    /// A vector, where the model has it.
    pub fn optional(&self, role: TensorRole, layer: Option<usize>) -> Result<Option<Vector>> {
        match self.has(role, layer) {
            true => Ok(Some(self.vector(role, layer)?.into())),
            false => Ok(None),
        }
    }

    /// A vector, or the parts of one, in f32.
    pub fn vector(&self, role: TensorRole, layer: Option<usize>) -> Result<Vec<f32>> {
        let parts = (0..).map(Some).take_while(|&part| self.by_role.contains_key(&(role, layer, part)));
        let mut parts: Vec<Option<usize>> = parts.collect();
        if parts.is_empty() {
            parts.push(None);
        }
        let mut all = Vec::new();
        for part in parts {
            all.append(&mut self.values(self.need(role, layer, part)?)?);
        }
        Ok(all)
    }

    /// The values of a small tensor in f32.
    fn values(&self, tensor: &ViewTensor) -> Result<Vec<f32>> {
        let gathered;
        let (data, element_type) = match self.stored(tensor)? {
            Stored::Plain(place, element_type) => (self.data(place), element_type),
            Stored::Woven(woven, element_type) => {
                gathered = self.gathered(tensor, &woven, element_type);
                (&*gathered, element_type)
            }
            Stored::Packed(..) => {
                let what = "it is packed, it must be plain numbers";
                return Err(self.error(tensor, ErrorKind::Malformed(what.into())));
            }
        };
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        if !decode::to_f32(element_type, data, &mut values) {
            let what = format!("its element type {element_type} cannot be read as numbers");
            return Err(self.error(tensor, ErrorKind::Unsupported(what)));
        }
        if values.iter().any(|v| !v.is_finite()) {
            let what = "it holds NaN or infinite values".into();
            return Err(self.error(tensor, ErrorKind::Malformed(what)));
        }
        match tensor.layout {
            Layout::PlusOne => values.iter_mut().for_each(|v| *v += 1.0),
            Layout::DeltaDecay | Layout::FlatDecay => values.iter_mut().for_each(|v| *v = -v.exp()),
            Layout::Same
            | Layout::QueryHeads
            | Layout::KeyHeads
            | Layout::Transposed
            | Layout::Experts
            | Layout::HeadNorms
            | Layout::QkvByHead
            | Layout::Conv
            | Layout::Flat
            | Layout::DeltaQkv
            | Layout::DeltaConv
            | Layout::DeltaValues
            | Layout::DeltaHeads
            | Layout::DeltaColumns
            | Layout::KeyUp
            | Layout::ValueUp
            | Layout::DeltaInQkv
            | Layout::DeltaInGate
            | Layout::GateRows
            | Layout::UpRows
            | Layout::Multiplied => {}
        }
        Ok(values)
    }

    /// An error about a tensor, with its file and the name it has there.
    fn error(&self, tensor: &ViewTensor, kind: ErrorKind) -> crate::Error {
        self.view.error(tensor, kind).into()
    }
}

/// A linear layer of these tensors.
fn made(
    name: String,
    (role, layer, expert): Key,
    weight: Weight,
    bias: Option<Vector>,
    permutation: Option<Arc<[u32]>>,
) -> Linear {
    let permutation = permutation.map(Permutation::Host);
    let op = quern_compute::Linear { weight: weight.matrix, bias, permutation };
    Linear { name, role, layer, expert, mapped: weight.mapped, op }
}

/// The bytes of a matrix of plain values, transposed.
fn transposed_bytes(element_type: ElementType, rows: usize, columns: usize, data: &[u8]) -> Vec<u8> {
    // Blocks, which Hugging Face's files never have, were refused when the view was made.
    let size = element_type.block_bytes();
    let mut out = vec![0; data.len()];
    for (row, values) in data.chunks_exact((columns * size).max(1)).enumerate() {
        for (column, value) in values.chunks_exact(size).enumerate() {
            out[(column * rows + row) * size..][..size].copy_from_slice(value);
        }
    }
    out
}
