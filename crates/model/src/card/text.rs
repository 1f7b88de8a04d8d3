//! The part of a card that people read.

use super::{Card, CardScheme, SOURCE_FILE};
use crate::provenance::{Evaluation, Origin, Provenance, Step};

impl Card<'_> {
    pub(super) fn body(&self) -> String {
        let mut out = format!("# {}\n\n{}\n", literal(&self.name), self.introduction());
        out += &self.sizes();
        out += &made(self.provenance);
        if let Some(step) = self.provenance.last() {
            out += &figures(step);
        }
        out += &self.use_it();
        out + &self.license()
    }

    fn introduction(&self) -> String {
        let kind = match (&self.scheme, self.gguf) {
            (CardScheme::Type(name), true) => format!("a GGUF file of type {name}"),
            (CardScheme::Type(name), false) => format!("a Hugging Face checkpoint in {name}"),
            (CardScheme::Gptq { bits }, _) => format!("a GPTQ checkpoint of {bits} bits"),
            (CardScheme::Bitsandbytes(name), _) => format!("a bitsandbytes checkpoint in {name}"),
            (CardScheme::Awq, _) => "an AWQ checkpoint".to_owned(),
            (CardScheme::Compressed(name), _) => format!("a Hugging Face checkpoint in {name}"),
        };
        let first = self.provenance.steps.first().map(|step| &step.source);
        let source = self.provenance.base().or(first).map(described).unwrap_or_default();
        let mut text = format!("This is {source} as {kind}, made with quern.\n");
        if self.has_source_card {
            text += &format!(
                "What the model is for, how it was trained and where its limits are is in the card of the source, \
                 [{SOURCE_FILE}]({SOURCE_FILE}).\n"
            );
        } else if self.provenance.base().is_some() {
            text += "What the model is for, how it was trained and where its limits are is in the card of the source.\n";
        }
        text
    }

    fn sizes(&self) -> String {
        let mut out = String::from("## Sizes\n\n| | |\n|---|---|\n");
        let mut row = |key: &str, value: String| out += &format!("| {key} | {} |\n", cell(&value));
        if let Some(architecture) = &self.architecture {
            row("architecture", architecture.clone());
        }
        row("parameters", self.parameters.to_string());
        row("scheme", self.scheme.name());
        row("bits per weight", format!("{:.2}", self.bits_per_weight));
        row("size", bytes(self.file_size));
        if let Some(context) = self.context_length {
            row("context", format!("{context} tokens"));
        }
        row("chat template", if self.chat { "yes" } else { "none" }.to_owned());
        out += "\n| tensors of type | number | size |\n|---|---:|---:|\n";
        for (name, tensors, size) in &self.types {
            out += &format!("| {} | {tensors} | {} |\n", cell(name), bytes(*size));
        }
        out + "\n"
    }

    fn use_it(&self) -> String {
        let name = argument(&self.name);
        let mut out = format!(
            "## How to use it\n\nWith quern:\n\n```\nquern run {name} {}\n```\n\n",
            if self.chat { "--chat" } else { "-p \"Once upon a time\"" }
        );
        if self.gguf {
            out += &format!("With llama.cpp:\n\n```\nllama-cli -m {name} -p \"Once upon a time\"\n```\n\n");
            return out;
        }
        let path: String = self.name.chars().filter(|c| !c.is_control() && *c != '`').collect();
        let needs = match &self.scheme {
            CardScheme::Type(_) => "transformers",
            CardScheme::Gptq { .. } => "transformers optimum gptqmodel",
            CardScheme::Bitsandbytes(_) => "transformers accelerate bitsandbytes",
            CardScheme::Awq => "transformers gptqmodel",
            CardScheme::Compressed(_) => "transformers accelerate compressed-tensors",
        };
        out += &format!(
            "With transformers (`pip install {needs}`):\n\n```python\nfrom transformers import AutoModelForCausalLM, \
             AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained({path:?}, device_map=\"auto\")\n\
             tokenizer = AutoTokenizer.from_pretrained({path:?})\n```\n\n"
        );
        if self.vllm {
            out += &format!("With vLLM:\n\n```\nvllm serve {name}\n```\n\n");
        }
        out
    }

    fn license(&self) -> String {
        let name = self.source.license().or_else(|| self.provenance.license().map(str::to_owned));
        let text = match name {
            Some(name) => {
                format!("The licence of the source applies to these files too: {}.", literal(&name))
            }
            None => "The files of the source do not name a licence. Whatever it is, it applies to these files too: look \
                     it up before you publish them."
                .to_owned(),
        };
        format!("## Licence\n\n{text}\n")
    }
}

/// Steps, texts and hashes.
fn made(provenance: &Provenance) -> String {
    let mut out = String::from("## How it was made\n\n");
    for step in &provenance.steps {
        let tool = format!("{} {}", step.tool.name, step.tool.version);
        out += &format!("From {}, with {}:\n\n", described(&step.source), literal(tool.trim()));
        out += &format!("```\n{}\n```\n\n", step.command.replace("```", "` ` `"));
        if let Some(text) = &step.calibration {
            out += &format!(
                "Calibration: {} samples of {} tokens of {}, SHA-256 `{}`.\n\n",
                text.samples,
                text.context,
                literal(&text.name),
                hash(&text.sha256)
            );
        }
        if let Some(file) = &step.imatrix {
            let name = literal(&file.name);
            out += &format!("Importance matrix: {name}, SHA-256 `{}`.\n\n", hash(&file.sha256));
        }
    }
    out + "The same is in the metadata of the files, where `quern inspect` shows it.\n\n"
}

fn figures(step: &Step) -> String {
    let Some(e) = &step.evaluation else { return String::new() };
    let Evaluation { text, context, tokens, source_perplexity, perplexity, kl_mean, top1_agreement } = e;
    format!(
        "## Figures\n\nMeasured over {} (SHA-256 `{}`): {tokens} tokens in chunks of {context}.\n\n\
         | | source | this model |\n|---|---:|---:|\n\
         | perplexity | {source_perplexity:.4} | {perplexity:.4} |\n\
         | KL divergence from the source, mean | | {kl_mean:.6} |\n\
         | same most probable token | | {:.2} % |\n\n",
        literal(&text.name),
        hash(&text.sha256),
        100.0 * top1_agreement,
    )
}

/// A model, with a link to it where it is on the Hub.
fn described(origin: &Origin) -> String {
    let Some(repository) = &origin.repository else { return literal(&origin.name) };
    let mut text = format!("[{repository}](https://huggingface.co/{repository})");
    if let Some(file) = &origin.file {
        text += &format!(", file {},", literal(file));
    }
    if let Some(commit) = &origin.commit {
        text += &format!(" at commit `{commit}`");
    }
    text
}

/// Text of files, which Markdown must not take for its own.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '`' | '*' | '[' | ']' | '<' | '>' | '#' | '|' | '&' | '!') {
            out.push('\\');
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

/// The same for a table's cell.
fn cell(text: &str) -> String {
    literal(text)
}

/// Hexadecimal digits alone.
fn hash(text: &str) -> String {
    text.chars().filter(char::is_ascii_hexdigit).take(64).collect()
}

/// A name as an argument of a command.
fn argument(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(|c| !c.is_control() && *c != '`').collect();
    match !name.is_empty() && name.chars().all(plain) {
        true => name,
        false => format!("'{}'", name.replace('\'', "'\\''")),
    }
}

fn bytes(n: u64) -> String {
    let (value, unit) = match n {
        0..1_000_000 => (n as f64 / 1e3, "kB"),
        1_000_000..1_000_000_000 => (n as f64 / 1e6, "MB"),
        _ => (n as f64 / 1e9, "GB"),
    };
    format!("{value:.2} {unit}")
}
