//! The catalogue: published models of the architectures that quern runs, with the keys of their `config.json` that decide
//! sizes. `tools/check_catalogue.py` compares each with its published number of parameters.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use quern_model::{Config, Convention};
use quern_run::KvType;
use quern_run::estimate::MachineSpeed;
use quern_run::placement::Sizes;
use quern_tensor_io::{Checkpoint, Progress, pipeline};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{Candidate, FitError, Machine, Scheme, Subject, Use, judge};

const DATA: &str = include_str!("../../data/catalogue.json");

#[derive(Deserialize)]
struct Catalogue {
    models: Vec<CatalogueModel>,
}

/// A published model.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CatalogueModel {
    /// Its name on the Hub.
    pub repository: String,
    /// Its family.
    pub family: String,
    /// Number of weights.
    pub parameters: u64,
    /// The Hub's name of its licence.
    pub licence: String,
    /// Whether the Hub asks to accept the licence before downloading.
    pub gated: bool,
    /// What it is made for: `chat`, `base` or `code`.
    pub kind: String,
    /// Year and month of publication.
    pub released: String,
    /// Type of its weights: `bf16`, `f16` or `f32`.
    pub dtype: String,
    /// Where the figures are from.
    pub source: String,
    /// Keys of `config.json`.
    #[serde(skip_serializing)]
    pub config: Map<String, Value>,
}

/// All models of the catalogue.
///
/// # Errors
/// The data file is broken.
pub fn catalogue() -> Result<Vec<CatalogueModel>, FitError> {
    let read: Result<Catalogue, _> = serde_json::from_str(DATA);
    read.map(|catalogue| catalogue.models).map_err(|e| FitError::Catalogue(e.to_string()))
}

/// The headers that a model of the catalogue has, as a checkpoint without data. The folder is removed with this.
#[derive(Debug)]
pub struct Headers {
    folder: TempDir,
}

impl Headers {
    /// The checkpoint.
    ///
    /// # Errors
    /// As for every file.
    pub fn open(&self) -> Result<Checkpoint, FitError> {
        Ok(Checkpoint::open(self.folder.path())?.headers_only())
    }
}

impl CatalogueModel {
    /// What its size and its year count for together: a year as much as twice the size, because models of the same size
    /// get better.
    pub fn rank(&self) -> f64 {
        let mut parts = self.released.split('-').map(|part| part.parse::<f64>().unwrap_or(0.0));
        let (year, month) = (parts.next().unwrap_or(0.0), parts.next().unwrap_or(1.0));
        (self.parameters.max(1) as f64).log2() + year - 2000.0 + (month - 1.0) / 12.0
    }

    /// Writes the headers of its checkpoint into a folder of its own: `config.json`, and a safetensors file of the true
    /// length with a hole where the data would be. `None` if quern does not know the architecture.
    ///
    /// # Errors
    /// The disk, or a configuration that is not whole.
    pub fn headers(&self) -> Result<Option<Headers>, FitError> {
        let broken = |e: &dyn std::fmt::Display| FitError::Catalogue(format!("{}: {e}", self.repository));
        let folder = tempfile::tempdir().map_err(|e| broken(&e))?;
        let text = serde_json::to_string(&self.config).map_err(|e| broken(&e))?;
        std::fs::write(folder.path().join("config.json"), text).map_err(|e| broken(&e))?;
        let Ok(config) = Config::from_config_json(&folder.path().join("config.json")) else {
            return Ok(None);
        };
        let (name, bytes) = match self.dtype.as_str() {
            "f32" => ("F32", 4),
            "f16" => ("F16", 2),
            _ => ("BF16", 2),
        };
        let mut header = Map::new();
        let mut end = 0u64;
        let tied = config.tied_embeddings;
        for tensor in config.expected_tensors(Convention::HuggingFace) {
            // A tied head is not stored.
            if tensor.optional && tied {
                continue;
            }
            let start = end;
            end += tensor.shape.iter().map(|&n| n as u64).product::<u64>() * bytes;
            header.insert(
                tensor.name,
                json!({"dtype": name, "shape": tensor.shape, "data_offsets": [start, end]}),
            );
        }
        let header = Value::Object(header).to_string();
        let write = || {
            let mut file = File::create(folder.path().join("model.safetensors"))?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            file.set_len(8 + header.len() as u64 + end)
        };
        write().map_err(|e| broken(&e))?;
        Ok(Some(Headers { folder }))
    }
}

/// A model of the catalogue with the sizes that each scheme gives it.
#[derive(Debug)]
pub struct Surveyed {
    /// The model.
    pub model: CatalogueModel,
    config: Config,
    sizes: Vec<(Scheme, Sizes)>,
}

impl Surveyed {
    /// Judges every scheme on a machine. A context that the model does not have becomes its longest.
    pub fn candidates(&self, machine: &Machine, mut how: Use, speed: &mut MachineSpeed) -> Vec<Candidate> {
        how.context = how.context.map(|context| context.min(self.config.context_length));
        let one =
            |(scheme, sizes): &(Scheme, Sizes)| judge(&self.config, *scheme, sizes, machine, how, speed);
        self.sizes.iter().map(one).collect()
    }
}

/// Reads the sizes of models, on all threads; `None` for those whose architecture quern does not know. Schemes that do not
/// suit a model's shapes are left out.
///
/// # Errors
/// The catalogue is broken, or the folder for temporary files cannot be written to.
pub fn survey(
    models: Vec<CatalogueModel>,
    schemes: &[Scheme],
    kv: KvType,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Option<Surveyed>>, FitError> {
    progress.total(models.len() as u64);
    let one = |model: CatalogueModel| {
        let found = model.headers()?.map(|headers| {
            let checkpoint = headers.open()?;
            let subject = Subject::new(&checkpoint)?;
            let sizes =
                schemes.iter().filter_map(|&s| Some((s, subject.sizes(s, kv, threads).ok()?))).collect();
            Ok(Surveyed { model, config: subject.config().clone(), sizes })
        });
        progress.advance(1);
        found.transpose()
    };
    let pool = pipeline::pool(threads, Path::new("the catalogue"))?;
    pool.install(|| models.into_par_iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_that_quern_runs_has_its_published_size() {
        let (mut known, mut unknown) = (0, Vec::new());
        for model in catalogue().unwrap() {
            let Some(headers) = model.headers().unwrap() else {
                unknown.push(model.family.clone());
                continue;
            };
            let checkpoint = headers.open().unwrap();
            let subject = Subject::new(&checkpoint).unwrap_or_else(|e| panic!("{}: {e}", model.repository));
            let sizes = subject.sizes(Scheme::Stored, Default::default(), 1).unwrap();
            // Buffers and tables of constants that are no weights may be counted by the publisher.
            let distance = sizes.parameters.abs_diff(model.parameters);
            assert!(
                distance * 1000 <= model.parameters,
                "{}: {} of {}",
                model.repository,
                sizes.parameters,
                model.parameters
            );
            known += 1;
        }
        assert!(known >= 40, "{known}");
        assert!(unknown.iter().all(|family| family.starts_with("Granite")), "{unknown:?}");
    }

    #[test]
    fn a_year_counts_as_much_as_twice_the_size() {
        let all = catalogue().unwrap();
        let mut one = all[0].clone();
        one.released = "2023-06".to_owned();
        let (mut larger, mut newer) = (one.clone(), one.clone());
        larger.parameters *= 2;
        newer.released = "2024-06".to_owned();
        assert!((larger.rank() - newer.rank()).abs() < 1e-9 && newer.rank() > one.rank());
    }
}
