//! Reading what a model is takes at most 64 MiB beyond the size of its files, whatever its configuration or its header
//! holds: measured by an allocator that counts.

#[path = "../../../tests/allocation.rs"]
mod allocation;

use std::path::Path;

use allocation::{Counting, peak};
use quern_model::{Config, Contents, View, identify};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What may be allocated beyond the files' size: the bound less what a program takes that does nothing.
const MOST: usize = 44 << 20;

/// Opens the model and makes of it what commands make: the configuration, the contents, both views.
fn everything(path: &Path) -> quern_tensor_io::Result<()> {
    let checkpoint = identify::open(path)?;
    let config = Config::from_checkpoint(&checkpoint)?;
    let contents = Contents::read(&checkpoint)?;
    assert_eq!(contents.config().layers, config.layers);
    let view = View::gguf_without_tokenizer(&checkpoint)?;
    assert!(!view.tensors().is_empty());
    Ok(())
}

fn check(path: &Path, size: u64) -> Option<String> {
    let (taken, error) = peak(|| everything(path).err().map(|e| e.to_string()));
    println!("{} of {size}: {taken} allocated, {error:?}", path.display());
    assert!(taken <= MOST + size as usize, "{} of {size} bytes took {taken} bytes of memory", path.display());
    error
}

/// A copy of the tiny model with `extra` in its configuration.
fn with_config(folder: &Path, extra: &str) -> u64 {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/architectures/llama");
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::write(folder.join(name), std::fs::read(from.join(name)).unwrap()).unwrap();
    }
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    let config = config.trim_end().strip_suffix('}').unwrap();
    let text = format!("{config},\"x\":{extra}}}");
    std::fs::write(folder.join("config.json"), &text).unwrap();
    text.len() as u64
}

#[test]
fn a_model_is_read_in_the_memory_that_its_files_justify() {
    let kinds: [(&str, &dyn Fn(usize) -> String); 5] = [
        ("numbers", &|size| format!("[{}0]", "0,".repeat(size / 2))),
        ("objects", &|size| format!("[{}0]", "{},".repeat(size / 3))),
        ("lists", &|size| format!("[{}0]", "[],".repeat(size / 3))),
        ("texts", &|size| format!("[{}0]", "\"\",".repeat(size / 3))),
        ("keys", &|size| {
            let keys: String = (0..size / 12).map(|i| format!("\"{i:x}\":0,")).collect();
            format!("{{{keys}\"\":0}}")
        }),
    ];
    for (name, make) in kinds {
        let mut refused = 0;
        for size in [1 << 16, 1 << 18, 600_000, 1 << 20, 4 << 20, 8 << 20, 24 << 20] {
            let folder = tempfile::tempdir().unwrap();
            let size = with_config(folder.path(), &make(size));
            if let Some(error) = check(folder.path(), size) {
                assert!(error.contains("config.json") && error.contains("MiB"), "{name}: {error}");
                refused += 1;
            }
        }
        assert!((2..7).contains(&refused), "{name}: {refused} of 7 sizes were refused");
    }
}
