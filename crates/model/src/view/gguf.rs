//! Hugging Face's tensors as GGUF has them.

use std::collections::HashMap;

use quern_tensor_io::scheme::{ExactForm, Inexact, Packing};
use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Result};

use crate::architecture::{Layout, TensorRole as Role, World};
use crate::config::{Config, ExpectedTensor};
use crate::gguf::{gguf_metadata, own_metadata};

use super::build::{Found, find, refuse_unexpected, reordered, row_bytes, shifted};
use super::data::{Data, Part};
use super::order::RowOrder;
use super::{Packed, View, ViewTensor};

/// A GGUF checkpoint tensor by tensor.
pub(super) fn of_gguf(checkpoint: &Checkpoint) -> Result<View<'_>> {
    let mut all = Vec::with_capacity(checkpoint.tensors().len());
    for info in checkpoint.tensors() {
        let tensor = ViewTensor {
            name: info.name.clone(),
            shape: info.shape.clone(),
            element_type: info.element_type,
            sources: vec![info.name.clone()],
            role: None,
            layer: layer_of(&info.name),
            row_bytes: row_bytes(info.element_type, &info.shape),
            packed: false,
            changed: None,
        };
        all.push((tensor, Data::plain(checkpoint.data(info))));
    }
    let config = Config::from_checkpoint(checkpoint).ok();
    Ok(sorted(checkpoint, config, None, own_metadata(checkpoint), Vec::new(), all))
}

/// A Hugging Face checkpoint.
pub(super) fn of_hugging_face(checkpoint: &Checkpoint, packed: Packed) -> Result<View<'_>> {
    described(checkpoint, packed, |config| gguf_metadata(checkpoint, config))
}

/// The same with other metadata and notes.
pub(super) fn described(
    checkpoint: &Checkpoint,
    packed: Packed,
    metadata: impl FnOnce(&Config) -> Result<(Metadata, Vec<String>)>,
) -> Result<View<'_>> {
    let config = Config::from_checkpoint(checkpoint)?;
    let packing = packing(checkpoint, &config, packed)?;
    let here = config.expected_tensors(World::HuggingFace);
    refuse_unexpected(checkpoint, packing.as_ref(), &config, &here)?;
    let mut parts: HashMap<(Role, Option<usize>), Vec<&ExpectedTensor>> = HashMap::new();
    for want in &here {
        parts.entry((want.role, want.layer)).or_default().push(want);
    }

    let mut builder =
        Builder { checkpoint, config: &config, packing: packing.as_ref(), packed, forms: HashMap::new() };
    builder.find_forms(&here)?;
    let mut all = Vec::new();
    for want in config.expected_tensors(World::Gguf) {
        let sources = parts.get(&(want.role, want.layer));
        match sources {
            Some(sources) => all.extend(builder.translate(&want, sources)?),
            None => all.extend(computed(&config, &want)),
        }
    }
    let (metadata, notes) = metadata(&config)?;
    Ok(sorted(checkpoint, Some(config), packing, metadata, notes, all))
}

/// The packed layers, if the caller wants such.
pub(super) fn packing(checkpoint: &Checkpoint, config: &Config, packed: Packed) -> Result<Option<Packing>> {
    let packing = Packing::read(checkpoint)?;
    let method = match &config.quantization {
        Some(method) => Some(method.as_str()),
        None if packing.is_some() => Some("a scheme of packed layers"),
        None => None,
    };
    match (method, packed) {
        (Some(method), Packed::Refused) => {
            let what = format!(
                "this checkpoint is already quantized with {method}; convert it, or quantize its decoded values \
                 anew with --allow-requantize"
            );
            Err(Error::unsupported(checkpoint.path(), what))
        }
        (Some(method), _) if packing.is_none() => {
            let what = format!("config.json says {method}, but no packed layer is there");
            Err(Error::malformed(checkpoint.path(), what))
        }
        _ => Ok(packing),
    }
}

/// Puts the tensors into llama-quantize's order: by layer, those outside first, then by name.
fn sorted<'a>(
    checkpoint: &'a Checkpoint,
    config: Option<Config>,
    packing: Option<Packing>,
    metadata: Metadata,
    notes: Vec<String>,
    mut all: Vec<(ViewTensor, Data<'a>)>,
) -> View<'a> {
    all.sort_by(|(a, _), (b, _)| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
    let (tensors, data) = all.into_iter().unzip();
    View { checkpoint, world: World::Gguf, config, packing, metadata, notes, tensors, data }
}

/// The layer in a GGUF name: `blk.12.attn_q.weight`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// A tensor that Hugging Face computes from the configuration.
fn computed(config: &Config, want: &ExpectedTensor) -> Option<(ViewTensor, Data<'static>)> {
    let factors = match want.role {
        Role::RopeFactors => config.rope.factors.as_deref()?,
        Role::RopeFactorsLong => config.rope.long_factors()?.0,
        Role::RopeFactorsShort => config.rope.long_factors()?.1,
        _ => return None,
    };
    let bytes = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
    Some((tensor_of(want, ElementType::F32, Vec::new()), Data::Owned(bytes)))
}

fn tensor_of(want: &ExpectedTensor, element_type: ElementType, sources: Vec<String>) -> ViewTensor {
    ViewTensor {
        name: want.name.clone(),
        shape: want.shape.clone(),
        element_type,
        sources,
        role: Some(want.role),
        layer: want.layer,
        row_bytes: row_bytes(element_type, &want.shape),
        packed: false,
        changed: None,
    }
}

struct Builder<'a, 'p> {
    checkpoint: &'a Checkpoint,
    config: &'p Config,
    packing: Option<&'p Packing>,
    packed: Packed,
    /// The exact forms of packed layers, by number.
    forms: HashMap<usize, ExactForm>,
}

impl<'a> Builder<'a, '_> {
    /// Finds the exact form of every packed layer, or says of the first that has none why. An order of columns
    /// that only down projections can have is moved to the rows of what comes before them.
    fn find_forms(&mut self, here: &[ExpectedTensor]) -> Result<()> {
        let Some(packing) = self.packing.filter(|_| self.packed == Packed::Exact) else { return Ok(()) };
        let roles: HashMap<&str, Role> = here.iter().map(|e| (e.name.as_str(), e.role)).collect();
        for (number, layer) in packing.layers().iter().enumerate() {
            let inexact = |e: Inexact| {
                let what = format!("{}; {}", e.why, e.remedy);
                Error::unsupported(self.checkpoint.path(), what).with_tensor(&layer.name)
            };
            let form = layer.exact_form(self.checkpoint).map_err(inexact)?;
            let movable = roles.get(layer.name.as_str()) == Some(&Role::FfnDown)
                && self.has_plain_rows(here, &layer.name);
            let form = match movable {
                true => form,
                false => form.without_permutation(layer).map_err(inexact)?,
            };
            self.forms.insert(number, form);
        }
        Ok(())
    }

    /// Whether the layers that make a down projection's input have rows of their own, gate and up apart.
    fn has_plain_rows(&self, here: &[ExpectedTensor], down: &str) -> bool {
        let layer = here.iter().find(|e| e.name == down).and_then(|e| e.layer);
        here.iter().any(|e| e.layer == layer && e.role == Role::FfnUp)
    }

    /// The order that this layer's down projection asks of the rows of its gate and up projections (and biases).
    fn order_before_down(&self, want: &ExpectedTensor) -> Option<RowOrder> {
        let feeds = [Role::FfnGate, Role::FfnUp, Role::FfnGateBias, Role::FfnUpBias];
        if self.forms.is_empty() || !feeds.contains(&want.role) {
            return None;
        }
        let down = self.config.tensor_name(World::HuggingFace, Role::FfnDown, want.layer)?;
        let number = self.packing?.layers().iter().position(|l| l.name == down)?;
        self.forms.get(&number)?.permutation.clone().map(RowOrder::Listed)
    }

    fn translate(
        &self,
        want: &ExpectedTensor,
        sources: &[&ExpectedTensor],
    ) -> Result<Option<(ViewTensor, Data<'a>)>> {
        let mut found = Vec::with_capacity(sources.len());
        for &source in sources {
            match find(self.checkpoint, self.packing, self.config, source)? {
                Some(one) => found.push((source.name.clone(), one)),
                None if want.optional => return Ok(None),
                None => {
                    let what = "the tensor is missing though others of its kind are there";
                    return Err(Error::malformed(self.checkpoint.path(), what).with_tensor(&source.name));
                }
            }
        }
        let names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
        let layout = want.template.layout;
        let order = RowOrder::from_hugging_face(layout, self.config).or_else(|| self.order_before_down(want));
        // Vectors are small: what is not as it is, is made anew.
        if let [(_, Found::Plain(info))] = found.as_slice() {
            let data = self.checkpoint.data(info);
            if layout == Layout::PlusOne {
                let owned = Data::Owned(shifted(self.checkpoint, info, 1.0)?);
                let mut tensor = tensor_of(want, ElementType::F32, names);
                tensor.changed = Some("plus one");
                return Ok(Some((tensor, owned)));
            }
            let tensor = tensor_of(want, info.element_type, names.clone());
            match (&order, want.shape.len()) {
                (Some(order), 1) => return Ok(Some((tensor, Data::Owned(reordered(info, data, order))))),
                _ if layout == Layout::Transposed => {
                    return Ok(Some((tensor, Data::Transposed { data, stored: info.element_type })));
                }
                _ => {}
            }
        }
        let mut parts = Vec::with_capacity(found.len());
        let mut types = Vec::with_capacity(found.len());
        let mut packed = false;
        for (_, one) in &found {
            match *one {
                Found::Plain(info) => {
                    types.push(info.element_type);
                    parts.push(Part::Bytes(self.checkpoint.data(info)));
                }
                Found::Packed(layer) => {
                    let form = self.forms.get(&layer).cloned();
                    types.push(form.as_ref().map_or(ElementType::F32, |form| form.element_type));
                    parts.push(Part::Packed { layer, form });
                    packed = true;
                }
            }
        }
        let first = types.first().copied().unwrap_or(ElementType::F32);
        if let Some(other) = types.iter().position(|&t| t != first) {
            let what = format!("is {}, others of the stack {} are {first}", types[other], want.name);
            return Err(Error::unsupported(self.checkpoint.path(), what).with_tensor(&names[other]));
        }
        let tensor = ViewTensor { packed, ..tensor_of(want, first, names) };
        Ok(Some((tensor, Data::Rows { parts, order })))
    }
}
