//! Models of architectures that quern does not know: the description that is nearest to their tensors, what it lacks,
//! and models that a user says are of a known architecture.

use std::collections::BTreeSet;

use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, Container, Error, ErrorKind, Remedy, Result};

use crate::Config;
use crate::architecture::{Architecture, Convention, Presence};
use crate::architectures;
use crate::config::beyond::keys_beyond;
use crate::contents::Contents;
use crate::json::Json;

use super::{brief, class};

/// A model that is treated as one of another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// The architecture that its files name.
    pub own: String,
    /// The one that it is treated as.
    pub family: &'static str,
    /// Keys of its configuration that have no effect, because that family has none of the name.
    pub ignored: Vec<String>,
}

/// Treats `checkpoint` as a model of the architecture `name` from now on. `None`, and nothing is changed, where quern
/// knows the architecture that its files name.
///
/// # Errors
/// There is no such architecture; the configuration or the tensors are not those of such a model.
pub fn state_architecture(checkpoint: &mut Checkpoint, name: &str) -> Result<Option<Stated>> {
    if architectures::named(name).is_none() {
        return Err(class::unknown(checkpoint.path(), name));
    }
    match Config::from_checkpoint(checkpoint) {
        Err(error) if is_unknown(&error) => {}
        Ok(_) | Err(_) => return Ok(None),
    }
    checkpoint.state_architecture(name);
    let contents = Contents::read(checkpoint)?;
    contents.require_sound()?;
    let family = contents.config().architecture.name;
    let (own, ignored) = match checkpoint.container() {
        Container::Gguf => {
            let own = checkpoint.metadata().str("general.architecture").unwrap_or_default();
            (brief(own), Vec::new())
        }
        Container::Safetensors | Container::PyTorch => {
            let json = Json::read(&checkpoint.directory().join("config.json"))?;
            let root = json.root();
            let own = root.array("architectures")?.and_then(|list| list.first()?.as_str());
            let own = own.or(root.str("model_type")?).unwrap_or_default();
            (brief(own), keys_beyond(&root, contents.config().architecture))
        }
    };
    Ok(Some(Stated { own, family, ignored }))
}

/// Whether an error says that quern does not know a model's architecture.
fn is_unknown(error: &Error) -> bool {
    matches!(error.remedy(), Some(Remedy::ListArchitectures | Remedy::StateArchitecture(_)))
}

/// The error for a model whose architecture is not known, with what the nearest description lacks; others as they are.
pub(crate) fn explained(checkpoint: &Checkpoint, error: Error) -> Error {
    let (true, ErrorKind::Unsupported(what)) = (is_unknown(&error), &error.kind) else { return error };
    let convention = match checkpoint.container() {
        Container::Gguf => Convention::Gguf,
        Container::Safetensors | Container::PyTorch => Convention::HuggingFace,
    };
    let patterns: BTreeSet<String> =
        checkpoint.tensors().iter().filter_map(|tensor| pattern(&tensor.name)).collect();
    let all = architectures::ALL.iter().filter(|a| convention != Convention::Gguf || a.no_gguf.is_none());
    let mut nearest: Vec<Difference> =
        all.map(|family| Difference::new(family, convention, &patterns)).collect();
    // Of equals the first in the list stays first.
    nearest.sort_by_key(Difference::size);
    let same = nearest.iter().take_while(|difference| difference.size() == 0);
    if let Some(family) = same.map(|difference| difference.family).find(|family| fits(checkpoint, family)) {
        let beyond = unknown_keys(checkpoint, family);
        let keys = match beyond.is_empty() {
            true => String::new(),
            false => format!(
                ", but for keys of its configuration that such models do not have ({})",
                listed(&beyond)
            ),
        };
        let what = format!("{what}; its tensors and configuration are those of {} models{keys}", family.name);
        return Error::unsupported(&error.file, what).with_remedy(Remedy::StateArchitecture(family.name));
    }
    let Some(first) = nearest.first() else { return error };
    let mut parts = vec![format!("by its tensors it is nearest to {}", first.family.name)];
    if !first.unknown.is_empty() {
        parts.push(format!("such models do not have {}", listed(&first.unknown)));
    }
    if !first.missing.is_empty() {
        parts.push(format!("it does not have their {}", listed(&first.missing)));
    }
    let beyond = unknown_keys(checkpoint, first.family);
    if !beyond.is_empty() {
        parts.push(format!("keys of its configuration that they do not have: {}", listed(&beyond)));
    }
    Error::unsupported(&error.file, format!("{what}; {}", parts.join("; ")))
        .with_remedy(Remedy::ListArchitectures)
}

/// Keys of a Hugging Face checkpoint's configuration that a family does not know.
fn unknown_keys(checkpoint: &Checkpoint, family: &Architecture) -> Vec<String> {
    if checkpoint.container() == Container::Gguf {
        return Vec::new();
    }
    let Ok(json) = Json::read(&checkpoint.directory().join("config.json")) else { return Vec::new() };
    let root = json.root();
    match class::text_config(&root) {
        Ok(Some(text)) => keys_beyond(&text, family),
        Ok(None) | Err(_) => keys_beyond(&root, family),
    }
}

/// Whether a checkpoint is sound as a model of this family.
fn fits(checkpoint: &Checkpoint, family: &'static Architecture) -> bool {
    let config = match checkpoint.container() {
        Container::Gguf => return true,
        Container::Safetensors | Container::PyTorch => Config::as_family(checkpoint, family),
    };
    let Ok(packing) = Packing::read(checkpoint) else { return false };
    config.is_ok_and(|config| Contents::matched(checkpoint, config, packing).require_sound().is_ok())
}

/// What distinguishes a checkpoint's names from those of a family, without numbers of layers and experts.
struct Difference {
    family: &'static Architecture,
    /// Of the checkpoint alone.
    unknown: Vec<String>,
    /// Of the family alone, of those that all its models have.
    missing: Vec<String>,
}

impl Difference {
    fn new(family: &'static Architecture, convention: Convention, patterns: &BTreeSet<String>) -> Self {
        let bare = |name: &str| match convention {
            Convention::Gguf => name.to_owned(),
            Convention::HuggingFace => name.strip_prefix(family.hf_prefix).unwrap_or(name).to_owned(),
        };
        let theirs: BTreeSet<String> = patterns.iter().map(|name| bare(name)).collect();
        let aliases = match convention {
            Convention::HuggingFace => family.hf_aliases,
            Convention::Gguf => &[],
        };
        let mut known: BTreeSet<String> = aliases.iter().map(|alias| bare(alias.name)).collect();
        let mut missing = Vec::new();
        for template in family.tensors {
            let Some(name) = template.name(convention).map(bare) else { continue };
            let also = aliases.iter().filter(|alias| alias.role == template.role);
            let there =
                theirs.contains(&name) || also.map(|a| bare(a.name)).any(|name| theirs.contains(&name));
            if in_every_model(template.presence) && !there {
                missing.push(name.clone());
            }
            known.insert(name);
        }
        let unknown = theirs.into_iter().filter(|name| !known.contains(name)).collect();
        Self { family, unknown, missing }
    }

    fn size(&self) -> usize {
        self.unknown.len() + self.missing.len()
    }
}

/// Whether every model of a family with such a tensor has it, in some layer at least.
fn in_every_model(presence: Presence) -> bool {
    use Presence as P;
    matches!(
        presence,
        P::Always
            | P::AttentionLayers
            | P::StateLayers
            | P::NetworkLayers
            | P::OwnKeys
            | P::OwnValues
            | P::SparseLayers
    )
}

/// A tensor's name with `{layer}` and `{expert}` for numbers; of a packed layer the weight's. `None` for what no
/// description has: scales, zero points, tables that are computed.
fn pattern(name: &str) -> Option<String> {
    const PACKED: [&str; 2] = [".qweight", ".weight_packed"];
    const BESIDE: [&str; 12] = [
        ".qzeros",
        ".scales",
        ".g_idx",
        ".weight_scale",
        ".weight_scale_inv",
        ".weight_scale_2",
        ".weight_global_scale",
        ".weight_shape",
        ".weight_zero_point",
        ".weight_g_idx",
        ".input_scale",
        "inv_freq",
    ];
    if BESIDE.iter().any(|end| name.ends_with(end)) || name.contains(".weight.") {
        return None;
    }
    let weight = PACKED.iter().find_map(|end| name.strip_suffix(end)).map(|stem| format!("{stem}.weight"));
    let name = weight.as_deref().unwrap_or(name);
    let mut before = "";
    let part = |part: &'_ str, before: &str| match part.bytes().all(|c| c.is_ascii_digit()) {
        true if before == "experts" => "{expert}".to_owned(),
        true if !part.is_empty() && !before.is_empty() => "{layer}".to_owned(),
        _ => part.to_owned(),
    };
    let mut parts = Vec::new();
    for piece in name.split('.') {
        parts.push(part(piece, before));
        before = piece;
    }
    Some(parts.join("."))
}

/// The first of some names, and how many more there are.
fn listed(names: &[String]) -> String {
    const MOST: usize = 5;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| brief(name)).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
