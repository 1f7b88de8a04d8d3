//! What a multimodal release's configuration says beyond its text model's: numbers that text alone does not need and
//! that GGUF files carry for the towers' sake.

use quern_tensor_io::Result;
use serde_json::Value;

use crate::architecture::{Architecture, GgufKey};
use crate::json::{Object, as_u64};

/// `mrope_section`: pairs of a head for time, height and width, filled up with zeros; `None` for other families.
pub(super) fn rope_sections(
    text: &Object<'_>,
    architecture: &Architecture,
    dimensions: usize,
) -> Result<Option<[u32; 4]>> {
    const KEY: &str = "mrope_section";
    if !architecture.gguf_keys.contains(&GgufKey::RopeSections) {
        return Ok(None);
    }
    for object in ["rope_scaling", "rope_parameters"] {
        let Some(object) = text.object(object)? else { continue };
        let Some(list) = object.array(KEY)? else { continue };
        let values: Vec<u32> = list.iter().filter_map(as_u64).filter_map(|v| u32::try_from(v).ok()).collect();
        let sum: u64 = values.iter().map(|&v| u64::from(v)).sum();
        if values.len() != list.len() || values.len() > 4 || sum != dimensions as u64 / 2 {
            let what = format!(
                "up to four whole numbers are expected that sum to the {} pairs of a head",
                dimensions / 2
            );
            return Err(object.error(KEY, what));
        }
        let mut sections = [0; 4];
        sections.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        return Ok(Some(sections));
    }
    Ok(None)
}

/// The layers to whose outputs the vision tower adds its own.
pub(super) fn deepstack_layers(whole: &Object<'_>, architecture: &Architecture) -> Result<u32> {
    if !architecture.gguf_keys.contains(&GgufKey::DeepstackLayers) {
        return Ok(0);
    }
    let Some(vision) = whole.object("vision_config")? else { return Ok(0) };
    let layers: &[Value] = vision.array("deepstack_visual_indexes")?.unwrap_or(&[]);
    Ok(layers.len() as u32)
}
