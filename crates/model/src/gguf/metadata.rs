//! GGUF metadata.
use quern_tensor_io::{Checkpoint, Metadata, Result};

use crate::Config;

/// The metadata llama.cpp's converter would write for `checkpoint` (a GGUF checkpoint's own are copied),
/// without `general.file_type` and `general.quantization_version`, which the writer of the tensors adds at
/// the end, as llama-quantize does.
pub fn gguf_metadata(checkpoint: &Checkpoint, config: &Config) -> Result<Metadata> {
    let _ = (checkpoint, config);
    todo!()
}
