//! Rotary embedding in `config.json`: `rope_parameters` of transformers 5 (one object, or one for each kind of
//! layer), or `rope_theta` and `rope_scaling` of older versions.

use quern_tensor_io::{Error, Result};

use crate::architecture::{Field, Position};
use crate::json::Object;

use super::from_hf::Reader;
use super::{Rope, RopeScaling, limit};

pub(super) fn read(reader: &Reader<'_>, head_dim: usize, context_length: usize) -> Result<Rope> {
    let root = reader.root;
    if matches!(reader.architecture.position, Position::Learned { .. }) {
        let (theta, scaling) = (10_000.0, RopeScaling::None);
        return Ok(Rope { theta, dimensions: 0, scaling, factors: None, local_theta: None });
    }
    let parameters = root.object("rope_parameters")?;
    let of_kind = |kind: &str| match &parameters {
        Some(p) => p.object(kind),
        None => Ok(None),
    };
    let local = of_kind("sliding_attention")?;
    let parameters = of_kind("full_attention")?.or(parameters.clone());
    let scaling_object = match &parameters {
        Some(p) => Some(p.clone()),
        None => root.object("rope_scaling")?,
    };
    let number = |object: &Option<Object<'_>>, key: &str| match object {
        Some(object) => object.f64(key),
        None => Ok(None),
    };
    let theta = match number(&parameters, "rope_theta")? {
        Some(theta) => theta,
        None => reader.number(Field::RopeTheta)?.unwrap_or(10_000.0),
    } as f32;
    let local_theta = match number(&local, "rope_theta")? {
        Some(theta) => Some(theta),
        None => reader.number(Field::LocalRopeTheta)?,
    };
    let partial = match number(&parameters, "partial_rotary_factor")? {
        Some(partial) => partial,
        None => reader.number(Field::PartialRotary)?.unwrap_or(1.0),
    };
    if !(partial > 0.0 && partial <= 1.0) {
        return Err(root.error("partial_rotary_factor", format!("{partial} is no part of a head")));
    }
    let known = reader.architecture.hf_keys.iter().any(|k| k.field == Field::PartialRotary);
    let at_root = root.f64("partial_rotary_factor")?.unwrap_or(1.0);
    let partial = if known { partial } else { partial.min(at_root) };
    if partial != 1.0 && !known {
        let what = format!(
            "{}: turning a part of {partial} of each head is not known of {} models",
            root.name("partial_rotary_factor"),
            reader.architecture.name
        );
        return Err(Error::unsupported(root.file(), what));
    }
    let dimensions = (head_dim as f64 * partial) as usize;
    let scaling = match scaling_object {
        Some(object) => scaling(&object, root, context_length, dimensions)?,
        None => RopeScaling::None,
    };
    // A head that cannot be turned is refused later with the other checks; nothing to compute for it.
    let factors = scaling.llama3_factors(theta, dimensions);
    if factors.iter().flatten().any(|f| !(f.is_finite() && *f > 0.0)) {
        let what = "the rope scaling gives frequencies that are not finite and positive";
        return Err(Error::malformed(root.file(), what));
    }
    let local_theta = local_theta.map(|t| t as f32);
    Ok(Rope { theta, dimensions, scaling, factors, local_theta })
}

fn scaling(
    object: &Object<'_>,
    root: &Object<'_>,
    context_length: usize,
    dimensions: usize,
) -> Result<RopeScaling> {
    let kind = match object.str("rope_type")? {
        Some(kind) => kind,
        None => object.str("type")?.unwrap_or("default"),
    };
    let positive = |key: &str| -> Result<Option<f32>> {
        match object.f64(key)? {
            None => Ok(None),
            Some(v) if (1e-6..=1e9).contains(&v) => Ok(Some(v as f32)),
            Some(v) => Err(object.error(key, format!("{v} is not between 1e-6 and 1e9"))),
        }
    };
    let need = |key: &str| positive(key)?.ok_or_else(|| object.missing(key));
    let original_context = match object.size("original_max_position_embeddings", limit::CONTEXT)? {
        Some(size) => Some(size),
        None => root.size("original_max_position_embeddings", limit::CONTEXT)?,
    };
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
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
        "llama3" => {
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if high <= low {
                return Err(
                    object.error("high_freq_factor", format!("{high} is not above low_freq_factor {low}"))
                );
            }
            Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low,
                high,
                original_context: original_context
                    .ok_or_else(|| object.missing("original_max_position_embeddings"))?,
            })
        }
        "yarn" => Ok(RopeScaling::Yarn {
            factor: need("factor")?,
            original_context: original_context.unwrap_or(context_length),
            attention_factor: positive("attention_factor")?,
            beta_fast: positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: positive("beta_slow")?.unwrap_or(1.0),
        }),
        "longrope" | "su" => Ok(RopeScaling::Long {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            original_context: original_context.unwrap_or(context_length),
            attention_factor: positive("attention_factor")?,
        }),
        other => Err(Error::unsupported(
            object.file(),
            format!(
                "{}: rope scaling {other:?} is not supported (default, linear, llama3, yarn, longrope are)",
                object.name("rope_type")
            ),
        )),
    }
}
