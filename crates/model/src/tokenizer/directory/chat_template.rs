//! The chat templates of a directory.

use std::path::Path;

use quern_tensor_io::Result;
use serde_json::Value;

use crate::json::{Json, Object, read_text};

/// Name and text; the one named `default` is the one to use. `tokenizer_config.json` counts before the files of
/// their own, as in llama.cpp's converter.
pub(super) fn read(directory: &Path, config: Option<&Object<'_>>) -> Result<Vec<(String, String)>> {
    let default = |text: &str| vec![("default".to_owned(), text.to_owned())];
    if let Some(config) = config {
        match config.get("chat_template") {
            None => {}
            Some(Value::String(text)) => return Ok(default(text)),
            Some(Value::Array(list)) => {
                let named = |entry: &Value| {
                    let part = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                    part("name").zip(part("template")).ok_or_else(|| {
                        config.error("chat_template", "a list of objects with name and template is expected")
                    })
                };
                return list.iter().map(named).collect();
            }
            Some(_) => return Err(config.error("chat_template", "a string or a list is expected")),
        }
    }
    let file = directory.join("chat_template.jinja");
    if file.is_file() {
        let mut all = default(&read_text(&file)?);
        all.extend(additional(&directory.join("additional_chat_templates"))?);
        return Ok(all);
    }
    if let Some(json) = Json::read_optional(&directory.join("chat_template.json"))? {
        return Ok(json.root().str("chat_template")?.map_or(Vec::new(), default));
    }
    Ok(Vec::new())
}

/// Templates by file name, in the order of names.
fn additional(directory: &Path) -> Result<Vec<(String, String)>> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(Vec::new()) };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "jinja") && file.is_file());
    files.sort();
    let named = |file: &std::path::PathBuf| {
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Ok((name, read_text(file)?))
    };
    files.iter().map(named).collect()
}
