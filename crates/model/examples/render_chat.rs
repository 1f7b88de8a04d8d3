//! Renders a chat template as `quern run --chat` does, for comparison with transformers.
//!
//! `render_chat TOKENIZER_DIRECTORY` reads a JSON object from each line of standard input:
//! `{"template": SOURCE or null, "now": TIME, "system": TEXT or null, "messages": [{"role", "content"}, …],
//! "variables": {…}}`, and prints one for each: `{"text", "tokens", "system_moved", "left_out"}` or `{"error"}`.

use std::error::Error;
use std::io::BufRead;
use std::path::Path;

use quern_model::Tokenizer;
use quern_model::chat::{ChatTemplate, Message};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).ok_or("a directory with a tokenizer is expected")?;
    let directory = Path::new(&directory);
    let tokenizer = Tokenizer::from_directory(directory)?;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = answer(directory, &tokenizer, &request);
        println!("{}", answer.unwrap_or_else(|e| json!({ "error": e.to_string() })));
    }
    Ok(())
}

fn answer(directory: &Path, tokenizer: &Tokenizer, request: &Value) -> Result<Value, Box<dyn Error>> {
    let now = request["now"].as_str().unwrap_or("2024-07-05T08:09:10Z");
    let mut template = match request["template"].as_str() {
        Some(source) => ChatTemplate::at("given".to_owned(), source, tokenizer, now)?,
        None => ChatTemplate::choose(directory, tokenizer, None)?,
    };
    for (name, value) in request["variables"].as_object().into_iter().flatten() {
        template.set(name, value);
    }
    let messages: Vec<Message> = serde_json::from_value(request["messages"].clone())?;
    let prompt = template.prompt(tokenizer, request["system"].as_str(), &messages)?;
    Ok(json!({
        "text": prompt.text,
        "tokens": prompt.tokens,
        "system_moved": prompt.system_moved,
        "left_out": prompt.left_out,
    }))
}
