//! Sound inputs, made of the models in `fixtures/`: what is damaged afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use quern_convert::{Options, Target};
use quern_tensor_io::gguf::{self, Split};
use quern_tensor_io::{Checkpoint, ElementType, NoProgress, TensorPlan};

use crate::exercise::text;

/// Errors of making inputs: what failed, in words.
pub type Result<T> = std::result::Result<T, String>;

/// A sound input in a folder of its own.
#[derive(Clone, Debug)]
pub struct Seed {
    /// What is opened: the folder, or the file itself.
    pub open: PathBuf,
    /// The file that is damaged.
    pub file: PathBuf,
    /// Its bytes before.
    pub bytes: Vec<u8>,
}

impl Seed {
    /// The file `name` of `folder`; the folder is opened.
    pub fn in_folder(folder: &Path, name: &str) -> Result<Self> {
        Ok(Self { open: folder.to_path_buf(), ..Self::file(&folder.join(name))? })
    }

    /// A file that is opened itself.
    pub fn file(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(Self { open: file.to_path_buf(), file: file.to_path_buf(), bytes })
    }

    /// Bytes under a name in `folder`, which is opened.
    pub fn new(folder: &Path, name: &str, bytes: &[u8]) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let file = folder.join(name);
        fs::write(&file, bytes).map_err(|e| format!("{}: {e}", file.display()))?;
        Self::in_folder(folder, name)
    }

    /// Writes these bytes in its place. A new file each time: the old one may still be mapped.
    pub fn put(&self, bytes: &[u8]) -> Result<()> {
        let _ = fs::remove_file(&self.file);
        fs::write(&self.file, bytes).map_err(|e| format!("{}: {e}", self.file.display()))
    }
}

/// Where sound inputs come from and where they are put.
#[derive(Clone, Debug)]
pub struct Place {
    /// The repository's `fixtures/`.
    pub fixtures: PathBuf,
    /// A folder that may be filled.
    pub work: PathBuf,
}

impl Place {
    /// Names below a folder of the fixtures, sorted.
    pub fn names(&self, folder: &str) -> Result<Vec<String>> {
        let folder = self.fixtures.join(folder);
        let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut names: Vec<_> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The folders of `fixtures/architectures`.
    pub fn architectures(&self) -> Result<Vec<String>> {
        let names = self.names("architectures")?.into_iter();
        Ok(names.filter(|n| self.fixtures.join("architectures").join(n).is_dir()).collect())
    }

    /// A copy of a folder of the fixtures, without the golden files beside the model.
    pub fn copy(&self, folder: &str, to: &str) -> Result<PathBuf> {
        let (from, to) = (self.fixtures.join(folder), self.work.join(to));
        copy_folder(&from, &to).map_err(|e| format!("{}: {e}", from.display()))?;
        Ok(to)
    }

    /// A file of the fixtures, copied.
    pub fn copy_file(&self, file: &str, to: &str) -> Result<PathBuf> {
        let (from, to) = (self.fixtures.join(file), self.work.join(to));
        let copied = fs::create_dir_all(&to).and_then(|()| {
            let to = to.join(from.file_name().unwrap_or_default());
            fs::copy(&from, &to).map(|_| to)
        });
        copied.map_err(|e| format!("{}: {e}", from.display()))
    }

    /// A model converted: to one file, or to a folder.
    pub fn converted(
        &self,
        source: &Path,
        to: &str,
        target: Target,
        change: impl FnOnce(&mut Options),
    ) -> Result<PathBuf> {
        let to = self.work.join(to);
        let parent = to.parent().unwrap_or(&self.work);
        fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        let mut options = Options { threads: 1, force: true, ..Options::new(target) };
        change(&mut options);
        let checkpoint = Checkpoint::open(source).map_err(|e| e.to_string())?;
        let plan = quern_convert::plan(&checkpoint, options).map_err(|e| e.to_string())?;
        quern_convert::run(&plan, &to, &NoProgress).map_err(|e| e.to_string())?;
        Ok(to)
    }

    /// Every architecture that GGUF has, as one file each, in 32, 16 and 8 bits in turn.
    pub fn ggufs(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for (at, name) in self.architectures()?.iter().enumerate() {
            let source = self.fixtures.join("architectures").join(name);
            let types = [None, Some(ElementType::F16), Some(ElementType::Q8_0)];
            // Architectures that GGUF does not have are left out.
            let made = self.converted(&source, &format!("gguf/{name}.gguf"), Target::Gguf, |options| {
                options.dtype = types[at % types.len()];
            });
            files.extend(made);
        }
        match files.len() {
            0..10 => Err(format!("only {} models could be converted to GGUF", files.len())),
            _ => Ok(files),
        }
    }

    /// A model as GGUF, one of its weights with a factor in a tensor beside it.
    pub fn with_factor(&self) -> Result<PathBuf> {
        let source = self.fixtures.join("architectures/llama");
        let base = self.converted(&source, "factor/plain.gguf", Target::Gguf, |options| {
            options.dtype = Some(ElementType::F16);
        })?;
        let checkpoint = Checkpoint::open(&base).map_err(text)?;
        let plan = |name: &str, element_type, shape: &[usize]| TensorPlan {
            name: name.to_owned(),
            element_type,
            shape: shape.to_vec(),
        };
        let tensors = checkpoint.tensors();
        let mut plans: Vec<_> = tensors.iter().map(|t| plan(&t.name, t.element_type, &t.shape)).collect();
        plans.push(plan("blk.0.ffn_up.scale", ElementType::F32, &[1]));
        let file = self.work.join("factor/with.gguf");
        let mut writer = gguf::Writer::create(&file, checkpoint.metadata(), &plans, true).map_err(text)?;
        tensors.iter().try_for_each(|t| writer.write(checkpoint.data(t))).map_err(text)?;
        writer.write(&0.75f32.to_le_bytes()).map_err(text)?;
        writer.finish().map_err(text)?;
        Ok(file)
    }

    /// A model as GGUF in four parts.
    pub fn split(&self) -> Result<PathBuf> {
        let source = self.fixtures.join("architectures/llama");
        self.converted(&source, "split/llama.gguf", Target::Gguf, |options| {
            options.split = Some(Split { max_bytes: None, max_tensors: Some(8) });
        })?;
        Ok(self.work.join("split"))
    }

    /// A model as safetensors in several shards with an index.
    pub fn sharded(&self) -> Result<PathBuf> {
        let source = self.fixtures.join("architectures/qwen2");
        self.converted(&source, "sharded", Target::Safetensors, |options| options.shard_bytes = 20_000)
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to.join(&name))?;
        } else if !["logits.safetensors", "gguf.json", "tokenize.json"].iter().any(|golden| name == *golden) {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}
