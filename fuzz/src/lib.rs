//! One body for all targets: the input is put in its place and read as the commands read it.
//!
//! The first byte chooses the sound input whose file is replaced (and so the folder around it), the rest is the file.
//! `cargo run -p quern-faults -- --corpus fuzz/corpus` writes the sound inputs in this form.

use std::path::Path;
use std::sync::OnceLock;

use quern_faults::reader::Reader;
use quern_faults::seed::{Place, Seed};

static SEEDS: OnceLock<(tempfile::TempDir, Vec<Seed>)> = OnceLock::new();

/// Reads `data` with the reader of this name.
pub fn read(reader: &str, data: &[u8]) {
    let reader = Reader::find(reader).expect("a reader of this name");
    let (_, seeds) = SEEDS.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Where the fixtures are not where they were when this was compiled.
        let fixtures = std::env::var_os("QUERN_FIXTURES").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures"),
            Into::into,
        );
        let place = Place { fixtures, work: folder.path().to_path_buf() };
        let seeds = (reader.seeds)(&place).expect("sound inputs");
        (folder, seeds)
    });
    let Some((&first, bytes)) = data.split_first() else { return };
    let seed = &seeds[usize::from(first) % seeds.len()];
    seed.put(bytes).expect("the input is written");
    let _ = (reader.exercise)(&seed.open);
    seed.put(&seed.bytes).expect("the sound input is put back");
}
