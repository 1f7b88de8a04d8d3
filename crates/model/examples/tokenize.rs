//! Tokenizes what it is told, for comparing with peers by hand (`tools/compare_tokenizers.py`).
//!
//! `tokenize MODEL < texts.json` reads a JSON list of texts and writes a JSON object: for each way of encoding a
//! list of lists of ids, and what the ids decode to. `MODEL` is a directory or a GGUF file.

use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use quern_model::{EncodeOptions, Tokenizer};
use quern_tensor_io::Checkpoint;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("which model?")?;
    let path = Path::new(&model);
    let start = Instant::now();
    let tokenizer = if path.is_dir() {
        Tokenizer::from_directory(path)?
    } else {
        let checkpoint = Checkpoint::open(path)?;
        eprintln!("open {:?}", start.elapsed());
        Tokenizer::from_gguf(path, checkpoint.metadata())?
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
        texts.iter().map(|text| tokenizer.encode(text, options)).collect::<Vec<_>>()
    };
    let (plain, parsed, full) = (encode(false, false), encode(false, true), encode(true, true));
    let decoded: Vec<String> = parsed.iter().map(|ids| tokenizer.decode(ids)).collect();
    eprintln!("encode {:?}", start.elapsed());
    println!("{}", serde_json::json!({ "plain": plain, "parsed": parsed, "full": full, "decoded": decoded }));
    Ok(())
}
