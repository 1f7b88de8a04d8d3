//! How option values are read: schemes, types, sizes. The errors are what clap prints after the option's name.

use quern_convert::Target;
use quern_quantize::bitsandbytes::Kind;
use quern_quantize::load_in::LoadScheme;
use quern_quantize::recipe::{FileType, Override};
use quern_run::KvType;
use quern_tensor_io::ElementType;

use super::quantize::{GroupSize, Scheme};
use super::shared::MaxMemory;
use crate::format;

pub(super) fn scheme(name: &str) -> Result<Scheme, String> {
    if name.eq_ignore_ascii_case("gptq") {
        return Ok(Scheme::Gptq);
    }
    let kind = Kind::from_name(name).map(Scheme::Bitsandbytes);
    kind.or_else(|| FileType::from_name(name).map(Scheme::Gguf)).ok_or_else(|| {
        let known: Vec<_> = FileType::ALL.iter().map(|t| t.name().to_lowercase()).collect();
        format!("unknown scheme; choose gptq, nf4, fp4, int8, or a GGUF type: {}", known.join(", "))
    })
}

pub(super) fn target(name: &str) -> Result<Target, String> {
    Target::from_name(name).ok_or_else(|| {
        let known = Target::ALL.map(Target::name).join(", ");
        format!("unknown format; known are {known} (for other schemes, use quern quantize)")
    })
}

pub(super) fn dtype(name: &str) -> Result<ElementType, String> {
    let known = [ElementType::F32, ElementType::F16, ElementType::BF16];
    let found = ElementType::from_name(name).filter(|t| known.contains(t));
    found.ok_or_else(|| "choose f32, f16 or bf16, or use quern quantize for other types".to_owned())
}

/// Bytes, with K, M or G for powers of 1000.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 1000), ('M', 1_000_000), ('G', 1_000_000_000)];
    let unit = text.chars().next_back().and_then(|c| units.iter().find(|u| u.0 == c.to_ascii_uppercase()));
    let (digits, factor) = unit.map_or((text, 1), |&(_, factor)| (&text[..text.len() - 1], factor));
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    bytes
        .filter(|&n| n > 0)
        .ok_or_else(|| "expected a number of bytes above 0, such as 500M or 4G".to_owned())
}

pub(super) fn load_scheme(name: &str) -> Result<LoadScheme, String> {
    LoadScheme::from_name(name).ok_or_else(|| {
        "unknown scheme; choose nf4, fp4, int8, f32, f16, bf16, or a GGUF type such as q4_k or q8_0"
            .to_owned()
    })
}

pub(super) fn kv_type(name: &str) -> Result<KvType, String> {
    KvType::from_name(name).ok_or_else(|| {
        let known: Vec<_> = KvType::ALL.iter().map(|kv| kv.name()).collect();
        format!("unknown type of key-value cache; choose one of {}", known.join(", "))
    })
}

/// `cpu=SIZE`, or a size alone. Devices (`0=SIZE`) are refused until quern computes on them.
pub(super) fn max_memory(text: &str) -> Result<MaxMemory, String> {
    let mut cpu = None;
    for part in text.split(',') {
        let (place, size) = part.split_once('=').unwrap_or(("cpu", part));
        if place.parse::<u32>().is_ok() {
            return Err(format!(
                "{part}: quern computes on the CPU only, so there is no device {place}; give cpu=SIZE alone"
            ));
        }
        if place != "cpu" {
            return Err(format!("{part}: expected cpu=SIZE, for example cpu=8GiB"));
        }
        if cpu.replace(format::parse_bytes(size)?).is_some() {
            return Err("cpu is given twice".to_owned());
        }
    }
    cpu.map(|cpu| MaxMemory { cpu }).ok_or_else(|| "expected cpu=SIZE, for example cpu=8GiB".to_owned())
}

pub(super) fn bits(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bits @ (2 | 3 | 4 | 8)) => Ok(bits),
        _ => Err("choose 2, 3, 4 or 8".to_owned()),
    }
}

pub(super) fn group_size(text: &str) -> Result<GroupSize, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(GroupSize(None)),
        Ok(size @ 8..=65536) => Ok(GroupSize(Some(size as usize))),
        _ => {
            Err("expected a number of columns from 8 to 65536 (usually 32, 64 or 128), or -1 for one group per row"
                .to_owned())
        }
    }
}

pub(super) fn damp(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value
        .filter(|v| (0.0..1.0).contains(v))
        .ok_or_else(|| "expected a fraction of at least 0 and below 1".to_owned())
}

pub(super) fn element_type(name: &str) -> Result<ElementType, String> {
    ElementType::from_name(name).ok_or_else(|| {
        let known: Vec<_> =
            ElementType::ALL.iter().filter(|t| t.ggml_id().is_some()).map(|t| t.name()).collect();
        format!("unknown element type; choose one of {}", known.join(", "))
    })
}

pub(super) fn type_override(text: &str) -> Result<Override, String> {
    Override::parse(text).map_err(|e| e.to_string())
}
