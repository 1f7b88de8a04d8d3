//! How option values are read: schemes, types, sizes. The errors are what clap prints after the option's name.

use quern_convert::Target;
use quern_quantize::bitsandbytes::Kind;
use quern_quantize::load_in::LoadScheme;
use quern_quantize::recipe::{FileType, Override};
use quern_run::KvType;
use quern_run::placement::{DeviceChoice, GpuLayers, MemoryLimits};
use quern_tensor_io::ElementType;
use quern_tensor_io::scheme::{CodeFormat, GptqFormat};

use super::choice::Choice;
use super::quantize::{GroupSize, Scheme};
use crate::format;

/// Values of `quantize --to`.
pub(super) fn schemes() -> Choice<Scheme> {
    Choice::new(scheme, || {
        let others = ["gptq", "fp8", "fp8-block", "compressed-tensors", "nf4", "fp4", "int8", "auto"];
        let others = others.map(str::to_owned).into_iter();
        others.chain(FileType::ALL.iter().map(|t| t.name().to_lowercase())).collect()
    })
}

/// Values of `--packing`.
pub(super) fn packings() -> Choice<CodeFormat> {
    Choice::new(packing, || PACKINGS.map(|format| format.name().to_owned()).to_vec())
}

/// Tensors that GPTQ's codes can be written in; zero points of their own make the first `gptq_v2`.
const PACKINGS: [CodeFormat; 3] =
    [CodeFormat::Gptq(GptqFormat::V1), CodeFormat::CompressedTensors, CodeFormat::Awq];

fn packing(name: &str) -> Result<CodeFormat, String> {
    let found = PACKINGS.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| format!("choose {}", PACKINGS.map(CodeFormat::name).join(", ")))
}

/// Values of `convert --to`.
pub(super) fn targets() -> Choice<Target> {
    Choice::new(target, || Target::ALL.map(|target| target.name().to_owned()).to_vec())
}

/// Values of `--dtype`.
pub(super) fn dtypes() -> Choice<ElementType> {
    Choice::new(dtype, || ["f32", "f16", "bf16"].map(str::to_owned).to_vec())
}

/// Values of `--load-in`.
pub(super) fn load_schemes() -> Choice<LoadScheme> {
    Choice::new(load_scheme, || {
        let others = ["nf4", "fp4", "int8"].map(str::to_owned).into_iter();
        let types = ElementType::ALL.iter().map(|t| t.name().to_lowercase());
        others.chain(types.filter(|name| LoadScheme::from_name(name).is_some())).collect()
    })
}

/// Values of `--kv`.
pub(super) fn kv_types() -> Choice<KvType> {
    Choice::new(kv_type, || KvType::ALL.iter().map(|kv| kv.name().to_owned()).collect())
}

/// Types of single tensors.
pub(super) fn element_types() -> Choice<ElementType> {
    Choice::new(element_type, || {
        ElementType::ALL.iter().filter(|t| t.ggml_id().is_some()).map(|t| t.name().to_owned()).collect()
    })
}

fn scheme(name: &str) -> Result<Scheme, String> {
    if name.eq_ignore_ascii_case("gptq") {
        return Ok(Scheme::Gptq);
    }
    match name.to_ascii_lowercase().as_str() {
        "auto" => return Ok(Scheme::Auto),
        "recipe" => return Ok(Scheme::Recipe),
        "fp8" => return Ok(Scheme::Fp8),
        "fp8-block" => return Ok(Scheme::Fp8Block),
        "compressed-tensors" => return Ok(Scheme::CompressedTensors),
        _ => {}
    }
    let kind = Kind::from_name(name).map(Scheme::Bitsandbytes);
    kind.or_else(|| FileType::from_name(name).map(Scheme::Gguf)).ok_or_else(|| {
        let known: Vec<_> = FileType::ALL.iter().map(|t| t.name().to_lowercase()).collect();
        format!(
            "unknown scheme; choose gptq, fp8, fp8-block, compressed-tensors, nf4, fp4, int8, auto, or a GGUF type: {}",
            known.join(", ")
        )
    })
}

fn target(name: &str) -> Result<Target, String> {
    Target::from_name(name).ok_or_else(|| {
        let known = Target::ALL.map(Target::name).join(", ");
        format!("unknown format; known are {known} (for other schemes, use quern quantize)")
    })
}

fn dtype(name: &str) -> Result<ElementType, String> {
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

/// A share that errors may have: finite and not negative.
pub(super) fn tolerance(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0);
    value.ok_or_else(|| "expected a number of at least 0, such as 0.001".to_owned())
}

fn load_scheme(name: &str) -> Result<LoadScheme, String> {
    LoadScheme::from_name(name).ok_or_else(|| {
        "unknown scheme; choose nf4, fp4, int8, f32, f16, bf16, or a GGUF type such as q4_k or q8_0"
            .to_owned()
    })
}

fn kv_type(name: &str) -> Result<KvType, String> {
    KvType::from_name(name).ok_or_else(|| {
        let known: Vec<_> = KvType::ALL.iter().map(|kv| kv.name()).collect();
        format!("unknown type of key-value cache; choose one of {}", known.join(", "))
    })
}

pub(super) fn device(text: &str) -> Result<DeviceChoice, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda(None)),
        other => match other.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(index)) => Ok(DeviceChoice::Cuda(Some(index))),
            Some(Err(_)) | None => {
                Err("expected auto, cpu, cuda, or cuda:N for one card, for example cuda:0".to_owned())
            }
        },
    }
}

pub(super) fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text.to_ascii_lowercase().as_str() {
        // llama.cpp's number for it.
        "auto" | "-1" => Ok(GpuLayers::Auto),
        "all" => Ok(GpuLayers::All),
        number => match number.parse() {
            Ok(count) => Ok(GpuLayers::Last(count)),
            Err(_) => Err("expected a number of layers, all, or auto for as many as fit".to_owned()),
        },
    }
}

/// `0=SIZE,1=SIZE,cpu=SIZE` in any order, or a size alone for RAM.
pub(super) fn max_memory(text: &str) -> Result<MemoryLimits, String> {
    let mut limits = MemoryLimits::default();
    for part in text.split(',').map(str::trim) {
        let (place, size) = part.split_once('=').unwrap_or(("cpu", part));
        let place = place.trim();
        let card = place.strip_prefix("cuda:").unwrap_or(place).parse();
        let known = match (place, card) {
            ("cpu", _) => limits.ram.replace(format::parse_bytes(size)?),
            (_, Ok(card)) => limits.cards.insert(card, format::parse_bytes(size)?),
            (_, Err(_)) => {
                return Err(format!(
                    "{part}: expected cpu=SIZE or a card's number and SIZE, for example 0=10GiB,cpu=32GiB"
                ));
            }
        };
        if known.is_some() {
            return Err(format!("{place} is given twice"));
        }
    }
    Ok(limits)
}

/// Sizes of GPU memory: `8GiB` or `24GiB,24GiB`; none for `0`.
pub(super) fn memory_sizes(text: &str) -> Result<Vec<u64>, String> {
    match text.trim() {
        "0" => Ok(Vec::new()),
        sizes => sizes.split(',').map(format::parse_bytes).collect(),
    }
}

/// Bytes a second: `360GB`, `360GB/s`, `2.9TB`.
pub(super) fn bandwidth(text: &str) -> Result<u64, String> {
    format::parse_bytes(text.trim().trim_end_matches("/s"))
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

/// Bits per weight that a file may have.
pub(super) fn bits_per_weight(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value
        .filter(|v| (1.0..=32.0).contains(v))
        .ok_or_else(|| "expected a number from 1 to 32, such as 4.25".to_owned())
}

pub(super) fn damp(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value
        .filter(|v| (0.0..1.0).contains(v))
        .ok_or_else(|| "expected a fraction of at least 0 and below 1".to_owned())
}

fn element_type(name: &str) -> Result<ElementType, String> {
    ElementType::from_name(name).ok_or_else(|| {
        let known: Vec<_> =
            ElementType::ALL.iter().filter(|t| t.ggml_id().is_some()).map(|t| t.name()).collect();
        format!("unknown element type; choose one of {}", known.join(", "))
    })
}

pub(super) fn type_override(text: &str) -> Result<Override, String> {
    Override::parse(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("CPU", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(None)),
            ("cuda:1", DeviceChoice::Cuda(Some(1))),
        ] {
            assert_eq!(device(text), Ok(choice), "{text}");
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda1", "cuda:-1", "0"] {
            assert!(device(text).is_err_and(|error| error.contains("cuda:0")), "{text}");
        }
    }

    #[test]
    fn sizes_of_gpus_are_read() {
        assert_eq!(memory_sizes("0"), Ok(vec![]));
        assert_eq!(memory_sizes("8GiB"), Ok(vec![8 << 30]));
        assert_eq!(memory_sizes("24GiB, 16GiB"), Ok(vec![24 << 30, 16 << 30]));
        assert!(memory_sizes("8GiB,").is_err() && memory_sizes("").is_err());
        assert_eq!(bandwidth("360GB/s"), Ok(360_000_000_000));
        assert!(bandwidth("fast").is_err());
    }

    #[test]
    fn numbers_of_layers_are_read() {
        for (text, layers) in [
            ("auto", GpuLayers::Auto),
            ("-1", GpuLayers::Auto),
            ("all", GpuLayers::All),
            ("0", GpuLayers::Last(0)),
            ("99", GpuLayers::Last(99)),
        ] {
            assert_eq!(gpu_layers(text), Ok(layers), "{text}");
        }
        for text in ["", "-2", "2.5", "many", "20 layers"] {
            assert!(gpu_layers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_on_memory_are_read_as_accelerate_writes_them() {
        let limits =
            |ram, cards: &[(usize, u64)]| Ok(MemoryLimits { ram, cards: cards.iter().copied().collect() });
        const GIB: u64 = 1 << 30;
        for (text, expected) in [
            ("8GiB", limits(Some(8 * GIB), &[])),
            ("cpu=8GiB", limits(Some(8 * GIB), &[])),
            ("0=10GiB,1=10GiB,cpu=32GiB", limits(Some(32 * GIB), &[(0, 10 * GIB), (1, 10 * GIB)])),
            ("cpu=32GiB, cuda:1=10GB", limits(Some(32 * GIB), &[(1, 10_000_000_000)])),
            ("3=600MiB", limits(None, &[(3, 600 << 20)])),
        ] {
            assert_eq!(max_memory(text), expected, "{text}");
        }
        for (text, part) in [
            ("", "no size"),
            ("0=8GiB,", "no size"),
            ("0=", "no size"),
            ("cpu=lots", "examples are 8GiB"),
            ("0=8 apples", "no unit of memory"),
            ("disk=8GiB", "expected cpu=SIZE"),
            ("-1=8GiB", "expected cpu=SIZE"),
            ("0=8GiB,0=9GiB", "0 is given twice"),
            ("cuda:0=8GiB,0=9GiB", "0 is given twice"),
            ("8GiB,cpu=9GiB", "cpu is given twice"),
        ] {
            let error = max_memory(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
