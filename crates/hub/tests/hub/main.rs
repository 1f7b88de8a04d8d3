//! Tests of the Hub client against a server on this machine; no network.

#[path = "../../../../tests/fake_hub.rs"]
mod fake_hub;

mod cached;
mod errors;
mod headers;
mod lying;
mod output;
mod patience;
mod pull;
mod resume;
mod trust;

use std::fs;
use std::path::Path;
use std::time::Duration;

use quern_hub::{Hub, Name, Patience, PullOptions, Pulled, Result, Settings, Token};
use quern_tensor_io::NoProgress;

use fake_hub::{FakeHub, Repo, noise};

/// A cache of its own and settings for a server; no environment is read.
struct Place {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Place {
    fn new(server: &FakeHub) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            endpoint: server.endpoint().parse().unwrap(),
            cache: dir.path().join("hub"),
            token: None,
            offline: false,
            timeout: Duration::from_secs(20),
            patience: Patience::default(),
            backoff: Duration::from_millis(1),
            connections: 4,
            proxy: None,
        };
        Self { dir, settings }
    }

    fn with_token(mut self) -> Self {
        self.settings.token = Some(Token::new("hf_secret").unwrap());
        self
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings.clone()).unwrap()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn pull(&self, name: &str) -> Result<Pulled> {
        self.pull_with(name, &PullOptions::default())
    }

    fn pull_with(&self, name: &str, options: &PullOptions) -> Result<Pulled> {
        self.hub().pull(&name.parse::<Name>().unwrap(), options, &NoProgress)
    }

    /// The error of a pull that must fail and leave no file of the model behind.
    fn refused(&self, name: &str) -> String {
        let error = self.pull(name).unwrap_err().to_string();
        assert_eq!(snapshot_files(&self.settings.cache), Vec::<String>::new(), "{error}");
        error
    }
}

/// A small model in two shards, with the files that repositories have beside it.
fn sharded() -> Repo {
    let index = r#"{"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    Repo::new("org/model")
        .small("config.json", r#"{"model_type":"llama"}"#)
        .small("tokenizer.json", noise(5000, 1))
        .small("LICENSE", "a model")
        .small("model.safetensors.index.json", index)
        .large("model-00001-of-00002.safetensors", noise(700_000, 2))
        .large("model-00002-of-00002.safetensors", noise(300_000, 3))
        .large("consolidated.00.pth", noise(1000, 4))
        .large("onnx/model.onnx", noise(1000, 5))
        .large("pytorch_model.bin", noise(1000, 6))
}

/// Every file below a folder, sorted.
fn all_files(folder: &Path) -> Vec<String> {
    fn list_files(folder: &Path, prefix: &str, names: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => list_files(&entry.path(), &format!("{name}/"), names),
                false => names.push(name),
            }
        }
    }
    let mut names = Vec::new();
    list_files(folder, "", &mut names);
    names.sort();
    names
}

fn snapshot_files(cache: &Path) -> Vec<String> {
    all_files(cache).into_iter().filter(|f| f.contains("/snapshots/")).collect()
}
