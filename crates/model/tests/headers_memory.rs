//! Reading what a model is takes at most 64 MiB beyond the size of its files, whatever its configuration or its header
//! holds: measured by an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use quern_model::{Config, Contents, View, identify};

/// What the process has allocated, and the most that it had.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came; counting beside it changes no pointer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the system allocator's contract, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large blocks are moved by the system without a second copy.
        let live = LIVE.fetch_add(size, Ordering::Relaxed) + size;
        PEAK.fetch_max(live - layout.size(), Ordering::Relaxed);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

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
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let error = everything(path).err().map(|e| e.to_string());
    let taken = PEAK.load(Ordering::Relaxed).saturating_sub(before);
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
