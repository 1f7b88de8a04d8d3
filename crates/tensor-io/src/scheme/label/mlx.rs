//! MLX's settings: `quantization` in `config.json`.
//!
//! ```text
//! { "group_size": 64, "bits": 4, "mode": "affine",         of all layers
//!   "model.layers.0.mlp.down_proj": { "bits": 8, … },      of one; false if it is not quantized
//!   … }
//! ```

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::{brief, brief_text, refused};
use crate::{Error, Result};

/// How a layer is quantized.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::scheme) struct MlxSettings {
    pub bits: u32,
    pub group_size: usize,
    /// `affine`, `mxfp4`, `nvfp4` or `mxfp8`.
    pub mode: String,
}

/// How all layers are.
#[derive(Debug)]
pub(in crate::scheme) struct Mlx {
    usual: MlxSettings,
    own: HashMap<String, MlxSettings>,
}

impl Mlx {
    /// Reads `quantization`.
    ///
    /// # Errors
    /// Bits, group sizes and modes that do not exist or are not read.
    pub fn read(file: &Path, object: &Map<String, Value>) -> Result<Self> {
        let usual = settings(file, object, None)?;
        let mut own = HashMap::new();
        for (name, value) in object.iter().filter_map(|(name, value)| Some((name, value.as_object()?))) {
            own.insert(name.clone(), settings(file, value, Some(&usual))?);
        }
        Ok(Self { usual, own })
    }

    /// Those of the layer of this name.
    pub fn of(&self, layer: &str) -> &MlxSettings {
        self.own.get(layer).unwrap_or(&self.usual)
    }
}

fn settings(file: &Path, object: &Map<String, Value>, usual: Option<&MlxSettings>) -> Result<MlxSettings> {
    let number = |key: &str, usual: Option<u64>| match object.get(key).filter(|v| !v.is_null()) {
        None => Ok(usual),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| {
            Error::malformed(
                file,
                format!("the quantization's {key} must be a number, it is {}", brief(value)),
            )
        }),
    };
    let mode = match object.get("mode").filter(|v| !v.is_null()) {
        None => usual.map_or_else(|| "affine".to_owned(), |usual| usual.mode.clone()),
        Some(Value::String(mode)) => mode.to_ascii_lowercase(),
        Some(other) => {
            let what = format!("the quantization's mode must be a text, it is {}", brief(other));
            return Err(Error::malformed(file, what));
        }
    };
    // Those of the other modes are fixed.
    let fixed = match mode.as_str() {
        "affine" => None,
        "mxfp4" => Some((4, 32)),
        "nvfp4" => Some((4, 16)),
        "mxfp8" => Some((8, 32)),
        _ => {
            return Err(Error::unsupported(
                file,
                refused(&format!("MLX in the mode {:?}", brief_text(&mode))),
            ));
        }
    };
    let inherited = usual.filter(|usual| usual.mode == mode);
    let bits = number("bits", fixed.map(|f| f.0).or(inherited.map(|u| u64::from(u.bits))))?;
    let size = number("group_size", fixed.map(|f| f.1).or(inherited.map(|u| u.group_size as u64)))?;
    match (bits, size, fixed) {
        (Some(bits @ (2..=6 | 8)), Some(size @ 1..=0x7fff_ffff), None) => {
            Ok(MlxSettings { bits: bits as u32, group_size: size as usize, mode })
        }
        (Some(bits), Some(size), Some(fixed)) if (bits, size) == fixed => {
            Ok(MlxSettings { bits: bits as u32, group_size: size as usize, mode })
        }
        _ => {
            let word = |n: Option<u64>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
            let what = format!(
                "MLX in the mode {mode} with {} bits in groups of {}; 2, 3, 4, 5, 6 and 8 bits are read, and the sizes that \
                 mxfp4, nvfp4 and mxfp8 have",
                word(bits),
                word(size)
            );
            Err(Error::unsupported(file, refused(&what)))
        }
    }
}
