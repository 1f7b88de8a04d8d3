//! Tensors under their GGUF names, in GGUF's row order, straight from the memory map.

use std::collections::HashSet;

use quern_tensor_io::{Checkpoint, Container, ElementType, Error, Metadata, Result, Tensor, TensorInfo};

use crate::architecture::{RowOrder, TensorRole, World};
use crate::architectures;
use crate::config::{Config, ExpectedTensor};

use super::gguf_metadata;
use super::metadata::own_metadata;

/// One tensor as GGUF sees it.
#[derive(Clone, Debug)]
pub struct ViewTensor {
    /// GGUF name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How the source stores it.
    pub element_type: ElementType,
    /// Its name in the source; `None` for a tensor the view computed (`rope_freqs.weight`).
    pub source_name: Option<String>,
    /// What it is for; `None` in a GGUF file of an architecture quern has no description of.
    pub role: Option<TensorRole>,
    /// Its layer; `None` outside the blocks.
    pub layer: Option<usize>,
    /// Bytes per row.
    pub row_bytes: usize,
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

/// Any checkpoint as a GGUF file would hold it.
#[derive(Debug)]
pub struct GgufView<'a> {
    checkpoint: &'a Checkpoint,
    config: Option<Config>,
    metadata: Metadata,
    tensors: Vec<ViewTensor>,
    data: Vec<Data<'a>>,
}

/// Where a tensor's bytes are.
#[derive(Debug)]
enum Data<'a> {
    /// In the map, rows in order.
    Mapped(&'a [u8]),
    /// In the map, each head's rows in half-split order; heads have this many rows.
    HalfSplit(&'a [u8], usize),
    /// Computed here, small.
    Owned(Vec<u8>),
}

impl<'a> GgufView<'a> {
    /// Looks at `checkpoint` the GGUF way. A tensor missing or left over, or of another shape than the
    /// configuration demands, is an error, and so is a quantized Hugging Face checkpoint. A GGUF file of an
    /// architecture quern has no description of is taken as it is: nothing has to be known of it to choose
    /// other element types.
    pub fn new(checkpoint: &'a Checkpoint) -> Result<Self> {
        if checkpoint.container() == Container::Gguf {
            let metadata = checkpoint.metadata();
            let undescribed = |name: &str| {
                // The llama family's mixtures of experts have tensors its description does not list yet.
                let experts = metadata.u64(&format!("{name}.expert_count")).unwrap_or(0);
                architectures::from_gguf_name(name).is_none() || experts > 0
            };
            if metadata.str("general.architecture").is_some_and(undescribed) {
                return Self::as_it_is(checkpoint);
            }
        }
        let config = Config::from_checkpoint(checkpoint)?;
        if let Some(method) = &config.quantization {
            let what = format!(
                "this checkpoint is already quantized with {method}; reading such a one as GGUF is not supported yet"
            );
            return Err(Error::unsupported(checkpoint.path(), what));
        }
        let expected = config.expected_tensors(config.world);
        refuse_unexpected(checkpoint, &config, &expected)?;

        let mut all = Vec::with_capacity(expected.len() + 1);
        for want in &expected {
            let Some(tensor) = checkpoint.tensor(&want.name) else {
                if want.optional {
                    continue;
                }
                let what = format!("the tensor is missing ({})", config.architecture.name);
                return Err(Error::malformed(checkpoint.path(), what).with_tensor(&want.name));
            };
            all.push(look_at(checkpoint, &config, want, tensor)?);
        }
        let wanted = config.expected_tensors(World::Gguf);
        for want in wanted.iter().filter(|w| w.role == TensorRole::RopeFactors) {
            if let (World::HuggingFace, Some(factors)) = (config.world, &config.rope.factors) {
                let bytes = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
                all.push((described(want, ElementType::F32, None, 4 * factors.len()), Data::Owned(bytes)));
            }
        }
        // llama-quantize's order: by layer, those outside first, then by name.
        all.sort_by(|(a, _), (b, _)| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
        let metadata = gguf_metadata(checkpoint, &config)?;
        let (tensors, data) = all.into_iter().unzip();
        Ok(Self { checkpoint, config: Some(config), metadata, tensors, data })
    }

    /// A GGUF checkpoint tensor by tensor.
    fn as_it_is(checkpoint: &'a Checkpoint) -> Result<Self> {
        let mut all = Vec::with_capacity(checkpoint.tensors().len());
        for info in checkpoint.tensors() {
            let row_bytes = info.element_type.row_bytes(info.columns()).ok_or_else(|| {
                Error::malformed(checkpoint.path(), "the row has no whole blocks").with_tensor(&info.name)
            })?;
            let tensor = ViewTensor {
                name: info.name.clone(),
                shape: info.shape.clone(),
                element_type: info.element_type,
                source_name: Some(info.name.clone()),
                role: None,
                layer: layer_of(&info.name),
                row_bytes,
            };
            all.push((tensor, Data::Mapped(checkpoint.data(info))));
        }
        all.sort_by(|(a, _), (b, _)| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
        let (tensors, data) = all.into_iter().unzip();
        Ok(Self { checkpoint, config: None, metadata: own_metadata(checkpoint), tensors, data })
    }

    /// The checkpoint seen.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The checkpoint's configuration; `None` for a GGUF file of an architecture quern has no description of.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The metadata to write.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in the order llama-quantize writes them: outside the blocks first, then by layer, each by name.
    pub fn tensors(&self) -> &[ViewTensor] {
        &self.tensors
    }

    /// The bytes of one row, in the source's element type, straight from the memory map.
    ///
    /// # Panics
    /// If there is no such tensor or row.
    pub fn row(&self, tensor: usize, row: usize) -> &[u8] {
        let bytes = self.tensors[tensor].row_bytes;
        let (data, row) = match &self.data[tensor] {
            Data::Mapped(data) => (*data, row),
            Data::HalfSplit(data, head) => (*data, half_split_row(row, *head)),
            Data::Owned(data) => (data.as_slice(), row),
        };
        &data[row * bytes..(row + 1) * bytes]
    }

    /// All bytes of a tensor, if they lie in GGUF's order already (all but the llama family's Q and K).
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn contiguous(&self, tensor: usize) -> Option<&[u8]> {
        match &self.data[tensor] {
            Data::Mapped(data) => Some(data),
            Data::HalfSplit(..) => None,
            Data::Owned(data) => Some(data),
        }
    }
}

/// The layer in a GGUF name: `blk.12.attn_q.weight`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Which row of a half-split head block lies at `row` of the interleaved one: pair `i` of a head of `d` rows
/// is rows `2i` and `2i + 1` there, `i` and `i + d/2` here.
fn half_split_row(row: usize, head: usize) -> usize {
    let (start, within) = (row / head * head, row % head);
    start + within / 2 + within % 2 * (head / 2)
}

/// Whether this is one of the tensors that older transformers saved and every reader computes for itself.
pub fn is_redundant(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"].iter().any(|s| name.ends_with(s))
}

fn refuse_unexpected(checkpoint: &Checkpoint, config: &Config, expected: &[ExpectedTensor]) -> Result<()> {
    let known: HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
    let ignored = |name: &str| config.world == World::HuggingFace && is_redundant(name);
    let unknown = |t: &&TensorInfo| !known.contains(t.name.as_str()) && !ignored(&t.name);
    match checkpoint.tensors().iter().find(unknown) {
        None => Ok(()),
        Some(info) => {
            let what = format!(
                "a {} model of {} layers has no such tensor",
                config.architecture.name, config.layers
            );
            Err(Error::malformed(checkpoint.file_of(info), what).with_tensor(&info.name))
        }
    }
}

fn look_at<'a>(
    checkpoint: &'a Checkpoint,
    config: &Config,
    want: &ExpectedTensor,
    tensor: Tensor<'a>,
) -> Result<(ViewTensor, Data<'a>)> {
    let info = tensor.info;
    let bad = |what: String| Error::malformed(checkpoint.file_of(info), what).with_tensor(&info.name);
    if info.shape != want.shape {
        return Err(bad(format!("the shape is {:?}, the config demands {:?}", info.shape, want.shape)));
    }
    let kind = info.element_type;
    if config.world == World::HuggingFace && !kind.is_float() {
        return Err(bad(format!("a floating-point type is expected, not {kind}")));
    }
    let row_bytes =
        kind.row_bytes(info.columns()).ok_or_else(|| bad("the row has no whole blocks".into()))?;
    let view = described(want, kind, Some(info.name.clone()), row_bytes);
    let reordered = config.world == World::HuggingFace && want.template.rows != RowOrder::Same;
    let data = match (reordered, want.shape.as_slice()) {
        (false, _) => Data::Mapped(tensor.data),
        // A bias: its values are what the matrix's rows are. Small, so it is copied.
        (true, [values]) => {
            let size = kind.block_bytes();
            let order = (0..*values).map(|i| half_split_row(i, config.head_dim));
            Data::Owned(order.flat_map(|i| &tensor.data[i * size..(i + 1) * size]).copied().collect())
        }
        (true, _) => Data::HalfSplit(tensor.data, config.head_dim),
    };
    Ok((view, data))
}

fn described(
    want: &ExpectedTensor,
    element_type: ElementType,
    source_name: Option<String>,
    row_bytes: usize,
) -> ViewTensor {
    let number = want.layer.map(|l| l.to_string()).unwrap_or_default();
    ViewTensor {
        name: want.template.gguf.replace("{layer}", &number),
        shape: want.shape.clone(),
        element_type,
        source_name,
        role: Some(want.role),
        layer: want.layer,
        row_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::half_split_row;

    #[test]
    fn heads_are_interleaved_one_by_one() {
        let order: Vec<usize> = (0..12).map(|r| half_split_row(r, 6)).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }
}
