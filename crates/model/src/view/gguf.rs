//! Hugging Face's tensors as GGUF has them.

use std::collections::HashMap;

use quern_tensor_io::scheme::{ExactForm, Inexact, Packing};
use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Result};

use crate::architecture::{Convention, Layout, TensorRole as Role};
use crate::config::{Config, ExpectedTensor};
use crate::contents::{Contents, HeldTensor, Place, Woven};
use crate::gguf::metadata_of;

use super::data::{Data, Part};
use super::latent;
use super::multiplied::Multiplied;
use super::order::RowOrder;
use super::values::{decays, reordered, shifted, tensor_of};
use super::{Packed, View, ViewTensor};

/// A Hugging Face checkpoint.
pub(super) fn of_hugging_face(checkpoint: &Checkpoint, packed: Packed) -> Result<View<'_>> {
    described(checkpoint, packed, metadata_of)
}

/// The same with other metadata and notes.
pub(super) fn described(
    checkpoint: &Checkpoint,
    packed: Packed,
    metadata: impl FnOnce(&Contents<'_>) -> Result<(Metadata, Vec<String>)>,
) -> Result<View<'_>> {
    let contents = Contents::read(checkpoint)?;
    if packed == Packed::Refused {
        contents.refuse_quantized()?;
    }
    contents.require_sound()?;
    let all = translated(&contents, packed, Whole::Required)?;
    let (metadata, mut notes) = metadata(&contents)?;
    notes.extend(contents.note());
    let factors = all.iter().filter(|(tensor, _)| tensor.role.is_none()).count();
    if factors > 0 {
        notes.push(format!(
            "{factors} weights have their factor in a tensor NAME.scale beside them, as llama.cpp's converter writes it \
             (since March 2026); a program that does not read these tensors computes other numbers"
        ));
    }
    let (config, packing, _) = contents.into_parts();
    Ok(sorted(checkpoint, Some(config), packing, metadata, notes, all))
}

/// What becomes of a stack that cannot be made: parts of it are missing, or are of several types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// It is an error.
    Required,
    /// It is left out.
    Optional,
}

/// The tensors of GGUF that the contents give.
pub(super) fn translated<'a>(
    contents: &Contents<'a>,
    packed: Packed,
    whole: Whole,
) -> Result<Vec<(ViewTensor, Data<'a>)>> {
    let (checkpoint, config, held) = (contents.checkpoint(), contents.config(), contents.tensors());
    let mut parts: HashMap<(Role, Option<usize>), Vec<&HeldTensor>> = HashMap::new();
    for tensor in held {
        parts.entry((tensor.expected.role, tensor.expected.layer)).or_default().push(tensor);
    }
    let mut builder =
        Builder { checkpoint, config, packing: contents.packing(), packed, held, forms: HashMap::new() };
    builder.find_forms()?;
    let mut all = Vec::new();
    for want in config.expected_tensors(Convention::Gguf) {
        let source = want.template.whole().unwrap_or(want.role);
        let Some(sources) = parts.get(&(source, want.layer)) else {
            all.extend(computed(config, &want));
            continue;
        };
        let stacked = sources.first().is_some_and(|source| source.expected.part.is_some());
        match builder.translate(&want, sources) {
            _ if whole == Whole::Optional && stacked && want.shape.first() != Some(&sources.len()) => {}
            Err(_) if whole == Whole::Optional => {}
            made => {
                all.push(made?);
                if let Some(factors) = builder.factors(&want, sources) {
                    builder.check_factors(&want)?;
                    all.push(factors);
                }
            }
        }
    }
    Ok(all)
}

/// Puts the tensors into llama-quantize's order: by layer, those outside first, then by name.
pub(super) fn sorted<'a>(
    checkpoint: &'a Checkpoint,
    config: Option<Config>,
    packing: Option<Packing>,
    metadata: Metadata,
    notes: Vec<String>,
    mut all: Vec<(ViewTensor, Data<'a>)>,
) -> View<'a> {
    all.sort_by(|(a, _), (b, _)| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
    let (tensors, data) = all.into_iter().unzip();
    View { checkpoint, convention: Convention::Gguf, config, packing, metadata, notes, tensors, data }
}

/// The layer in a GGUF name: `blk.12.attn_q.weight`.
pub(super) fn layer_of(name: &str) -> Option<usize> {
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

struct Builder<'a, 'p> {
    checkpoint: &'a Checkpoint,
    config: &'p Config,
    packing: Option<&'p Packing>,
    packed: Packed,
    held: &'p [HeldTensor],
    /// The exact forms of packed layers, by number.
    forms: HashMap<usize, ExactForm>,
}

impl<'a> Builder<'a, '_> {
    /// Finds the exact form of every packed layer, or returns why the first one has none. An order of columns
    /// that only down projections can have is moved to the rows of what comes before them.
    fn find_forms(&mut self) -> Result<()> {
        let Some(packing) = self.packing.filter(|_| self.packed == Packed::Exact) else { return Ok(()) };
        let packed = self.held.iter().filter_map(|t| Some((t.place.packed_layer()?, &t.expected)));
        for (number, want) in packed {
            if self.forms.contains_key(&number) {
                continue;
            }
            let layer = &packing.layers()[number];
            let inexact = |e: Inexact| {
                let what = format!("{}; {}", e.why, e.remedy);
                Error::unsupported(self.checkpoint.path(), what).with_tensor(&layer.name)
            };
            let form = layer.exact_form(self.checkpoint).map_err(inexact)?;
            let movable = want.role == Role::FfnDown && self.has_plain_rows(want.layer);
            let form = match movable {
                true => form,
                false => form.without_permutation(layer).map_err(inexact)?,
            };
            self.forms.insert(number, form);
        }
        Ok(())
    }

    /// Whether the layers that make a down projection's input have rows of their own, gate and up apart.
    fn has_plain_rows(&self, layer: Option<usize>) -> bool {
        self.held.iter().any(|t| t.expected.layer == layer && t.expected.role == Role::FfnUp)
    }

    /// The order that this layer's down projection requires for the rows of its gate and up projections (and biases).
    fn order_before_down(&self, want: &ExpectedTensor) -> Option<RowOrder> {
        let feeds = [Role::FfnGate, Role::FfnUp, Role::FfnGateBias, Role::FfnUpBias];
        if self.forms.is_empty() || !feeds.contains(&want.role) {
            return None;
        }
        let down = |t: &&HeldTensor| t.expected.role == Role::FfnDown && t.expected.layer == want.layer;
        let number = self.held.iter().find(down)?.place.packed_layer()?;
        self.forms.get(&number)?.permutation.clone().map(RowOrder::Listed)
    }

    /// What the blocks of `want` are multiplied with, in a tensor beside them: one number, or one an expert. A factor of 1
    /// is left out, as llama.cpp's converter does.
    fn factors(&self, want: &ExpectedTensor, sources: &[&HeldTensor]) -> Option<(ViewTensor, Data<'a>)> {
        let factor = |source: &&HeldTensor| self.forms.get(&source.place.packed_layer()?)?.factor;
        let factors: Vec<f32> = sources.iter().map(factor).map(|f| f.unwrap_or(1.0)).collect();
        if factors.iter().all(|factor| *factor == 1.0) {
            return None;
        }
        let name = format!("{}.scale", want.name.strip_suffix(".weight")?);
        let shape = vec![factors.len()];
        let tensor = ViewTensor {
            name,
            row_bytes: 4 * factors.len(),
            shape,
            role: None,
            ..tensor_of(want, ElementType::F32, Vec::new())
        };
        Some((tensor, Data::Owned(factors.iter().flat_map(|f| f.to_le_bytes()).collect())))
    }

    /// Refuses factors where the model has numbers of its own in their place (Gemma 4's experts).
    fn check_factors(&self, want: &ExpectedTensor) -> Result<()> {
        let taken = self.config.architecture.mixture.beside && want.role == Role::ExpertsDown;
        if !taken {
            return Ok(());
        }
        let what = "its blocks have factors, and GGUF has the model's own factors of experts in their place; decode it with \
                    --dtype";
        Err(Error::unsupported(self.checkpoint.path(), what).with_tensor(&want.name))
    }

    /// The tensor `want` of GGUF, made of `sources`: one, or one an expert.
    fn translate(&self, want: &ExpectedTensor, sources: &[&HeldTensor]) -> Result<(ViewTensor, Data<'a>)> {
        let name_of = |place: &Place| match *place {
            Place::Plain(span) | Place::Woven(Woven { span, .. }) => span.info(self.checkpoint).name.clone(),
            Place::Packed(number) | Place::PackedRows { layer: number, .. } => {
                self.packing.map_or_else(String::new, |p| p.layers()[number].name.clone())
            }
        };
        let mut names: Vec<String> = sources.iter().map(|source| name_of(&source.place)).collect();
        let layout = want.template.layout;
        let order =
            RowOrder::from_hugging_face(want.template, self.config).or_else(|| self.order_before_down(want));
        if let (Layout::KeyUp, [source], Some(sizes)) = (layout, sources, latent::Sizes::of(self.config)) {
            return Ok(self.latent_keys(want, source, names, sizes));
        }
        // Vectors are small: those that change are computed and kept in memory.
        if let [HeldTensor { place: Place::Plain(span), .. }] = sources {
            let (info, data) = (span.info(self.checkpoint), span.data(self.checkpoint));
            if layout == Layout::PlusOne {
                let owned = Data::Owned(shifted(self.checkpoint, info, 1.0)?);
                let mut tensor = tensor_of(want, ElementType::F32, names);
                tensor.changed = Some("plus one");
                return Ok((tensor, owned));
            }
            if matches!(layout, Layout::DeltaDecay | Layout::FlatDecay) {
                let owned = Data::Owned(decays(self.checkpoint, info, order.as_ref(), false)?);
                let mut tensor = tensor_of(want, ElementType::F32, names);
                tensor.changed = Some("from its logarithm");
                return Ok((tensor, owned));
            }
            let tensor = tensor_of(want, info.element_type, names.clone());
            match (&order, want.shape.len()) {
                (Some(order), 1) => return Ok((tensor, Data::Owned(reordered(info, data, order)))),
                _ if want.role == Role::PerLayerEmbedding
                    && !info.element_type.is_block()
                    && want.shape.first() > info.shape.first() =>
                {
                    return Ok((
                        ViewTensor { changed: Some("with rows of zeros"), ..tensor },
                        Data::Padded(data),
                    ));
                }
                _ if layout == Layout::Transposed => {
                    return Ok((tensor, Data::Transposed { data, stored: info.element_type }));
                }
                _ => {}
            }
        }
        let mut parts = Vec::with_capacity(sources.len());
        let mut types = Vec::with_capacity(sources.len());
        let mut packed = false;
        for source in sources {
            match source.place {
                Place::Plain(span) => {
                    types.push(span.info(self.checkpoint).element_type);
                    parts.push(Part::Bytes(span.data(self.checkpoint)));
                }
                Place::Woven(woven) => {
                    let stored = woven.span.info(self.checkpoint).element_type;
                    types.push(stored);
                    parts.push(Part::Woven { data: woven.span.data(self.checkpoint), woven, stored });
                }
                Place::Packed(layer) | Place::PackedRows { layer, .. } => {
                    let first = if let Place::PackedRows { first, .. } = source.place { first } else { 0 };
                    let form = self.forms.get(&layer).cloned();
                    types.push(form.as_ref().map_or(ElementType::F32, |form| form.element_type));
                    parts.push(Part::Packed { layer, first, form });
                    packed = true;
                }
            }
        }
        let first = types.first().copied().unwrap_or(ElementType::F32);
        if let Some(other) = types.iter().position(|&t| t != first) {
            let what = format!("is {}, others of the stack {} are {first}", types[other], want.name);
            return Err(Error::unsupported(self.checkpoint.path(), what).with_tensor(&names[other]));
        }
        // Fused experts come from one tensor.
        names.dedup();
        if layout == Layout::Multiplied
            && let [Part::Packed { form: Some(_), .. }] = parts.as_slice()
        {
            let what = "GGUF has its rows multiplied with numbers of config.json, and no blocks hold its codes so; keep the \
                        model as safetensors, or decode it with --dtype";
            return Err(Error::unsupported(self.checkpoint.path(), what).with_tensor(&names[0]));
        }
        if layout == Layout::Multiplied
            && let Some(part) = parts.pop()
        {
            let size = [want.shape.iter().rev().skip(1).product(), want.shape.last().copied().unwrap_or(1)];
            let made = Multiplied::new((part, first), self.config, want.role, size);
            let tensor = ViewTensor {
                packed,
                changed: Some("times its multiplier"),
                ..tensor_of(want, made.made(), names)
            };
            return Ok((tensor, Data::Multiplied(made)));
        }
        if let Some(order) = RowOrder::columns_from_hugging_face(layout, self.config)
            && let Some(part) = parts.pop()
        {
            if matches!(part, Part::Packed { form: Some(_), .. }) {
                let what = "GGUF has its columns in another order, and no blocks hold its codes in that order; keep the \
                            model as safetensors, or decode it with --dtype";
                return Err(Error::unsupported(self.checkpoint.path(), what).with_tensor(&names[0]));
            }
            let tensor = ViewTensor { packed, ..tensor_of(want, first, names) };
            return Ok((tensor, Data::Columns { part, stored: first, order }));
        }
        let tensor = ViewTensor { packed, ..tensor_of(want, first, names) };
        Ok((tensor, Data::Rows { parts, order }))
    }

    /// The keys' projection of latent attention: a layer's rows are columns here, so what is packed is decoded.
    fn latent_keys(
        &self,
        want: &ExpectedTensor,
        source: &HeldTensor,
        names: Vec<String>,
        sizes: latent::Sizes,
    ) -> (ViewTensor, Data<'a>) {
        let (stored, part, packed) = match source.place {
            Place::Plain(span) => {
                let stored = span.info(self.checkpoint).element_type;
                (stored, Part::Bytes(span.data(self.checkpoint)), false)
            }
            Place::Woven(woven) => {
                let (info, data) = (woven.span.info(self.checkpoint), woven.span.data(self.checkpoint));
                let stored = info.element_type;
                (stored, Part::Woven { data, woven, stored }, false)
            }
            Place::Packed(layer) => (ElementType::F32, Part::Packed { layer, first: 0, form: None }, true),
            Place::PackedRows { layer, first, .. } => {
                (ElementType::F32, Part::Packed { layer, first, form: None }, true)
            }
        };
        let tensor = ViewTensor { packed, ..tensor_of(want, latent::made_of(stored), names) };
        (tensor, Data::LatentKeys(latent::Keys { part, stored, sizes }))
    }
}
