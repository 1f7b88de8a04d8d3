//! A complete model on disk: one lazy, memory-mapped view of its tensors for every container.

use std::path::{Path, PathBuf};

use crate::discover::{self, Found};
use crate::map::MappedFile;
use crate::names::NameTable;
use crate::output::folder_of;
use crate::strided::Strided;
use crate::{ElementType, Metadata, Result, gguf, index, pytorch, safetensors};

/// How the tensors of a checkpoint are stored in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// One `.safetensors` file, or shards with an index.
    Safetensors,
    /// One `.gguf` file, or splits.
    Gguf,
    /// One file of torch.save (`.bin`, `.pt`, `.pth`), or shards with an index. Read only.
    PyTorch,
}

/// Name, type and place of one tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Name as the container spells it.
    pub name: String,
    /// How its numbers are stored.
    pub element_type: ElementType,
    /// Dimensions, outermost first as Hugging Face writes them: `[rows, columns]` for a linear layer's
    /// weight. (GGUF stores them the other way round.)
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// Byte offset of the data in that file: of the first value, where a PyTorch tensor's values are not stored one
    /// after the other.
    pub offset: u64,
    /// Bytes of data, checked against shape, type and file size when the checkpoint was opened.
    pub bytes: usize,
    /// Index into the checkpoint's views whose values are not contiguous.
    pub(crate) strided: Option<usize>,
}

impl TensorInfo {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of a row: the innermost dimension, 1 for a scalar.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all but the innermost dimension.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

/// One tensor: its description and its bytes in the memory map.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Name, type, shape.
    pub info: &'a TensorInfo,
    /// Exactly `info.bytes` bytes, straight from the map (or from a copy in order, see [`Checkpoint::data`]). No
    /// alignment is guaranteed.
    pub data: &'a [u8],
}

/// An opened checkpoint. Opening reads headers only; every length, offset and type is checked then.
///
/// The files stay mapped while it exists. Where another process cuts one of them meanwhile, what is missing reads as zeros:
/// [`Checkpoint::check_files`] says so, and no output gets its name ([`crate::output`]). On Unix, the first file opened
/// installs a handler of SIGBUS for that, which passes on every signal that is not of a mapped file to the handler before.
#[derive(Debug)]
pub struct Checkpoint {
    container: Container,
    path: PathBuf,
    directory: PathBuf,
    files: Vec<PathBuf>,
    maps: Vec<MappedFile>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    strided: Vec<Strided>,
    names: NameTable,
    headers_only: bool,
    stated: Option<Box<str>>,
}

impl Checkpoint {
    /// Opens a file (`.safetensors`, `.gguf`, `.bin` and the like of PyTorch, an index `.json`) or a directory
    /// holding one model. PyTorch files of a directory count only where it holds nothing else.
    ///
    /// Any part of a split GGUF leads to the whole model. One shard of a safetensors checkpoint is opened
    /// alone; its index, or the directory, opens them all. A directory with more than one model is an
    /// error that lists them.
    pub fn open(path: &Path) -> Result<Self> {
        let (container, parts) = match discover::find(path)? {
            Found::Gguf(file) => (Container::Gguf, gguf::split::open(&file)?),
            Found::Safetensors(file) => (Container::Safetensors, safetensors::reader::open(&file)?),
            Found::PyTorch(file) => (Container::PyTorch, pytorch::open(&file)?),
            Found::Index(file) => index::open(&file)?,
        };
        parts.files.iter().try_for_each(MappedFile::check)?;
        let directory = if path.is_dir() { path } else { folder_of(path) };
        Ok(Self {
            container,
            path: path.to_path_buf(),
            directory: directory.to_path_buf(),
            files: parts.files.iter().map(|f| f.path().to_path_buf()).collect(),
            names: parts.names,
            maps: parts.files,
            metadata: parts.metadata,
            tensors: parts.tensors,
            strided: parts.strided,
            headers_only: false,
            stated: None,
        })
    }

    /// The same checkpoint, known to be a copy of headers alone: files of the true lengths with holes where the
    /// data of tensors would be.
    pub fn headers_only(self) -> Self {
        Self { headers_only: true, ..self }
    }

    /// Whether [`Checkpoint::data`] is the tensors' data: not so for [`Checkpoint::headers_only`].
    pub fn has_data(&self) -> bool {
        !self.headers_only
    }

    /// Keeps what a user says this model's architecture is, for those who know what architectures are.
    pub fn state_architecture(&mut self, name: &str) {
        self.stated = Some(name.into());
    }

    /// What was given to [`Checkpoint::state_architecture`].
    pub fn stated_architecture(&self) -> Option<&str> {
        self.stated.as_deref()
    }

    /// The container found.
    pub fn container(&self) -> Container {
        self.container
    }

    /// The path given to [`Checkpoint::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the model's files, with `config.json` and the tokenizer.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Tensor files in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The file that holds a tensor: what an error about it names.
    pub fn file_of(&self, info: &TensorInfo) -> &Path {
        self.files.get(info.file).map_or(&self.path, PathBuf::as_path)
    }

    /// The file whose header holds [`Checkpoint::metadata`]: what an error about a key names.
    pub fn metadata_file(&self) -> &Path {
        self.files.first().map_or(&self.path, PathBuf::as_path)
    }

    /// Bytes of all tensor files together.
    pub fn file_size(&self) -> u64 {
        self.maps.iter().map(|m| m.bytes().len() as u64).sum()
    }

    /// GGUF metadata (of the first split), or safetensors' `__metadata__`; PyTorch files have none.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order; those of PyTorch files in the order of the state dict.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Where in [`Checkpoint::tensors`] the tensor of this name is.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.names.get(name, |i| self.tensors[i].name.as_str())
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let info = &self.tensors[self.index_of(name)?];
        Some(Tensor { info, data: self.data(info) })
    }

    /// The bytes of a tensor listed by [`Checkpoint::tensors`].
    ///
    /// They are the map's own, except for transposed or sliced views in PyTorch files: of those a copy in order is
    /// made at the first call and kept as long as the checkpoint. All copies together are no larger than the files.
    ///
    /// # Panics
    /// If `info` was made up or belongs to another checkpoint, and reaches outside this one's files.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        if info.bytes == 0 {
            return &[]; // its offset may be in padding that the end of the file lacks
        }
        if let Some(view) = info.strided.map(|i| &self.strided[i]) {
            return view.bytes(self.maps[view.file()].bytes());
        }
        let start = info.offset as usize;
        &self.maps[info.file].bytes()[start..start + info.bytes]
    }

    /// Whether all that was read so far is what the files held: takes some nanoseconds a file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Changed`]: zeros were read in place of data, because a file was cut or its disk failed.
    pub fn check_read(&self) -> Result<()> {
        self.maps.iter().try_for_each(MappedFile::check_read)
    }

    /// Whether the files are what they were when they were opened: to be asked before a result that was made from them is
    /// used. Takes a system call a file.
    ///
    /// # Errors
    /// As [`Checkpoint::check_read`]; and if a file was changed.
    pub fn check_files(&self) -> Result<()> {
        self.maps.iter().try_for_each(MappedFile::check)
    }

    /// Releases the pages of consumed data, which count as this process's memory until then. `data` is the address
    /// range of bytes got from [`Checkpoint::data`]
    /// (`slice.as_ptr_range()`); one outside the maps is ignored. The bytes stay readable, they are
    /// fetched again when touched.
    pub fn release(&self, data: std::ops::Range<*const u8>) {
        if let Some((map, from, to)) = self.place_of(data) {
            map.release(from, to);
        }
    }

    /// Asks the system to read data that will be needed soon, addressed as for [`Checkpoint::release`]. It
    /// comes into the system's file cache; the process's memory grows only when it is touched. May block for
    /// as long as the disk takes to accept the request.
    pub fn prefetch(&self, data: std::ops::Range<*const u8>) {
        if let Some((map, from, to)) = self.place_of(data) {
            map.prefetch(from, to);
        }
    }

    /// The map that holds this address range, and where in it.
    fn place_of(&self, data: std::ops::Range<*const u8>) -> Option<(&MappedFile, usize, usize)> {
        let holds = |map: &&MappedFile| {
            let whole = map.bytes().as_ptr_range();
            whole.start <= data.start && data.start < data.end && data.end <= whole.end
        };
        let map = self.maps.iter().find(holds)?;
        let base = map.bytes().as_ptr() as usize;
        Some((map, data.start as usize - base, data.end as usize - base))
    }
}

/// The files of a model, mapped, with the metadata of the first and the tensors of all.
#[derive(Debug)]
pub(crate) struct Parts {
    pub files: Vec<MappedFile>,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    /// Their names.
    pub names: NameTable,
    /// What [`TensorInfo::strided`] points to.
    pub strided: Vec<Strided>,
}
