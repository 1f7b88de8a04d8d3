//! Rotary embedding in `config.json`: `rope_parameters` of transformers 5 (one object, or one for each kind of
//! layer), or `rope_theta` and `rope_scaling` of older versions. Which of them counts where several are present,
//! and what an absent key means, follows `modeling_rope_utils` of transformers 5.

use std::borrow::Cow;

use quern_tensor_io::{Error, Result};
use serde_json::Value;

use crate::architecture::{Field, GgufKey, Position, Presence};
use crate::json::Object;

use super::from_hf::Reader;
use super::rope::{long_mscale, yarn_mscale};
use super::{Rope, RopeScaling, limit};

/// What queries and keys are multiplied with within the original context and beyond it.
const MSCALES: [&str; 2] = ["short_mscale", "long_mscale"];
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

pub(super) fn read(reader: &Reader<'_>, head_dim: usize, context_length: usize) -> Result<Rope> {
    if matches!(reader.architecture.position, Position::Learned { .. }) {
        let (theta, scaling) = (10_000.0, RopeScaling::None);
        return Ok(Rope { theta, dimensions: 0, scaling, factors: None, local_theta: None });
    }
    if reader.architecture.name == "gemma4" {
        // Read with the sizes that it depends on.
        let (theta, scaling) = (10_000.0, RopeScaling::None);
        return Ok(Rope { theta, dimensions: head_dim, scaling, factors: None, local_theta: None });
    }
    match reader.has(Field::LocalRopeTheta) {
        true => two_bases(reader, head_dim, context_length),
        false => one_base(reader, head_dim, context_length),
    }
}

/// Families whose layers all use the same rotation. `rope_scaling` replaces `rope_parameters` where both are present.
fn one_base(reader: &Reader<'_>, head_dim: usize, context_length: usize) -> Result<Rope> {
    let root = reader.root;
    let scaling = root.object("rope_scaling")?.filter(|object| object.entries().next().is_some());
    let object = match scaling {
        Some(object) => Some(object),
        None => root.object("rope_parameters")?,
    };
    // What transformers' class takes where nothing is said.
    let unsaid = (object.is_none() && reader.architecture.name == "apertus").then(|| {
        serde_json::json!({
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        })
    });
    let object = match (object, &unsaid) {
        (None, Some(unsaid)) => Some(root.with("rope_parameters", unsaid)),
        (object, _) => object,
    };
    for kind in [GLOBAL, LOCAL] {
        if let Some(object) = object.as_ref().filter(|o| o.get(kind).is_some()) {
            let name = reader.architecture.name;
            let what = format!("{}: {name} models have one rope for all layers", object.name(kind));
            return Err(Error::unsupported(root.file(), what));
        }
    }
    let source = Source { reader, object: object.as_ref(), context_length, per_kind: false };
    source.rope(head_dim, None)
}

/// Gemma 3: one base for layers under a window, another for the rest; only those are scaled. The keys of
/// `rope_scaling` override those of `rope_parameters.full_attention`.
fn two_bases(reader: &Reader<'_>, head_dim: usize, context_length: usize) -> Result<Rope> {
    let root = reader.root;
    let parameters = root.object("rope_parameters")?;
    let of_kind = |kind: &str| match &parameters {
        Some(parameters) => parameters.object(kind),
        None => Ok(None),
    };
    let (global, local) = (of_kind(GLOBAL)?, of_kind(LOCAL)?);
    let scaling = root.object("rope_scaling")?;
    let merged: Cow<'_, Value> = match (&global, &scaling) {
        (Some(global), Some(scaling)) => {
            let entries = global.entries().chain(scaling.entries());
            Cow::Owned(Value::Object(entries.map(|(key, value)| (key.clone(), value.clone())).collect()))
        }
        (Some(object), None) | (None, Some(object)) => Cow::Borrowed(object.value()),
        (None, None) => Cow::Owned(Value::Object(serde_json::Map::new())),
    };
    let name = if scaling.is_some() { "rope_scaling" } else { "rope_parameters.full_attention" };
    let object = root.with(name, &merged);

    if let Some(local) = &local {
        let kind = rope_type(local)?;
        if kind != "default" {
            let what = format!(
                "{}: rope scaling {kind:?} of layers under a sliding window is not supported",
                local.name("rope_type")
            );
            return Err(Error::unsupported(root.file(), what));
        }
        if local.f64("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            let what = "rotating only a part of each head under a sliding window is not supported";
            return Err(Error::unsupported(
                root.file(),
                format!("{}: {what}", local.name("partial_rotary_factor")),
            ));
        }
    }
    let local_theta = match local.as_ref().map(|local| local.f64("rope_theta")).transpose()?.flatten() {
        Some(theta) => Some(theta),
        None => reader.number(Field::LocalRopeTheta)?,
    };
    let source = Source { reader, object: Some(&object), context_length, per_kind: true };
    source.rope(head_dim, local_theta.map(|theta| theta as f32))
}

fn rope_type<'a>(object: &Object<'a>) -> Result<&'a str> {
    match object.str("rope_type")? {
        Some(kind) => Ok(kind),
        None => Ok(object.str("type")?.unwrap_or("default")),
    }
}

/// The places of a rope's constants: an object, then the configuration's own keys.
struct Source<'s, 'a> {
    reader: &'s Reader<'a>,
    object: Option<&'s Object<'s>>,
    context_length: usize,
    /// The object is one kind of layer's.
    per_kind: bool,
}

impl Source<'_, '_> {
    fn rope(&self, head_dim: usize, local_theta: Option<f32>) -> Result<Rope> {
        let root = self.reader.root;
        let theta = match self.object.map(|object| object.f64("rope_theta")).transpose()?.flatten() {
            Some(theta) => theta,
            None => self.reader.number(Field::RopeTheta)?.unwrap_or(10_000.0),
        } as f32;
        let dimensions = (head_dim as f64 * self.partial(head_dim)?) as usize;
        let mut scaling = match self.object {
            Some(object) => self.scaling(object, dimensions)?,
            None => RopeScaling::None,
        };
        // A head that cannot be rotated is refused later with the other checks; nothing to compute for it.
        let mut factors = scaling.llama3_factors(theta, dimensions);
        if factors.iter().flatten().any(|f| !(f.is_finite() && *f > 0.0)) {
            let what = "the rope scaling gives frequencies that are not finite and positive";
            return Err(Error::malformed(root.file(), what));
        }
        // One set of divisors for all lengths is what GGUF holds as `rope_freqs.weight`.
        let in_gguf = self.reader.architecture.tensors.iter().any(|t| t.presence == Presence::RopeFactors);
        if let RopeScaling::Long { short, long, .. } = &scaling
            && in_gguf
            && short == long
            && scaling.attention_factor(self.context_length) == 1.0
        {
            factors = Some(short.clone());
            scaling = RopeScaling::None;
        }
        Ok(Rope { theta, dimensions, scaling, factors, local_theta })
    }

    /// The part of each head that is rotated.
    fn partial(&self, head_dim: usize) -> Result<f64> {
        let (reader, root) = (self.reader, self.reader.root);
        let own = self.object.map(|object| object.f64("partial_rotary_factor")).transpose()?.flatten();
        if reader.has(Field::PartialRotary) {
            let dimensions = reader.size(Field::RotaryDimensions, limit::HIDDEN)?;
            let partial = match own.or(dimensions.map(|n| n as f64 / head_dim as f64)) {
                Some(partial) => partial,
                None => reader.number(Field::PartialRotary)?.unwrap_or(1.0),
            };
            if !(partial > 0.0 && partial <= 1.0) {
                return Err(
                    root.error("partial_rotary_factor", format!("{partial} is not a fraction of a head"))
                );
            }
            return Ok(partial);
        }
        match own.or(root.f64("partial_rotary_factor")?).filter(|&partial| partial != 1.0) {
            None => Ok(1.0),
            Some(partial) => {
                let what = format!(
                    "{}: rotating a part of {partial} of each head is not supported for {} models",
                    root.name("partial_rotary_factor"),
                    reader.architecture.name
                );
                Err(Error::unsupported(root.file(), what))
            }
        }
    }

    /// The context trained for at first. Outside of objects by kind of layer, the configuration's own key counts
    /// before the object's.
    fn original_context(&self, object: &Object<'_>) -> Result<usize> {
        const KEY: &str = "original_max_position_embeddings";
        if !self.per_kind
            && let Some(size) = self.reader.root.size(KEY, limit::CONTEXT)?
        {
            return Ok(size);
        }
        if self.reader.architecture.name == "phi3" {
            // The one class that has the key among its own, with this default.
            return Ok(4096);
        }
        Ok(object.size(KEY, limit::CONTEXT)?.unwrap_or(self.context_length))
    }

    fn scaling(&self, object: &Object<'_>, dimensions: usize) -> Result<RopeScaling> {
        let kind = rope_type(object)?;
        let need = |key: &str| positive(object, key)?.ok_or_else(|| object.missing(key));
        for key in MSCALES.into_iter().filter(|_| self.reader.architecture.name != "phimoe") {
            if object.f64(key)?.is_some_and(|v| v != 1.0) {
                let what = format!("{}: no model quern knows has this key", object.name(key));
                return Err(Error::unsupported(object.file(), what));
            }
        }
        // The first files of Phi-3 call LongRoPE so.
        let long = match kind {
            "longrope" | "su" => true,
            "yarn" => self.reader.architecture.name == "phi3",
            _ => false,
        };
        if self.reader.architecture.name == "phi3" && !long && kind != "default" {
            let what = format!(
                "{}: rope scaling {kind:?} of phi3 models is not supported (default, longrope are)",
                object.name("rope_type")
            );
            return Err(Error::unsupported(object.file(), what));
        }
        match kind {
            _ if long => self.long(object, dimensions),
            "default" => Ok(RopeScaling::None),
            // Text has the same position along time, height and width.
            "mrope" if self.reader.architecture.gguf_keys.contains(&GgufKey::RopeSections) => {
                Ok(RopeScaling::None)
            }
            "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
            "dynamic" => Ok(RopeScaling::Dynamic { factor: need("factor")? }),
            "llama3" => {
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                // Llama 4's are the same: nothing is between them.
                if high < low {
                    let what = format!("{high} is below low_freq_factor {low}");
                    return Err(object.error("high_freq_factor", what));
                }
                let original_context = self.original_context(object)?;
                Ok(RopeScaling::Llama3 { factor: need("factor")?, low, high, original_context })
            }
            "yarn" => self.yarn(object),
            other => Err(Error::unsupported(
                object.file(),
                format!(
                    "{}: rope scaling {other:?} is not supported (default, linear, dynamic, llama3, yarn, \
                     longrope are)",
                    object.name("rope_type")
                ),
            )),
        }
    }

    fn yarn(&self, object: &Object<'_>) -> Result<RopeScaling> {
        let original_context = self.original_context(object)?;
        let factor = match positive(object, "factor")? {
            Some(factor) => factor,
            None if object.is_null("factor") => self.context_length as f32 / original_context as f32,
            None => return Err(object.missing("factor")),
        };
        let nonzero = |key: &str| Ok(object.f64(key)?.filter(|&v| v != 0.0));
        let (mscale, all_dim): (Option<f64>, Option<f64>) = (nonzero("mscale")?, nonzero("mscale_all_dim")?);
        let attention_factor = match (positive(object, "attention_factor")?, mscale.zip(all_dim)) {
            (Some(factor), _) => Some(factor),
            (None, None) => None,
            // One of them alone has no effect.
            (None, Some((mscale, all_dim))) => {
                let scale = |mscale| yarn_mscale(factor.into(), mscale);
                let ratio = (scale(mscale) / scale(all_dim)) as f32;
                if !(1e-6..=1e9).contains(&ratio) {
                    let what = format!("with mscale_all_dim it gives the attention factor {ratio}");
                    return Err(object.error("mscale", what));
                }
                Some(ratio)
            }
        };
        // Zero stands for the usual value.
        let beta = |key: &str, usual: f32| match object.f64(key)? {
            Some(0.0) => Ok(usual),
            _ => Ok::<f32, Error>(positive(object, key)?.unwrap_or(usual)),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_context,
            attention_factor,
            beta_fast: beta("beta_fast", 32.0)?,
            beta_slow: beta("beta_slow", 1.0)?,
            // transformers looks for it beside the kinds of layer, where it never is.
            truncate: self.per_kind || object.bool("truncate")?.unwrap_or(true),
        })
    }

    fn long(&self, object: &Object<'_>, dimensions: usize) -> Result<RopeScaling> {
        let factors = |key: &str| -> Result<Vec<f32>> {
            let list = object.array(key)?.ok_or_else(|| object.missing(key))?;
            let values: Vec<f32> = list.iter().filter_map(|v| v.as_f64()).map(|v| v as f32).collect();
            if values.len() != list.len() || values.iter().any(|v| !(v.is_finite() && *v > 0.0)) {
                return Err(object.error(key, "a list of positive numbers is expected"));
            }
            if values.len() != dimensions / 2 {
                let what = format!("{} values for {} pairs of dimensions", values.len(), dimensions / 2);
                return Err(object.error(key, what));
            }
            Ok(values)
        };
        let original_context = self.original_context(object)?;
        let scales = [positive(object, MSCALES[0])?, positive(object, MSCALES[1])?];
        let attention_factor = match (positive(object, "attention_factor")?, scales) {
            // Its own, whatever the factors give.
            (_, [Some(short), Some(long)]) if self.reader.architecture.name == "phimoe" => {
                if short != long {
                    let what = format!("{short} beside {}: {long} is not supported", object.name(MSCALES[1]));
                    return Err(object.error(MSCALES[0], what));
                }
                Some(short)
            }
            (Some(factor), _) => Some(factor),
            (None, _) => positive(object, "factor")?
                .map(|factor| long_mscale(factor.into(), original_context as f64) as f32),
        };
        Ok(RopeScaling::Long {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            original_context,
            attention_factor,
        })
    }
}

/// A number that is neither zero nor absurd.
fn positive(object: &Object<'_>, key: &str) -> Result<Option<f32>> {
    match object.f64(key)? {
        None => Ok(None),
        Some(v) if (1e-6..=1e9).contains(&v) => Ok(Some(v as f32)),
        Some(v) => Err(object.error(key, format!("{v} is not between 1e-6 and 1e9"))),
    }
}
