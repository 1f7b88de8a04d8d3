//! A checkpoint as the other format would hold it: its tensors under that format's names, in that format's layout,
//! without copying them.
//!
//! ```text
//! Checkpoint ── View::gguf          ──> GGUF names, Q and K rows interleaved, experts stacked, norms plus one
//!            └─ View::hugging_face  ──> the way back: one tensor an expert, rows half-split, norms less one
//! ```
//!
//! A tensor's rows come from the memory map, in the order the other format needs; only small vectors are
//! computed. Packed layers of GPTQ, AWQ, FP8 and bitsandbytes appear as one matrix each: decoded to f32, or as the
//! blocks of GGUF that hold the very same values ([`Packed::Exact`]).

mod data;
mod everything;
mod fused;
mod gguf;
mod hugging_face;
mod joined;
mod latent;
mod multiplied;
mod mxfp4;
mod order;
mod side_by_side;
mod stored;
mod values;

use std::ops::Range;

use quern_tensor_io::scheme::{PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, Container, ElementType, Error, ErrorKind, Metadata, Result};

use crate::Config;
use crate::architecture::{Architecture, Convention, Layout, TensorRole};
use crate::contents::{Contents, Place, Woven};
use data::Data;

pub use side_by_side::{Pair, SideBySide};

/// One tensor as a [`View`] sees it.
#[derive(Clone, Debug)]
pub struct ViewTensor {
    /// Name in the view's format.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The type of the rows that [`View::read`] gives: how the source stores them, f32 for what is decoded or
    /// computed.
    pub element_type: ElementType,
    /// The source's tensors it is made of, in order: one, or one an expert; none for what the view computed
    /// (`rope_freqs.weight`).
    pub sources: Vec<String>,
    /// What it is for; `None` where quern has no description of the architecture.
    pub role: Option<TensorRole>,
    /// Its layer; `None` outside the blocks.
    pub layer: Option<usize>,
    /// Which expert's (or head's) it is, where the view has one tensor for each.
    pub part: Option<usize>,
    /// How the view has its values, compared with GGUF.
    pub layout: Layout,
    /// Where its rows are, if the view has them as the checkpoint does.
    pub place: Option<Place>,
    /// Bytes per row.
    pub row_bytes: usize,
    /// The layer it is made of is packed (GPTQ, AWQ, bitsandbytes).
    pub packed: bool,
    /// What the view does to the numbers themselves; `None` if they stay as they are.
    pub changed: Option<&'static str>,
    /// Rows that are made together: pieces should be whole multiples of so many, from the first row on.
    pub together: usize,
}

impl ViewTensor {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Values per row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// What becomes of packed layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    /// They are refused: the view is for numbers as they were published. Those that models are released in (FP8) are
    /// decoded to f32.
    Refused,
    /// They are decoded to f32.
    Decoded,
    /// They become the GGUF blocks that hold exactly their values; a layer for which there are none is an error
    /// with the reason.
    Exact,
}

/// Any checkpoint as one of the formats would hold it.
#[derive(Debug)]
pub struct View<'a> {
    checkpoint: &'a Checkpoint,
    convention: Convention,
    config: Option<Config>,
    packing: Option<Packing>,
    metadata: Metadata,
    notes: Vec<String>,
    tensors: Vec<ViewTensor>,
    data: Vec<Data<'a>>,
}

impl<'a> View<'a> {
    /// The checkpoint as a GGUF file would hold it. A GGUF file is taken as it is: nothing has to be known of its
    /// architecture. Weights that have a factor in a tensor beside them (NVFP4) are decoded, unless `packed` is
    /// [`Packed::Exact`].
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or unknown; a configuration, tokenizer or quantization that cannot be read
    /// or has no form in GGUF.
    pub fn gguf(checkpoint: &'a Checkpoint, packed: Packed) -> Result<Self> {
        match checkpoint.container() {
            Container::Gguf => stored::gguf(checkpoint, packed),
            Container::Safetensors | Container::PyTorch => gguf::of_hugging_face(checkpoint, packed),
        }
    }

    /// As [`View::gguf`] of plain numbers, for names, shapes and types alone: also of architectures that llama.cpp
    /// does not know. The metadata has the model's sizes and no tokenizer, so no file should be made of it.
    ///
    /// # Errors
    /// As [`View::gguf`], without the tokenizer.
    pub fn gguf_without_tokenizer(checkpoint: &'a Checkpoint) -> Result<Self> {
        match checkpoint.container() {
            Container::Gguf => stored::gguf(checkpoint, Packed::Refused),
            Container::Safetensors | Container::PyTorch => {
                gguf::described(checkpoint, Packed::Refused, |contents| {
                    Ok((crate::gguf::sizes(contents.config()), Vec::new()))
                })
            }
        }
    }

    /// The checkpoint in Hugging Face's layout. A GGUF file must be of an architecture quern knows; with
    /// [`Packed::Exact`] stacks of MXFP4 stay so where the family is released in it. A Hugging Face checkpoint is taken as
    /// it is, except for packed layers, which are decoded (or refused).
    pub fn hugging_face(checkpoint: &'a Checkpoint, packed: Packed) -> Result<Self> {
        match checkpoint.container() {
            Container::Gguf => hugging_face::of_gguf(Contents::read(checkpoint)?, packed),
            Container::Safetensors | Container::PyTorch => stored::hugging_face(checkpoint, packed),
        }
    }

    /// As [`View::hugging_face`], under the names of this family, where GGUF files of it are read as another of the same
    /// name in GGUF (Granite 4 without Mamba-2 as Granite).
    ///
    /// # Errors
    /// As [`View::hugging_face`].
    pub fn hugging_face_as(
        checkpoint: &'a Checkpoint,
        packed: Packed,
        family: &'static Architecture,
    ) -> Result<Self> {
        if checkpoint.container() != Container::Gguf {
            return Self::hugging_face(checkpoint, packed);
        }
        let mut config = Config::from_checkpoint(checkpoint)?;
        if config.architecture.name == family.name {
            config.architecture = family;
        }
        hugging_face::of_gguf(Contents::matched(checkpoint, config, Packing::read(checkpoint)?), packed)
    }

    /// Every tensor that the checkpoint's configuration demands or allows, under the architecture's names and in
    /// the layout the checkpoint has: what runs a model. Each has a [`ViewTensor::place`]; packed layers decode to
    /// f32.
    ///
    /// # Errors
    /// A configuration or quantization that cannot be read; a tensor that is missing, misshapen or unknown.
    pub fn stored(checkpoint: &'a Checkpoint) -> Result<Self> {
        Self::of_contents(Contents::read(checkpoint)?)
    }

    /// As [`View::stored`], of contents that were read before.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or unknown.
    pub fn of_contents(contents: Contents<'a>) -> Result<Self> {
        contents.require_sound()?;
        Ok(stored::described(contents))
    }

    /// As [`View::stored`], with experts as files of the family hold them, be it all in one tensor: what a checkpoint is
    /// made of that keeps them as they are.
    ///
    /// # Errors
    /// As [`View::stored`].
    pub fn for_files(checkpoint: &'a Checkpoint) -> Result<Self> {
        let contents = Contents::read(checkpoint)?;
        contents.require_sound()?;
        Ok(match contents.config().architecture.hf_woven {
            true => fused::as_files(contents),
            false => stored::described(contents),
        })
    }

    /// All that a checkpoint holds, sound or not, in its own format: what the architecture describes under its names,
    /// and the rest as the file has it. For comparisons: what runs a model is [`View::of_contents`].
    pub fn everything(contents: Contents<'a>) -> Self {
        everything::as_stored(contents)
    }

    /// As [`View::everything`], in GGUF's format. Stacks of which a part is missing stay apart, and there is no
    /// metadata.
    ///
    /// # Errors
    /// With [`Packed::Exact`], a layer that no GGUF block holds exactly.
    pub fn everything_as_gguf(contents: Contents<'a>, packed: Packed) -> Result<Self> {
        everything::as_gguf(contents, packed)
    }

    /// The same view with one more thing that a user should know.
    pub fn with_note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// The numbers of the tensors in the order of their places in the files; those without a place last.
    pub fn file_order(&self) -> Vec<usize> {
        let place = |index: &usize| match self.tensors[*index].place {
            Some(Place::Plain(span) | Place::Woven(Woven { span, .. })) => (span.tensor, span.start),
            Some(place @ (Place::Packed(number) | Place::PackedRows { layer: number, .. })) => {
                let layer = self.packing.as_ref().and_then(|p| p.layers().get(number));
                let first = if let Place::PackedRows { first, .. } = place { first } else { 0 };
                (layer.and_then(|l| l.parts.iter().min().copied()).unwrap_or(usize::MAX), first)
            }
            None => (usize::MAX, 0),
        };
        let mut order: Vec<usize> = (0..self.tensors.len()).collect();
        order.sort_by_key(place);
        order
    }

    /// The checkpoint seen.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The format whose names and layout it has.
    pub fn convention(&self) -> Convention {
        self.convention
    }

    /// The checkpoint's configuration; `None` where quern has no description of the architecture, or none was
    /// needed.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The packed layers, where the checkpoint has such.
    pub fn packing(&self) -> Option<&Packing> {
        self.packing.as_ref()
    }

    /// The packed layers that a tensor is made of; none if it is not [`ViewTensor::packed`].
    pub fn packed_layers(&self, tensor: &ViewTensor) -> Vec<&PackedLayer> {
        let layers = self.packing.as_ref().filter(|_| tensor.packed).map_or(&[] as &[_], Packing::layers);
        if let Some(number) = tensor.place.and_then(Place::packed_layer) {
            return layers.get(number).into_iter().collect();
        }
        let packing = self.packing.as_ref();
        tensor.sources.iter().filter_map(|name| packing?.layer(name)).collect()
    }

    /// Whether a tensor has queries, keys and values of each key head together, of a family that has them apart: it is read
    /// as plain numbers alone.
    pub fn is_together(&self, tensor: &ViewTensor) -> bool {
        let config = self.config.as_ref().filter(|config| config.convention == Convention::HuggingFace);
        config.and_then(|config| fused::grouped(config, tensor.role?)).is_some_and(|(name, _)| {
            name.rsplit_once("{layer}").is_some_and(|(_, end)| tensor.name.ends_with(end))
        })
    }

    /// How the checkpoint stores a tensor: an element type, or a scheme and its bits (`gptq 4-bit`); `computed` for
    /// what it does not hold.
    pub fn stored_as(&self, tensor: &ViewTensor) -> String {
        if let (Some(layer), Some(packing)) = (self.packed_layers(tensor).first(), &self.packing) {
            return packing.stored_as(layer);
        }
        let plain = tensor.sources.first().and_then(|name| self.checkpoint.tensor(name));
        plain.map_or_else(|| "computed".to_owned(), |t| t.info.element_type.name().to_owned())
    }

    /// The metadata to write: GGUF's or safetensors', by the view's format.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What a user should know of the translation.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tensors. In GGUF's format in the order llama-quantize writes them: outside the blocks first, then by
    /// layer, each by name.
    pub fn tensors(&self) -> &[ViewTensor] {
        &self.tensors
    }

    /// The bytes of some rows, in the tensor's element type: `out` is `row_bytes` a row.
    ///
    /// # Panics
    /// If there is no such tensor or row, or `out` has another length.
    pub fn read(&self, tensor: usize, rows: Range<usize>, out: &mut [u8]) {
        let described = &self.tensors[tensor];
        assert_eq!(out.len(), rows.len() * described.row_bytes, "rows {rows:?} of {}", described.name);
        self.data[tensor].read(self, described, rows, out);
    }

    /// Where the rows of one matrix of a tensor are in the checkpoint: row `i` of the view is row `order[i]` of the
    /// checkpoint's matrix. `None` if both have them in the same order.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn row_order(&self, tensor: usize) -> Option<Vec<u32>> {
        self.data[tensor].order(self.tensors[tensor].rows())
    }

    /// What the rows of a tensor are the checkpoint's times; `None` if they are the checkpoint's.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn row_factors(&self, tensor: usize) -> Option<Vec<f32>> {
        self.data[tensor].row_factors(self.tensors[tensor].rows())
    }

    /// Where the columns of a tensor are in the checkpoint: column `i` of the view is column `order[i]` of the
    /// checkpoint's matrix. `None` if both have them in the same order.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn column_order(&self, tensor: usize) -> Option<Vec<u32>> {
        self.data[tensor].column_order(self.tensors[tensor].columns())
    }

    /// The values of some rows: `out` is `[rows][columns]`. Returns false, with `out` unchanged, if quern cannot
    /// decode the element type.
    ///
    /// # Panics
    /// If there is no such tensor or row, or `out` has another length.
    pub fn decode(&self, tensor: usize, rows: Range<usize>, out: &mut [f32]) -> bool {
        let described = &self.tensors[tensor];
        assert_eq!(out.len(), rows.len() * described.columns(), "rows {rows:?} of {}", described.name);
        self.data[tensor].decode(self, described, rows, out)
    }

    /// All bytes of a tensor, if the map already holds them in this format's order.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn contiguous(&self, tensor: usize) -> Option<&[u8]> {
        self.data[tensor].contiguous()
    }

    /// As [`View::contiguous`].
    ///
    /// # Errors
    /// The map does not hold the bytes so.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn require_contiguous(&self, tensor: usize) -> Result<&[u8]> {
        self.contiguous(tensor).ok_or_else(|| {
            let what = "its values are not one after the other in the file";
            self.error(&self.tensors[tensor], ErrorKind::Malformed(what.into()))
        })
    }

    /// An error about a tensor of this view, with its file and the name it has there.
    pub fn error(&self, tensor: &ViewTensor, kind: ErrorKind) -> Error {
        let name = tensor.sources.first().unwrap_or(&tensor.name);
        let info = self.checkpoint.tensor(name).map(|t| t.info);
        let file = info.map_or(self.checkpoint.path(), |info| self.checkpoint.file_of(info));
        Error::new(file, kind).with_tensor(name)
    }

    /// Releases the pages of the source that these rows came from.
    ///
    /// # Panics
    /// If there is no such tensor or row.
    pub fn release(&self, tensor: usize, rows: Range<usize>) {
        for span in self.data[tensor].spans(self, &self.tensors[tensor], rows) {
            self.checkpoint.release(span.as_ptr_range());
        }
    }
}
