//! Tokenizes the text of its input, for comparing with peers by hand (`tools/compare_tokenizers.py`).
//!
//! ```text
//! tokenize MODEL [--gguf ARCHITECTURE VOCAB_SIZE] [--rebuild DIR] < texts.json
//! ```
//! `MODEL` is a directory or a GGUF file. Reads a JSON list of texts and writes a JSON object: for each way of
//! encoding a list of lists of ids, and what the ids decode to. `--gguf` takes a directory by way of the metadata a
//! GGUF file would have, `--rebuild` writes the tokenizer files that say what the metadata says.

use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use quern_model::gguf::tokenizer_metadata;
use quern_model::hugging_face::tokenizer_files;
use quern_model::{EncodeOptions, Tokenizer};
use quern_tensor_io::Checkpoint;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).map(|at| &args[at + 1..]);
    let path = Path::new(args.first().ok_or("which model?")?);
    let start = Instant::now();
    let metadata = match option("--gguf") {
        Some([architecture, size, ..]) => {
            let (mut metadata, notes) = tokenizer_metadata(path, architecture, size.parse()?)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            metadata.set("general.name", name.as_ref());
            notes.iter().for_each(|note| eprintln!("note: {note}"));
            Some(metadata)
        }
        Some(_) => return Err("--gguf ARCHITECTURE VOCAB_SIZE".into()),
        None if path.is_dir() => None,
        None => Some(Checkpoint::open(path)?.metadata().clone()),
    };
    eprintln!("metadata {:?}", start.elapsed());
    if let (Some([out, ..]), Some(metadata)) = (option("--rebuild"), &metadata) {
        std::fs::create_dir_all(out)?;
        for (name, bytes) in tokenizer_files(path, metadata)?.0 {
            std::fs::write(Path::new(out).join(name), bytes)?;
        }
    }
    let start = Instant::now();
    let tokenizer = match &metadata {
        Some(metadata) => Tokenizer::from_gguf(path, metadata)?,
        None => Tokenizer::from_directory(path)?,
    };
    eprintln!("load {:?}: {}, {} tokens", start.elapsed(), tokenizer.kind_name(), tokenizer.vocab_size());
    for note in tokenizer.notes() {
        eprintln!("note: {note}");
    }
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let texts: Vec<String> = serde_json::from_str(&input)?;
    let start = Instant::now();
    let encode = |add_special, parse_special| {
        let options = EncodeOptions { add_special, parse_special };
        texts.iter().map(|text| tokenizer.encode(text, options)).collect::<Result<Vec<_>, _>>()
    };
    let (plain, parsed, full) = (encode(false, false)?, encode(false, true)?, encode(true, true)?);
    let decoded: Vec<String> = parsed.iter().map(|ids| tokenizer.decode(ids)).collect();
    eprintln!("encode {:?}", start.elapsed());
    println!("{}", serde_json::json!({ "plain": plain, "parsed": parsed, "full": full, "decoded": decoded }));
    Ok(())
}
