//! The source of quantizations that need no calibration and write a Hugging Face directory: a Hugging Face checkpoint of
//! plain numbers.
//!
//! Of an architecture that quern knows, every tensor is matched with the configuration before any work: one that is
//! missing, misshapen or unknown is refused, since the output could not be loaded. Of others the tensors are taken as
//! they are, with a note: nothing more need be known of them than their names.

use quern_model::contents::already_quantized;
use quern_model::{Contents, Packed, View};
use quern_tensor_io::{Checkpoint, Container, Error, ErrorKind, Remedy, Result, small};
use serde_json::Value;

/// Families whose linear layers are transposed (`Conv1D`).
const TRANSPOSED: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];

/// Ends of names that only quantized checkpoints have.
const PACKED: [&str; 7] =
    [".qweight", ".SCB", ".absmax", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".qzeros"];

/// The source by the architecture's names, without the tensors that no reader uses, to be quantized to `scheme`.
///
/// # Errors
/// A GGUF file, a checkpoint that is quantized already or has transposed linear layers; of a known architecture,
/// tensors that are missing, misshapen or unknown.
pub(crate) fn view<'a>(source: &'a Checkpoint, scheme: &str) -> Result<View<'a>> {
    check(source, &read_config(source)?, scheme)?;
    match Contents::read(source) {
        Ok(contents) => {
            contents.refuse_quantized()?;
            View::for_files(source)
        }
        // Quern cannot run it, but its linear layers can be recognised by their names.
        Err(Error { kind: ErrorKind::Unsupported(why), .. }) => {
            let note = format!("names and shapes of the tensors are not checked: {why}");
            Ok(View::hugging_face(source, Packed::Refused)?.with_note(note))
        }
        Err(e) => Err(e),
    }
}

/// The source's `config.json`; nothing where there is none, which the directory's writer complains about.
pub(crate) fn read_config(source: &Checkpoint) -> Result<Value> {
    let file = source.directory().join("config.json");
    let Some(text) = small::read_optional(&file, small::CONFIGURATION)? else { return Ok(Value::Null) };
    small::json(&text).map_err(|what| Error::malformed(&file, format!("not a configuration: {what}")))
}

/// Refuses sources that cannot be quantized, whatever their architecture.
fn check(source: &Checkpoint, config: &Value, scheme: &str) -> Result<()> {
    let refused = |what: String| Err(Error::refused(source.path(), what));
    if source.container() == Container::Gguf {
        let what = format!("a GGUF file, but {scheme} works on Hugging Face checkpoints");
        return Err(Error::refused(source.path(), what).with_remedy(Remedy::ConvertToSafetensors));
    }
    let packed = source.tensors().iter().find(|t| PACKED.iter().any(|end| t.name.ends_with(end)));
    let method = config["quantization_config"]["quant_method"].as_str();
    match (method, packed) {
        (Some(method), _) => return Err(already_quantized(source.path(), method)),
        (None, Some(tensor)) => {
            return Err(already_quantized(
                source.path(),
                &format!("a method of packed layers (tensor {:?})", tensor.name),
            ));
        }
        (None, None) if !config["quantization_config"].is_null() => {
            return Err(already_quantized(source.path(), "an unnamed method (quantization_config)"));
        }
        (None, None) => {}
    }
    if let Some(model_type) = config["model_type"].as_str().filter(|t| TRANSPOSED.contains(t)) {
        return refused(format!(
            "{model_type} models store their linear layers transposed (Conv1D), which {scheme} has no place \
             for; choose a GGUF type instead"
        ));
    }
    Ok(())
}
