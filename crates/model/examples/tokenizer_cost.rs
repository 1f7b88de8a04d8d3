//! Measures what reading tokenizers and encoding a text costs: time, and memory at its peak.
//!
//! ```text
//! cargo run --release --example tokenizer_cost -- TEXT REPEAT MODEL…
//! ```
//! The text is repeated so many times. Models are directories or GGUF files; the best of five readings and of three
//! encodings counts. The last number of a line is a hash of the tokens.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use quern_model::{EncodeOptions, Tokenizer};
use quern_tensor_io::Checkpoint;

struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(by: usize) {
    let now = NOW.fetch_add(by, Relaxed) + by;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            grow(size - layout.size());
        } else {
            NOW.fetch_sub(layout.size() - size, Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result of the last of several runs, the least seconds, and bytes at the peak and in the result.
fn measured<T>(work: impl Fn() -> T, times: usize) -> (T, f64, usize, usize) {
    let run = || {
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        let start = Instant::now();
        let out = work();
        let seconds = start.elapsed().as_secs_f64();
        (out, seconds, PEAK.load(Relaxed) - before, NOW.load(Relaxed) - before)
    };
    let mut best = f64::MAX;
    for _ in 1..times {
        best = best.min(run().1);
    }
    let (out, seconds, peak, held) = run();
    (out, best.min(seconds), peak, held)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [text, repeat, models @ ..] = args.as_slice() else {
        return Err("usage: tokenizer_cost TEXT REPEAT MODEL…".into());
    };
    let text = std::fs::read_to_string(text)?.repeat(repeat.parse()?);
    for model in models {
        let path = Path::new(model);
        let read = || match path.is_dir() {
            true => Tokenizer::from_directory(path),
            false => Checkpoint::open(path).and_then(|file| Tokenizer::from_checkpoint(&file)),
        };
        let (tokenizer, seconds, peak, held) = measured(read, 5);
        let mega = |bytes: usize| bytes as f64 / 1e6;
        print!("{model}: read {:.2} ms, peak {:.2} MB, held {:.2} MB", seconds * 1e3, mega(peak), mega(held));
        let tokenizer = match tokenizer {
            Ok(tokenizer) => tokenizer,
            Err(e) => {
                println!(" | {e}");
                continue;
            }
        };
        let (tokens, seconds, peak, held) = measured(|| tokenizer.encode(&text, EncodeOptions::default()), 3);
        let tokens = tokens?;
        let a_byte = |bytes: usize| bytes as f64 / text.len() as f64;
        let hash = tokens.iter().fold(0u64, |h, &t| (h ^ u64::from(t)).wrapping_mul(0x100_0000_01B3));
        println!(
            " | encode {:.0} kB/s, {:.0} tokens/ms, peak {:.2} and held {:.2} bytes a byte | {} tokens {hash:016x}",
            text.len() as f64 / seconds / 1e3,
            tokens.len() as f64 / seconds / 1e3,
            a_byte(peak),
            a_byte(held),
            tokens.len(),
        );
    }
    Ok(())
}
